"""Results of another task, whose primary measure has no unit and is better where it is lower, in every table and form."""

import csv
import io
import json

import pytest
from rich.console import Console

from dicap.report.base2new import base2new_sheets
from dicap.report.report import sheets, write_report
from dicap.report.sheet import markdown, to_csv
from dicap.report.table import gather

BASE = {"CoOp": 0.50, "DiCap:CoOp": 0.40}  # count error of seed 1; a seed more is 0.01 more


@pytest.fixture
def counting(put):
    """counting(dataset="a"): all protocols of a made-up task, two methods and two seeds each; the folder."""

    def write(**fields):
        for method, error in BASE.items():
            for seed in (1, 2):
                common = {"method": method, "seed": seed, "task": "counting", "model": f"{method}{seed}", **fields}
                value = error + seed / 100
                groups = {"few": value - 0.1, "many": value + 0.2}
                for dataset in ("a", "b"):
                    put(**common, dataset=dataset, split="base", value=value, groups=groups)
                    put(**common, dataset=dataset, split="new", value=value + 0.2, groups=groups)
                    put(**common, dataset=dataset, split="all", value=value, protocol="few_shot", shots=1)
                    put(**common, dataset=dataset, split="all", value=value - 0.2, protocol="few_shot")
                put(**common, dataset="a", split="all", value=value, protocol="source")
                for target in ("b", "c"):
                    folder = put(
                        **common, dataset=target, split="all", value=value, protocol="cross_dataset", trained_on="a"
                    )
        return folder

    return write


def by_name(folder, *compare):
    return {sheet.file: sheet for sheet in sheets(gather(folder)[0], compare)}


def test_base_to_new(counting):
    sheet = by_name(counting())["base2new_counting"]
    coop = sheet.rows[0]
    assert (coop["method"], coop["base"].mean, coop["new"].mean) == ("CoOp", 0.515, 0.715)
    assert coop["combined"] == pytest.approx(0.615)  # the mean: of an error there is no harmonic one
    assert coop["worst_group"].mean == pytest.approx(0.715)  # the highest of each seed
    assert sheet.grid[0] == ["Dataset", "Method", "Recipe", "Base", "New", "Mean", "Worst group", "Train s"]
    assert sheet.grid[1][0][3:7] == ["0.515 ± 0.007", "0.715 ± 0.007", "0.615", "0.715 ± 0.007"]
    assert sheet.notes[0].startswith("Count error (lower is better): mean ± standard deviation over seeds")
    assert "Mean is the mean of the mean base and the mean new count error, in an average row too." in sheet.notes
    assert any("the highest count error of the groups" in note for note in sheet.notes)
    average = sheet.rows[-2]
    assert average["dataset"] == "average of 2" and average["combined"] == pytest.approx(0.615)
    names = to_csv(sheet).splitlines()[0].split(",")
    assert "combined" in names and "h" not in names
    assert not any("per cent" in note or " H " in note for note in sheet.notes) and "counting" in sheet.title


def test_few_shot_and_transfer(counting):
    tables = by_name(counting())
    few_shot, transfer = tables["few_shot_counting"], tables["cross_dataset_counting"]
    assert few_shot.title == "Few-shot count error, counting, backbone tiny, seeds 1 2"
    assert few_shot.grid[1][-1][3:] == ["0.415 ± 0.007", "0.215 ± 0.007"]  # the average of DiCap:CoOp
    assert few_shot.notes[0].startswith("Count error on all classes (lower is better): mean ±")
    assert transfer.rows[0]["average"].mean == transfer.rows[0]["on_b"].mean == pytest.approx(0.515)
    assert transfer.title.startswith("Cross-dataset transfer, counting, trained on a")


def test_lower_is_a_win(counting):
    sheet = by_name(counting())["paired_counting"]
    rows = {(row["protocol"], row["measure"], row["dataset"]): row for row in sheet.rows if row["shots"] == 16}
    assert {row["comparison"] for row in sheet.rows} == {"DiCap:CoOp − CoOp"}
    for key in (("base2new", "Mean", "a"), ("base2new", "Worst group", "b"), ("few_shot", "Count error", "a")):
        assert rows[key]["difference"].mean == pytest.approx(-0.1), key
        assert (rows[key]["wins"], rows[key]["ties"], rows[key]["losses"]) == (2, 0, 0), key
    assert rows["base2new", "Mean", "overall"]["wins"] == 2
    assert "Lower count error is better: a win is a negative difference." in sheet.notes[0]
    assert not any("per cent" in note for note in sheet.notes)


