"""Base-to-new tables: `dicap report OUTPUT`, and the end of every base-to-new job.

Base and new are means over seeds, with the sample standard deviation (ddof = 1); H = 2 base new / (base + new) of those
means, as published tables have it, also in an average row: of the means over all datasets. (Measures that are no shares
have the mean of base and new instead.) The worst group is taken for each seed, on base classes.
"""

from collections.abc import Iterable, Sequence
from typing import Any

from dicap.report import published, table
from dicap.report.sheet import INCOMPLETE, NOTHING, Column, Grid, Sheet, words
from dicap.report.stats import Stat
from dicap.report.table import Row
from dicap.results import Measure, flatten, worst_group

PROTOCOL = "base2new"
HALVES = {"base": "base", "new": "new"}
TINY = (
    "The recipe `tiny` is this project's own for the embedded backbone (larger batches, fewer epochs), not the papers': "
    "these figures compare methods with each other, not with published ones."
)


def base2new_sheets(results: Iterable[dict]) -> list[Sheet]:
    """The table of each task, and where a row has published numbers beside it, those of methods that were not run."""
    halves = [r for r in table.of_protocol(results, PROTOCOL) if r["split"] != "all"]
    return [sheet for some in table.by_task(halves) for sheet in _sheets(*some)]


def _sheets(task: str, measure: Measure, results: list[dict]) -> list[Sheet]:
    blocks = sorted(table.grouped(results, lambda r: (r["shots"], r["backbone"])).items())
    trained = [r for r in results if r["split"] == "base"]
    rows = [row for _, of in blocks for row in table.rows_of(of, HALVES, lambda r: r["split"], trainings=trained)]
    compared = [row for row in rows if not row.of and published.comparable(row)]
    lines = [_line(row, measure) for row in rows]
    record = _record_grid(rows, lines)
    titles = {table.combined_key(measure): measure.combined_label}
    titles |= {half: f"{measure.label} on {half} classes" for half in HALVES}
    points = (
        ("{}, {shots} shots, {backbone}".format(title, **row.facts), row.line, row.place, line[key])
        for row, line in zip(rows, lines)
        for key, title in titles.items()
    )
    means = f"mean of the mean base and the mean new {table.name_of(measure)}, in an average row too."
    notes = [
        table.note_on_figures(measure),
        f"{measure.combined_label} is the {'harmonic ' if measure.combined_label == 'H' else ''}{means}",
        *table.notes_on_averages(rows),
        *([table.note_on_groups(measure)] if any(line["worst_group"] for line in lines) else []),
        *([TINY] if any(row.facts["recipe"] == "tiny" for row in rows) else []),
        *published.notes(compared),
    ]
    sheet = table.sheet_of(
        PROTOCOL,
        "Base-to-new generalisation",
        rows,
        _columns(lines, measure, bool(compared)),
        ("shots", "backbone", "seeds"),
        more=lines,
        task=task,
        notes=tuple(notes),
        plots=table.plots_of("dots", measure, points),
        also=(("Recorded diagnostics (base classes, mean over seeds)", record),) if record else (),
    )
    return [sheet, *published.others(compared, task)]


def _line(row: Row, measure: Measure) -> dict[str, Any]:
    known, whole = published.beside(row), row.cells["base"].stat and not row.of
    base = [r for r in row.results if r["split"] == "base"] if whole else []
    seconds = [float(r["seconds"]["train"]) for r in base]  # 0 where nothing is trained
    timed = seconds and all(seconds) and not any(r.get("resumed_from_epoch") for r in base)
    line: dict[str, Any] = {
        "worst_group": Stat.of(map(worst_group, base)) if base and all(r["groups"] for r in base) else None,
        "train_seconds": Stat.of(seconds) if timed else None,
        "datasets": [one.place for one in row.of],
        "record": _record([flatten(r["method_record"]) for r in base]),
    }
    one, new = row.cells["base"].stat, row.cells["new"].stat
    both = measure.combined(one.mean, new.mean) if one and new else None
    for key, value in {"base": one, "new": new, table.combined_key(measure): both}.items():
        mean = value.mean if isinstance(value, Stat) else value
        line[key] = INCOMPLETE if value is None and row.problems else value
        line[f"published_{key}"] = getattr(known, key) if known else None
        line[f"{key}_difference"] = mean - getattr(known, key) if known and mean is not None else None
    return line


def _record(records: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Numbers that every seed of a method recorded (DiCap's valid fraction and the like), over the seeds."""
    numbers: dict[str, list[Any]] = {key: [one.get(key) for one in records] for key in (records or [{}])[0]}
    return {key: vars(Stat.of(some)) for key, some in numbers.items() if {*map(type, some)} <= {int, float}}


def _record_grid(rows: Iterable[Row], lines: Iterable[dict[str, Any]]) -> Grid | None:
    """Diagnostics that methods recorded about themselves (sections of their record), a line each; None without any."""
    records = {f"{row.place} {row.facts['method']}": line["record"] for row, line in zip(rows, lines)}
    records = {name: record for name, record in records.items() if any("." in key for key in record)}
    keys = [key for key in dict.fromkeys(key for record in records.values() for key in record) if "." in key]
    grid = [[key, *(_number(record.get(key)) for record in records.values())] for key in keys]
    return (["Recorded", *records], grid) if grid else None


def _number(stat: dict[str, Any] | None) -> str:
    return NOTHING if stat is None else f"{stat['mean']:{'.3g' if abs(stat['mean']) < 1000 else '.0f'}}"


def _columns(lines: Sequence[dict[str, Any]], measure: Measure, compared: bool) -> list[Column]:
    digits = 2 if compared else table.digits_of(measure)  # published numbers have two
    where, one = "all" if compared else "files", table.combined_key(measure)
    grouped = "all" if any(line["worst_group"] for line in lines) else "files"
    names = {"base": "Base", "new": "New", one: measure.combined_label}
    return [
        *(Column(key, name, "number" if key == one else "stat", digits) for key, name in names.items()),
        *(Column(f"published_{key}", f"Publ. {name}", "number", 2, where=where) for key, name in names.items()),
        *(Column(f"{key}_difference", f"Δ {name}", "number", 2, True, where=where) for key, name in names.items()),
        Column("worst_group", "Worst group", digits=table.digits_of(measure), where=grouped),
        Column("train_seconds", "Train s", spread=False),
        *words("datasets", "record", where="json"),
    ]
