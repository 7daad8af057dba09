"""Base-to-new tables: `dicap report OUTPUT`, and the end of every base-to-new job.

Base and new are means over seeds, with the sample standard deviation (ddof = 1); H = 2 base new / (base + new) of those
means, as published tables have it, also in an average row: of the means over all datasets. (Measures that are no shares
have the mean of base and new instead.) The worst group is taken for each seed, on base classes.
"""

from collections.abc import Iterable, Sequence
from typing import Any

from dicap.report import published, table
from dicap.report.render import Grid
from dicap.report.sheet import INCOMPLETE, NOTHING, Column, Plot, Sheet, title_of
from dicap.report.stats import Stat
from dicap.report.table import Row, combined_key
from dicap.results import Measure, flatten, worst_group

PROTOCOL = "base2new"
HALVES = {"base": "base", "new": "new"}
TITLE = "Base-to-new generalisation"
VARY = {"backbone": "Backbone", "shots": "Shots", "seeds": "Seeds"}
SHARED = {"task": "{}", "shots": "{} shots", "backbone": "backbone {}", "seeds": "seeds {}"}


def base2new_sheets(results: Iterable[dict]) -> list[Sheet]:
    """The table of each task, and where a row has published numbers beside it, those of methods that were not run."""
    halves = [r for r in table.of_protocol(results, PROTOCOL) if r["split"] != "all"]
    return [sheet for task, measure, of in table.by_task(halves) for sheet in _sheets(task, measure, of)]


def _sheets(task: str, measure: Measure, results: list[dict]) -> list[Sheet]:
    blocks = table.grouped(results, lambda r: (r["shots"], r["backbone"]))
    by_block = [table.rows_of(blocks[key], HALVES, lambda r: r["split"], problems=_problems) for key in sorted(blocks)]
    rows = [row for block in by_block for row in block]
    compared = [row for row in rows if not row.of and published.comparable(row)]
    lines = [{"task": task, **_line(row, measure)} for row in rows]
    record = record_grid(rows)
    sheet = Sheet(
        PROTOCOL,
        title_of(TITLE, [line for line, row in zip(lines, rows, strict=True) if not row.of], SHARED),
        table.columns_of(lines, VARY, _columns(lines, measure, bool(compared))),
        tuple(lines),
        tuple(_notes(rows, measure, compared)),
        tuple(problem for row in rows for problem in row.problems),
        "dataset",
        plots=tuple(plot for block in by_block for plot in _plots(block, measure)),
        extra={"results": table.single(results)},
        also=(("Recorded diagnostics (base classes, mean over seeds)", record),) if record else (),
        task=task,
    )
    return [sheet, *_context(task, compared)]


def _problems(column: str, by_column: dict[str, list[dict]], seeds: set[int]) -> list[str]:
    stale = table.stale_prompts(by_column.get("new", []), by_column.get("base", [])) if column == "new" else []
    return table.problems_of(column, by_column, seeds) + stale


# --- cells -------------------------------------------------------------------------------------------------------


def figures_of(row: Row, measure: Measure) -> dict[str, Stat | float | None]:
    """Base, new and the one figure of both; None where there is none, or where it is incomplete."""
    base, new = row.cells["base"].stat, row.cells["new"].stat
    both = measure.combined(base.mean, new.mean) if base and new else None
    return {"base": base, "new": new, combined_key(measure): both}


def _line(row: Row, measure: Measure) -> dict[str, Any]:
    known, base = published.beside(row), _base(row)
    seconds = [float(r["seconds"]["train"]) for r in base]  # 0 where nothing is trained
    timed = seconds and all(seconds) and not any(map(table.was_resumed, base))
    line: dict[str, Any] = {
        **row.facts,
        "worst_group": Stat.of(map(worst_group, base)) if base and all(r["groups"] for r in base) else None,
        "train_seconds": Stat.of(seconds) if timed else None,
        "datasets": [one.place for one in row.of],
        "record": {key: vars(stat) for key, stat in _record(row).items()},
    }
    for key, value in figures_of(row, measure).items():
        mean = value.mean if isinstance(value, Stat) else value
        line[key] = INCOMPLETE if value is None and row.problems else value
        line[f"published_{key}"] = getattr(known, key) if known else None
        line[f"{key}_difference"] = mean - getattr(known, key) if known and mean is not None else None
    return line


def _base(row: Row) -> list[dict]:
    """A row's results on base classes; none where they are incomplete, or of an average."""
    return [r for r in row.results if r["split"] == "base"] if row.cells["base"].stat and not row.of else []


