"""Two methods over the same seeds and datasets: differences, 95 % intervals, wins, ties and losses.

The unit. Seeds of one dataset share its test images and classes, so pairs (dataset, seed) are clustered by dataset.
Within a dataset the interval is Student's t over its seeds' differences; over all datasets it is Student's t over the
datasets' mean differences, one value a dataset. Only pairs with equal digests of the data count.
"""

import itertools
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from dicap.config import split_method
from dicap.report import table
from dicap.report.sheet import INCOMPLETE, Column, Sheet, columns_that_vary, title_of, unit_of, words
from dicap.report.stats import LEVEL, difference
from dicap.report.table import OURS, dataset_rank, grouped, method_rank, trained_on
from dicap.report.transfer import TITLES
from dicap.results import Measure, ResultError, primary

NAME = "paired"
PROTOCOLS = ("base2new", "few_shot", "source", "cross_dataset", "domain_generalization")
TIE = 1e-9  # in a measure's unit; shares are of counts, so that equal ones are equal
COUNTS = {"wins": "Win", "ties": "Tie", "losses": "Loss", "n": "n"}

Units = dict[tuple[str, int], tuple[dict[str, float], tuple]]  # (dataset, seed) -> measures, digests of the data


def paired_sheets(results: Iterable[dict], compare: Sequence[str] = ()) -> list[Sheet]:
    """The table of each task's comparisons; none where no two methods share a protocol, backbone and number of shots.

    Args:
        compare: two methods or trainers ("DiCap" has all its pairs, "DiCap:CoOp" is one), or lines ("CoOp (tiny)");
            empty = each of DiCap's with each that is none.
    Raises ResultError: a name of `compare` that no result has, or two that nowhere meet.
    """
    results = table.of_protocol(results, *PROTOCOLS)
    methods = sorted({r["method"] for r in results}, key=method_rank)
    for name in compare:
        if not any(_stands_for(name.split(" (")[0], method) for method in methods):
            raise ResultError(f"--compare {name}: no result of this method; there are: {', '.join(methods)}")
    sheets = [sheet for some in table.by_task(results) if (sheet := _sheet(*some, compare)).rows]
    if compare and not sheets:
        raise ResultError(
            f"--compare {' '.join(compare)}: no two different lines of a table with the same task, protocol, backbone "
            'and shots; a line is METHOD, or "METHOD (RECIPE)" where a method has several recipes'
        )
    return sheets


def _stands_for(name: str, line: str) -> bool:
    """Whether a name is that of a line, of its method, or of its method's trainer."""
    method = line.split(" (")[0]
    return name.lower() in (line.lower(), method.lower(), split_method(method)[0].lower())


def _sheet(task: str, measure: Measure, results: list[dict], compare: Sequence[str]) -> Sheet:
    blocks = sorted(grouped(results, _block_of).items())
    sources = {key[-1] for key, _ in blocks} - {""}
    rows = [{"task": task, **row} for _, of in blocks for row in _block(of, measure, compare, len(sources) > 1)]
    title = "{comparison}: {measure}, {protocol}, {shots} shots, {backbone}"
    points = (
        (title.format(**row), row["comparison"], row["dataset"], row["difference"])
        for row in rows
        if row["key"] in ("combined", "primary")  # the one figure of base and new classes, or the primary measure
    )
    return Sheet(
        NAME,
        title_of("Paired comparison", rows, {"task": "{}"}),
        (
            *columns_that_vary(rows, {"protocol": "Protocol", "backbone": "Backbone", "shots": "Shots"}),
            *words("comparison", "measure", "dataset"),
            Column("difference", f"Difference [{100 * LEVEL:.0f} %]", "interval", table.digits_of(measure) + 1),
            *(Column(key, name, "number") for key, name in COUNTS.items()),
            *words(unit="of"),
        ),
        tuple(rows),
        _notes(measure),
        tuple(dict.fromkeys(problem for row in rows for problem in row["problems"])),
        "comparison",
        plots=table.plots_of("forest", measure, points),
        extra={"std": None, "level": LEVEL},
        task=task,
    )


def _block_of(result: dict) -> tuple:
    source = trained_on(result) if result["protocol"] in TITLES else ""
    return PROTOCOLS.index(result["protocol"]), result["backbone"], result["shots"], source


def _notes(measure: Measure) -> tuple[str, ...]:
    unit = f", in {'points of ' if measure.unit == '%' else ''}{unit_of(measure)}" if measure.unit else ""
    win = f" Lower {table.name_of(measure)} is better: a win is a negative difference."
    return (
        f"Difference: first minus second method over the same seeds and data{unit}. "
        f"{measure.combined_label} is that of each seed.{'' if measure.higher_is_better else win}",
        f"A dataset's row: mean over its seeds, {100 * LEVEL:.0f} % t interval over these n seeds (another draw of shots "
        "of the same dataset); win, tie and loss count seeds.",
        f"Overall: mean over the datasets' mean differences, {100 * LEVEL:.0f} % t interval over these n datasets "
        "(another dataset of this kind), since seeds of one dataset are not independent of each other; win, tie and "
        "loss count datasets.",
        "One pair has no interval. Each interval stands by itself: none is corrected for their number.",
    )


