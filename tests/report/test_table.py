"""Base-to-new tables: figures against a calculation by hand, and nothing incomplete is averaged silently."""

import csv
import io
import json
import statistics

import pytest

from dicap import results as store
from dicap.report.base2new import base2new_sheets, record_grid
from dicap.report.sheet import markdown, print_sheet, to_csv, write_sheet
from dicap.report.table import base2new_table
from dicap.results import ResultError


def sheet(table):
    return base2new_sheets(table)[0]


BASE, NEW = {1: 60.0, 2: 64.0, 3: 71.0}, {1: 50.0, 2: 52.0, 3: 51.0}


@pytest.fixture
def add(tmp_path, make_result):
    """Write results of one method: add("CoOp", base={seed: accuracy}, new={...}, **fields)."""

    def write(method="CoOp", base=BASE, new=NEW, dataset="digits", **fields):
        for split, half in (("base", base), ("new", new)):
            for seed, accuracy in half.items():
                names = {"method": method, "dataset": dataset, "split": split, "seed": seed, "accuracy": accuracy}
                folder = tmp_path / split / dataset / method / fields.get("recipe", "tiny") / f"seed{seed}"
                store.write_result(folder, make_result(**names, **fields))
        return tmp_path

    return write


def test_figures(add):
    (row,) = base2new_table(add()).rows
    assert (row.base.mean, row.base.std) == (65.0, statistics.stdev(BASE.values())) and row.base.n == 3
    assert (row.new.mean, row.new.std) == (51.0, 1.0)
    assert row.h == pytest.approx(2 * 65 * 51 / (65 + 51))  # of the means, not the mean of three
    assert row.worst_group is None and row.train_seconds.mean == 5.0 and not row.problems


def test_worst_group_is_taken_by_seed_and_on_base_classes(add):
    def groups(aligned, conflicting):
        return {"aligned": {"n": 5, "accuracy": aligned}, "conflicting": {"n": 5, "accuracy": conflicting}}

    add(base={1: 60.0}, new={1: 50.0}, groups=groups(70.0, 50.0))
    table = base2new_table(add(base={2: 60.0}, new={2: 50.0}, groups=groups(40.0, 80.0)))
    assert table.rows[0].worst_group.mean == 45.0
    assert sheet(table).grid[0][-2] == "Worst group" and "aligned" in markdown(sheet(table))


def test_one_seed_has_no_spread(add):
    table = base2new_table(add(base={7: 60.0}, new={7: 50.0}))
    assert table.rows[0].base.std is None and "60.0 |" in markdown(sheet(table)) and "±" not in markdown(sheet(table))


def test_a_missing_seed_is_named_and_not_averaged(add):
    add("ZeroshotCLIP")
    table = base2new_table(add("DiCap", new={1: 50.0, 3: 40.0}))
    zero, dicap = table.rows
    assert (zero.problems, dicap.problems) == ((), ("new lacks seed 2",)) and not table.complete
    assert dicap.base.mean == 65.0 and dicap.new is None and dicap.h is None
    assert "DiCap (tiny) on digits: new lacks seed 2" in markdown(sheet(table))
    assert "incomplete" in "".join(sheet(table).grid[1][1]) and "45.0" not in markdown(sheet(table))


def test_a_method_with_fewer_seeds_than_another_is_incomplete(add):
    add("CoOp")
    table = base2new_table(add("DiCap", base={1: 60.0}, new={1: 50.0}))
    assert table.rows[1].problems == ("base lacks seed 2, 3", "new lacks seed 2, 3")
    assert (
        base2new_table(add("CoOp", recipe="rn50", backbone="RN50", base={1: 60.0}, new={1: 50.0})).rows[0].h
    )  # a table of its own
    assert base2new_table(add(), seeds=[1]).complete  # asked for one seed: three are not needed


def test_seeds_are_shown_where_datasets_have_others(add):
    table = base2new_table(add())
    assert "Seeds" not in sheet(table).grid[0] and sheet(table).title.endswith("seeds 1 2 3")
    grid = sheet(base2new_table(add(base={1: 60.0}, new={1: 50.0}, dataset="other"))).grid
    assert [row[grid[0].index("Seeds")] for row in grid[1]] == ["1 2 3", "1", ""]


def test_unequal_settings_are_named(add):
    table = base2new_table(add(base={**BASE}, new={}, config={"SEED": 0, "OUTPUT_DIR": "b", "OPTIM": {"LR": 0.1}}))
    assert not any("unequal" in problem for problem in table.rows[0].problems)  # places and seeds may differ
    add(base={2: 1.0}, new={}, config={"SEED": 0, "OPTIM": {"LR": 0.2}})
    table = base2new_table(add(base={3: 1.0}, new={}, digests={"config": "", "data": "", "weights": "x", "model": ""}))
    assert "base: seeds were run with unequal settings: OPTIM.LR, backbone weights" in table.rows[0].problems
    assert table.rows[0].base is None


