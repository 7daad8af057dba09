"""Rows over seeds: what base-to-new, few-shot and transfer tables share. A cell is the primary measure over the seeds.

A cell that lacks something (docs/report.md lists the reasons) is incomplete: neither shown nor averaged.
Results of different tasks or primary measures, backbones, numbers of shots and sources never share a row or an average.
"""

import collections
import statistics
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from dicap import results as store
from dicap.config import split_method
from dicap.data.named import PUBLISHED, SHIFTS
from dicap.report.sheet import INCOMPLETE, Column, Plot, Sheet, columns_that_vary, title_of, unit_of, words
from dicap.report.stats import Stat
from dicap.results import Measure, measure_of, primary, worst_group

T = TypeVar("T")
ORDER = ("ZeroshotCLIP", "CoOp", "CoCoOp", "CLIPAdapter", "FeatureMap")  # of methods; then those of OURS, then others
OURS = "DiCap"
AVERAGE = "Average: the mean over {}; only where every one is complete. Its spread is that of the seeds' averages."
USUAL_TASK = "classification"  # tables of other tasks have the task in their names
# facts that stand in a column where they differ between rows, else in the title
VARY = {
    "source": ("Trained on", "trained on {}"),
    "shots": ("Shots", "{} shots"),
    "backbone": ("Backbone", "backbone {}"),
    "seeds": ("Seeds", "seeds {}"),
}


# --- results -----------------------------------------------------------------------------------------------------


def gather(root: str | Path) -> tuple[list[dict], list[str]]:
    """Every result below a folder, and one line for each file that cannot be read. Raises ResultError: no folder."""
    results, unreadable = [], []
    for path in store.find_results(root):
        try:
            results.append(store.read_result(path))
        except (store.ResultError, OSError) as error:
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
    tasks = []
    for (task, measure), of in groups.items():
        name = f"{task}_{measure.name}" if count[task] > 1 else "" if task == USUAL_TASK else task
        tasks.append((name, measure, of))
    return sorted(tasks, key=lambda one: (one[0], str(one[1])))


def trained_on(result: dict) -> str:
    """The dataset that a result's prompt was trained on."""
    return result.get("trained_on") or result["dataset"]


def stale(results: Iterable[dict], trainings: Iterable[dict]) -> list[dict]:
    """Results of a stale prompt: another than that of the present training."""
    prompts = {key: {r["digests"]["model"] for r in of} for key, of in grouped(trainings, training_of).items()}
    return [r for r in results if r["digests"]["model"] not in prompts.get(training_of(r), {r["digests"]["model"]})]


def training_of(result: dict) -> tuple:
    """What tells one training from another."""
    return *(result[key] for key in ("method", "recipe", "backbone", "shots", "seed")), trained_on(result)


def measures_of(base: dict, new: dict) -> dict[str, float]:
    """Base, new, combined, and worst_group where there are groups, of one seed's results on base and on new classes."""
    values = {"base": primary(base), "new": primary(new)}
    values["combined"] = measure_of(base).combined(values["base"], values["new"])
    return {**values, "worst_group": worst_group(base)} if base["groups"] else values


def unequal(results: Iterable[dict]) -> list[str]:
    """Settings that all have, or the backbone's weights, that differ between results; seeds and places aside."""
    flat = [{**store.flatten(r["config"]), "backbone weights": r["digests"]["weights"]} for r in results]
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
    names = learner.split("+") if trainer == OURS else [method]
    places = tuple(ORDER.index(name) if name in ORDER else len(ORDER) for name in names if name)
    return 1 if trainer == OURS else 0 if method in ORDER else 2, places, method


def name_of(measure: Measure) -> str:
    """A measure's label within a sentence: "count error", but "R@1"."""
    label = measure.label
    return label[:1].lower() + label[1:] if label[1:2].islower() else label


def digits_of(measure: Measure) -> int:
    """Digits after the point that a table shows."""
    return 1 if measure.unit == "%" else 3


def combined_key(measure: Measure) -> str:
    """Key of the one figure of base and new classes, in files."""
    return "h" if measure.combined_label == "H" else "combined"


def note_on_figures(measure: Measure, where: str = "") -> str:
    """What a table's figures are."""
    unit = f" in {unit_of(measure)}" if measure.unit else ""
    direction = "" if measure.higher_is_better else " (lower is better)"
    spread = "mean ± standard deviation over seeds (ddof = 1); a single seed has none."
    return f"{measure.label}{where}{unit}{direction}: {spread}"


