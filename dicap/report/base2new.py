"""The base-to-new table with its average rows, published numbers beside it, and its plots.

The average row is the published one: the means over all datasets of base and of new, and H of those two means. It is
made only for a method whose every dataset is complete.
"""

from collections.abc import Sequence
from typing import Any

from dicap.report import published, sets
from dicap.report.render import NOTHING, Grid
from dicap.report.sheet import INCOMPLETE, Column, Plot, Sheet, columns_that_vary, title_of
from dicap.report.table import PROTOCOL, Row, Stat, Table, harmonic_mean

RECORD_TITLE = "Recorded diagnostics (base classes, mean over seeds)"
MEASURES = {"base": "Base", "new": "New", "h": "H"}


def base2new_sheets(table: Table) -> list[Sheet]:
    """The table, and where a row has published numbers beside it, those of methods that were not run."""
    if not table.results:
        return []
    averaged = averages(table)
    lines = [(row, [row]) for row in table.rows] + averaged
    compared = [row for row in table.rows if published.comparable(row)]
    rows = [_cells(row, of) for row, of in lines]
    sheet = Sheet(
        PROTOCOL,
        title_of(
            "Base-to-new generalisation",
            rows[: len(table.rows)],
            {"shots": "{} shots", "backbone": "backbone {}", "seeds": "seeds {}"},
        ),
        tuple(_columns(rows, bool(compared))),
        tuple(rows),
        tuple(_notes(table, compared, averaged)),
        tuple(f"{row.name}: {problem}" for row, _ in lines for problem in row.problems),
        "dataset",
        _plots(table, averaged),
        {
            "rows": [{**_row_json(row), **_compared(cells)} for row, cells in zip(table.rows, rows)],
            "averages": [
                {**_average_json(row, of), **_compared(cells)}
                for (row, of), cells in zip(averaged, rows[len(table.rows) :])
            ],
            "results": sets.single(table.results),
        },
        tuple(filter(None, [_record(table)])),
        table.unreadable,
    )
    return [sheet, *_context(table, compared)]


# --- average rows ------------------------------------------------------------------------------------------------


def averages(table: Table) -> list[tuple[Row, list[Row]]]:
    """An average row for each method, backbone and number of shots with two datasets or more, and the rows behind it."""
    found = []
    for rows in _blocks(table.rows):
        datasets = list(dict.fromkeys(row.dataset for row in rows))
        lines = sets.lines_of(rows, lambda row: row.dataset).values() if len(datasets) > 1 else ()
        found += [(_average(line, datasets, table), line) for line in lines]
    return found


def _blocks(rows: Sequence[Row]) -> list[list[Row]]:
    return list(sets.grouped(rows, lambda row: (row.shots, row.backbone)).values())


def _average(line: list[Row], datasets: list[str], table: Table) -> Row:
    there = {row.dataset: row for row in line}
    missing = [name for name in datasets if name not in there or there[name].problems]
    halves: dict[str, Stat | None] = {
        split: None if missing else sets.average([_series(table, row, split) for row in line])
        for split in ("base", "new")
    }
    recipes = ", ".join(dict.fromkeys(row.recipe for row in line))
    seeds = line[0].seeds if len({row.seeds for row in line}) == 1 else ()
    return Row(
        f"average of {len(datasets)}",
        line[0].method,
        recipes,
        line[0].backbone,
        line[0].shots,
        seeds,
        halves["base"],
        halves["new"],
        harmonic_mean(halves["base"], halves["new"]),
        None,
        None,
        (f"not complete: {', '.join(missing)}",) if missing else (),
    )


def _series(table: Table, row: Row, split: str) -> sets.Series:
    key = (row.dataset, row.method, row.recipe, row.backbone, row.shots, split)
    return {
        r["seed"]: float(r["accuracy"])
        for r in table.results
        if r["seed"] in row.seeds
        and (r["dataset"], r["method"], r["recipe"], r["backbone"], r["shots"], r["split"]) == key
    }


# --- cells -------------------------------------------------------------------------------------------------------