def test_pictures_have_the_label_and_no_points_of_per_cent(counting):
    plots = [plot for sheet in by_name(counting()).values() for plot in sheet.plots]
    assert {plot.axis for plot in plots if plot.kind != "forest"} == {"Count error"}
    assert {plot.axis for plot in plots if plot.kind == "forest"} == {"difference, 95 % interval"}
    titles = {plot.title for plot in plots}
    assert {"Mean, 16 shots, tiny", "Count error on base classes, 16 shots, tiny"} <= titles


def test_shares_have_the_unit_on_their_axes(three_by_two):
    plots = [plot for sheet in by_name(three_by_two).values() for plot in sheet.plots]
    assert {plot.axis for plot in plots} == {"Accuracy, per cent", "points of per cent, 95 % interval"}


def test_two_tasks_in_one_folder_do_not_mix(counting, three_by_two):
    alone = {name: markdown(sheet) for name, sheet in by_name(three_by_two).items() if name != "cost"}
    tables = by_name(counting())
    assert {name: markdown(tables[name]) for name in alone} == alone
    for name, sheet in tables.items():
        tasks = {row["task"] for row in sheet.rows}
        assert name == "cost" or tasks == ({"counting"} if name.endswith("_counting") else {""}), name
    assert "Task" in tables["cost"].grid[0]


def test_two_tasks_on_one_dataset_and_two_primary_measures_do_not_mix(put):
    """Even with the same method, recipe and seeds."""
    for fields in ({}, {"task": "counting", "folder": "2", "value": 0.5}, {"primary": "macro_f1", "folder": "3"}):
        for split in ("base", "new"):
            folder = put(split=split, **fields)
    tables = {sheet.file: sheet for sheet in base2new_sheets(gather(folder)[0])}
    figures = {name: sheet.rows[0]["base"].mean for name, sheet in tables.items()}
    assert figures == {
        "base2new_classification_accuracy": 60.0,
        "base2new_classification_macro_f1": 50.0,
        "base2new_counting": 0.5,
    }
    assert not any(sheet.problems for sheet in tables.values())


def test_the_page_and_all_files(counting, three_by_two):
    out = io.StringIO()
    paths = {path.name: path for path in write_report(counting(), console=Console(file=out, width=160))}
    assert "Base-to-new generalisation, counting" in out.getvalue()
    html = paths["report.html"].read_text()
    assert 'id="base2new"' in html and 'id="base2new_counting"' in html and "0.515" in html
    (row, *_) = csv.DictReader(io.StringIO(paths["base2new_counting.csv"].read_text()))
    tree = json.loads(paths["base2new_counting.json"].read_text())
    assert float(row["combined"]) == pytest.approx(tree["rows"][0]["combined"]) and tree["complete"]
    assert "count error" in paths["few_shot_counting.tex"].read_text()
    for form in ("tex", "csv", "md", "json"):  # the colon of a pair is plain text
        assert "DiCap:CoOp" in paths[f"few_shot_counting.{form}"].read_text()
    assert {result["task"] for result in tree["results"]} == {"counting"}


def test_only_tables_of_the_protocols_asked_for_are_printed_of_any_task(counting, three_by_two):
    out = io.StringIO()
    write_report(counting(), ["base2new"], console=Console(file=out, width=160))
    text = out.getvalue()
    assert "Base-to-new generalisation, counting" in text and "Base-to-new generalisation, 16" in text
    assert "Few-shot" not in text and "Paired" not in text


def test_a_comparison_of_methods_that_one_task_alone_has(counting, three_by_two):
    """No error because the other task has them not."""
    tables = by_name(counting(), "DiCap", "ZeroshotCLIP")
    assert "paired" in tables and "paired_counting" not in tables


def test_a_task_is_no_path(put):
    (sheet,) = base2new_sheets(gather(put(task="../../x y", value=60.0))[0])
    assert sheet.file == "base2new_..-..-x-y"


def test_a_prompt_may_be_tested_on_another_task(put):
    """Then the source is of another measure: it has no column, and the prompts are checked all the same."""
    for seed in (1, 2):
        common = {"protocol": "cross_dataset", "dataset": "b", "trained_on": "a", "split": "all", "seed": seed}
        put(protocol="source", dataset="a", split="all", seed=seed, model=f"p{seed}")
        put(**common, model=f"p{seed}")
        folder = put(**common, model=f"p{seed}", task="counting", value=0.5, folder="counting")
    tables = by_name(folder)
    assert [column.name for column in tables["cross_dataset"].columns_of()][2:] == ["Source: a", "b"]
    assert [column.name for column in tables["cross_dataset_counting"].columns_of()][2:] == ["b"]
    assert tables["cross_dataset_counting"].rows[0]["on_b"].mean == 0.5
    assert tables["cross_dataset_counting"].plots[0].labels == ("b",)
    put(**common, model="old", task="counting", value=0.5, folder="counting")
    sheet = by_name(folder)["cross_dataset_counting"]
    assert "stale prompt" in sheet.problems[0] and len(sheet.problems) == 1
