"""Everything that a folder of result files says: `dicap report OUTPUT`, and the end of every protocol.

    write_report("output")                            # every table, printed and written
    write_report("output", protocols=["few_shot"])    # every file refreshed, only these protocols' tables printed

Files: report.html, and NAME.{md,csv,json,tex} for each table; the logs of the runs are never read.
"""

import collections
import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dicap.console import make_console
from dicap.files import write_text
from dicap.report.base2new import base2new_sheets
from dicap.report.compare import PROTOCOLS, paired_sheets
from dicap.report.cost import cost_sheets
from dicap.report.few_shot import few_shot_sheets
from dicap.report.page import page
from dicap.report.sheet import Sheet, print_sheet, write_sheet
from dicap.report.table import gather, of_protocol
from dicap.report.transfer import fresh, transfer_sheets
from dicap.results import FILE, ResultError

PAGE = "report.html"


def write_report(
    out: str | Path, protocols: Sequence[str] | None = None, *, compare: Sequence[str] = (), console: Any = None
) -> list[Path]:
    """Gather the result files below a folder, print tables and write all files there; returns the paths.

    Args:
        out: an output folder; the files are written into it.
        protocols: those whose tables are printed; None = every table.
        compare: two methods to be compared in pairs; empty = each of DiCap's with each that is none.
        console: a rich console to print on; None = the terminal.
    Raises:
        ResultError: no folder, no result of any protocol in it, or a method of `compare` that has none.
    """
    results, unreadable = gather(out)
    known = of_protocol(results, *PROTOCOLS)
    if not known:
        raise ResultError(_nothing(out, results, unreadable))
    tables = [dataclasses.replace(sheet, unreadable=tuple(unreadable)) for sheet in sheets(known, compare)]
    console = console or make_console()
    for sheet in tables:
        if protocols is None or sheet.name in protocols:
            print_sheet(sheet, console)
    paths = [path for sheet in tables for path in write_sheet(sheet, out)]
    title = f"Results in {Path(out).resolve().name}"
    html = page(tables, known, unreadable, _left_out(results, known), title)
    write_text(Path(out) / PAGE, html)
    return [Path(out) / PAGE, *paths]


def sheets(results: Sequence[dict], compare: Sequence[str] = ()) -> list[Sheet]:
    """All tables of some results, in reading order. Raises ResultError: a method of `compare` that has no result."""
    return [
        *base2new_sheets(results),
        *few_shot_sheets(results),
        *transfer_sheets(results),
        *paired_sheets(fresh(results), compare),
        *cost_sheets(results),
    ]


def _nothing(out: str | Path, results: Sequence[dict], unreadable: Sequence[str]) -> str:
    """Why there is no table, and what to do."""
    if unreadable and not results:
        return f"{out}: none of the {len(unreadable)} result files below this folder can be read. {unreadable[0]}"
    other = f" ({len(results)} of other protocols, {len(unreadable)} unreadable)" if results else ""
    first = f"; the first unreadable one: {unreadable[0]}" if unreadable else ""
    return (
        f"{out}: no {FILE} of the protocols {', '.join(PROTOCOLS)} below this folder{other}; run a protocol first, such "
        f"as scripts/dicap/base2new.sh, or give the folder that was its output{first}"
    )


def _left_out(results: Sequence[dict], known: Sequence[dict]) -> list[str]:
    """What was found and is in no table."""
    taken = set(map(id, known))
    count = collections.Counter((r["protocol"].split("/")[0] or "single runs") for r in results if id(r) not in taken)
    return [f"Left out: {n} result files of {name}." for name, n in sorted(count.items())]
