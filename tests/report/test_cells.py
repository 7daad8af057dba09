"""Tables of cells: what is averaged, compared and marked, and that incomplete cells are neither."""

import csv
import io
import json

import pytest
from rich.console import Console

from dicap.report import cells as report
from dicap.report.cells import CellTable, Line
from dicap.report.paired import difference

FACTS = {"method": "DiCap", "recipe": "tiny", "dataset": "digits", "shots": 16, "settings": {"W": "2"}}
BASE = {1: 60.0, 2: 62.0, 3: 61.0}


def line(name, gain=(0.0, 0.0, 0.0), group="G", reference="ref", data="d", **changes):
    """A cell that is lower than the reference by `gain`."""
    values = {
        (seed,): {"base": BASE[seed] - g, "new": 50.0, "h": 55.0, "worst_group": 40.0} for seed, g in zip(BASE, gain)
    }
    return Line(
        **{
            "name": name,
            "group": group,
            "reference": reference,
            "facts": FACTS,
            "draws": tuple((seed,) for seed in BASE),
            "values": values,
            "data": dict.fromkeys(values, data),
            **changes,
        }
    )


@pytest.fixture
def table():
    return CellTable(
        "t",
        (
            line("ref"),
            line("worse", (1.0, 1.2, 0.8)),
            line("noise", (1.0, -1.0, 0.1)),
            line("half", (1.0,), group="Part", problems=("base: not finished (seed 2, 3)",)),
            line("other data", (1.0, 1.2, 0.8), group="Part", data="e"),
        ),
        ("never",),
    )


def rows(table):
    reader = csv.DictReader(io.StringIO(report.to_csv(table)))
    return {row["cell"]: row for row in reader}


def test_means_and_paired_differences(table):
    found = rows(table)["worse"]
    assert float(found["base_mean"]) == pytest.approx(60.0) and float(found["base_std"]) == pytest.approx(
        0.84**0.5, abs=1e-4
    )
    gain = difference({1: 1.0, 2: 1.2, 3: 0.8}, dict.fromkeys(BASE, 0.0))
    assert float(found["base_gain_mean"]) == pytest.approx(1.0) and found["pairs"] == "3"
    assert float(found["base_gain_low"]) == pytest.approx(gain.low, abs=1e-4)
    assert found["settings"] == "W 2" and found["complete"] == "yes" and found["seeds"] == "1 2 3"


def test_marked_where_the_interval_excludes_zero(table):
    page = report.markdown(table)
    cells = {row.split(" | ")[0].strip("| "): row.split(" | ") for row in page.splitlines() if row.startswith("| ")}
    assert cells["worse"][6] == "+1.0 ±0.5*" and cells["noise"][6] == "+0.0 ±2.5"
    assert cells["ref"][6] == "ref."


def test_an_incomplete_cell_is_neither_averaged_nor_compared(table):
    found = rows(table)["half"]
    assert not any(value for key, value in found.items() if key.endswith(("_mean", "_low", "_high")))
    assert found["complete"] == "no" and "not finished" in found["problems"]
    page = report.markdown(table)
    assert (
        "Incomplete: half: 1 of 3 seeds; base: not finished (seed 2, 3)." in page
        and "| half | 1/3 | incomplete |" in page
    )


def test_an_incomplete_reference_compares_with_nothing(table):
    lines = (line("ref", problems=("base: not finished (seed 3)",)), *table.lines[1:])
    assert not any(row["pairs"] for row in rows(CellTable("t", lines)).values())


def test_other_data_are_not_compared(table):
    found = rows(table)["other data"]
    assert found["base_mean"] and not found["pairs"]
    assert "Other data than the reference's, so not compared: other data." in report.markdown(table)


def test_files_and_terminal(table, tmp_path):
    paths = report.write_table(table, tmp_path)
    assert [path.name for path in paths] == ["t.md", "t.csv", "t.json"]
    tree = json.loads(paths[2].read_text())
    assert tree["complete"] is False and tree["not_run"] == ["never"]
    worse = next(cell for cell in tree["cells"] if cell["name"] == "worse")
    assert worse["gain"]["base"]["excludes_zero"] is True and worse["values"][0] == {
        "draw": [1],
        "base": 59.0,
        "new": 50.0,
        "h": 55.0,
        "worst_group": 40.0,
    }
    console = Console(width=140, record=True, file=io.StringIO())
    report.print_table(table, console)
    text = console.export_text()
    assert "Δ = ref − cell" in text and "Not run: never" in text and text.index("\n G ") < text.index("\n Part ")


def test_a_measure_that_no_cell_has_has_no_column():
    values = {(seed,): {"base": 1.0, "new": 2.0, "h": 3.0} for seed in BASE}
    assert "Worst group" not in report.markdown(CellTable("t", (line("ref", values=values),)))


def test_the_heading_names_the_seeds(table):
    assert report.heading(table) == "Ablation t, digits, 16 shots, recipe tiny, seeds 1-3"
    assert report.ranges((101, 102, 103, 7, 9, 10)) == "7 9-10 101-103"


@pytest.mark.parametrize("cell, style", [("+1.0 ±0.5*", "green"), ("-1.0 ±0.5*", "red"), ("+1.0 ±1.5 ", ""), ("", "")])
def test_a_sure_difference_stands_out(cell, style):
    assert report._style(cell) == style
