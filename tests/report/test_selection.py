"""The table of `dicap select`: which point is best, what is within noise, and that half a grid chooses nothing."""

import dataclasses
import io

import pytest
from rich.console import Console

from dicap.report import selection
from dicap.report.cells import CellTable, Line

DRAWS = ((1, 1), (1, 2), (2, 1), (2, 2))


def line(epochs, h, **changes):
    values = {draw: {"base": 50.0, "new": 60.0, "h": one} for draw, one in zip(DRAWS, h)}
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
            "reference": "OPTIM.MAX_EPOCH=10",
            "facts": facts,
            "draws": DRAWS,
            "values": values,
            "data": dict.fromkeys(values, "d"),
            **changes,
        }
    )


@pytest.fixture
def table():
    return CellTable(
        "t",
        (
            line("5", [50.0, 51.0, 52.0, 53.0]),
            line("10", [55.0, 55.5, 56.0, 56.5]),
            line("20", [57.0, 53.0, 58.0, 54.0]),
        ),
    )


def cells(page):
    rows = [[cell.strip() for cell in row.strip("|").split("|")] for row in page.splitlines() if row.startswith("|")]
    return {row[0]: row[1:] for row in rows[2:]}


def test_the_highest_mean_is_chosen_and_noise_is_named(table):
    assert selection.best(table.lines).name == "OPTIM.MAX_EPOCH=10"
    found = cells(selection.markdown(table, "the command"))
    assert found["OPTIM.MAX_EPOCH=10"][-1] == "best" and found["OPTIM.MAX_EPOCH=10"][4] == "–"
    assert found["OPTIM.MAX_EPOCH=5"][-1] == "" and found["OPTIM.MAX_EPOCH=5"][4] == "4.25 ± 0.32"  # 5, 4.5, 4, 3.5
    assert found["OPTIM.MAX_EPOCH=20"][-1] == "within noise"


def test_of_equals_the_first_is_chosen(table):
    twin = dataclasses.replace(table.lines[1], name="twin")
    assert selection.best([*table.lines, twin]).name == "OPTIM.MAX_EPOCH=10"
    assert selection.best([twin, *table.lines]).name == "twin"


def test_half_a_grid_chooses_nothing(table, tmp_path):
    part = dataclasses.replace(
        table,
        lines=(*table.lines[:2], dataclasses.replace(table.lines[2], problems=("base: not finished (seed 2 fold 2)",))),
    )
    page = selection.markdown(part, "")
    assert "Nothing is chosen" in page and "best" not in cells(page)["OPTIM.MAX_EPOCH=10"]
    assert "seed 2 fold 2" in page and "incomplete" in cells(page)["OPTIM.MAX_EPOCH=20"]


def test_files_and_terminal(table, tmp_path):
    paths = selection.write_selection(table, tmp_path, "dicap base2new ...")
    assert [path.name for path in paths] == ["t.md", "t.csv", "t.json"]
    assert "    dicap base2new ..." in paths[0].read_text() and "1/1 1/2 2/1 2/2" in paths[1].read_text()
    console = Console(width=120, record=True, file=io.StringIO())
    selection.print_selection(table, "dicap base2new ...", console)
    assert "Chosen: OPTIM.MAX_EPOCH 10\nUse it: dicap base2new ..." in console.export_text()