# --- pairs -------------------------------------------------------------------------------------------------------


def _block(results: list[dict], measure: Measure, compare: Sequence[str], several: bool) -> list[dict[str, Any]]:
    """Rows of one protocol, backbone, number of shots and source. several: whether there are more sources."""
    facts = {key: results[0][key] for key in ("protocol", "backbone", "shots")}
    if several and facts["protocol"] in TITLES:
        facts["protocol"] += f" from {trained_on(results[0])}"
    lines = table.lines_of(results, lambda r: r["dataset"])
    names = {"combined": measure.combined_label, "base": "Base", "new": "New", "worst_group": "Worst group"}
    first, second = ([line for line in lines if _stands_for(name, line)] for name in compare or (OURS, OURS))
    second = second if compare else [line for line in lines if line not in first]
    rows = []
    for one, other in [pair for pair in itertools.product(first, second) if pair[0] != pair[1]]:
        units = [_units(lines[name]) for name in (one, other)]
        measured = {key for of in units for measures, _ in of.values() for key in measures}
        facts["comparison"] = f"{one} − {other}"
        for key, name in {**names, "primary": measure.label}.items():
            more = _rows(units[0], units[1], key, measure, facts) if key in measured else []
            rows += [{**facts, "key": key, "measure": name, **row} for row in more]
    return rows


def _units(results: list[dict]) -> Units:
    """What each seed measured; nothing where the seeds of its dataset differ in settings."""
    halves = grouped(results, lambda r: (r["dataset"], r["split"]))
    differ = {dataset for (dataset, _), half in halves.items() if table.unequal(half)}
    units: Units = {}
    for key, some in grouped(results, lambda r: (r["dataset"], r["seed"])).items():
        data = tuple(sorted((r["split"], r["digests"]["data"]) for r in some))
        units[key] = {} if key[0] in differ else _measured(some), data
    return units


def _measured(results: list[dict]) -> dict[str, float]:
    """What one seed measured; nothing where it has two results, half of one, or a stale prompt."""
    halves = {r["split"]: r for r in results}
    if results[0]["protocol"] != "base2new" and len(results) == 1:
        return {"primary": primary(results[0])}
    if len(results) != 2 or halves.keys() != {"base", "new"} or table.stale([halves["new"]], [halves["base"]]):
        return {}
    return table.measures_of(halves["base"], halves["new"])


def _rows(one: Units, other: Units, key: str, measure: Measure, facts: dict[str, Any]) -> list[dict[str, Any]]:
    """A row a dataset, and the one over all."""
    rows: list[dict[str, Any]] = []
    means: dict[str, float] = {}
    seeds = sorted({*one, *other}, key=lambda pair: (dataset_rank(pair[0]), pair[1]))
    for dataset, pairs in grouped(seeds, lambda pair: pair[0]).items():
        if key == "worst_group" and not any(key in of[pair][0] for of in (one, other) for pair in pairs if pair in of):
            continue  # no groups there
        lacks = [str(pair[1]) for pair in pairs if not all(pair in of and key in of[pair][0] for of in (one, other))]
        differ = [] if lacks else [str(pair[1]) for pair in pairs if one[pair][1] != other[pair][1]]
        problem = f"not both have one whole result, with equal settings, of seed {', '.join(lacks)}" if lacks else ""
        problem = f"the data differ for seed {', '.join(differ)}" if differ else problem
        gains = {} if problem else {pair: one[pair][0][key] - other[pair][0][key] for pair in pairs}
        where = "{protocol}, {shots} shots, {comparison} on {}".format(dataset, **facts)
        problems = [f"{where}: {problem}"] if problem else []
        rows.append({"dataset": dataset, "unit": "seeds", "problems": problems, **_counted(gains, measure)})
        means |= {dataset: statistics.fmean(gains.values())} if gains else {}
    if len(rows) > 1:
        whole = _counted(means if len(means) == len(rows) else {}, measure)
        rows.append({"dataset": "overall", "unit": "datasets", "problems": [], **whole})
    return rows


def _counted(gains: Mapping[Any, float], measure: Measure) -> dict[str, Any]:
    """Differences: their mean with its interval, and how many are wins."""
    if not gains:
        return {"difference": INCOMPLETE}
    interval, n, sign = difference(gains, dict.fromkeys(gains, 0.0)), len(gains), 1 if measure.higher_is_better else -1
    wins, losses = (sum(way * value > TIE for value in gains.values()) for way in (sign, -sign))
    counts = {"wins": wins, "ties": n - wins - losses, "losses": losses, "n": n}
    return {"difference": interval or sum(gains.values()), **counts}
