"""What all tables share: figures as text, Markdown grids, rich grids, notes, and the files of one table."""

import os
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any

from dicap import results as store
from dicap.report.table import Stat

NOTHING = "–"
LEFT = ("Dataset", "Method", "Recipe", "Backbone", "Recorded")  # columns of words

Grid = tuple[list[str], list[list[str]]]  # header, rows


def write_forms(folder: str | Path, name: str, page: str, rows: str, tree: Any) -> list[Path]:
    """Write NAME.md, NAME.csv and NAME.json of one table into a folder; returns the paths."""
    paths = [Path(folder) / f"{name}.{kind}" for kind in ("md", "csv", "json")]
    store.write_text(paths[0], page)
    store.write_text(paths[1], rows)
    store.write_json(paths[2], tree)
    return paths


def stat_text(stat: Stat | None, spread: bool = True) -> str:
    """Mean and, where there is one, standard deviation."""
    if stat is None:
        return NOTHING
    return f"{stat.mean:.1f} ± {stat.std:.1f}" if spread and stat.std is not None else f"{stat.mean:.1f}"


def markdown_grid(grid: Grid, left: Sequence[str] = LEFT) -> str:
    """A Markdown table; `left` names the columns of words."""
    header, rows = grid
    lines = [header, ["---" if name in left else "---:" for name in header], *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def mean_and_std(stat: Stat | None) -> tuple[float | None, float | None]:
    """Two columns of a CSV file."""
    return (stat.mean, stat.std) if stat else (None, None)


def csv_number(value: float | None) -> str:
    """Full precision; empty where there is no figure."""
    return "" if value is None else f"{value:.10g}"


def print_notes(console: Any, lines: Sequence[str]) -> None:
    """What a reader must know, below a table; what is missing stands out."""
    for line in lines:
        console.print(line, style="yellow" if line.startswith(("Incomplete", "Unreadable")) else "dim", markup=False)


def make_console(width: int) -> Any:
    """The terminal, or so many columns where the output is none."""
    from rich.console import Console

    return Console(width=None if os.isatty(1) else width, highlight=False)


def rich_grid(
    grid: Grid,
    heading: str,
    ends: Collection[int] = (),
    left: Sequence[str] = LEFT,
    style: Callable[[str], str] = lambda cell: "",
    fold: Collection[str] = (),
) -> Any:
    """A table for a rich console; a rule follows each row in `ends`, `left` names the columns of words.

    style: from a cell's text to its rich style. fold: columns whose long words are broken, not cut, where there is no room.
    """
    from rich import box
    from rich.table import Table as RichTable
    from rich.text import Text

    header, rows = grid
    rich_table = RichTable(title=heading, title_justify="left", box=box.SIMPLE_HEAD, title_style="bold", pad_edge=False)
    for name in header:
        rich_table.add_column(
            name,
            justify="left" if name in left else "right",
            overflow="fold" if name in fold else "ellipsis",
            no_wrap=name not in fold and name in ("Dataset", "Method", "Recorded", "Cell", "Key"),
        )
    for i, row in enumerate(rows):
        rich_table.add_row(*(Text(cell, style(cell)) for cell in row), end_section=i in ends)
    return rich_table
