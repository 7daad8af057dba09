"""Few-shot accuracy over 1, 2, 4, 8 and 16 shots (CoOp, arXiv 2109.01134, figure 3): a curve a method and dataset.

A method that learns nothing has the same accuracy at any number of shots, so that one of them is enough.
"""

from collections.abc import Iterable, Sequence
from typing import Any

from dicap.report import sets
from dicap.report.sheet import INCOMPLETE, Column, Plot, Sheet, columns_that_vary, title_of
from dicap.report.table import dataset_rank

PROTOCOL = "few_shot"


def few_shot_sheets(results: Iterable[dict]) -> list[Sheet]:
    """The table of all curves, an average over the datasets for each method; none where there is no result."""
    found = sets.of_protocol(results, PROTOCOL)
    shots = sorted({r["shots"] for r in found})
    blocks = [_block(of) for _, of in sorted(sets.grouped(found, lambda r: r["backbone"]).items())]
    rows = [row for block in blocks for row in block]
    if not rows:
        return []
    notes = [sets.ACCURACY]
    if any(row["average"] for row in rows):
        notes.append(
            "Average: the mean over all datasets; only where every dataset is complete. Its spread is that of "
            "the seeds' averages."
        )
    notes += [note for row in rows if row["average"] for note in row["notes"]]
    return [
        Sheet(
            PROTOCOL,
            title_of("Few-shot accuracy", rows, {"backbone": "backbone {}", "seeds": "seeds {}"}),
            (
                Column("dataset", "Dataset", "words"),
                Column("method", "Method", "words"),
                Column("recipe", "Recipe", "words"),
                *columns_that_vary(rows, {"backbone": "Backbone", "seeds": "Seeds"}),
                *(Column(f"shots_{k}", f"{k} shot{'s' if k > 1 else ''}") for k in shots),
                Column("complete", "Complete", "words", in_files=True),
            ),
            tuple(rows),
            tuple(notes),
            tuple(problem for row in rows for problem in row["problems"]),
            "dataset",
            tuple(plot for block in blocks for plot in _plots(block)),
            {"results": sets.single(found)},
        )
    ]


def _block(results: list[dict]) -> list[dict[str, Any]]:
    """Rows of one backbone: those of each dataset, then the averages."""
    shots = sorted({r["shots"] for r in results})
    datasets = sorted({r["dataset"] for r in results}, key=dataset_rank)
    seeds = {key: {r["seed"] for r in of} for key, of in sets.grouped(results, lambda r: r["dataset"]).items()}
    lines = sets.lines_of(results, _place)
    curves = {
        (dataset, name): {k: [r for r in of if _place(r) == (dataset, k)] for k in shots}
        for name, of in lines.items()
        for dataset in datasets
    }
    cells = {key: {k: _cell(of, seeds[key[0]], curve) for k, of in curve.items()} for key, curve in curves.items()}
    rows = [
        _row(dataset, lines[name], curves[dataset, name], cells[dataset, name])
        for dataset in datasets
        for name in lines
        if any(curves[dataset, name].values())
    ]
    averages = (
        [_average(lines[name], {d: cells[d, name] for d in datasets}, shots) for name in lines]
        if len(datasets) > 1
        else []
    )
    return rows + averages


def _place(result: dict) -> tuple[str, int]:
    return result["dataset"], result["shots"]


def _cell(results: list[dict], seeds: set[int], curve: dict[int, list[dict]]) -> sets.Cell:
    if results:
        return sets.series_of(results, seeds)
    learned = any(r["digests"]["model"] for of in curve.values() for r in of)
    return {}, ["not run"] if learned or not any(curve.values()) else []


def _row(dataset: str, line: list[dict], curve: dict[int, list[dict]], cells: dict[int, sets.Cell]) -> dict[str, Any]:
    first = line[0]
    found = [r for of in curve.values() for r in of]
    name = f"{first['method']} ({sets.recipes_of(found)}) on {dataset}"
    problems = [f"{name}, {k} shots: {problem}" for k, cell in cells.items() for problem in cell[1]]
    return {
        "dataset": dataset,
        "method": first["method"],
        "recipe": sets.recipes_of(found),
        "backbone": first["backbone"],
        "seeds": " ".join(map(str, sorted({r["seed"] for r in found}))),
        "average": False,
        "complete": "no" if problems else "yes",
        "problems": problems,
        **{f"shots_{k}": INCOMPLETE if cell[1] else sets.stat_of(cell[0]) for k, cell in cells.items()},
    }


def _average(line: list[dict], by_dataset: dict[str, dict[int, sets.Cell]], shots: Sequence[int]) -> dict[str, Any]:
    first, problems, cells = line[0], [], {}
    name = f"average of {len(by_dataset)}"
    for k in shots:
        missing = [dataset for dataset, cell in by_dataset.items() if cell[k][1]]
        cells[f"shots_{k}"] = INCOMPLETE if missing else sets.average([cell[k][0] for cell in by_dataset.values()])
        problems += [f"{first['method']} on {name}, {k} shots: not complete: {', '.join(missing)}"] if missing else []
    return {
        "dataset": name,
        "method": first["method"],
        "recipe": sets.recipes_of(line),
        "backbone": first["backbone"],
        "seeds": " ".join(map(str, sorted({r["seed"] for r in line}))),
        "average": True,
        "complete": "no" if problems else "yes",
        "problems": problems,
        "notes": sets.other_settings(f"{first['method']} on {name}", line),
        **cells,
    }


def _plots(rows: list[dict[str, Any]]) -> list[Plot]:
    """A picture a dataset, the average first."""
    found = []
    for dataset, of in sets.grouped(
        sorted(rows, key=lambda row: not row["average"]), lambda row: row["dataset"]
    ).items():
        keys = [key for key in of[0] if key.startswith("shots_")]
        found.append(
            Plot(
                "curves",
                f"{dataset}, {of[0]['backbone']}",
                "accuracy, per cent",
                tuple(key.removeprefix("shots_") for key in keys),
                sets.drawn(of, keys),
            )
        )
    return found
