"""Two methods over the same seeds and datasets: differences, 95 % intervals, wins, ties and losses.

The unit. Seeds of one dataset share its test images and classes, so pairs (dataset, seed) are clustered by dataset.
Within a dataset the interval is Student's t over its seeds' differences; over all datasets it is Student's t over the
datasets' mean differences, one value a dataset. Only pairs with equal digests of the data count.
"""

import itertools
from collections.abc import Iterable, Sequence
from typing import Any

from dicap import results as store
from dicap.report import sets
from dicap.report.paired import LEVEL, MEASURES, difference, measures_of
from dicap.report.sheet import INCOMPLETE, Column, Plot, Sheet, columns_that_vary
from dicap.report.shifts import TITLES, trained_on
from dicap.report.table import dataset_rank, method_rank, unequal

NAME = "paired"
PROTOCOLS = ("base2new", "few_shot", "source", "cross_dataset", "domain_generalization")
TIE = 1e-9  # per cent; accuracies are counts, so that equal ones are equal
NAMES = {**MEASURES, "accuracy": "Accuracy"}

Pairs = dict[int, float]  # seed -> a measure


def paired_sheets(results: Iterable[dict], compare: Sequence[str] = ()) -> list[Sheet]:
    """The table of all comparisons; none where no two methods share a protocol, backbone and number of shots.

    Args:
        compare: two methods ("DiCap CoOp"), or lines ("CoOp (tiny)"); empty = DiCap with each other.
    Raises:
        ResultError: a name of `compare` that no result has, or two that nowhere meet.
    """
    results = sets.of_protocol(results, *PROTOCOLS)
    _check(compare, results)
    blocks = sets.grouped(
        results,
        lambda r: (
            PROTOCOLS.index(r["protocol"]),
            r["backbone"],
            r["shots"],
            trained_on(r) if r["protocol"] in TITLES else "",
        ),
    )
    rows = [row for key in sorted(blocks) for row in _block(blocks[key], compare)]
    if not rows and compare:
        raise store.ResultError(
            f"--compare {' '.join(compare)}: no two different lines of a table with the same protocol, backbone and "
            'shots; a line is METHOD, or "METHOD (RECIPE)" where a method has several recipes'
        )
    if not rows:
        return []
    columns = (
        *columns_that_vary(rows, {"protocol": "Protocol", "backbone": "Backbone", "shots": "Shots"}),
        Column("comparison", "Comparison", "words"),
        Column("measure", "Measure", "words"),
        Column("dataset", "Dataset", "words"),
        Column("difference", "Difference [95 %]", "interval", 2),
        Column("wins", "Win", "number"),
        Column("ties", "Tie", "number"),
        Column("losses", "Loss", "number"),
        Column("n", "n", "number"),
        Column("unit", "of", "words"),
    )
    problems = tuple(dict.fromkeys(problem for row in rows for problem in row["problems"]))
    return [
        Sheet(
            NAME,
            "Paired comparison",
            columns,
            tuple(rows),
            tuple(_notes()),
            problems,
            "comparison",
            tuple(_plots(rows)),
            {"std": None, "level": LEVEL},
        )
    ]


def _notes() -> list[str]:
    return [
        "Difference: first minus second method over the same seeds and data, in points of per cent. H is that of each seed.",
        f"A dataset's row: mean over its seeds, {100 * LEVEL:.0f} % t interval over these n seeds (another draw of shots of the same "
        "dataset); win, tie and loss count seeds.",
        f"Overall: mean over the datasets' mean differences, {100 * LEVEL:.0f} % t interval over these n datasets (another dataset of "
        "this kind), since seeds of one dataset are not independent of each other; win, tie and loss count datasets.",
        "One pair has no interval. Each interval stands by itself: none is corrected for their number.",
    ]


def _check(compare: Sequence[str], results: list[dict]) -> None:
    there = sorted({r["method"] for r in results}, key=method_rank)
    for name in compare:
        if name.split(" (")[0].lower() not in [method.lower() for method in there]:
            raise store.ResultError(f"--compare {name}: no result of this method; there are: {', '.join(there)}")


# --- pairs -------------------------------------------------------------------------------------------------------


def _block(results: list[dict], compare: Sequence[str]) -> list[dict[str, Any]]:
    """Rows of one protocol, backbone, number of shots and source."""
    lines = sets.lines_of(results, lambda r: r["dataset"])
    found = []
    for one, other in _chosen(list(lines), compare):
        units = [_by_dataset(lines[name]) for name in (one, other)]
        datasets = sorted({*units[0], *units[1]}, key=dataset_rank)
        measures = [
            key for key in NAMES if any(key in unit for of in units for by in of.values() for unit, _ in by.values())
        ]
        facts = {key: results[0][key] for key in ("protocol", "backbone", "shots")} | {"comparison": f"{one} − {other}"}
        for measure in sorted(measures, key=("h", "base", "new", "worst_group", "accuracy").index):
            found += [{**facts, "measure": NAMES[measure], **row} for row in _rows(units, datasets, measure, facts)]
    return found


