"""Base-to-new tables: figures against a calculation by hand, and nothing incomplete is averaged silently."""

import csv
import io
import json
import statistics

import pytest
from rich.console import Console

from dicap import results as store
from dicap.report.base2new import base2new_sheets
from dicap.report.sheet import markdown, print_sheet, to_csv, write_sheet
from dicap.report.table import gather

BASE, NEW = {1: 60.0, 2: 64.0, 3: 71.0}, {1: 50.0, 2: 52.0, 3: 51.0}


def sheet_of(folder):
    return base2new_sheets(gather(folder)[0])[0]


def rows_of(folder):
    return [row for row in sheet_of(folder).rows if not row["datasets"]]


def averages_of(folder):
    return [row for row in sheet_of(folder).rows if row["datasets"]]


@pytest.fixture
def add(tmp_path, make_result):
    """Write results of one method: add("CoOp", base={seed: value}, new={...}, **fields)."""

    def write(method="CoOp", base=BASE, new=NEW, dataset="digits", **fields):
        for split, half in (("base", base), ("new", new)):
            for seed, value in half.items():
                names = {"method": method, "dataset": dataset, "split": split, "seed": seed, "value": value}
                folder = tmp_path / split / dataset / method / fields.get("recipe", "tiny") / f"seed{seed}"
                store.write_result(folder, make_result(**names, **fields))
        return tmp_path

    return write


def test_figures(add):
    (row,) = rows_of(add())
    assert (row["base"].mean, row["base"].std) == (65.0, statistics.stdev(BASE.values())) and row["base"].n == 3
    assert (row["new"].mean, row["new"].std) == (51.0, 1.0)
    assert row["h"] == pytest.approx(2 * 65 * 51 / (65 + 51))  # of the means, not the mean of three
    assert row["worst_group"] is None and row["train_seconds"].mean == 5.0 and row["complete"] == "yes"


def test_worst_group_is_taken_by_seed_and_on_base_classes(add):
    add(base={1: 60.0}, new={1: 50.0}, groups={"aligned": 70.0, "conflicting": 50.0})
    folder = add(base={2: 60.0}, new={2: 50.0}, groups={"aligned": 40.0, "conflicting": 80.0})
    assert rows_of(folder)[0]["worst_group"].mean == 45.0
    sheet = sheet_of(folder)
    assert sheet.grid[0][-2] == "Worst group" and "aligned" in markdown(sheet)


def test_one_seed_has_no_spread(add):
    folder = add(base={7: 60.0}, new={7: 50.0})
    page = markdown(sheet_of(folder)).split("\n- ")[0]
    assert rows_of(folder)[0]["base"].std is None and "60.0 |" in page and "±" not in page


def test_a_missing_seed_is_named_and_not_averaged(add):
    add("ZeroshotCLIP")
    folder = add("DiCap", new={1: 50.0, 3: 40.0})
    zero, dicap = rows_of(folder)
    assert (zero["problems"], dicap["problems"]) == ("", "DiCap (tiny) on digits, new: lacks seed 2")
    assert dicap["base"].mean == 65.0 and dicap["new"] == dicap["h"] == "incomplete"
    sheet = sheet_of(folder)
    assert "Incomplete: DiCap (tiny) on digits, new: lacks seed 2." in markdown(sheet) and sheet.problems
    assert "incomplete" in "".join(sheet.grid[1][1]) and "45.0" not in markdown(sheet)


def test_a_method_with_fewer_seeds_than_another_is_incomplete(add):
    add("CoOp")
    _, dicap = rows_of(add("DiCap", base={1: 60.0}, new={1: 50.0}))
    name = "DiCap (tiny) on digits"
    assert dicap["problems"] == f"{name}, base: lacks seed 2, 3; {name}, new: lacks seed 2, 3"
    first = rows_of(add("CoOp", recipe="rn50", backbone="RN50", base={1: 60.0}, new={1: 50.0}))[0]
    assert first["backbone"] == "RN50" and first["h"] > 0  # a table of its own


def test_a_half_without_any_result_is_named(add):
    (row,) = rows_of(add(new={}))
    assert row["problems"] == "CoOp (tiny) on digits, new: not run" and row["new"] == row["h"] == "incomplete"


def test_seeds_are_shown_where_datasets_have_others(add):
    sheet = sheet_of(add())
    assert "Seeds" not in sheet.grid[0] and sheet.title.endswith("seeds 1 2 3")
    header, rows = sheet_of(add(base={1: 60.0}, new={1: 50.0}, dataset="other")).grid
    assert [row[header.index("Seeds")] for row in rows] == ["1 2 3", "1", ""]


