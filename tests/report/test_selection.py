"""The table of `dicap select`: which point is best, what is within noise, and that half a grid chooses nothing."""

import dataclasses
import io
import json

import pytest
from rich.console import Console

from dicap.report.ablations import Line, best, selection_sheet
from dicap.report.sheet import markdown, print_sheet, write_sheet
from dicap.results import Measure

DRAWS = ((1, 1), (1, 2), (2, 1), (2, 2))


def line(epochs, h, **changes):
    values = {draw: {"base": 50.0, "new": 60.0, "combined": one} for draw, one in zip(DRAWS, h)}
    facts = {
        "method": "CoOp",
        "recipe": "tiny",
        "dataset": "digits",
        "shots": 16,
        "settings": {"OPTIM.MAX_EPOCH": epochs},
    }
    return Line(
        **{
            "name": f"OPTIM.MAX_EPOCH={epochs}",
            "group": "",
            "reference": "",
            "facts": facts,
            "draws": DRAWS,
            "values": values,
            "data": dict.fromkeys(values, "d"),
            "measure": Measure("accuracy", "Accuracy"),
            **changes,
        }
    )


@pytest.fixture
def lines():
    return [
        line("5", [50.0, 51.0, 52.0, 53.0]),
        line("10", [55.0, 55.5, 56.0, 56.5]),
        line("20", [57.0, 53.0, 58.0, 54.0]),
    ]


def cells(page):
    rows = [[cell.strip() for cell in row.strip("|").split("|")] for row in page.splitlines() if row.startswith("|")]
    return {row[0]: row[1:] for row in rows}


def test_the_highest_mean_is_chosen_and_noise_is_named(lines):
    assert best(lines).name == "OPTIM.MAX_EPOCH=10"
    found = cells(markdown(selection_sheet(lines, "the command")))
    assert found["OPTIM.MAX_EPOCH=10"][-1] == "best" and found["OPTIM.MAX_EPOCH=10"][4] == "–"
    assert found["OPTIM.MAX_EPOCH=5"][-1] == "" and found["OPTIM.MAX_EPOCH=5"][4] == "4.25 ± 0.32"  # 5, 4.5, 4, 3.5
    assert found["OPTIM.MAX_EPOCH=20"][-1] == "within noise"


def test_the_lowest_mean_is_chosen_where_lower_is_better(lines):
    error = Measure("error", "Count error", "", higher_is_better=False)
    lines = [dataclasses.replace(line, measure=error) for line in lines]
    assert best(lines).name == "OPTIM.MAX_EPOCH=5"
    found = cells(markdown(selection_sheet(lines, "the command")))
    assert found["OPTIM.MAX_EPOCH=5"][-1] == "best" and found["OPTIM.MAX_EPOCH=10"][4] == "-4.2500 ± 0.3227"
    assert found["OPTIM.MAX_EPOCH=20"][-1] == found["OPTIM.MAX_EPOCH=10"][-1] == ""
    near = dataclasses.replace(line("7", [51.0, 50.0, 53.0, 52.5]), measure=error)
    found = cells(markdown(selection_sheet([*lines, near], "the command")))
    assert found["OPTIM.MAX_EPOCH=7"][-1] == "within noise" and "Best Mean − Mean" in found["Settings"]


def test_of_equals_the_first_is_chosen(lines):
    twin = dataclasses.replace(lines[1], name="twin")
    assert best([*lines, twin]).name == "OPTIM.MAX_EPOCH=10"
    assert best([twin, *lines]).name == "twin"


def test_half_a_grid_chooses_nothing(lines):
    half = dataclasses.replace(lines[2], problems=("base: not finished (seed 2 fold 2)",))
    page = markdown(selection_sheet([*lines[:2], half], ""))
    assert "Nothing is chosen" in page and "best" not in cells(page)["OPTIM.MAX_EPOCH=10"]
    assert "seed 2 fold 2" in page and "incomplete" in cells(page)["OPTIM.MAX_EPOCH=20"]


def test_files_and_terminal(lines, tmp_path):
    sheet = selection_sheet(lines, "dicap base2new ...")
    paths = write_sheet(sheet, tmp_path)
    name = "digits_CoOp_tiny_shots_16"
    assert [path.name for path in paths] == [f"{name}.{form}" for form in ("md", "csv", "json", "tex")]
    assert "    dicap base2new ..." in paths[0].read_text() and "1/1 1/2 2/1 2/2" in paths[1].read_text()
    tree = json.loads(paths[2].read_text())
    assert tree["chosen"] == {"OPTIM.MAX_EPOCH": "10"} and tree["command"] == "dicap base2new ..."
    console = Console(width=120, record=True, file=io.StringIO())
    print_sheet(sheet, console)
    assert "Chosen: OPTIM.MAX_EPOCH 10\nUse it: dicap base2new ..." in console.export_text()
