"""Everything that a folder of result files says: `dicap report OUTPUT`, and the end of every protocol.

    write_report("output")                            # every table, printed and written
    write_report("output", protocols=["few_shot"])    # every file refreshed, only these protocols' tables printed

Files: report.html, and NAME.{md,csv,json,tex} for each table; the logs of the runs are never read.
"""

import base64
import collections
import dataclasses
import datetime
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup, escape

from dicap.files import write_text
from dicap.report.base2new import base2new_sheets
from dicap.report.compare import PROTOCOLS, paired_sheets
from dicap.report.cost import cost_sheets
from dicap.report.plots import alt, svg
from dicap.report.sheet import Sheet, print_sheet, render, write_sheet
from dicap.report.table import gather, of_protocol
from dicap.report.transfer import few_shot_sheets, fresh, transfer_sheets
from dicap.results import FILE, ResultError, printable


def write_report(
    out: str | Path, protocols: Sequence[str] | None = None, *, compare: Sequence[str] = (), console: Any = None
) -> list[Path]:
    """Gather the result files below a folder, print tables and write all files there; returns the paths.

    Args:
        out: an output folder; the files are written into it.
        protocols: those whose tables are printed; None = every table.
        compare: two methods to be compared in pairs; empty = each of DiCap's with each that is none.
        console: a rich console to print on; None = the terminal.
    Raises ResultError: no folder, no result of any protocol in it, or a method of `compare` that has none.
    """
    results, unreadable = gather(out)
    known = of_protocol(results, *PROTOCOLS)
    if not known:
        there = f"{len(results)} of other protocols, {len(unreadable)} unreadable"
        first = f"; the first unreadable one: {unreadable[0]}" if unreadable else ""
        run = "run a protocol first, such as scripts/dicap/base2new.sh, or give the folder that was its output"
        raise ResultError(f"{out}: no {FILE} of {', '.join(PROTOCOLS)} below this folder ({there}); {run}{first}")
    tables = [dataclasses.replace(sheet, unreadable=tuple(unreadable)) for sheet in sheets(known, compare)]
    for sheet in tables:
        if protocols is None or sheet.name in protocols:
            print_sheet(sheet, console)
    paths = [path for sheet in tables for path in write_sheet(sheet, out)]
    page = Path(out, "report.html")
    write_text(page, _page(printable(f"Results in {Path(out).resolve().name}"), tables, results, known))
    return [page, *paths]


def sheets(results: Sequence[dict], compare: Sequence[str] = ()) -> list[Sheet]:
    """All tables of some results, in reading order. Raises ResultError: a method of `compare` that has no result."""
    return [
        *base2new_sheets(results),
        *few_shot_sheets(results),
        *transfer_sheets(results),
        *paired_sheets(fresh(results), compare),
        *cost_sheets(results),
    ]


# --- report.html -------------------------------------------------------------------------------------------------


def _page(title: str, tables: Sequence[Sheet], results: Sequence[dict], known: Sequence[dict]) -> str:
    """All tables, plots and notes in one file that needs nothing else; everything that comes from files is escaped."""
    every, counts = (
        collections.Counter(r["protocol"].split("/")[0] or "single runs" for r in some) for some in (results, known)
    )
    versions = (", ".join(f"{key} {value}" for key, value in r["versions"].items() if value != "") for r in known)
    return render(
        "page.html.j2",
        title=title,
        date=datetime.datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z"),
        sheets=tables,
        picture=lambda plot: "data:image/svg+xml;base64," + base64.b64encode(svg(plot).encode()).decode(),
        alt=alt,
        breakable=_breakable,
        words=_words,
        left_out=sorted((every - counts).items()),
        counts=counts,
        versions=collections.Counter(text or "not recorded" for text in versions).most_common(),
    )


def _breakable(text: str) -> Markup:
    """A cell's text, escaped, that may be broken after an underscore or before a number, not between ± and its figure."""
    parts = re.split(r"(?<=_)|(?<=[a-z])(?=\d)", text)
    return Markup("<wbr>".join(str(escape(part)) for part in parts).replace("± ", "±&nbsp;"))


def _words(text: str) -> Markup:
    """A note, escaped, with `code` as code."""
    return Markup(re.sub(r"`([^`]+)`", r"<code>\1</code>", str(escape(text))))
