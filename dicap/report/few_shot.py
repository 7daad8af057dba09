"""Few-shot tables over 1, 2, 4, 8 and 16 shots (CoOp, arXiv 2109.01134, figure 3): a curve a method and dataset.

A method that learns nothing has the same figure at any number of shots, so that one of them is enough.
"""

from collections.abc import Iterable, Sequence

from dicap.report import table
from dicap.report.sheet import Column, Plot, Sheet, title_of
from dicap.report.table import Row
from dicap.results import Measure

PROTOCOL = "few_shot"
SHARED = {"task": "{}", "backbone": "backbone {}", "seeds": "seeds {}"}


def few_shot_sheets(results: Iterable[dict]) -> list[Sheet]:
    """The table of each task: all curves, and an average over the datasets for each method."""
    return [_sheet(*some) for some in table.by_task(table.of_protocol(results, PROTOCOL))]


def _sheet(task: str, measure: Measure, results: list[dict]) -> Sheet:
    blocks = table.grouped(results, lambda r: r["backbone"])
    by_block = [table.rows_of(blocks[key], _labels(blocks[key]), _column, problems=_problems) for key in sorted(blocks)]
    rows = [row for block in by_block for row in block]
    lines = [{"task": task, **row.facts} for row in rows]
    digits = table.digits_of(measure)
    return Sheet(
        PROTOCOL,
        title_of(f"Few-shot {table.name_of(measure)}", lines, SHARED),
        table.columns_of(
            lines,
            {"backbone": "Backbone", "seeds": "Seeds"},
            [Column(key, name, digits=digits) for key, name in _labels(results).items()],
        ),
        tuple(lines),
        (f"{table.with_unit(measure, ' on all classes')}: {table.SPREAD}", *table.notes_on_averages(rows)),
        tuple(problem for row in rows for problem in row.problems),
        "dataset",
        plots=tuple(plot for block in by_block for plot in _plots(block, measure)),
        extra={"results": table.single(results)},
        task=task,
    )


def _labels(results: Iterable[dict]) -> dict[str, str]:
    return {f"shots_{k}": f"{k} shot{'s' if k > 1 else ''}" for k in sorted({r["shots"] for r in results})}


def _column(result: dict) -> str:
    return f"shots_{result['shots']}"


def _problems(column: str, by_column: dict[str, list[dict]], seeds: set[int]) -> list[str]:
    learned = any(r["digests"]["model"] for of in by_column.values() for r in of)
    return table.problems_of(column, by_column, seeds) if learned or column in by_column else []


def _plots(rows: Sequence[Row], measure: Measure) -> list[Plot]:
    """A picture a dataset, the average first."""
    places = table.grouped(sorted(rows, key=lambda row: not row.of), lambda row: row.place)
    return [
        Plot(
            "curves",
            f"{place}, {of[0].results[0]['backbone']}",
            table.axis_of(measure),
            tuple(key.removeprefix("shots_") for key in of[0].labels),
            table.drawn(of, of[0].labels),
            table.span_of(measure),
        )
        for place, of in places.items()
    ]
