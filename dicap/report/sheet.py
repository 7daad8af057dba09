"""A table of a report, stated once: typed cells from which the terminal, Markdown, CSV, JSON, LaTeX and HTML are made.

    sheet = Sheet("few_shot", "Few-shot", (Column("method", "Method", "words"), Column("shots_1", "1 shot")), rows)
    write_sheet(sheet, "output"); print_sheet(sheet)

What is shown is the CSV file's figure, rounded. A row is a dictionary from a column's key to str, int, float, Stat,
Difference, dict or None; words in a column of figures (INCOMPLETE) are shown, and are empty in CSV and null in JSON.
"""

import csv
import io
import itertools
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dicap import results as store
from dicap.console import make_console, rich_grid
from dicap.files import write_text
from dicap.report.stats import LEVEL, Difference, Stat
from dicap.results import Measure

Grid = tuple[list[str], list[list[str]]]  # header, rows
NOTHING = "–"
INCOMPLETE = "incomplete"
_BOUNDS = ("_mean", "_low", "_high")
_PARTS = {"words": ("",), "number": ("",), "stat": ("_mean", "_std"), "interval": _BOUNDS, "gain": _BOUNDS}
_LATEX = {
    **{character: f"\\{character}" for character in "{}$&#_%"},
    **{"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "|": r"\textbar{}"},
    **{"<": r"\textless{}", ">": r"\textgreater{}", '"': r"\textquotedbl{}", "`": r"\textasciigrave{}"},
    **{"±": r"$\pm$", "−": "$-$", "–": "--", "Δ": r"$\Delta$", "\n": " "},
}
_FORMS = {"all": ("shown", "csv", "json"), "files": ("csv", "json"), "shown": ("shown",), "json": ("json",)}


@dataclass(frozen=True)
class Column:
    """A column.

    Args:
        key: of rows and files. name: its heading.
        kind: words, number, stat (mean ± spread), interval (mean and bounds of a Difference), or gain (mean ± half the
            interval, * where it excludes zero; coloured in the terminal by which of the two is better).
        digits: of figures that are no whole numbers. signed, spread: whether a plus sign, a Stat's spread is shown.
        where: all, files (not in what is shown), shown (not in files), or json (there only).
    """

    key: str
    name: str
    kind: str = "stat"
    digits: int = 1
    signed: bool = False
    spread: bool = True
    where: str = "all"

    def text(self, value: Any) -> str:
        """A cell as it is shown."""
        if value is None or isinstance(value, str):
            return NOTHING if value is None else value
        if isinstance(value, Difference):
            mean, low, high = map(self._figure, (value.mean, value.low, value.high))
            gain = f"{mean} ±{value.half:.{self.digits}f}{'*' if value.excludes_zero else ' '}"
            return gain if self.kind == "gain" else f"{mean} [{low}, {high}]"
        if isinstance(value, Stat):
            spread = f" ± {value.std:.{self.digits}f}" if self.spread and value.std is not None else ""
            return self._figure(value.mean) + spread
        return self._figure(value) if isinstance(value, float) else str(value)

    def style(self, row: dict[str, Any]) -> str:
        """Colour of a row's cell in the terminal: green where the first of two is surely better, red where worse."""
        value = row.get(self.key)
        if self.kind != "gain" or not isinstance(value, Difference) or not value.excludes_zero:
            return ""
        return "green" if (value.mean > 0) == row.get("higher_is_better", True) else "red"

    def _figure(self, value: float) -> str:
        text = f"{value:{'+' if self.signed or self.kind in ('interval', 'gain') else ''}.{self.digits}f}"
        return text.replace("-", "+") if text.startswith("-") and float(text) == 0 else text

    @property
    def csv_names(self) -> list[str]:
        """Its columns in a CSV file."""
        return [self.key + part for part in _PARTS[self.kind]]

    def csv_values(self, value: Any) -> list[str]:
        """A cell of a CSV file, figures with full precision; empty where there is none."""
        if isinstance(value, dict):
            value = " ".join(f"{key} {one}" for key, one in value.items())
        if self.kind == "words":  # a text that a spreadsheet would take for a formula gets its sign for text
            formula = isinstance(value, str) and value.startswith(tuple("=+-@\t\r\n"))
            return ["" if value is None else f"'{value}" if formula else str(value)]
        parts = [getattr(value, part[1:], None) for part in _PARTS[self.kind]]
        parts[0] = value if isinstance(value, (int, float)) else parts[0]
        return ["" if one is None else str(one) if isinstance(one, int) else f"{one:.10g}" for one in parts]

    def json_value(self, value: Any) -> Any:
        """A cell of a JSON file."""
        if isinstance(value, Difference):
            return {**vars(value), "excludes_zero": value.excludes_zero}
        if isinstance(value, Stat):
            return vars(value)
        return None if isinstance(value, str) and self.kind != "words" else value


def unit_of(measure: Measure) -> str:
    """A measure's unit in words; "" = none."""
    return "per cent" if measure.unit == "%" else measure.unit


@dataclass(frozen=True)
class Plot:
    """What a picture shows.

    Args:
        kind: curves (labels along x), dots (a line of dots a label), or forest (differences).
        measure: what its figures are of.
        series: name -> one Stat, Difference, float or None a label.
    """

    kind: str
    title: str
    measure: Measure
    labels: tuple[str, ...]
    series: dict[str, tuple[Any, ...]]

    @property
    def axis(self) -> str:
        """Label of the axis of figures."""
        if self.kind != "forest":
            return ", ".join(filter(None, [self.measure.label, unit_of(self.measure)]))
        unit = "points of per cent" if self.measure.unit == "%" else unit_of(self.measure) or "difference"
        return f"{unit}, {100 * LEVEL:.0f} % interval"


@dataclass(frozen=True)
class Sheet:
    """A table: name (also that of its files), title, columns, rows in reading order, and what a reader must know.

    Args:
        problems: what is incomplete, one sentence each.
        group: key of a value of the rows; a rule follows where it changes. sections: it stands above its rows.
        extra: more for the JSON file. also: further small tables (title, grid) of the Markdown page.
        unreadable: files that could not be read, a line each.
        task: ends the names of the files; "" = the usual one.
        conclusion, command: what follows from the table, and the command that goes on from there.
    """

    name: str
    title: str
    columns: tuple[Column, ...]
    rows: tuple[dict[str, Any], ...]
    notes: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()
    group: str = ""
    sections: bool = False
    plots: tuple[Plot, ...] = ()
    extra: dict[str, Any] = field(default_factory=dict)
    also: tuple[tuple[str, Grid], ...] = ()
    unreadable: tuple[str, ...] = ()
    task: str = ""
    conclusion: str = ""
    command: str = ""

    @property
    def file(self) -> str:
        """Name of its files, without an ending."""
        name = re.sub(r"[^\w.=+-]+", "-", f"{self.name}_{self.task}" if self.task else self.name)
        return name.encode()[:200].decode(errors="ignore")  # the system has a limit of 255 bytes

    def columns_of(self, form: str = "shown") -> list[Column]:
        """The columns of a form: shown (to eyes), csv or json."""
        return [column for column in self.columns if form in _FORMS[column.where]]

    @property
    def lines(self) -> list[tuple[list[str], dict[str, Any]]]:
        """Text cells of each row, and the row. With sections a line of one cell comes before the rows of a group."""
        lines: list[tuple[list[str], dict[str, Any]]] = []
        for row in self.rows:
            cells = [column.text(row.get(column.key)) for column in self.columns_of()]
            if self.sections:
                lines += [([row[self.group]], row)] if not lines or lines[-1][1][self.group] != row[self.group] else []
                cells[0] = f"  {cells[0]}"
            lines.append((cells, row))
        return lines

    @property
    def grid(self) -> Grid:
        """The table as text cells."""
        return [column.name for column in self.columns_of()], [cells for cells, _ in self.lines]

    @property
    def ends(self) -> set[int]:
        """Lines that a rule follows."""
        values = [row.get(self.group) for _, row in self.lines] if self.group else []
        return {i for i, value in enumerate(values) if values[i + 1 : i + 2] != [value]}

    @property
    def all_notes(self) -> list[str]:
        """Notes and problems, as terminal and Markdown have them."""
        left_out = {"Incomplete": self.problems, "Unreadable": self.unreadable}
        return [*self.notes, *(f"{why}: {line}." for why, lines in left_out.items() for line in lines)]


def words(*keys: str, where: str = "all", **names: str) -> list[Column]:
    """Columns of words that are called like their keys, or as `names` says."""
    return [Column(key, names.get(key, key.capitalize()), "words", where=where) for key in (*keys, *names)]


def columns_that_vary(rows: Sequence[dict[str, Any]], names: dict[str, str]) -> list[Column]:
    """Columns of words; one that says the same in every row goes to the files only, its value into the title."""
    values = {key: {row.get(key) for row in rows} for key in names}
    return [Column(key, names[key], "words", where="all" if len(values[key]) > 1 else "files") for key in names]


def title_of(title: str, rows: Sequence[Mapping[str, Any]], shared: dict[str, str]) -> str:
    """A title with what all rows share. shared: key -> text with {} for the value."""
    values = {key: {row.get(key) for row in rows if row.get(key) not in (None, "")} for key in shared}
    return ", ".join([title, *(shared[key].format(*some) for key, some in values.items() if len(some) == 1)])


def write_sheet(sheet: Sheet, folder: str | Path) -> list[Path]:
    """Write NAME.md, .csv, .json and .tex, each atomically; returns the paths."""
    paths = {form: Path(folder) / f"{sheet.file}.{form}" for form in ("md", "csv", "json", "tex")}
    write_text(paths["md"], markdown(sheet))
    write_text(paths["csv"], to_csv(sheet))
    store.write_json(paths["json"], as_json(sheet))
    write_text(paths["tex"], render("sheet.tex.j2", escape_latex, sheet=sheet))
    return list(paths.values())


def markdown(sheet: Sheet) -> str:
    """The page NAME.md."""
    return render("sheet.md.j2", escape_markdown, sheet=sheet)


def escape_markdown(text: str) -> str:
    """Text that Markdown shows as it is, also in a table; an underscore inside a word needs nothing."""
    code = text.split("`")
    if len(code) == 3:  # one `name` in a note
        middle = code[1].replace("|", "\\|")
        return f"{escape_markdown(code[0])}`{middle}`{escape_markdown(code[2])}"
    text = re.sub(r"([\\`*<>|]|\](?=\()|&(?=#?\w+;))", r"\\\1", " ".join(text.split("\n")))  # also links and entities
    return re.sub(r"(?<!\w)_|_(?!\w)", r"\\_", text)


def escape_latex(text: str) -> str:
    """Text that LaTeX sets as it is; one that begins a line of a table is no argument of the end of the line before."""
    return "{}" * text.startswith(("[", "*")) + "".join(_LATEX.get(character, character) for character in text)


def to_csv(sheet: Sheet) -> str:
    """The table with full precision, empty cells where there is no figure."""
    out = io.StringIO()
    writer, columns = csv.writer(out, lineterminator="\n"), sheet.columns_of("csv")
    writer.writerow([name for column in columns for name in column.csv_names])
    cells = ([column.csv_values(row.get(column.key)) for column in columns] for row in sheet.rows)
    writer.writerows(itertools.chain(*row) for row in cells)
    return out.getvalue()


def as_json(sheet: Sheet) -> dict[str, Any]:
    """The table as JSON values."""
    columns = sheet.columns_of("json")
    return {
        "schema": store.SCHEMA,
        "protocol": sheet.name,
        "title": sheet.title,
        "std": "over seeds, ddof = 1",
        "rows": [{column.key: column.json_value(row.get(column.key)) for column in columns} for row in sheet.rows],
        "notes": list(sheet.notes),
        **sheet.extra,
        "complete": not (sheet.problems or sheet.unreadable or sheet.extra.get("not_run")),
        "problems": list(sheet.problems),
        "unreadable": list(sheet.unreadable),
    }


def print_sheet(sheet: Sheet, console: Any = None) -> None:
    """The table in the terminal, with its notes; what is missing stands out."""
    from rich.text import Text

    console = console or make_console()
    columns = sheet.columns_of()
    lines = [[Text(cell, column.style(row)) for cell, column in zip(cells, columns)] for cells, row in sheet.lines]
    left = [column.name for column in columns if column.kind == "words"]
    console.print(rich_grid(sheet.grid[0], lines, sheet.title, left, ends=sheet.ends))
    for note in sheet.all_notes:
        console.print(Text(note), style="yellow" if note.startswith(("Incomplete", "Unreadable")) else "dim")
    for title, (header, rows) in sheet.also:
        console.print(rich_grid(header, rows[:8], title, header[:1]))
        more = f"The first {min(8, len(rows))}; all of them are in {sheet.file}.md."
        console.print(more, style="dim", markup=False)
    use = f"\nUse it: {sheet.command}" if sheet.command else ""
    if sheet.conclusion:
        console.print(sheet.conclusion + use, style="bold", markup=False, soft_wrap=True)


def render(template: str, text: Callable[[str], str] = str, **values: Any) -> str:
    """A template of this folder, filled in. Whatever an HTML one is given is escaped; others have the filter `text`."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    options: dict[str, Any] = dict.fromkeys(("trim_blocks", "lstrip_blocks", "keep_trailing_newline"), True)
    loader = PackageLoader("dicap.report", "")
    environment = Environment(loader=loader, autoescape=".html." in template, undefined=StrictUndefined, **options)
    environment.filters["text"] = text
    return environment.get_template(template).render(**values)
