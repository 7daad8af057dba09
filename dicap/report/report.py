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

from dicap import results as store
from dicap.report.base2new import base2new_sheets
from dicap.report.compare import PROTOCOLS, paired_sheets
from dicap.report.cost import cost_sheets
from dicap.report.few_shot import few_shot_sheets
from dicap.report.page import page
from dicap.report.render import make_console
from dicap.report.sets import of_protocol
from dicap.report.sheet import Sheet, print_sheet, write_sheet
from dicap.report.shifts import fresh, shift_sheets
from dicap.report.table import base2new_of, gather

PAGE = "report.html"


def write_report(
    out: str | Path, protocols: Sequence[str] | None = None, *, compare: Sequence[str] = (), console: Any = None
) -> list[Path]:
    """Gather the result files below a folder, print tables and write all files there; returns the paths.

    Args:
        out: an output folder; the files are written into it.
        protocols: those whose tables are printed; None = every table.
        compare: two methods to be compared in pairs; empty = DiCap with each other method.
        console: a rich console to print on; None = the terminal.
    Raises:
        ResultError: no folder, no result of any protocol in it, or a method of `compare` that has none.
    """
    results, unreadable = gather(out)
    known = of_protocol(results, *PROTOCOLS)
    if not known:
        raise store.ResultError(_nothing(out, results, unreadable))
    found = [dataclasses.replace(sheet, unreadable=tuple(unreadable)) for sheet in sheets(known, compare)]
    console = console or make_console(140)
    for sheet in found:
        if protocols is None or sheet.name in protocols:
            print_sheet(sheet, console)
    return _write(out, found, known, unreadable, _left_out(results, known))


def sheets(results: Sequence[dict], compare: Sequence[str] = ()) -> list[Sheet]:
    """All tables of some results, in reading order. Raises ResultError: a method of `compare` that has no result."""
    return [
        *base2new_sheets(base2new_of(results)),
        *few_shot_sheets(results),
        *shift_sheets(results),
        *paired_sheets(fresh(results), compare),
        *cost_sheets(results),
    ]


def _write(
    out: str | Path, found: Sequence[Sheet], results: Sequence[dict], unreadable: Sequence[str], left_out: Sequence[str]
) -> list[Path]:
    paths = [path for sheet in found for path in write_sheet(sheet, out)]
    html = Path(out) / PAGE
    store.write_text(html, page(found, results, unreadable, left_out, f"Results in {Path(out).resolve().name}"))
    return [html, *paths]


def _nothing(out: str | Path, results: Sequence[dict], unreadable: Sequence[str]) -> str:
    other = f" ({len(results)} of other protocols, {len(unreadable)} unreadable)" if results or unreadable else ""
    first = f"; the first unreadable one: {unreadable[0]}" if unreadable else ""
    return (
        f"{out}: no {store.FILE} of the protocols {', '.join(PROTOCOLS)} below this folder{other}; run a protocol first, such as "
        f"scripts/dicap/base2new.sh, or give the folder that was its output{first}"
    )


def _left_out(results: Sequence[dict], known: Sequence[dict]) -> list[str]:
    """What was found and is in no table."""
    taken = set(map(id, known))
    count = collections.Counter((r["protocol"].split("/")[0] or "single runs") for r in results if id(r) not in taken)
    return [f"Left out: {n} result files of {name}." for name, n in sorted(count.items())]
