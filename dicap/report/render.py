"""The base-to-new table for eyes and for programs: terminal (rich), Markdown, CSV and JSON.

    write_table(table, "output")          # output/base2new.{md,csv,json}, each written atomically
    print_table(table)
"""
import csv
import io
import os
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any

from dicap.report import store
from dicap.report.table import PROTOCOL, Row, Stat, Table, as_json

NOTHING = "–"
RECORD_TITLE = "Recorded diagnostics (base classes, mean over seeds)"
LEFT = ("Dataset", "Method", "Recipe", "Backbone", "Recorded")  # columns of words
RECORD_LIMIT = 8  # lines of the second table in the terminal; all of them are in the files

Grid = tuple[list[str], list[list[str]]]  # header, rows


def write_table(table: Table, folder: str | Path) -> list[Path]:
    """Write the table as Markdown, CSV and JSON into a folder; returns the paths."""
    return write_forms(folder, PROTOCOL, markdown(table), to_csv(table), as_json(table))


def write_forms(folder: str | Path, name: str, page: str, rows: str, tree: Any) -> list[Path]:
    """Write NAME.md, NAME.csv and NAME.json of one table into a folder; returns the paths."""
    paths = [Path(folder) / f"{name}.{kind}" for kind in ("md", "csv", "json")]
    store.write_text(paths[0], page)
    store.write_text(paths[1], rows)
    store.write_json(paths[2], tree)
    return paths


def title(table: Table) -> str:
    """What all rows share: shots, backbone, seeds."""
    parts = ["Base-to-new generalisation"]
    shared = {
        "shots": {f"{row.shots} shots" for row in table.rows},
        "backbone": {f"backbone {row.backbone}" for row in table.rows},
        "seeds": {"seeds " + " ".join(map(str, row.seeds)) for row in table.rows},
    }
    return ", ".join(parts + [values.pop() for values in shared.values() if len(values) == 1])


def notes(table: Table) -> list[str]:
    """What a reader must know, one sentence each: statistics, recipes, and all that is incomplete."""
    lines = []
    if any(len(row.seeds) > 1 for row in table.rows):
        lines.append("Accuracy in per cent: mean ± standard deviation over seeds (ddof = 1).")
    lines.append("H is the harmonic mean of the mean base and the mean new accuracy.")
    if any(row.worst_group for row in table.rows):
        lines.append("Worst group: the lower of the accuracies on base-class test images whose scene is the one tied "
                     "to their class in training (aligned) and is not (conflicting), by seed.")
    if any(row.recipe == "tiny" for row in table.rows):
        lines.append("The recipe `tiny` is this project's own for the embedded backbone (larger batches, "
                     "fewer epochs), not the papers': these figures compare methods with each other, not with "
                     "published ones.")
    lines += [f"Incomplete: {row.name}: {problem}." for row in table.rows for problem in row.problems]
    lines += [f"Unreadable: {problem}." for problem in table.unreadable]
    return lines


def main_grid(table: Table) -> Grid:
    """The table as text cells; columns that say the same in every row are in the title instead."""
    rows = table.rows
    several_backbones, several_shots = (len({getattr(row, key) for row in rows}) > 1 for key in ("backbone", "shots"))
    columns: list[tuple[str, bool, Callable[[Row], str]]] = [
        ("Dataset", True, lambda row: row.dataset), ("Method", True, lambda row: row.method),
        ("Recipe", True, lambda row: row.recipe), ("Backbone", several_backbones, lambda row: row.backbone),
        ("Shots", several_shots, lambda row: str(row.shots)),
        ("Base", True, lambda row: _cell(row.base, row)), ("New", True, lambda row: _cell(row.new, row)),
        ("H", True, lambda row: "incomplete" if row.h is None else f"{row.h:.1f}"),
        ("Worst group", any(row.worst_group for row in rows), lambda row: stat_text(row.worst_group)),
        ("Train s", True, lambda row: stat_text(row.train_seconds, spread=False)),
    ]
    return ([name for name, shown, _ in columns if shown],
            [[cell(row) for _, shown, cell in columns if shown] for row in rows])


def record_grid(table: Table, limit: int | None = None) -> Grid | None:
    """Diagnostics that methods recorded about themselves (sections of their record), a line each; None without any."""
    rows = [row for row in table.rows if any("." in key for key in row.record)]
    keys = [key for key in dict.fromkeys(key for row in rows for key in row.record) if "." in key][:limit]
    if not keys:
        return None
    return (["Recorded", *(f"{row.dataset} {row.method}" for row in rows)],
            [[key, *(_number(row.record.get(key)) for row in rows)] for key in keys])


