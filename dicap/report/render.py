"""Text from templates, and tables and notes in the terminal, with rich."""

import os
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any

Grid = tuple[list[str], list[list[str]]]  # header, rows


def render(template: str, text: Callable[[str], str] = str, **values: Any) -> str:
    """A template of this folder, filled in. Whatever an HTML one is given is escaped; others have the filter `text`."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=".html." in template,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["text"] = text
    return environment.get_template(template).render(**values)


def make_console(width: int) -> Any:
    """The terminal, or so many columns where the output is none."""
    from rich.console import Console

    return Console(width=None if os.isatty(1) else width, highlight=False)


def print_notes(console: Any, lines: Sequence[str]) -> None:
    """What a reader must know, below a table; what is missing stands out."""
    for line in lines:
        console.print(line, style="yellow" if line.startswith(("Incomplete", "Unreadable")) else "dim", markup=False)


def rich_grid(
    grid: tuple[list[str], list[list[Any]]],
    heading: str,
    ends: Collection[int] = (),
    left: Sequence[str] = (),
    fold: Collection[str] = (),
) -> Any:
    """A table for a rich console.

    Args:
        grid: header and rows; a cell is a text, or a rich Text.
        ends: rows that a rule follows.
        left: columns of words. fold: those whose long words are broken, not cut, where there is no room.
    """
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(title=heading, title_justify="left", box=box.SIMPLE_HEAD, title_style="bold", pad_edge=False)
    for name in grid[0]:
        table.add_column(
            name,
            justify="left" if name in left else "right",
            overflow="fold" if name in fold else "ellipsis",
            no_wrap=name not in fold and name in ("Dataset", "Method", "Recorded", "Cell", "Key"),
        )
    for i, row in enumerate(grid[1]):
        table.add_row(*(Text(cell) if isinstance(cell, str) else cell for cell in row), end_section=i in ends)
    return table