def test_unequal_settings_are_named(add):
    folder = add(base={**BASE}, new={}, config={"SEED": 0, "OUTPUT_DIR": "b", "OPTIM": {"LR": 0.1}})
    assert "unequal" not in rows_of(folder)[0]["problems"]  # places and seeds may differ
    add(base={2: 1.0}, new={}, config={"SEED": 0, "OPTIM": {"LR": 0.2}})
    folder = add(base={3: 1.0}, new={}, digests={"config": "", "data": "", "weights": "x", "model": ""})
    (row,) = rows_of(folder)
    assert "base: seeds were run with unequal settings: OPTIM.LR, backbone weights" in row["problems"]
    assert row["base"] == "incomplete"


def test_a_new_half_that_was_tested_with_another_prompt_is_named(add):
    add()
    (row,) = rows_of(add(base={}, new={2: 1.0}, digests={"config": "", "data": "", "weights": "w", "model": "x"}))
    assert row["problems"] == (
        "CoOp (tiny) on digits, new: stale prompt: another than that of the present training, seed 2"
    )
    assert row["base"].mean == 65.0 and row["new"] == row["h"] == "incomplete"


def test_two_results_of_one_run_are_named_and_not_averaged(add, tmp_path, make_result):
    """Such as two jobs' output folders below the one that is looked at: neither counts, whichever is read last."""
    add("DiCap")
    store.write_result(tmp_path / "elsewhere", make_result(method="DiCap", split="base", seed=2, value=99.0))
    folder = add()
    coop, dicap = rows_of(folder)
    assert coop["complete"] == "yes" and coop["base"].mean == 65.0
    assert dicap["base"] == dicap["h"] == "incomplete" and "base: 2 results of seed 2" in markdown(sheet_of(folder))


def test_an_unreadable_file_leaves_a_seed_missing(add):
    root = add()
    (root / "base/digits/CoOp/tiny/seed1/result.json").write_text("{")
    assert "not complete JSON" in gather(root)[1][0]
    assert rows_of(root)[0]["problems"] == (
        "CoOp (tiny) on digits, base: lacks seed 1; CoOp (tiny) on digits, new: no training to check the prompt "
        "against, seed 1"
    )


def test_other_protocols_and_validation_results_are_left_out(add, tmp_path, make_result):
    add("CoOp")
    store.write_result(tmp_path / "by hand", make_result(method="Another", split="all"))
    add("CoCoOp", protocol="few_shot")
    assert [row["method"] for row in rows_of(add("DiCap", test_set="val"))] == ["CoOp"]


def test_recipes_are_rows_of_their_own_and_the_order_is_the_reading_order(add):
    pairs = ("DiCap", "DiCap:CoOp", "DiCap:CoOp+FeatureMap", "DiCap:CLIPAdapter", "DiCap:Own")
    order = ("ZeroshotCLIP", "CoOp", "CoCoOp", "CLIPAdapter", "FeatureMap", *pairs, "Another")
    for method in sorted(order):
        add(method)
    add("CoOp", recipe="vit_b16_ctxv1", backbone="ViT-B/16")
    rows = rows_of(add("CoOp", dataset="causal_shapes"))
    assert [(row["dataset"], row["backbone"]) for row in rows[:3]] == [
        ("digits", "ViT-B/16"),
        ("causal_shapes", "tiny"),
        ("digits", "tiny"),
    ]
    assert tuple(row["method"] for row in rows[2:]) == order


def test_a_resumed_training_has_no_seconds(add):
    assert rows_of(add(resumed_from_epoch=3))[0]["train_seconds"] is None


def test_a_method_that_trains_nothing_has_no_seconds_of_training(add):
    assert rows_of(add(seconds={"train": 0.0, "test": 1.0}))[0]["train_seconds"] is None


def test_nothing_there():
    assert base2new_sheets([]) == []


def test_the_files_agree(add, tmp_path):
    sheet = sheet_of(add(method_record={"valid_fraction": 0.75, "note": "x", "inner": {"steps": 3}}))
    paths = write_sheet(sheet, tmp_path / "out")
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == sorted(p.name for p in paths)
    (row,) = csv.DictReader(io.StringIO(to_csv(sheet)))
    whole = json.loads(paths[2].read_text())
    assert float(row["base_mean"]) == whole["rows"][0]["base"]["mean"] == 65.0 and row["complete"] == "yes"
    assert float(row["h"]) == pytest.approx(whole["rows"][0]["h"], abs=1e-4)
    assert "| 65.0 ± 5.6 | 51.0 ± 1.0 | 57.2 |" in paths[0].read_text()
    assert "ddof = 1" in paths[0].read_text() and "with published ones" in " ".join(paths[0].read_text().split())
    assert sheet.also[0][1] == (["Recorded", "digits CoOp"], [["inner.steps", "3"]])
    assert set(whole["rows"][0]["record"]) == {"valid_fraction", "inner.steps"} and len(whole["results"]) == 6


