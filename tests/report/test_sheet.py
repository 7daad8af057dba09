"""Cells: what is shown is the file's figure, rounded, with the sign that it has after rounding."""

import pytest

from dicap.report.sheet import Column
from dicap.report.stats import Difference, Stat


@pytest.mark.parametrize(
    "column, value, shown, files",
    [
        (Column("x", "X", "number", 2, signed=True), -0.001, "+0.00", ["-0.001"]),
        (Column("x", "X", "number", 2, signed=True), -0.006, "-0.01", ["-0.006"]),
        (
            Column("x", "X", "interval", 1),
            Difference(1.0, 0.5, -0.04, 2.04, 3),
            "+1.0 [+0.0, +2.0]",
            ["1", "-0.04", "2.04"],
        ),
        (Column("x", "X"), Stat(61.25, 0.05, 3), "61.2 ± 0.1", ["61.25", "0.05"]),
        (Column("x", "X"), Stat(61.0, None, 1), "61.0", ["61", ""]),
        (Column("x", "X", spread=False), Stat(61.0, 2.0, 2), "61.0", ["61", "2"]),
        (Column("x", "X"), "incomplete", "incomplete", ["", ""]),
        (Column("x", "X"), None, "–", ["", ""]),
        (Column("x", "X", "number"), 1000000, "1000000", ["1000000"]),
        (Column("x", "X", "number"), -1.5, "-1.5", ["-1.5"]),
        (Column("x", "X", "words"), -1, "-1", ["-1"]),
        *((Column("x", "X", "words"), text, text, [f"'{text}"]) for text in ("=1+1", "+a", "-a", "@a", "\t=a", "\r=a")),
    ],
)
def test_shown_and_in_files(column, value, shown, files):
    assert column.text(value) == shown and column.csv_values(value) == files and len(column.csv_names) == len(files)
    assert (column.json_value(value) is None) == (value in (None, "incomplete"))