def _chosen(lines: list[str], compare: Sequence[str]) -> list[tuple[str, str]]:
    """Pairs of lines to be compared."""

    def of(name: str) -> list[str]:
        return [line for line in lines if name.lower() in (line.lower(), line.split(" (")[0].lower())]

    first = of(compare[0]) if compare else of("DiCap")
    second = of(compare[1]) if compare else [line for line in lines if line not in first]
    return [(one, other) for one, other in itertools.product(first, second) if one != other]


Unit = tuple[dict[str, float], tuple]  # measures of one seed, digests of its data


def _by_dataset(results: list[dict]) -> dict[str, dict[int, Unit]]:
    """dataset -> seed -> what one run measured; none where a seed has two results, or half of one, or settings differ."""
    found = {}
    for dataset, of in sets.grouped(results, lambda r: r["dataset"]).items():
        differ = any(unequal(half) for half in sets.grouped(of, lambda r: r["split"]).values())
        units = {seed: _unit(some) for seed, some in sets.grouped(of, lambda r: r["seed"]).items()}
        found[dataset] = {seed: ({}, data) for seed, (_, data) in units.items()} if differ else units
    return found


def _unit(results: list[dict]) -> Unit:
    halves = {r["split"]: r for r in results}
    data = tuple(sorted((r["split"], r["digests"]["data"]) for r in results))
    if len(halves) != len(results):
        return {}, data
    if results[0]["protocol"] != "base2new":
        return {"accuracy": float(results[0]["accuracy"])}, data
    whole = halves.keys() == {"base", "new"} and halves["base"]["digests"]["model"] == halves["new"]["digests"]["model"]
    return (measures_of(halves["base"], halves["new"]) if whole else {}), data


def _rows(
    units: list[dict[str, dict[int, Unit]]], datasets: list[str], measure: str, facts: dict
) -> list[dict[str, Any]]:
    """A row a dataset, and the one over all."""
    found: list[dict[str, Any]] = []
    means: dict[str, float] = {}
    there = [
        name
        for name in datasets
        if measure != "worst_group" or any(measure in unit for of in units for unit, _ in of.get(name, {}).values())
    ]
    for dataset in there:
        one, other = (of.get(dataset, {}) for of in units)
        problem = _problem(one, other, measure)
        gain = {} if problem else {seed: one[seed][0][measure] - other[seed][0][measure] for seed in sorted(one)}
        found.append(
            {
                "dataset": dataset,
                "unit": "seeds",
                **_counted(gain),
                "problems": [
                    f"{facts['protocol']}, {facts['shots']} shots, {facts['comparison']} on {dataset}: {problem}"
                ]
                if problem
                else [],
            }
        )
        means |= {dataset: sum(gain.values()) / len(gain)} if gain else {}
    if len(there) > 1:
        found.append(
            {
                "dataset": "overall",
                "unit": "datasets",
                "problems": [],
                **_counted(means if len(means) == len(there) else {}),
            }
        )
    return found


def _problem(one: dict[int, Unit], other: dict[int, Unit], measure: str) -> str:
    """What keeps a dataset from being compared, "" where nothing does."""
    lacks = [
        str(seed)
        for seed in sorted({*one, *other})
        if measure not in one.get(seed, ({}, ()))[0] or measure not in other.get(seed, ({}, ()))[0]
    ]
    if lacks:
        return f"not both have one whole result, with equal settings, of seed {', '.join(lacks)}"
    differ = [str(seed) for seed in sorted(one) if one[seed][1] != other[seed][1]]
    return f"the data differ for seed {', '.join(differ)}" if differ else ""


def _counted(gain: dict[Any, float]) -> dict[str, Any]:
    if not gain:
        return {"difference": INCOMPLETE, "wins": None, "ties": None, "losses": None, "n": None}
    interval = difference(gain, dict.fromkeys(gain, 0.0))
    wins, losses = (sum(sign * value > TIE for value in gain.values()) for sign in (1, -1))
    return {
        "difference": interval or sum(gain.values()),
        "wins": wins,
        "ties": len(gain) - wins - losses,
        "losses": losses,
        "n": len(gain),
    }


def _plots(rows: list[dict[str, Any]]) -> list[Plot]:
    """A forest a comparison and protocol: H, or the accuracy."""
    found = []
    shown = [row for row in rows if row["measure"] in ("H", "Accuracy")]
    for key, of in sets.grouped(
        shown, lambda row: (row["comparison"], row["protocol"], row["shots"], row["backbone"])
    ).items():
        title = f"{key[0]}: {of[0]['measure']}, {key[1]}, {key[2]} shots, {key[3]}"
        found.append(
            Plot(
                "forest",
                title,
                "points of per cent, 95 % interval",
                tuple(row["dataset"] for row in of),
                {key[0]: tuple(row["difference"] for row in of)},
            )
        )
    return found