def _columns(lines: Sequence[dict[str, Any]], measure: Measure, compared: bool) -> list[Column]:
    digits = 2 if compared else table.digits_of(measure)  # published numbers have two
    where, key = "all" if compared else "files", combined_key(measure)
    names = {"base": "Base", "new": "New", key: measure.combined_label}
    return [
        Column("base", "Base", digits=digits),
        Column("new", "New", digits=digits),
        Column(key, measure.combined_label, "number", digits),
        *(Column(f"published_{key}", f"Publ. {name}", "number", 2, where=where) for key, name in names.items()),
        *(Column(f"{key}_difference", f"Δ {name}", "number", 2, True, where=where) for key, name in names.items()),
        Column(
            "worst_group",
            "Worst group",
            digits=table.digits_of(measure),
            where="all" if any(line["worst_group"] for line in lines) else "files",
        ),
        Column("train_seconds", "Train s", spread=False),
        Column("datasets", "", "words", where="json"),
        Column("record", "", "words", where="json"),
    ]


def _record(row: Row) -> dict[str, Stat]:
    """Numbers that every seed of a method recorded (DiCap's valid fraction and the like), over the seeds."""
    records = [flatten(r["method_record"]) for r in _base(row)]
    common = set.intersection(*map(set, records)) if records else set()
    values = {key: [one[key] for one in records] for key in (records or [{}])[0] if key in common}
    return {
        key: Stat.of(some)
        for key, some in values.items()
        if all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in some)
    }


def record_grid(rows: Iterable[Row]) -> Grid | None:
    """Diagnostics that methods recorded about themselves (sections of their record), a line each; None without any."""
    records = {f"{row.place} {row.method}": _record(row) for row in rows}
    records = {name: record for name, record in records.items() if any("." in key for key in record)}
    keys = [key for key in dict.fromkeys(key for record in records.values() for key in record) if "." in key]
    if not keys:
        return None
    return ["Recorded", *records], [[key, *(_number(one.get(key)) for one in records.values())] for key in keys]


def _number(stat: Stat | None) -> str:
    return NOTHING if stat is None else f"{stat.mean:.3g}" if abs(stat.mean) < 1000 else f"{stat.mean:.0f}"


# --- notes, context, pictures ------------------------------------------------------------------------------------


def _notes(rows: Sequence[Row], measure: Measure, compared: Sequence[Row]) -> list[str]:
    means = f"the mean base and the mean new {table.name_of(measure)}"
    notes = [f"{table.with_unit(measure)}: {table.SPREAD}"]
    notes.append(
        f"{measure.combined_label} is the {'harmonic ' if measure.combined_label == 'H' else ''}mean of {means}, "
        "in an average row too."
    )
    notes += table.notes_on_averages(rows)
    if any(r["groups"] for row in rows for r in row.results):
        notes.append(table.note_on_groups(measure))
    if any(row.recipe == "tiny" for row in rows):
        notes.append(
            "The recipe `tiny` is this project's own for the embedded backbone (larger batches, fewer epochs), not the "
            "papers': these figures compare methods with each other, not with published ones."
        )
    return notes + published.notes(compared)


def _context(task: str, compared: Sequence[Row]) -> list[Sheet]:
    """Published numbers of methods that were not run, on the datasets that were."""
    rows = published.others(compared)
    if not rows:
        return []
    return [
        Sheet(
            f"{PROTOCOL}_published",
            "Published base-to-new numbers of methods that were not run here",
            (
                Column("dataset", "Dataset", "words"),
                Column("method", "Method", "words"),
                *(Column(key, name, "number", 2) for key, name in {"base": "Base", "new": "New", "h": "H"}.items()),
            ),
            tuple(rows),
            (
                "ViT-B/16, 16 shots, mean of seeds 1 2 3, as published by the methods' papers: for "
                "context, not measured here. The average is over the datasets of this report.",
            ),
            group="dataset",
            task=task,
        )
    ]


def _plots(rows: Sequence[Row], measure: Measure) -> list[Plot]:
    """The one figure, base and new by dataset and on average."""
    titles = {combined_key(measure): measure.combined_label}
    titles |= {half: f"{measure.label} on {half} classes" for half in HALVES}
    places = tuple(dict.fromkeys(row.place for row in rows))
    figures = {(row.line, row.place): figures_of(row, measure) for row in rows}
    series = {
        key: {line: tuple(figures.get((line, place), {}).get(key) for place in places) for line, _ in figures}
        for key in titles
    }
    ending = f"{rows[0].results[0]['shots']} shots, {rows[0].results[0]['backbone']}"
    return [
        Plot("dots", f"{title}, {ending}", table.axis_of(measure), places, series[key], table.span_of(measure))
        for key, title in titles.items()
    ]