def test_a_new_half_that_was_tested_with_another_prompt_is_named(add):
    add()
    table = base2new_table(add(base={}, new={2: 1.0}, digests={"config": "", "data": "", "weights": "w", "model": "x"}))
    (row,) = table.rows
    assert row.problems == ("new was tested with another prompt than the present one of seed 2",)
    assert row.base.mean == 65.0 and row.new is row.h is None


def test_two_results_of_one_run_are_named_and_not_averaged(add, tmp_path, make_result):
    """Such as two jobs' output folders below the one that is looked at: neither counts, whichever is read last."""
    add("DiCap")
    other = make_result(method="DiCap", split="base", seed=2, accuracy=99.0)
    store.write_result(tmp_path / "elsewhere", other)
    table = base2new_table(add())
    coop, dicap = table.rows
    assert not coop.problems and coop.base.mean == 65.0
    assert dicap.base is None and dicap.h is None and "base has 2 results of seed 2" in markdown(sheet(table))


def test_an_unreadable_file_is_named(add):
    root = add()
    (root / "base/digits/CoOp/tiny/seed1/result.json").write_text("{")
    table = base2new_table(root)
    assert "not complete JSON" in table.unreadable[0] and "Unreadable" in markdown(sheet(table))
    assert table.rows[0].problems == ("base lacks seed 1",)


def test_other_protocols_and_validation_results_are_left_out(add, tmp_path, make_result):
    add("CoOp")
    store.write_result(tmp_path / "by hand", make_result(method="Another", split="all"))
    add("CoCoOp", protocol="few_shot")
    assert [row.method for row in base2new_table(add("DiCap", test_set="val")).rows] == ["CoOp"]


def test_recipes_are_rows_of_their_own_and_the_order_is_the_reading_order(add):
    for method in ("DiCap", "Another", "CoOp", "ZeroshotCLIP", "CoCoOp"):
        add(method)
    add("CoOp", recipe="vit_b16_ctxv1", backbone="ViT-B/16")
    rows = base2new_table(add("CoOp", dataset="causal_shapes")).rows
    assert [(row.dataset, row.method) for row in rows[:2]] == [("causal_shapes", "CoOp"), ("digits", "CoOp")]
    assert rows[1].backbone == "ViT-B/16"
    assert [row.method for row in rows[2:]] == ["ZeroshotCLIP", "CoOp", "CoCoOp", "DiCap", "Another"]


def test_a_resumed_training_has_no_seconds(add):
    assert base2new_table(add(resumed_from_epoch=3)).rows[0].train_seconds is None


def test_a_method_that_trains_nothing_has_no_seconds_of_training(add):
    assert base2new_table(add(seconds={"train": 0.0, "test": 1.0})).rows[0].train_seconds is None


def test_nothing_there(tmp_path):
    with pytest.raises(ResultError, match="no result.json of the protocol base2new"):
        base2new_table(tmp_path)
    with pytest.raises(ResultError, match="no such folder"):
        base2new_table(tmp_path / "nowhere")


def test_the_files_agree(add, tmp_path):
    table = base2new_table(add(method_record={"valid_fraction": 0.75, "note": "x", "inner": {"steps": 3}}))
    paths = write_sheet(sheet(table), tmp_path / "out")
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == sorted(p.name for p in paths)
    (row,) = csv.DictReader(io.StringIO(to_csv(sheet(table))))
    whole = json.loads(paths[2].read_text())
    assert float(row["base_mean"]) == whole["rows"][0]["base"]["mean"] == 65.0 and row["complete"] == "yes"
    assert float(row["h"]) == pytest.approx(whole["rows"][0]["h"], abs=1e-4)
    assert "| 65.0 ± 5.6 | 51.0 ± 1.0 | 57.2 |" in paths[0].read_text()
    assert "ddof = 1" in paths[0].read_text() and "with published ones" in " ".join(paths[0].read_text().split())
    assert record_grid(table) == (["Recorded", "digits CoOp"], [["inner.steps", "3"]])
    assert len(whole["results"]) == 6


def test_terminal(add, capsys):
    from rich.console import Console

    out = io.StringIO()
    print_sheet(sheet(base2new_table(add())), Console(file=out, width=100))
    assert "65.0 ± 5.6" in out.getvalue() and "16 shots, backbone tiny, seeds 1 2 3" in out.getvalue()
