"""Rows over seeds: what base-to-new, few-shot and transfer tables share. A cell is the primary measure over the seeds.

What the words of a report mean:

    not run            a cell without any result.
    lacks seed         a seed of any line of the same dataset, backbone (and shots, or source) that this cell has not.
    twice              two results of one seed, such as from two jobs' output folders; which one counts is not known.
    unequal settings   seeds of a cell differ in a setting (seed and places aside) or in the backbone's weights.
    stale prompt       tested with another prompt than that of the present training (digests.model).
    incomplete         any of these: the cell is neither shown nor averaged. An average lacks a dataset that is incomplete.

Results of different tasks or primary measures, backbones, numbers of shots and sources never share a row or an average.
"""

import collections
import statistics
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from dicap import results as store
from dicap.config import split_method
from dicap.data.named import PUBLISHED, SHIFTS
from dicap.report.sheet import INCOMPLETE, Column, columns_that_vary
from dicap.report.stats import Stat
from dicap.results import Measure, measure_of, primary, worst_group

T = TypeVar("T")
ORDER = ("ZeroshotCLIP", "CoOp", "CoCoOp", "CLIPAdapter", "FeatureMap")  # of methods; then those of OURS, then others
OURS = "DiCap"
USUAL_TASK = "classification"  # tables of other tasks have the task in their names
SPREAD = "mean ± standard deviation over seeds (ddof = 1); a single seed has none."
AVERAGE = "only where every one is complete. Its spread is that of the seeds' averages."


# --- results -----------------------------------------------------------------------------------------------------


def gather(root: str | Path) -> tuple[list[dict], list[str]]:
    """Every result below a folder, and one line for each file that cannot be read. Raises ResultError: no folder."""
    results, unreadable = [], []
    for path in store.find_results(root):
        try:
            results.append(store.read_result(path))
        except store.ResultError as error:
            unreadable.append(str(error))
    return results, unreadable


def grouped(items: Iterable[T], key: Callable[[T], Hashable]) -> dict[Any, list[T]]:
    """Items by key, keys in the order of their first item."""
    groups: dict[Any, list[T]] = {}
    for item in items:
        groups.setdefault(key(item), []).append(item)
    return groups


def of_protocol(results: Iterable[dict], *names: str) -> list[dict]:
    """Results of protocols on test images."""
    return [r for r in results if r["protocol"] in names and r.get("test_set", "test") != "val"]


def by_task(results: Iterable[dict]) -> list[tuple[str, Measure, list[dict]]]:
    """Results that may share a table: their task ("" = the usual one), their primary measure, and they themselves."""
    groups = grouped(results, lambda r: (r["task"], measure_of(r)))
    count = collections.Counter(task for task, _ in groups)
    names = {
        (task, measure): f"{task}_{measure.name}" if count[task] > 1 else "" if task == USUAL_TASK else task
        for task, measure in groups
    }
    return [(names[key], key[1], groups[key]) for key in sorted(groups, key=lambda key: (names[key], str(key)))]


def trained_on(result: dict) -> str:
    """The dataset that a result's prompt was trained on."""
    return result.get("trained_on") or result["dataset"]


def training_of(result: dict) -> tuple:
    """What tells one training from another."""
    return tuple(result[key] for key in ("method", "recipe", "backbone", "shots", "seed")) + (trained_on(result),)


def was_resumed(result: dict) -> bool:
    """Whether a run's seconds of training are those of its last part only."""
    return bool(result.get("resumed_from_epoch"))


def measures_of(base: dict, new: dict) -> dict[str, float]:
    """Base, new, combined, and worst_group where there are groups, of one seed's results on base and on new classes."""
    values = {"base": primary(base), "new": primary(new)}
    values["combined"] = measure_of(base).combined(values["base"], values["new"])
    return {**values, "worst_group": worst_group(base)} if base["groups"] else values


def unequal(results: Iterable[dict]) -> list[str]:
    """Settings, or the backbone's weights, that differ between results."""
    return differing([{**r["config"], "backbone weights": r["digests"]["weights"]} for r in results])


