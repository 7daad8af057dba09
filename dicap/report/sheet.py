"""A table of a report, stated once: typed cells from which the terminal, Markdown, CSV, JSON, LaTeX and HTML are made.

    sheet = Sheet("few_shot", "Few-shot accuracy", (Column("method", "Method", "words"), Column("acc", "Accuracy")), rows)
    write_sheet(sheet, "output"); print_sheet(sheet)

What is shown is the CSV file's figure, rounded. A row is a dictionary from a column's key to str, int, float, Stat,
Difference or None; words in a column of figures (INCOMPLETE) are shown, and are empty in CSV and null in JSON.
"""

import csv
import io
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dicap import results as store
from dicap.report.paired import Difference
from dicap.report.render import (
    NOTHING,
    Grid,
    csv_number,
    make_console,
    markdown_grid,
    print_notes,
    rich_grid,
    write_forms,
)
from dicap.report.table import Stat

INCOMPLETE = "incomplete"
_PARTS = {"words": ("",), "number": ("",), "stat": ("_mean", "_std"), "interval": ("_mean", "_low", "_high")}


@dataclass(frozen=True)
class Column:
    """A column. kind: words, number, stat or interval; digits of figures; in_files: not in what is shown."""

    key: str
    name: str
    kind: str = "stat"
    digits: int = 1
    signed: bool = False
    spread: bool = True
    in_files: bool = False

    def text(self, value: Any) -> str:
        """A cell as it is shown."""
        if value is None or isinstance(value, str):
            return NOTHING if value is None else value
        if isinstance(value, Difference):
            return f"{self._figure(value.mean)} [{self._figure(value.low)}, {self._figure(value.high)}]"
        if isinstance(value, Stat):
            spread = f" ± {value.std:.{self.digits}f}" if self.spread and value.std is not None else ""
            return self._figure(value.mean) + spread
        return self._figure(value) if isinstance(value, float) else str(value)

    def _figure(self, value: float) -> str:
        text = f"{value:{'+' if self.signed or self.kind == 'interval' else ''}.{self.digits}f}"
        return text.replace("-", "+") if text.startswith("-") and float(text) == 0 else text

    @property
    def csv_names(self) -> list[str]:
        """Its columns in a CSV file."""
        return [self.key + part for part in _PARTS[self.kind]]

    def csv_values(self, value: Any) -> list[str]:
        """A cell of a CSV file, figures with full precision."""
        if self.kind == "words":
            return [str("" if value is None else value)]
        parts = (
            (value.mean, value.low, value.high)
            if isinstance(value, Difference)
            else (value.mean, value.std)
            if isinstance(value, Stat)
            else (None if isinstance(value, str) else value,)
        )
        return [
            str(one) if isinstance(one, int) else csv_number(one)
            for one in (*parts, None, None)[: len(_PARTS[self.kind])]
        ]

    def json_value(self, value: Any) -> Any:
        """A cell of a JSON file."""
        if isinstance(value, (Stat, Difference)):
            return vars(value)
        return None if isinstance(value, str) and self.kind != "words" else value


@dataclass(frozen=True)
class Plot:
    """What a picture shows. kind: curves (labels along x), dots (a line of dots a label), or forest (differences).

    series: name -> one Stat, Difference, float or None a label.
    """

    kind: str
    title: str
    axis: str
    labels: tuple[str, ...]
    series: dict[str, tuple[Any, ...]]


@dataclass(frozen=True)
class Sheet:
    """A table: name (also that of its files), title, columns, rows in reading order, and what a reader must know.

    Args:
        group: key of a column; a rule follows where its value changes.
        problems: what is incomplete, one sentence each. unreadable: files that could not be read, a line each.
        extra: more for the JSON file. also: further small tables (title, grid) of the Markdown page.
    """

    name: str
    title: str
    columns: tuple[Column, ...]
    rows: tuple[dict[str, Any], ...]
    notes: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()
    group: str = ""
    plots: tuple[Plot, ...] = ()
    extra: dict[str, Any] = field(default_factory=dict)
    also: tuple[tuple[str, Grid], ...] = ()
    unreadable: tuple[str, ...] = ()

    @property
    def shown(self) -> list[Column]:
        """Columns for eyes."""
        return [column for column in self.columns if not column.in_files]

    @property
    def words(self) -> list[str]:
        """Names of the columns of words."""
        return [column.name for column in self.shown if column.kind == "words"]

    @property
    def grid(self) -> Grid:
        """The table as text cells."""
        return [c.name for c in self.shown], [[c.text(row.get(c.key)) for c in self.shown] for row in self.rows]

    @property
    def ends(self) -> set[int]:
        """Rows that a rule follows."""
        values = [row.get(self.group) for row in self.rows]
        return (
            {i for i, value in enumerate(values) if i + 1 == len(values) or values[i + 1] != value}
            if self.group
            else set()
        )

    @property
    def all_notes(self) -> list[str]:
        """Notes and problems, as terminal and Markdown have them."""
        return [
            *self.notes,
            *(f"Incomplete: {problem}." for problem in self.problems),
            *(f"Unreadable: {line}." for line in self.unreadable),
        ]


