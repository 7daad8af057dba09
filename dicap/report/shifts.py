"""Cross-dataset transfer and domain generalisation (CoOp, arXiv 2109.01134; CoCoOp, 2203.05557): one training on the
source dataset, its prompt tested on the source and on every target.

A target's result counts only if its prompt is that of the present source run of the same seed (digests.model).
"""

from collections.abc import Iterable
from typing import Any

from dicap.report import sets
from dicap.report.sheet import INCOMPLETE, Column, Plot, Sheet, columns_that_vary, title_of
from dicap.report.table import dataset_rank

SOURCE = "source"
TITLES = {
    "cross_dataset": "Cross-dataset transfer",
    "domain_generalization": "Domain generalisation",
    SOURCE: "Training on the source",
}


def shift_sheets(results: Iterable[dict]) -> list[Sheet]:
    """A table for each of the two protocols that has a result; that of the source runs alone where neither has."""
    results = list(results)
    sources = sets.of_protocol(results, SOURCE)
    found = [
        _sheet(name, sets.of_protocol(results, name), sources)
        for name in TITLES
        if name != SOURCE and sets.of_protocol(results, name)
    ]
    return found or ([_sheet(SOURCE, [], sources)] if sources else [])


def trained_on(result: dict) -> str:
    """The dataset that a result's prompt was trained on."""
    return result.get("trained_on") or result["dataset"]


def fresh(results: Iterable[dict]) -> list[dict]:
    """Without the targets' results whose prompt is another than that of the present source run."""
    results = list(results)
    prompts = {_run(r): r["digests"]["model"] for r in sets.of_protocol(results, SOURCE)}
    return [
        r
        for r in results
        if r["protocol"] not in TITLES or r["digests"]["model"] == prompts.get(_run(r), r["digests"]["model"])
    ]


def _run(result: dict) -> tuple:
    return tuple(result[key] for key in ("method", "recipe", "backbone", "shots", "seed")) + (trained_on(result),)


def _sheet(name: str, targets: list[dict], sources: list[dict]) -> Sheet:
    blocks = sets.grouped(targets or sources, lambda r: (r["backbone"], r["shots"], trained_on(r)))
    rows = [
        row
        for block, of in sorted(blocks.items())
        for row in _block(
            block, of if targets else [], [r for r in sources if (r["backbone"], r["shots"], trained_on(r)) == block]
        )
    ]
    names = list(dict.fromkeys(key for row in rows for key in row["targets"]))
    notes = [sets.ACCURACY]
    if len(names) > 1:
        notes.append(
            "Average: the mean over the targets, without the source; only where every target is complete. Its "
            "spread is that of the seeds' averages."
        )
    averaged = [Column("average", f"Average of {len(names)} targets")] if len(names) > 1 else []
    return Sheet(
        name,
        title_of(
            TITLES[name],
            rows,
            {"source": "trained on {}", "shots": "{} shots", "backbone": "backbone {}", "seeds": "seeds {}"},
        ),
        (
            Column("method", "Method", "words"),
            Column("recipe", "Recipe", "words"),
            *columns_that_vary(
                rows, {"backbone": "Backbone", "shots": "Shots", "source": "Trained on", "seeds": "Seeds"}
            ),
            Column(
                "on_source", f"Source: {rows[0]['source']}" if len({row["source"] for row in rows}) == 1 else "Source"
            ),
            *(Column(f"on_{target}", target) for target in names),
            *averaged,
            Column("complete", "Complete", "words", in_files=True),
        ),
        tuple(rows),
        tuple(notes),
        tuple(problem for row in rows for problem in row["problems"]),
        "source",
        tuple(_plots(name, rows)),
        {"results": sets.single([*sources, *targets])},
    )


def _block(block: tuple, targets: list[dict], sources: list[dict]) -> list[dict[str, Any]]:
    """Rows of one backbone, number of shots and source."""
    names = list(dict.fromkeys(r["dataset"] for r in sorted(targets, key=lambda r: dataset_rank(r["dataset"]))))
    seeds = {r["seed"] for r in targets or sources}  # the source may have more: other tables share it
    lines = sets.lines_of(targets or sources, lambda r: r["dataset"])
    found = []
    for of in lines.values():
        variants = {(r["method"], r["recipe"]) for r in of}
        mine = [r for r in sources if (r["method"], r["recipe"]) in variants and r["seed"] in seeds]
        cells = {name: _target([r for r in of if r["dataset"] == name], mine, seeds) for name in names if targets}
        found.append(_row(block, of, cells, sets.series_of(mine, seeds)))
    return found


def _target(results: list[dict], sources: list[dict], seeds: set[int]) -> sets.Cell:
    if not results:
        return {}, ["not run"]
    series, problems = sets.series_of(results, seeds)
    prompts = {_run(r): r["digests"]["model"] for r in sources}
    stale = [str(r["seed"]) for r in results if _run(r) in prompts and r["digests"]["model"] != prompts[_run(r)]]
    alone = [str(r["seed"]) for r in results if _run(r) not in prompts]
    if stale:
        problems = [
            *problems,
            f"stale: tested with another prompt than the present one of the source, seed {', '.join(stale)}",
        ]
    if alone:
        problems = [*problems, f"no source run to check the prompt against, seed {', '.join(alone)}"]
    return ({} if problems else series), problems


def _row(block: tuple, line: list[dict], cells: dict[str, sets.Cell], source: sets.Cell) -> dict[str, Any]:
    backbone, shots, source_name = block
    method, recipe = line[0]["method"], sets.recipes_of(line)
    problems = [
        f"{method} ({recipe}) on {name}: {problem}"
        for name, cell in ((f"the source {source_name}", source), *cells.items())
        for problem in cell[1]
    ]
    missing = [name for name, cell in cells.items() if cell[1]]
    if missing and len(cells) > 1:
        problems.append(f"{method} ({recipe}), average of targets: not complete: {', '.join(missing)}")
    return {
        "method": method,
        "recipe": recipe,
        "backbone": backbone,
        "shots": shots,
        "source": source_name,
        "seeds": " ".join(map(str, sorted({r["seed"] for r in line}))),
        "on_source": INCOMPLETE if source[1] else sets.stat_of(source[0]),
        **{f"on_{name}": INCOMPLETE if cell[1] else sets.stat_of(cell[0]) for name, cell in cells.items()},
        "average": INCOMPLETE if missing else sets.average([cell[0] for cell in cells.values()]),
        "complete": "no" if problems else "yes",
        "problems": problems,
        "targets": tuple(f for f in cells),
    }


def _plots(name: str, rows: list[dict[str, Any]]) -> list[Plot]:
    found = []
    for (backbone, shots, source), of in sets.grouped(rows, lambda r: (r["backbone"], r["shots"], r["source"])).items():
        labels = (
            "on_source",
            *(f"on_{target}" for target in of[0]["targets"]),
            *(["average"] if len(of[0]["targets"]) > 1 else []),
        )
        found.append(
            Plot(
                "dots",
                f"{TITLES[name]} from {source}, {shots} shots, {backbone}",
                "accuracy, per cent",
                (f"{source} (source)", *of[0]["targets"], *labels[len(of[0]["targets"]) + 1 :]),
                sets.drawn(of, labels),
            )
        )
    return found
