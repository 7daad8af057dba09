"""Cross-dataset transfer and domain generalisation (CoOp, arXiv 2109.01134; CoCoOp, 2203.05557): one training on the
source dataset, its prompt tested on the source and on every target.

A target's result counts only if its prompt is that of the present source run of the same seed (digests.model).
"""

from collections.abc import Iterable, Sequence
from typing import Any

from dicap.report import table
from dicap.report.sheet import INCOMPLETE, Column, Plot, Sheet, title_of
from dicap.report.table import Row, dataset_rank, trained_on
from dicap.results import Measure

SOURCE = "source"
TITLES = {
    "cross_dataset": "Cross-dataset transfer",
    "domain_generalization": "Domain generalisation",
    SOURCE: "Training on the source",
}
VARY = {"backbone": "Backbone", "shots": "Shots", "source": "Trained on", "seeds": "Seeds"}
SHARED = {"task": "{}", "source": "trained on {}", "shots": "{} shots", "backbone": "backbone {}", "seeds": "seeds {}"}


def transfer_sheets(results: Iterable[dict]) -> list[Sheet]:
    """A table of each of the two protocols and task that has a result; of the source runs alone where neither has."""
    return [
        sheet
        for task, measure, of in table.by_task(table.of_protocol(results, *TITLES))
        for sheet in _sheets(task, measure, table.grouped(of, lambda r: r["protocol"]))
    ]


def fresh(results: Iterable[dict]) -> list[dict]:
    """Without the targets' results of a stale prompt."""
    results = list(results)
    targets = [r for r in results if r["protocol"] in TITLES]
    kept = set(map(id, table.fresh(targets, table.of_protocol(results, SOURCE))))
    return [r for r in results if r["protocol"] not in TITLES or id(r) in kept]


def _sheets(task: str, measure: Measure, by_protocol: dict[str, list[dict]]) -> list[Sheet]:
    sources = by_protocol.get(SOURCE, [])
    names = [name for name in TITLES if name in by_protocol and name != SOURCE] or [SOURCE]
    return [_sheet(name, task, measure, by_protocol[name], sources) for name in names]


def _sheet(name: str, task: str, measure: Measure, results: list[dict], sources: list[dict]) -> Sheet:
    blocks = table.grouped(results, _block)
    rows = [row for key in sorted(blocks) for row in _rows(blocks[key], [r for r in sources if _block(r) == key])]
    targets = list(dict.fromkeys(key for row in rows for key in list(row.labels)[1:]))
    averaged = len(targets) > 1
    lines = [{"task": task, "source": row.place, **row.facts, **_average(row)} for row in rows]
    origins, digits = {row.place for row in rows}, table.digits_of(measure)
    figures = [Column("on_source", f"Source: {rows[0].place}" if len(origins) == 1 else "Source", digits=digits)]
    figures += [Column(key, key.removeprefix("on_"), digits=digits) for key in targets]
    figures += [Column("average", f"Average of {len(targets)} targets", digits=digits)] if averaged else []
    return Sheet(
        name,
        title_of(TITLES[name], lines, SHARED),
        table.columns_of(lines, VARY, figures, ("method", "recipe")),
        tuple(lines),
        (
            f"{table.with_unit(measure, ' on all classes')}: {table.SPREAD}",
            *([f"Average: the mean over the targets, without the source; {table.AVERAGE}"] if averaged else []),
        ),
        tuple(problem for row in rows for problem in [*row.problems, *_not_averaged(row)]),
        "source",
        plots=tuple(
            _plot(name, of, measure) for of in table.grouped(rows, lambda row: _block(row.results[0])).values()
        ),
        extra={"results": table.single([*sources, *(r for r in results if name != SOURCE)])},
        task=task,
    )


def _block(result: dict) -> tuple:
    return result["backbone"], result["shots"], trained_on(result)


def _rows(results: list[dict], sources: list[dict]) -> list[Row]:
    """Rows of one backbone, number of shots and source; the source may have more runs, which other tables share."""
    seeds, variants = {r["seed"] for r in results}, {(r["method"], r["recipe"]) for r in results}
    mine = [r for r in sources if (r["method"], r["recipe"]) in variants and r["seed"] in seeds]
    targets = [r for r in results if r["protocol"] != SOURCE]
    names = sorted({r["dataset"] for r in targets}, key=dataset_rank)
    labels = {"on_source": f"the source {trained_on(results[0])}", **{f"on_{name}": name for name in names}}
    return table.rows_of([*mine, *targets], labels, _column, trained_on, _problems, "from")


def _column(result: dict) -> str:
    return "on_source" if result["protocol"] == SOURCE else f"on_{result['dataset']}"


def _problems(column: str, by_column: dict[str, list[dict]], seeds: set[int]) -> list[str]:
    problems = table.problems_of(column, by_column, seeds)
    if column == "on_source" or column not in by_column:
        return problems
    sources = by_column.get("on_source", [])
    trained = set(map(table.training_of, sources))
    alone = [str(r["seed"]) for r in by_column[column] if table.training_of(r) not in trained]
    problems += table.stale_prompts(by_column[column], sources)
    return problems + ([f"no source run to check the prompt against, seed {', '.join(alone)}"] if alone else [])


def _missing(row: Row) -> list[str]:
    """Targets that keep the average from being made."""
    return [row.labels[key] for key, cell in list(row.cells.items())[1:] if cell.problems]


def _average(row: Row) -> dict[str, Any]:
    cells = list(row.cells.values())[1:]
    return {"average": INCOMPLETE if _missing(row) else table.average_of(cells).stat}


def _not_averaged(row: Row) -> list[str]:
    missing = _missing(row) if len(row.cells) > 2 else []
    return [f"{row.name}, average of targets: not complete: {', '.join(missing)}"] if missing else []


def _plot(name: str, rows: Sequence[Row], measure: Measure) -> Plot:
    backbone, shots, source = _block(rows[0].results[0])
    targets = list(rows[0].labels)[1:]
    series = table.drawn(rows, rows[0].labels)
    if len(targets) > 1:
        series = {row.line: (*series[row.line], _average(row)["average"]) for row in rows}
    return Plot(
        "dots",
        f"{TITLES[name]} from {source}, {shots} shots, {backbone}",
        table.axis_of(measure),
        (f"{source} (source)", *(key.removeprefix("on_") for key in targets), *["average"][: len(targets) > 1]),
        series,
        table.span_of(measure),
    )