def differing(configs: Sequence[dict[str, Any]]) -> list[str]:
    """Keys that all have and that are not equal in all; seeds and places aside."""
    flat = list(map(store.flatten, configs))
    common = set.intersection(*map(set, flat)) - {"SEED", *store.PLACES} if flat else set()
    return sorted(key for key in common if any(one[key] != flat[0][key] for one in flat))


# --- reading order and words -------------------------------------------------------------------------------------


def dataset_rank(dataset: str) -> tuple[int, str]:
    """Reading order of datasets: that of the published tables, then ImageNet's shifts, then others by name."""
    order = (*PUBLISHED, *SHIFTS)
    return order.index(dataset) if dataset in order else len(order), dataset


def method_rank(method: str) -> tuple[int, tuple[int, ...], str]:
    """Reading order of methods: ORDER, then OURS by the place of its learner, then others by name."""
    trainer, learner = split_method(method)
    ours = trainer == OURS
    names = (learner.split("+") if learner else []) if ours else [method]
    places = tuple(ORDER.index(name) if name in ORDER else len(ORDER) for name in names)
    return 1 if ours else 0 if method in ORDER else 2, places, method


def name_of(measure: Measure) -> str:
    """A measure's label within a sentence: "accuracy", but "R@1"."""
    label = measure.label
    return label[:1].lower() + label[1:] if label[1:2].islower() else label


def unit_of(measure: Measure) -> str:
    """Its unit in words; "" = none."""
    return "per cent" if measure.unit == "%" else measure.unit


def with_unit(measure: Measure, ending: str = "") -> str:
    """What a table's figures are: "Accuracy in per cent"."""
    unit = f" in {unit_of(measure)}" if measure.unit else ""
    return f"{measure.label}{ending}{unit}{'' if measure.higher_is_better else ' (lower is better)'}"


def axis_of(measure: Measure) -> str:
    """An axis of a picture: "Accuracy, per cent"."""
    return ", ".join(filter(None, [measure.label, unit_of(measure)]))


def span_of(measure: Measure) -> float:
    """What an axis shows at least: 5 points of per cent, lest a tenth of a point look like a gulf; 0 = see Plot."""
    return 5.0 if measure.unit == "%" else 0.0


def digits_of(measure: Measure) -> int:
    """Digits after the point that a table shows."""
    return 1 if measure.unit == "%" else 3


def combined_key(measure: Measure) -> str:
    """Key of the one figure of base and new classes, in files."""
    return "h" if measure.combined_label == "H" else "combined"


def note_on_groups(measure: Measure) -> str:
    """What the worst group is."""
    extreme = "lowest" if measure.higher_is_better else "highest"
    return (
        f"Worst group: for each seed, the {extreme} {name_of(measure)} of the groups of base-class test images; of "
        "causal_shapes these are images whose scene is the one tied to their class in training (aligned) and is not "
        "(conflicting)."
    )


# --- cells and rows ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Cell:
    """The primary measure of a line at one place of a table.

    Args:
        series: by seed; empty where there is nothing, or for an average over datasets with different seeds.
        stat: mean and spread over the seeds. problems: what makes it incomplete.
    """

    series: dict[int, float] = field(default_factory=dict)
    stat: Stat | None = None
    problems: tuple[str, ...] = ()

    @property
    def shown(self) -> Stat | str | None:
        """What the table shows."""
        return INCOMPLETE if self.problems else self.stat