def _cells(row: Row, of: list[Row]) -> dict[str, Any]:
    known = None if row.problems and [row] != of else published.beside(of)  # an average that lacks a dataset has none
    cells: dict[str, Any] = {
        "dataset": row.dataset,
        "method": row.method,
        "recipe": row.recipe,
        "backbone": row.backbone,
        "shots": row.shots,
        "seeds": " ".join(map(str, row.seeds)),
        "worst_group": row.worst_group,
        "train_seconds": row.train_seconds,
        "complete": "no" if row.problems else "yes",
        "problems": "; ".join(row.problems),
    }
    for key in MEASURES:
        value = getattr(row, key)
        cells[key] = INCOMPLETE if value is None and row.problems else value
        cells[f"published_{key}"] = getattr(known, key) if known else None
        cells[f"{key}_difference"] = _mean(value) - getattr(known, key) if known and value is not None else None
    return cells


def _mean(value: Stat | float) -> float:
    return value.mean if isinstance(value, Stat) else value


def _columns(rows: list[dict[str, Any]], compared: bool) -> list[Column]:
    digits = 2 if compared else 1  # published numbers have two
    columns = [
        Column("dataset", "Dataset", "words"),
        Column("method", "Method", "words"),
        Column("recipe", "Recipe", "words"),
        *columns_that_vary(rows, {"backbone": "Backbone", "shots": "Shots", "seeds": "Seeds"}),
        Column("base", "Base", digits=digits),
        Column("new", "New", digits=digits),
        Column("h", "H", "number", digits),
    ]
    for key, name in MEASURES.items():
        columns.append(Column(f"published_{key}", f"Publ. {name}", "number", 2, in_files=not compared))
    for key, name in MEASURES.items():
        columns.append(Column(f"{key}_difference", f"Δ {name}", "number", 2, signed=True, in_files=not compared))
    return [
        *columns,
        Column("worst_group", "Worst group", in_files=not any(row["worst_group"] for row in rows)),
        Column("train_seconds", "Train s", spread=False),
        Column("complete", "Complete", "words", in_files=True),
        Column("problems", "Problems", "words", in_files=True),
    ]


def _compared(cells: dict[str, Any]) -> dict[str, Any]:
    return {
        "published": {key: cells[f"published_{key}"] for key in MEASURES},
        "difference": {key: cells[f"{key}_difference"] for key in MEASURES},
    }


def _row_json(row: Row) -> dict[str, Any]:
    nothing = {"mean": None, "std": None, "n": 0}
    cells = {
        key: vars(getattr(row, key)) if getattr(row, key) else nothing
        for key in ("base", "new", "worst_group", "train_seconds")
    }
    return {**_facts(row), **cells, "record": {key: vars(value) for key, value in row.record.items()}}


def _average_json(row: Row, of: list[Row]) -> dict[str, Any]:
    return {
        **_facts(row),
        "datasets": [one.dataset for one in of],
        **{key: vars(getattr(row, key)) if getattr(row, key) else None for key in ("base", "new")},
    }


def _facts(row: Row) -> dict[str, Any]:
    return {
        "dataset": row.dataset,
        "method": row.method,
        "recipe": row.recipe,
        "backbone": row.backbone,
        "shots": row.shots,
        "seeds": list(row.seeds),
        "h": row.h,
        "complete": not row.problems,
        "problems": list(row.problems),
    }


# --- words -------------------------------------------------------------------------------------------------------


def _notes(table: Table, compared: list[Row], averaged: list[tuple[Row, list[Row]]]) -> list[str]:
    lines = []
    if any(len(row.seeds) > 1 for row in table.rows):
        lines.append("Accuracy in per cent: mean ± standard deviation over seeds (ddof = 1).")
    lines.append("H is the harmonic mean of the mean base and the mean new accuracy.")
    if len({row.dataset for row in table.rows}) > 1:
        lines.append(
            "Average: the means over all datasets of base and of new, and H of those two; only where every "
            "dataset is complete. Its spread is that of the seeds' averages."
        )
    lines += [note for row, of in averaged for note in sets.other_settings(row.name, of)]
    if any(row.worst_group for row in table.rows):
        lines.append(
            "Worst group: the lower of the accuracies on base-class test images whose scene is the one tied "
            "to their class in training (aligned) and is not (conflicting), by seed."
        )
    if any(row.recipe == "tiny" for row in table.rows):
        lines.append(
            "The recipe `tiny` is this project's own for the embedded backbone (larger batches, "
            "fewer epochs), not the papers': these figures compare methods with each other, not with "
            "published ones."
        )
    return lines + _notes_on_published(compared)


