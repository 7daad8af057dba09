"""Tables of cells: what is averaged, compared and marked, and that incomplete cells are neither."""

import csv
import io
import json
from dataclasses import replace

import pytest
from rich.console import Console

from dicap.report.ablations import Line, ablation_sheet, ranges
from dicap.report.sheet import Column, as_json, markdown, print_sheet, to_csv, write_sheet
from dicap.report.stats import Difference, difference
from dicap.results import Measure

FACTS = {"method": "DiCap", "recipe": "tiny", "dataset": "digits", "shots": 16, "settings": {"W": "2"}}
SHARE = Measure("accuracy", "Accuracy")
BASE = {1: 60.0, 2: 62.0, 3: 61.0}


def line(name, gain=(0.0, 0.0, 0.0), group="G", reference="ref", data="d", **changes):
    """A cell that is lower than the reference by `gain`."""
    values = {
        (seed,): {"base": BASE[seed] - g, "new": 50.0, "combined": 55.0, "worst_group": 40.0}
        for seed, g in zip(BASE, gain)
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
            "measure": SHARE,
            **changes,
        }
    )


@pytest.fixture
def lines():
    return (
        line("ref"),
        line("worse", (1.0, 1.2, 0.8)),
        line("noise", (1.0, -1.0, 0.1)),
        line("half", (1.0,), group="Part", problems=("base: not finished (seed 2, 3)",)),
        line("other data", (1.0, 1.2, 0.8), group="Part", data="e"),
    )


@pytest.fixture
def table(lines):
    return ablation_sheet("t", lines, ("never",))


def rows(table):
    reader = csv.DictReader(io.StringIO(to_csv(table)))
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
    page = markdown(table)
    cells = {row.split(" | ")[0].strip("| "): row.split(" | ") for row in page.splitlines() if row.startswith("| ")}
    assert cells["worse"][6] == "+1.0 ±0.5\\*" and cells["noise"][6] == "+0.0 ±2.5"
    assert cells["ref"][6] == "ref."


def test_an_incomplete_cell_is_neither_averaged_nor_compared(table):
    found = rows(table)["half"]
    assert not any(value for key, value in found.items() if key.endswith(("_mean", "_low", "_high")))
    assert found["complete"] == "no" and "not finished" in found["problems"]
    page = markdown(table)
    assert (
        "Incomplete: half: 1 of 3 seeds; base: not finished (seed 2, 3)." in page
        and "| half | 1/3 | incomplete |" in page
    )


def test_an_incomplete_reference_compares_with_nothing(lines):
    lines = (line("ref", problems=("base: not finished (seed 3)",)), *lines[1:])
    assert not any(row["pairs"] for row in rows(ablation_sheet("t", lines)).values())


def test_other_data_are_not_compared(table):
    found = rows(table)["other data"]
    assert found["base_mean"] and not found["pairs"]
    assert "Other data than the reference's, so not compared: other data." in markdown(table)


@pytest.mark.parametrize("not_run", [(), ("never",)])
def test_a_table_with_cells_that_never_ran_is_not_complete(not_run):
    tree = as_json(ablation_sheet("t", (line("ref"), line("worse", (1.0, 1.2, 0.8))), not_run))
    assert tree["complete"] is (not not_run) and tree["not_run"] == list(not_run) and not tree["problems"]


def test_files_and_terminal(table, tmp_path):
    paths = write_sheet(table, tmp_path)
    assert [path.name for path in paths] == ["t.md", "t.csv", "t.json", "t.tex"]
    tree = json.loads(paths[2].read_text())
    assert tree["complete"] is False and tree["not_run"] == ["never"]
    worse = next(row for row in tree["rows"] if row["cell"] == "worse")
    assert worse["base_gain"]["excludes_zero"] is True and worse["values"][0] == {
        "draw": [1],
        "base": 59.0,
        "new": 50.0,
        "combined": 55.0,
        "worst_group": 40.0,
    }
    console = Console(width=140, record=True, file=io.StringIO())
    print_sheet(table, console)
    text = console.export_text()
    assert "Δ = ref − cell" in text and "Not run: never" in text and text.index("\n G ") < text.index("\n Part ")


def test_a_measure_that_no_cell_has_has_no_column():
    values = {(seed,): {"base": 1.0, "new": 2.0, "combined": 3.0} for seed in BASE}
    assert "Worst group" not in markdown(ablation_sheet("t", (line("ref", values=values),)))


def test_the_heading_names_the_seeds(table):
    assert table.title == "Ablation t, digits, 16 shots, recipe tiny, seeds 1-3; Δ = ref − cell"
    assert ranges((101, 102, 103, 7, 9, 10)) == "7 9-10 101-103"


@pytest.mark.parametrize(
    "low, high, higher, style",
    [(0.5, 1.5, True, "green"), (-1.5, -0.5, True, "red"), (-0.5, 2.5, True, ""), (0.5, 1.5, False, "red")],
)
def test_a_sure_difference_stands_out(low, high, higher, style):
    """Green where the reference is better."""
    row = {"gain": Difference((low + high) / 2, 0.1, low, high, 3), "higher_is_better": higher}
    assert Column("gain", "Δ", "gain").style(row) == style
    assert Column("gain", "Δ", "interval").style(row) == Column("gain", "Δ", "gain").style({"gain": "ref."}) == ""


def test_a_measure_where_lower_is_better(lines):
    error = Measure("error", "Count error", "", higher_is_better=False)
    sheet = ablation_sheet("t", [replace(line, measure=error) for line in lines])
    assert "Count error (lower is better): mean" in sheet.notes[0] and "Mean is that of each seed" in sheet.notes[1]
    assert "Mean" in sheet.grid[0] and "H" not in sheet.grid[0] and "combined_mean" in to_csv(sheet).splitlines()[0]
    assert "the highest count error of the groups" in " ".join(sheet.notes)
    (worse,) = (row for row in sheet.rows if row["cell"] == "worse")
    gain = next(column for column in sheet.columns_of() if column.key == "base_gain")
    assert gain.text(worse["base_gain"]) == "+1.000 ±0.497*" and gain.style(worse) == "red"


def test_cells_of_other_measures_are_not_compared(lines):
    other = replace(lines[1], measure=Measure("other", "Other"))
    sheet = ablation_sheet("t", (lines[0], other))
    assert sheet.rows[1]["base_gain"] is None and "so not compared: worse." in markdown(sheet)
    assert [row[2] for row in sheet.grid[1] if len(row) > 1] == ["Accuracy", "Other"]