@dataclass(frozen=True)
class Row:
    """A line of a table on one dataset (or from one source), or its average over datasets.

    Args:
        line: the method, or "METHOD (RECIPE)" where the table has several recipes of it in one place.
        place: the dataset. preposition: between the method and the place, in messages.
        results: all behind it. labels: of its columns, in messages.
        of: the rows that it is the average of.
    """

    line: str
    place: str
    results: tuple[dict, ...]
    cells: dict[str, Cell]
    labels: dict[str, str]
    preposition: str = "on"
    of: tuple["Row", ...] = ()

    @property
    def method(self) -> str:
        """Its method."""
        return self.results[0]["method"]

    @property
    def recipe(self) -> str:
        """Its recipes, each once: published ones may differ by dataset or shots."""
        return ", ".join(dict.fromkeys(r["recipe"] for r in self.results))

    @property
    def seeds(self) -> tuple[int, ...]:
        """Its seeds; none for an average over datasets with different ones."""
        if self.of:
            return self.of[0].seeds if len({row.seeds for row in self.of}) == 1 else ()
        return tuple(sorted({r["seed"] for r in self.results}))

    @property
    def name(self) -> str:
        """As messages name it."""
        return f"{self.method} ({self.recipe}) {self.preposition} {self.place}"

    @property
    def problems(self) -> list[str]:
        """What makes it incomplete."""
        return [
            f"{self.name}, {self.labels[key]}: {problem}"
            for key, cell in self.cells.items()
            for problem in cell.problems
        ]

    @property
    def facts(self) -> dict[str, Any]:
        """What every table says of a row, and its cells."""
        return {
            "dataset": self.place,
            "method": self.method,
            "recipe": self.recipe,
            "backbone": self.results[0]["backbone"],
            "shots": self.results[0]["shots"],
            "seeds": " ".join(map(str, self.seeds)),
            **{key: cell.shown for key, cell in self.cells.items()},
            "complete": "no" if self.problems else "yes",
            "problems": "; ".join(self.problems),
        }


Problems = Callable[[str, dict[str, list[dict]], set[int]], list[str]]


def problems_of(column: str, by_column: dict[str, list[dict]], seeds: set[int]) -> list[str]:
    """What makes one column of a row incomplete.

    Args:
        by_column: the row's results. seeds: those that it should have.
    """
    results = by_column.get(column, [])
    if not results:
        return ["not run"]
    count = collections.Counter(r["seed"] for r in results)
    missing, settings = [seed for seed in sorted(seeds) if seed not in count], unequal(results)
    return [
        *([f"lacks seed {', '.join(map(str, missing))}"] if missing else []),
        *(
            f"{n} results of seed {seed}; which one counts cannot be told: give the folder of one job"
            for seed, n in sorted(count.items())
            if n > 1
        ),
        *([f"seeds were run with unequal settings: {', '.join(settings)}"] if settings else []),
    ]


def stale_prompts(results: Iterable[dict], trainings: Iterable[dict]) -> list[str]:
    """The problem where results were tested with another prompt than that of the present training; none without one."""
    prompts = grouped(trainings, training_of)
    stale = [str(r["seed"]) for r in results if not _is_fresh(r, prompts)]
    return [f"stale prompt: another than that of the present training, seed {', '.join(stale)}"] if stale else []


def fresh(results: Iterable[dict], trainings: Iterable[dict]) -> list[dict]:
    """Results without those of a stale prompt."""
    prompts = grouped(trainings, training_of)
    return [r for r in results if _is_fresh(r, prompts)]


def _is_fresh(result: dict, prompts: dict[tuple, list[dict]]) -> bool:
    return all(one["digests"]["model"] == result["digests"]["model"] for one in prompts.get(training_of(result), []))


def rows_of(
    results: Sequence[dict],
    labels: dict[str, str],
    column_of: Callable[[dict], str],
    place_of: Callable[[dict], str] = lambda result: result["dataset"],
    problems: Problems = problems_of,
    preposition: str = "on",
) -> list[Row]:
    """Rows of results that may share an average: by dataset and method in reading order, then the averages.

    Args:
        labels: columns in order, and their names in messages.
        column_of, place_of: the column that a result belongs to, and the dataset of its row.
        problems: what makes a column incomplete.
    """
    lines = lines_of(results, lambda r: (place_of(r), column_of(r)))
    places = sorted({place_of(r) for r in results}, key=dataset_rank)
    rows = []
    for place in places:
        seeds = {r["seed"] for r in results if place_of(r) == place}
        for line, of_line in lines.items():
            some = [r for r in of_line if place_of(r) == place]
            cells = _cells(grouped(some, column_of), labels, seeds, problems)
            rows += [Row(line, place, tuple(some), cells, labels, preposition)] if some else []
    if len(places) == 1:
        return rows
    return rows + [_average([row for row in rows if row.line == line], places) for line in lines]