def _notes_on_published(compared: list[Row]) -> list[str]:
    if not compared:
        return []
    lines = [
        "Publ. = published: ViT-B/16, 16 shots, mean of seeds 1 2 3, from the methods' papers; Δ is this run minus the "
        "published number. The published average is over the same datasets as this table's."
    ]
    for row in compared:
        departed = published.departures(row)
        if departed:
            lines.append(
                f"Not beside its published numbers, since its settings are others: {row.name}: {'; '.join(departed)}."
            )
    other = [
        row.name
        for row in compared
        if row.seeds != published.SEEDS and (row.registered, row.method) in published.published()
    ]
    return lines + ([f"Other seeds than the published 1 2 3: {', '.join(other)}."] if other else [])


def _record(table: Table) -> tuple[str, Grid] | None:
    grid = record_grid(table)
    return (RECORD_TITLE, grid) if grid else None


def record_grid(table: Table) -> Grid | None:
    """Diagnostics that methods recorded about themselves (sections of their record), a line each; None without any."""
    rows = [row for row in table.rows if any("." in key for key in row.record)]
    keys = [key for key in dict.fromkeys(key for row in rows for key in row.record) if "." in key]
    if not keys:
        return None
    return (
        ["Recorded", *(f"{row.dataset} {row.method}" for row in rows)],
        [[key, *(_number(row.record.get(key)) for row in rows)] for key in keys],
    )


def _number(stat: Stat | None) -> str:
    return NOTHING if stat is None else f"{stat.mean:.3g}" if abs(stat.mean) < 1000 else f"{stat.mean:.0f}"


# --- context and plots -------------------------------------------------------------------------------------------


def _context(table: Table, compared: list[Row]) -> list[Sheet]:
    """Published numbers of methods that were not run, on the datasets that were."""
    datasets = {row.registered: row.dataset for row in compared}
    methods = [
        method
        for method in dict.fromkeys(method for _, method in published.published())
        if method not in {row.method for row in compared}
    ]
    if not datasets or not methods:
        return []
    numbers = published.published()
    rows = [
        {"dataset": name, "method": method, **vars(numbers[registered, method])}
        for registered, name in datasets.items()
        for method in methods
    ]
    if len(datasets) > 1:
        rows += [
            {
                "dataset": f"average of {len(datasets)}",
                "method": method,
                **vars(published.average(numbers[name, method] for name in datasets)),
            }
            for method in methods
        ]
    columns = (
        Column("dataset", "Dataset", "words"),
        Column("method", "Method", "words"),
        *(Column(key, name, "number", 2) for key, name in MEASURES.items()),
    )
    return [
        Sheet(
            f"{PROTOCOL}_published",
            "Published base-to-new numbers of methods that were not run here",
            columns,
            tuple(rows),
            (
                "ViT-B/16, 16 shots, mean of seeds 1 2 3, as published by the methods' papers: for "
                "context, not measured here. The average is over the datasets of this report.",
            ),
            (),
            "dataset",
        )
    ]


def _plots(table: Table, averaged: list[tuple[Row, list[Row]]]) -> tuple[Plot, ...]:
    """H, base and new by dataset and on average, for each backbone and number of shots."""
    found = []
    for rows in _blocks(table.rows):
        datasets = tuple(dict.fromkeys(row.dataset for row in rows))
        lines = sets.lines_of(rows, lambda row: row.dataset)
        ends = {name: next((mean for mean, of in averaged if of == line), None) for name, line in lines.items()}
        for key, title in {"h": "H", "base": "Accuracy on base classes", "new": "Accuracy on new classes"}.items():
            series = {
                name: (*_by_dataset(line, datasets, key), *([getattr(ends[name], key)] if ends[name] else []))
                for name, line in lines.items()
            }
            found.append(
                Plot(
                    "dots",
                    f"{title}, {rows[0].shots} shots, {rows[0].backbone}",
                    "per cent",
                    datasets + (("average",) if len(datasets) > 1 else ()),
                    series,
                )
            )
    return tuple(found)


def _by_dataset(line: list[Row], datasets: Sequence[str], key: str) -> list[Any]:
    there = {row.dataset: getattr(row, key) for row in line}
    return [there.get(name) for name in datasets]