def test_terminal(add):
    out = io.StringIO()
    print_sheet(sheet_of(add()), Console(file=out, width=100))
    assert "65.0 ± 5.6" in out.getvalue() and "16 shots, backbone tiny, seeds 1 2 3" in out.getvalue()


# --- average rows: means of base and of new, H of those; only where every dataset is complete -----------------------


def fill(put, method, dataset, values, **fields):
    for seed, (base, new) in enumerate(values, 1):
        put(method=method, dataset=dataset, split="base", seed=seed, value=base, **fields)
        folder = put(method=method, dataset=dataset, split="new", seed=seed, value=new, **fields)
    return folder


def test_h_of_the_average_row_is_that_of_the_two_averages(put):
    fill(put, "CoOp", "a", [(80.0, 60.0), (84.0, 64.0)])
    (row,) = averages_of(fill(put, "CoOp", "b", [(40.0, 90.0), (44.0, 88.0)]))
    assert (row["base"].mean, row["new"].mean) == (62.0, 75.5) and row["h"] == pytest.approx(2 * 62 * 75.5 / 137.5)
    assert row["base"].std == pytest.approx(8**0.5) and row["new"].std == pytest.approx(2**-0.5)  # of seeds' averages
    assert row["dataset"] == "average of 2" and row["datasets"] == ["a", "b"]


def test_datasets_count_alike_also_where_they_have_other_seeds(put):
    fill(put, "CoOp", "a", [(80.0, 60.0), (84.0, 64.0)])
    (row,) = averages_of(fill(put, "CoOp", "b", [(40.0, 90.0)]))
    assert (row["base"].mean, row["new"].mean, row["base"].std, row["seeds"]) == (61.0, 76.0, None, "")


def test_no_average_over_half_the_datasets(put):
    fill(put, "CoOp", "a", [(80.0, 60.0)] * 2)
    fill(put, "CoOp", "b", [(40.0, 90.0)] * 2)
    fill(put, "DiCap", "a", [(80.0, 60.0)] * 2)  # not run on b
    fill(put, "CoCoOp", "a", [(80.0, 60.0)] * 2)
    folder = fill(put, "CoCoOp", "b", [(80.0, 60.0)])  # a seed of b is missing
    rows = {row["method"]: row for row in averages_of(folder)}
    assert rows["CoOp"]["h"] == pytest.approx(2 * 60 * 75 / 135) and rows["CoOp"]["complete"] == "yes"
    assert all(rows[name][key] == "incomplete" for name in ("DiCap", "CoCoOp") for key in ("base", "new", "h"))
    sheet = sheet_of(folder)
    assert "DiCap (tiny) on average of 2, base: not complete: b" in sheet.problems
    assert [row["method"] for row in sheet.rows[-3:]] == ["CoOp", "CoCoOp", "DiCap"]


def test_one_dataset_has_no_average_and_recipes_and_backbones_stay_apart(put):
    fill(put, "CoOp", "a", [(80.0, 60.0)])
    assert averages_of(fill(put, "CoOp", "b", [(80.0, 60.0)], backbone="RN50")) == []
    for recipe in ("tiny", "other"):
        for dataset in "ab":
            folder = fill(put, "CoOp", dataset, [(80.0, 60.0)], recipe=recipe)
    assert sorted(row["recipe"] for row in averages_of(folder) if row["backbone"] == "tiny") == ["other", "tiny"]


def test_an_average_over_datasets_with_other_settings_says_so(put):
    fill(put, "CoOp", "a", [(80.0, 60.0)], registered="A")
    results = gather(fill(put, "CoOp", "b", [(60.0, 60.0)], registered="B"))[0]
    assert not any(
        "the same" in note for note in base2new_sheets(results)[0].notes
    )  # datasets are others by themselves
    for result in results:
        result["config"] = {"OPTIM": {"LR": result["dataset"]}, "SEED": result["dataset"]}
    assert (
        "CoOp (tiny) on average of 2: not all datasets were run with the same OPTIM.LR."
        in base2new_sheets(results)[0].notes
    )


def test_a_recipe_that_differs_by_dataset_is_one_line(put):
    """As published: CoOp trains 50 epochs on ImageNet and 200 elsewhere."""
    fill(put, "CoOp", "a", [(80.0, 60.0)], recipe="ep50")
    (row,) = averages_of(fill(put, "CoOp", "b", [(60.0, 60.0)], recipe="ep200"))
    assert row["recipe"] == "ep50, ep200" and row["base"].mean == 70.0