def lines_of(results: Iterable[dict], place: Callable[[dict], Hashable]) -> dict[str, list[dict]]:
    """Results by line of a table, in reading order: one a method, named after it.

    Where a method has two recipes in one place (published recipes may differ by dataset or shots), a line a recipe.
    """
    lines: dict[str, list[dict]] = {}
    for method, of in sorted(grouped(results, lambda r: r["method"]).items(), key=lambda one: method_rank(one[0])):
        if all(len({r["recipe"] for r in there}) == 1 for there in grouped(of, place).values()):
            lines[method] = of
        else:
            lines |= {f"{method} ({recipe})": some for recipe, some in grouped(of, lambda r: r["recipe"]).items()}
    return lines


def _cells(
    by_column: dict[str, list[dict]], labels: dict[str, str], seeds: set[int], problems: Problems
) -> dict[str, Cell]:
    cells = {}
    for column in labels:
        wrong = problems(column, by_column, seeds)
        series = {} if wrong else {r["seed"]: primary(r) for r in by_column.get(column, [])}
        cells[column] = Cell(series, Stat.of(series.values()) if series else None, tuple(wrong))
    return cells


def _average(rows: Sequence[Row], places: Sequence[str]) -> Row:
    """The average row of a line; a column is incomplete where a dataset of it is."""
    by_place = {row.place: row.cells for row in rows}
    labels = rows[0].labels
    cells = {}
    for column in labels:
        missing = [name for name in places if name not in by_place or by_place[name][column].problems]
        wrong = (f"not complete: {', '.join(missing)}",) if missing else ()
        cells[column] = Cell(problems=wrong) if wrong else average_of([by_place[name][column] for name in places])
    results = tuple(r for row in rows for r in row.results)
    return Row(rows[0].line, f"average of {len(places)}", results, cells, labels, of=tuple(rows))


def average_of(cells: Sequence[Cell]) -> Cell:
    """The mean over datasets; its spread is that of the seeds' means, where all have the same seeds."""
    stats = [cell.stat for cell in cells if cell.stat]
    if not stats or len(stats) < len(cells):
        return Cell()
    if any(cell.series.keys() != cells[0].series.keys() for cell in cells):
        return Cell({}, Stat(statistics.fmean(stat.mean for stat in stats), None, min(stat.n for stat in stats)))
    series = {seed: statistics.fmean(cell.series[seed] for cell in cells) for seed in cells[0].series}
    return Cell(series, Stat.of(series.values()))


# --- parts of a sheet --------------------------------------------------------------------------------------------


def columns_of(
    rows: Sequence[dict[str, Any]],
    vary: dict[str, str],
    figures: Iterable[Column],
    first: Sequence[str] = ("dataset", "method", "recipe"),
) -> tuple[Column, ...]:
    """The columns of a table of rows. vary: columns that are shown where their values differ, and their headings."""
    return (
        *(Column(key, key.capitalize(), "words") for key in first),
        *columns_that_vary(rows, vary),
        *figures,
        Column("complete", "Complete", "words", where="files"),
        Column("problems", "Problems", "words", where="files"),
    )


def notes_on_averages(rows: Iterable[Row], over: str = "datasets") -> list[str]:
    """What an average is, and where its datasets were run with one recipe and unequal settings (of datasets aside)."""
    averages = [row for row in rows if row.of]
    notes = [f"Average: the mean over all {over}; {AVERAGE}"] if averages else []
    for row in averages:
        recipes = grouped(row.results, lambda r: r["recipe"]).values()
        keys = {key for of in recipes for key in differing([r["config"] for r in of]) if not key.startswith("DATASET.")}
        if keys:
            notes.append(f"{row.name}: not all datasets were run with the same {', '.join(sorted(keys))}.")
    return notes


def single(results: Iterable[dict]) -> list[dict]:
    """The results behind a table, without their configurations."""
    return [{key: value for key, value in r.items() if key != "config"} for r in results]


def drawn(rows: Iterable[Row], columns: Iterable[str]) -> dict[str, tuple[Any, ...]]:
    """Some cells of rows by line, as a picture has them."""
    columns = list(columns)
    return {row.line: tuple(row.cells[column].shown for column in columns) for row in rows}