def columns_that_vary(rows: list[dict[str, Any]], names: dict[str, str]) -> list[Column]:
    """Columns of words; one that says the same in every row goes to the files only, its value into the title."""
    return [
        Column(key, name, "words", in_files=len({row.get(key) for row in rows}) == 1) for key, name in names.items()
    ]


def title_of(title: str, rows: list[dict[str, Any]], shared: dict[str, str]) -> str:
    """A title with what all rows share. shared: key -> text with {} for the value."""
    values = {key: {row.get(key) for row in rows if row.get(key) not in (None, "")} for key in shared}
    return ", ".join([title, *(shared[key].format(*found) for key, found in values.items() if len(found) == 1)])


def write_sheet(sheet: Sheet, folder: str | Path) -> list[Path]:
    """Write NAME.md, .csv, .json and .tex, each atomically; returns the paths."""
    from dicap.report.latex import latex

    paths = write_forms(folder, sheet.name, markdown(sheet), to_csv(sheet), as_json(sheet))
    store.write_text(Path(folder) / f"{sheet.name}.tex", latex(sheet))
    return [*paths, Path(folder) / f"{sheet.name}.tex"]


def markdown(sheet: Sheet) -> str:
    """The page NAME.md."""
    header, rows = sheet.grid
    grid = header, [[escape_markdown(cell) for cell in row] for row in rows]
    parts = [
        f"# {escape_markdown(sheet.title)}",
        markdown_grid(grid, sheet.words),
        "\n".join(f"- {escape_markdown(note)}" for note in sheet.all_notes),
    ]
    for title, more in sheet.also:
        parts += [f"## {title}", markdown_grid(more)]
    return "\n\n".join(filter(None, parts)) + "\n"


def escape_markdown(text: str) -> str:
    """Text that Markdown shows as it is; an underscore inside a word needs nothing."""
    code = text.split("`")
    if len(code) == 3:  # one `name` in a note
        return f"{escape_markdown(code[0])}`{code[1]}`{escape_markdown(code[2])}"
    text = re.sub(r"([\\`*<>])", r"\\\1", " ".join(text.split("\n")))
    return re.sub(r"(?<!\w)_|_(?!\w)", r"\\_", text)


def to_csv(sheet: Sheet) -> str:
    """The table with full precision, empty cells where there is no figure."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow([name for column in sheet.columns for name in column.csv_names])
    writer.writerows(
        [cell for column in sheet.columns for cell in column.csv_values(row.get(column.key))] for row in sheet.rows
    )
    return out.getvalue()


def as_json(sheet: Sheet) -> dict[str, Any]:
    """The table as JSON values."""
    rows = [{column.key: column.json_value(row.get(column.key)) for column in sheet.columns} for row in sheet.rows]
    return {
        "schema": store.SCHEMA,
        "protocol": sheet.name,
        "title": sheet.title,
        "std": "over seeds, ddof = 1",
        "rows": rows,
        "notes": list(sheet.notes),
        **sheet.extra,
        "complete": not sheet.problems and not sheet.unreadable,
        "problems": list(sheet.problems),
        "unreadable": list(sheet.unreadable),
    }


def print_sheet(sheet: Sheet, console: Any = None) -> None:
    """The table in the terminal, with its notes."""
    console = console or make_console(140)
    console.print(rich_grid(sheet.grid, sheet.title, sheet.ends, sheet.words))
    print_notes(console, sheet.all_notes)
    for title, grid in sheet.also:
        console.print(rich_grid((grid[0], grid[1][:8]), title))
        console.print(
            f"The first {min(8, len(grid[1]))}; all of them are in {sheet.name}.md.", style="dim", markup=False
        )
