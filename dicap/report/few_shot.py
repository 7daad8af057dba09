"""Few-shot tables over 1, 2, 4, 8 and 16 shots (CoOp, arXiv 2109.01134, figure 3): a curve a method and dataset.

A method that learns nothing has the same figure at any number of shots, so that one of them is enough.
"""

from collections.abc import Iterable

from dicap.report import table
from dicap.report.sheet import Column, Sheet
from dicap.results import Measure

PROTOCOL = "few_shot"


def few_shot_sheets(results: Iterable[dict]) -> list[Sheet]:
    """The table of each task: all curves, and an average over the datasets for each method."""
    return [_sheet(*some) for some in table.by_task(table.of_protocol(results, PROTOCOL))]


def _sheet(task: str, measure: Measure, results: list[dict]) -> Sheet:
    blocks = sorted(table.grouped(results, lambda r: r["backbone"]).items())
    by_block = [table.rows_of(of, _labels(of), lambda r: f"shots_{r['shots']}") for _, of in blocks]
    rows = [row for block in by_block for row in block]
    points = [
        (f"{row.place}, {row.facts['backbone']}", row.line, key.removeprefix("shots_"), cell.shown)
        for block in by_block
        for row in sorted(block, key=lambda row: not row.of)  # the average first
        for key, cell in row.cells.items()
    ]
    return table.sheet_of(
        PROTOCOL,
        f"Few-shot {table.name_of(measure)}",
        rows,
        [Column(key, name, digits=table.digits_of(measure)) for key, name in _labels(results).items()],
        ("backbone", "seeds"),
        task=task,
        notes=(table.note_on_figures(measure, " on all classes"), *table.notes_on_averages(rows)),
        plots=table.plots_of("curves", measure, points),
    )


def _labels(results: Iterable[dict]) -> dict[str, str]:
    return {f"shots_{k}": f"{k} shot{'s' if k > 1 else ''}" for k in sorted({r["shots"] for r in results})}
