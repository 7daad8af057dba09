"""Few-shot tables over 1, 2, 4, 8 and 16 shots (CoOp, arXiv 2109.01134, figure 3): a curve a method and dataset.

A method that learns nothing has the same figure at any number of shots, so that one of them is enough.
"""

from collections.abc import Iterable, Sequence

from dicap.report import table
from dicap.report.sheet import Column, Plot, Sheet
from dicap.report.table import Row
from dicap.results import Measure

PROTOCOL = "few_shot"


def few_shot_sheets(results: Iterable[dict]) -> list[Sheet]:
    """The table of each task: all curves, and an average over the datasets for each method."""
    return [_sheet(*some) for some in table.by_task(table.of_protocol(results, PROTOCOL))]


def _sheet(task: str, measure: Measure, results: list[dict]) -> Sheet:
    blocks = sorted(table.grouped(results, lambda r: r["backbone"]).items())
    by_block = [table.rows_of(of, _labels(of), lambda r: f"shots_{r['shots']}") for _, of in blocks]
    rows = [row for block in by_block for row in block]
    return table.sheet_of(
        PROTOCOL,
        f"Few-shot {table.name_of(measure)}",
        rows,
        [Column(key, name, digits=table.digits_of(measure)) for key, name in _labels(results).items()],
        ("backbone", "seeds"),
        task=task,
        notes=(table.note_on_figures(measure, " on all classes"), *table.notes_on_averages(rows)),
        plots=tuple(plot for block in by_block for plot in _plots(block, measure)),
    )


def _labels(results: Iterable[dict]) -> dict[str, str]:
    return {f"shots_{k}": f"{k} shot{'s' if k > 1 else ''}" for k in sorted({r["shots"] for r in results})}


def _plots(rows: Sequence[Row], measure: Measure) -> list[Plot]:
    """A picture a dataset, the average first."""
    labels = tuple(key.removeprefix("shots_") for key in rows[0].cells)
    places = table.grouped(sorted(rows, key=lambda row: not row.of), lambda row: row.place)
    return [
        Plot(
            "curves",
            f"{place}, {of[0].facts['backbone']}",
            measure,
            labels,
            {row.line: tuple(cell.shown for cell in row.cells.values()) for row in of},
        )
        for place, of in places.items()
    ]