def _cell(stat: Stat | None, row: Row) -> str:
    return "incomplete" if stat is None and row.problems else stat_text(stat)


def stat_text(stat: Stat | None, spread: bool = True) -> str:
    """Mean and, where there is one, standard deviation."""
    if stat is None:
        return NOTHING
    return f"{stat.mean:.1f} ± {stat.std:.1f}" if spread and stat.std is not None else f"{stat.mean:.1f}"


def _number(stat: Stat | None) -> str:
    return NOTHING if stat is None else f"{stat.mean:.3g}" if abs(stat.mean) < 1000 else f"{stat.mean:.0f}"


def markdown(table: Table) -> str:
    """The page base2new.md."""
    parts = [f"# {title(table)}", markdown_grid(main_grid(table)), "\n".join(f"- {note}" for note in notes(table))]
    record = record_grid(table)
    if record:
        parts += [f"## {RECORD_TITLE}", markdown_grid(record)]
    return "\n\n".join(parts) + "\n"


def markdown_grid(grid: Grid, left: Sequence[str] = LEFT) -> str:
    """A Markdown table; `left` names the columns of words."""
    header, rows = grid
    lines = [header, ["---" if name in left else "---:" for name in header], *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def to_csv(table: Table) -> str:
    """The table with full precision, one row a method and dataset, empty cells where there is no figure."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    stats = ("base", "new", "worst_group", "train_seconds")
    writer.writerow(["dataset", "method", "recipe", "backbone", "shots", "seeds", "base_mean", "base_std", "new_mean",
                     "new_std", "h", "worst_group_mean", "worst_group_std", "train_seconds_mean", "train_seconds_std",
                     "complete", "problems"])
    for row in table.rows:
        cells = [cell for key in stats for cell in mean_and_std(getattr(row, key))]
        cells.insert(4, row.h)
        writer.writerow([row.dataset, row.method, row.recipe, row.backbone, row.shots, " ".join(map(str, row.seeds)),
                         *map(csv_number, cells),
                         "no" if row.problems else "yes", "; ".join(row.problems)])
    return out.getvalue()


def mean_and_std(stat: Stat | None) -> tuple[float | None, float | None]:
    """Two columns of a CSV file."""
    return (stat.mean, stat.std) if stat else (None, None)


def csv_number(value: float | None) -> str:
    """Full precision; empty where there is no figure."""
    return "" if value is None else f"{value:.6g}"


def print_table(table: Table, console: Any = None) -> None:
    """The table in the terminal, with its notes."""
    console = console or make_console(120)
    grid = main_grid(table)
    rows = grid[1]
    ends = {i for i, row in enumerate(rows) if i + 1 == len(rows) or rows[i + 1][0] != row[0]}
    console.print(rich_grid(grid, title(table), ends))
    print_notes(console, notes(table))
    record = record_grid(table, RECORD_LIMIT)
    if record:
        console.print(rich_grid(record, RECORD_TITLE))
        console.print(f"The first {RECORD_LIMIT}; all of them are in {PROTOCOL}.md.", style="dim", markup=False)


def print_notes(console: Any, lines: Sequence[str]) -> None:
    """What a reader must know, below a table; what is missing stands out."""
    for line in lines:
        console.print(line, style="yellow" if line.startswith(("Incomplete", "Unreadable")) else "dim", markup=False)


def make_console(width: int) -> Any:
    """The terminal, or so many columns where the output is none."""
    from rich.console import Console

    return Console(width=None if os.isatty(1) else width, highlight=False)


def rich_grid(grid: Grid, heading: str, ends: Collection[int] = (), left: Sequence[str] = LEFT,
              style: Callable[[str], str] = lambda cell: "") -> Any:
    """A table for a rich console; a rule follows each row in `ends`, `left` names the columns of words.

    style: from a cell's text to its rich style.
    """
    from rich import box
    from rich.table import Table as RichTable
    from rich.text import Text

    header, rows = grid
    rich_table = RichTable(title=heading, title_justify="left", box=box.SIMPLE_HEAD, title_style="bold", pad_edge=False)
    for name in header:
        rich_table.add_column(name, justify="left" if name in left else "right",
                              no_wrap=name in ("Dataset", "Method", "Recorded", "Cell"))
    for i, row in enumerate(rows):
        rich_table.add_row(*(Text(cell, style(cell)) for cell in row), end_section=i in ends)
    return rich_table
