"""Tables of figures on all classes of a dataset.

Few-shot (CoOp, arXiv 2109.01134, figure 3): a curve over 1, 2, 4, 8 and 16 shots for each method and dataset. A method
that learns nothing has the same figure at any number of shots, so that one of them is enough.

Cross-dataset transfer and domain generalisation (CoOp; CoCoOp, 2203.05557): one training on the source dataset, its prompt
tested on the source and on every target. A target's result counts only if its prompt is that of the present source run of
the same seed (digests.model).
"""

from collections.abc import Iterable

from dicap.report import table
from dicap.report.sheet import Column, Sheet
from dicap.report.table import Row, trained_on
from dicap.results import Measure, measure_of

FEW_SHOT, SOURCE = "few_shot", "source"
TITLES = {
    "cross_dataset": "Cross-dataset transfer",
    "domain_generalization": "Domain generalisation",
    SOURCE: "Training on the source",
}


def few_shot_sheets(results: Iterable[dict]) -> list[Sheet]:
    """The table of each task: all curves, and an average over the datasets for each method."""
    return [_curves(*some) for some in table.by_task(table.of_protocol(results, FEW_SHOT))]


def _curves(task: str, measure: Measure, results: list[dict]) -> Sheet:
    blocks = sorted(table.grouped(results, lambda r: r["backbone"]).items())
    rows = [row for _, of in blocks for row in table.rows_of(of, _labels(of), lambda r: f"shots_{r['shots']}")]
    points = (
        (f"{row.place}, {row.facts['backbone']}", row.line, key.removeprefix("shots_"), cell.shown)
        for row in sorted(rows, key=lambda row: (row.facts["backbone"], not row.of))  # the average first
        for key, cell in row.cells.items()
    )
    return table.sheet_of(
        FEW_SHOT,
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


def transfer_sheets(results: Iterable[dict]) -> list[Sheet]:
    """A table of each of the two protocols and task that has a result; of the source runs alone where neither has."""
    known = table.of_protocol(results, *TITLES)
    sources = [r for r in known if r["protocol"] == SOURCE]
    targets = [r for r in known if r["protocol"] != SOURCE]
    return [
        _sheet(name, task, measure, some, sources)
        for task, measure, of in table.by_task(targets or sources)
        for name, some in sorted(table.grouped(of, lambda r: r["protocol"]).items())
    ]


def fresh(results: Iterable[dict]) -> list[dict]:
    """Without the targets' results of a stale prompt."""
    results = list(results)
    targets = [r for r in results if r["protocol"] in TITLES]
    wrong = set(map(id, table.stale(targets, table.of_protocol(results, SOURCE))))
    return [r for r in results if id(r) not in wrong]


def _sheet(name: str, task: str, measure: Measure, results: list[dict], sources: list[dict]) -> Sheet:
    blocks = sorted(table.grouped(results, _block).items())
    rows = [row for block, of in blocks for row in _rows(of, [r for r in sources if _block(r) == block])]
    keys = sorted(dict.fromkeys(key for row in rows for key in row.cells), key=lambda key: key == "average")
    targets = [key for key in keys if key not in ("on_source", "average")]
    origin = f"Source: {rows[0].place}" if len({row.place for row in rows}) == 1 else "Source"
    names = {"on_source": origin, "average": f"Average of {len(targets)} targets"}
    figures = [Column(key, names.get(key, key.removeprefix("on_")), digits=table.digits_of(measure)) for key in keys]
    points = [
        (
            "{} from {source}, {shots} shots, {backbone}".format(TITLES[name], **row.facts),
            row.line,
            f"{row.place} (source)" if key == "on_source" else key.removeprefix("on_"),
            cell.shown,
        )
        for row in rows
        for key, cell in row.cells.items()
    ]
    over = [table.AVERAGE.format("the targets, without the source")] if "average" in keys else []
    return table.sheet_of(
        name,
        TITLES[name],
        rows,
        figures,
        ("source", "shots", "backbone", "seeds"),
        task=task,
        notes=(table.note_on_figures(measure, " on all classes"), *over),
        plots=table.plots_of("dots", measure, points),
    )


def _block(result: dict) -> tuple:
    return result["backbone"], result["shots"], trained_on(result)


def _rows(results: list[dict], sources: list[dict]) -> list[Row]:
    """Rows of one backbone, number of shots and source; the source may have more runs, which other tables share.

    The source has no column where it is of another task than the targets.
    """
    seeds, variants = {r["seed"] for r in results}, {(r["method"], r["recipe"]) for r in results}
    mine = [r for r in sources if (r["method"], r["recipe"]) in variants and r["seed"] in seeds]
    targets = [r for r in results if r["protocol"] != SOURCE]
    shown = [r for r in mine if measure_of(r) == measure_of(results[0]) and r["task"] == results[0]["task"]]
    names = sorted({r["dataset"] for r in targets}, key=table.dataset_rank)
    labels = {"on_source": "source"} if shown or not sources else {}
    labels |= {f"on_{name}": f"target {name}" for name in names}
    columns = {SOURCE: "on_source"}
    rows = table.rows_of(
        [*shown, *targets], labels, lambda r: columns.get(r["protocol"], f"on_{r['dataset']}"), trained_on, mine
    )
    for row in rows if len(names) > 1 else []:
        row.cells["average"] = table.average_of("average of targets", {name: row.cells[f"on_{name}"] for name in names})
    return rows