def note_on_groups(measure: Measure) -> str:
    """What the worst group is."""
    return (
        f"Worst group: for each seed, the {'lowest' if measure.higher_is_better else 'highest'} {name_of(measure)} of "
        "the groups of base-class test images; of causal_shapes these are images whose scene is the one tied to their "
        "class in training (aligned) and is not (conflicting)."
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
        place: the dataset. results: all behind it. of: the rows that it is the average of.
    """

    line: str
    place: str
    results: tuple[dict, ...]
    cells: dict[str, Cell] = field(default_factory=dict)
    of: tuple["Row", ...] = ()

    @property
    def facts(self) -> dict[str, Any]:
        """What every table says of a row."""
        first, seeds = self.results[0], {r["seed"] for r in self.results}
        differ = len({row.facts["seeds"] for row in self.of}) > 1
        return {
            "dataset": self.place,
            "method": first["method"],
            "recipe": ", ".join(dict.fromkeys(r["recipe"] for r in self.results)),  # published ones may differ
            "backbone": first["backbone"],
            "shots": first["shots"],
            "seeds": "" if differ else " ".join(map(str, sorted(seeds))),
            "source": trained_on(first),
        }

    @property
    def name(self) -> str:
        """As messages name it."""
        return "{method} ({recipe}) on {dataset}".format(**self.facts)

    @property
    def problems(self) -> list[str]:
        """What makes it incomplete."""
        return [f"{self.name}, {problem}" for cell in self.cells.values() for problem in cell.problems]


def rows_of(
    results: Sequence[dict],
    labels: dict[str, str],
    column_of: Callable[[dict], str],
    place_of: Callable[[dict], str] = lambda result: result["dataset"],
    trainings: Sequence[dict] | None = None,
) -> list[Row]:
    """Rows of results that may share an average: by dataset and method in reading order, then the averages.

    Args:
        labels: columns in order, and their names in messages.
        column_of, place_of: the column that a result belongs to, and the dataset of its row.
        trainings: runs that trained the prompts which are tested; None = each run is a training, and a method that
            learns nothing needs one column only.
    """
    lines = lines_of(results, lambda r: (place_of(r), column_of(r)))
    by_place = grouped(sorted(results, key=lambda r: dataset_rank(place_of(r))), place_of)
    rows = []
    for place, there in by_place.items():
        seeds = {r["seed"] for r in there}
        for line, of in lines.items():
            some = [r for r in of if place_of(r) == place]
            needed = trainings is not None or any(r["digests"]["model"] for r in some)
            known, by_column = some if trainings is None else trainings, grouped(some, column_of)
            cells = {key: _cell(label, by_column.get(key, []), seeds, known, needed) for key, label in labels.items()}
            rows += [Row(line, place, tuple(some), cells)] if some else []
    for line in lines if len(by_place) > 1 else ():
        those = {row.place: row for row in rows if row.line == line}
        cells = {
            key: average_of(label, {place: those[place].cells[key] if place in those else None for place in by_place})
            for key, label in labels.items()
        }
        some = [r for row in those.values() for r in row.results]
        rows.append(Row(line, f"average of {len(by_place)}", tuple(some), cells, tuple(those.values())))
    return rows


def lines_of(results: Iterable[dict], place: Callable[[dict], Hashable]) -> dict[str, list[dict]]:
    """Results by line of a table, in reading order: one a method, named after it.

    Where a method has two recipes in one place (published recipes may differ by dataset or shots), a line a recipe.
    """
    lines: dict[str, list[dict]] = {}
    for method, of in grouped(sorted(results, key=lambda r: method_rank(r["method"])), lambda r: r["method"]).items():
        if all(len({r["recipe"] for r in there}) == 1 for there in grouped(of, place).values()):
            lines[method] = of
        else:
            lines |= {f"{method} ({recipe})": some for recipe, some in grouped(of, lambda r: r["recipe"]).items()}
    return lines


def _cell(label: str, results: Sequence[dict], seeds: set[int], trainings: Sequence[dict], needed: bool) -> Cell:
    count, trained = collections.Counter(r["seed"] for r in results), set(map(training_of, trainings))
    twice = "{} results of seed {}; which one counts cannot be told: give the folder of one job"
    found: dict[str, list[Any]] = {
        "not run": [""] if needed and not results else [],
        "lacks seed": sorted(seeds - count.keys()) if results else [],
        "stale prompt: another than that of the present training, seed": [r["seed"] for r in stale(results, trainings)],
        "no training to check the prompt against, seed": [r["seed"] for r in results if training_of(r) not in trained],
        **{twice.format(n, seed): [""] for seed, n in sorted(count.items()) if n > 1},
        "seeds were run with unequal settings:": unequal(results),
    }
    problems = [f"{label}: {text} {', '.join(map(str, some))}".strip() for text, some in found.items() if some]
    series = {} if problems else {r["seed"]: primary(r) for r in results}
    return Cell(series, Stat.of(series.values()) if series else None, tuple(problems))


def average_of(label: str, cells: Mapping[str, Cell | None]) -> Cell:
    """The mean over datasets; its spread is that of the seeds' means, where all have the same seeds.

    Incomplete where a dataset is, or is not there (None).
    """
    missing = [name for name, cell in cells.items() if cell is None or cell.problems]
    there = [cell.series for cell in cells.values() if cell and cell.series]
    if len(there) < len(cells):
        return Cell(problems=(f"{label}: not complete: {', '.join(missing)}",) if missing else ())
    if any(series.keys() != there[0].keys() for series in there):
        means = [statistics.fmean(series.values()) for series in there]
        return Cell({}, Stat(statistics.fmean(means), None, min(map(len, there))))
    means_by_seed = {seed: statistics.fmean(series[seed] for series in there) for seed in there[0]}
    return Cell(means_by_seed, Stat.of(means_by_seed.values()))


# --- sheets ------------------------------------------------------------------------------------------------------


def sheet_of(
    name: str, title: str, rows: Sequence[Row], figures: Iterable[Column], vary: Sequence[str], **fields: Any
) -> Sheet:
    """The sheet of some rows.

    Args:
        figures: its columns of figures; words of `vary` stand in a column or in the title.
        fields: task, notes, plots, also; more: what it says of each row besides its facts and cells.
    """
    lines = [
        {
            "task": fields["task"],
            **row.facts,
            **{key: cell.shown for key, cell in row.cells.items()},
            "complete": "no" if row.problems else "yes",
            "problems": "; ".join(row.problems),
            **more,
        }
        for row, more in zip(rows, fields.pop("more", [{}] * len(rows)), strict=True)
    ]
    first = ("method", "recipe") if "source" in vary else ("dataset", "method", "recipe")
    columns = (
        *words(*first),
        *columns_that_vary(lines, {key: VARY[key][0] for key in vary}),
        *figures,
        *words("complete", "problems", where="files"),
    )
    results = [r for row in rows if not row.of for r in row.results]
    return Sheet(
        name,
        title_of(title, lines, {"task": "{}", **{key: VARY[key][1] for key in vary}}),
        columns,
        tuple(lines),
        problems=tuple(problem for row in rows for problem in row.problems),
        group="source" if "source" in vary else "dataset",
        extra={"results": [{key: value for key, value in r.items() if key != "config"} for r in results]},
        **fields,
    )


def plots_of(kind: str, measure: Measure, points: Iterable[tuple[str, str, str, Any]]) -> tuple[Plot, ...]:
    """Pictures of points (title, series, label, figure), one a title."""
    plots = []
    for title, of in grouped(points, lambda point: point[0]).items():
        names, labels = (tuple(dict.fromkeys(point[i] for point in of)) for i in (1, 2))
        figures = {(name, label): figure for _, name, label, figure in of}
        series = {name: tuple(figures.get((name, label)) for label in labels) for name in names}
        plots.append(Plot(kind, title, measure, labels, series))
    return tuple(plots)


def notes_on_averages(rows: Iterable[Row]) -> list[str]:
    """What an average is, and where its datasets were run with one recipe and unequal settings (of datasets aside)."""
    averages = [row for row in rows if row.of]
    notes = [AVERAGE.format("all datasets")] if averages else []
    for row in averages:
        recipes = grouped(row.results, lambda r: r["recipe"]).values()
        keys = sorted({key for of in recipes for key in unequal(of) if not key.startswith("DATASET.")})
        notes += [f"{row.name}: not all datasets were run with the same {', '.join(keys)}."] if keys else []
    return notes
