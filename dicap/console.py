"""The terminal: the library's log, progress, and tables."""

import logging
import os
import sys
from collections.abc import Collection, Sequence
from typing import Any


class StdoutHandler(logging.StreamHandler):
    """Writes to whatever sys.stdout is at the moment, so that a run's log.txt gets the lines of the library too."""

    def __init__(self) -> None:
        logging.Handler.__init__(self)
        self.setFormatter(logging.Formatter("%(message)s"))

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802  logging's name
        if isinstance(sys.exc_info()[1], OSError):  # `dicap base2new --dry-run | head`, a log on a full disk
            raise
        super().handleError(record)

    @property
    def stream(self) -> Any:  # type: ignore[override]
        return sys.stdout


def show_log() -> None:
    """Let the library's log appear on stdout, unless the application has set up logging of its own."""
    logger = logging.getLogger("dicap")
    if not logger.hasHandlers():
        logger.addHandler(StdoutHandler())
    if logger.level == logging.NOTSET:
        logger.setLevel(logging.INFO)


def progress_bar(items: Any, text: str | None = None, delay: float = 0) -> Any:
    """The items, and how many are done: on the terminal past a run's log; nothing where there is no terminal.

    delay: seconds before it shows.
    """
    from tqdm import tqdm

    terminal = getattr(sys.stdout, "console", sys.stdout)
    is_terminal = getattr(terminal, "isatty", bool)()  # a log of a fork's own may lack it, or have no console
    return tqdm(items, text, file=terminal, disable=not is_terminal, leave=False, delay=delay)


def make_console() -> Any:
    """The terminal, or 140 columns where the output is none."""
    from rich.console import Console

    return Console(width=None if os.isatty(1) else 140, highlight=False)


def rich_grid(
    header: Sequence[str],
    rows: Sequence[Sequence[Any]],
    title: str,
    left: Sequence[str],
    fold: Collection[str] = (),
    ends: Collection[int] = (),
) -> Any:
    """A table for a rich console; a cell is a text, or a rich Text.

    Args:
        left: columns of words. fold: those whose long words are broken, not cut, where there is no room.
        ends: rows that a rule follows.
    """
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(title=Text(title, "bold"), title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for name in header:
        justify, overflow = "left" if name in left else "right", "fold" if name in fold else "ellipsis"
        whole = name not in fold and name in ("Dataset", "Method", "Recorded", "Cell", "Key")
        table.add_column(Text(name), justify=justify, overflow=overflow, no_wrap=whole)  # type: ignore[arg-type]
    for i, row in enumerate(rows):
        table.add_row(*(Text(cell) if isinstance(cell, str) else cell for cell in row), end_section=i in ends)
    return table
