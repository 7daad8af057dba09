"""Average rows: means of base and of new, H of those; only where every dataset is complete."""

import dataclasses

import pytest

from dicap.report.base2new import averages, base2new_sheets
from dicap.report.table import base2new_table


def fill(put, method, dataset, values, **fields):
    for seed, (base, new) in enumerate(values, 1):
        put(method=method, dataset=dataset, split="base", seed=seed, accuracy=base, **fields)
        folder = put(method=method, dataset=dataset, split="new", seed=seed, accuracy=new, **fields)
    return folder


def test_h_of_the_average_row_is_that_of_the_two_averages(put):
    fill(put, "CoOp", "a", [(80.0, 60.0), (84.0, 64.0)])
    ((row, of),) = averages(base2new_table(fill(put, "CoOp", "b", [(40.0, 90.0), (44.0, 88.0)])))
    assert (row.base.mean, row.new.mean) == (62.0, 75.5) and row.h == pytest.approx(2 * 62 * 75.5 / 137.5)
    assert row.base.std == pytest.approx(8**0.5) and row.new.std == pytest.approx(2**-0.5)  # of the seeds' averages
    assert row.dataset == "average of 2" and [one.dataset for one in of] == ["a", "b"]


def test_datasets_count_alike_also_where_they_have_other_seeds(put):
    fill(put, "CoOp", "a", [(80.0, 60.0), (84.0, 64.0)])
    ((row, _),) = averages(base2new_table(fill(put, "CoOp", "b", [(40.0, 90.0)])))
    assert (row.base.mean, row.new.mean, row.base.std, row.seeds) == (61.0, 76.0, None, ())


def test_no_average_over_half_the_datasets(put):
    fill(put, "CoOp", "a", [(80.0, 60.0)] * 2)
    fill(put, "CoOp", "b", [(40.0, 90.0)] * 2)
    fill(put, "DiCap", "a", [(80.0, 60.0)] * 2)  # not run on b
    fill(put, "CoCoOp", "a", [(80.0, 60.0)] * 2)
    table = base2new_table(fill(put, "CoCoOp", "b", [(80.0, 60.0)]))  # a seed of b is missing
    rows = {row.method: row for row, _ in averages(table)}
    assert rows["CoOp"].h and not rows["CoOp"].problems
    assert rows["DiCap"].h is rows["DiCap"].base is rows["CoCoOp"].base is None
    (sheet,) = base2new_sheets(table)
    assert "DiCap (tiny) on average of 2: not complete: b" in sheet.problems
    assert [row["h"] for row in sheet.rows[-3:]] == [pytest.approx(2 * 60 * 75 / 135), "incomplete", "incomplete"]


def test_one_dataset_has_no_average_and_recipes_and_backbones_stay_apart(put):
    fill(put, "CoOp", "a", [(80.0, 60.0)])
    assert averages(base2new_table(fill(put, "CoOp", "b", [(80.0, 60.0)], backbone="RN50"))) == []
    for recipe in ("tiny", "other"):
        for dataset in "ab":
            folder = fill(put, "CoOp", dataset, [(80.0, 60.0)], recipe=recipe)
    assert sorted(row.recipe for row, _ in averages(base2new_table(folder)) if row.backbone == "tiny") == [
        "other",
        "tiny",
    ]


def test_an_average_over_datasets_with_other_settings_says_so(put):
    fill(put, "CoOp", "a", [(80.0, 60.0)], registered="A")
    table = base2new_table(fill(put, "CoOp", "b", [(60.0, 60.0)], registered="B"))
    assert not any("the same" in note for note in base2new_sheets(table)[0].notes)  # datasets are others by themselves
    rows = [
        dataclasses.replace(row, config={"OPTIM": {"LR": row.base.mean}, "SEED": row.base.mean}) for row in table.rows
    ]
    (sheet,) = base2new_sheets(dataclasses.replace(table, rows=tuple(rows)))
    assert "CoOp (tiny) on average of 2: not all datasets were run with the same OPTIM.LR." in sheet.notes


def test_a_recipe_that_differs_by_dataset_is_one_line(put):
    """As published: CoOp trains 50 epochs on ImageNet and 200 elsewhere."""
    fill(put, "CoOp", "a", [(80.0, 60.0)], recipe="ep50")
    ((row, _),) = averages(base2new_table(fill(put, "CoOp", "b", [(60.0, 60.0)], recipe="ep200")))
    assert row.recipe == "ep50, ep200" and row.base.mean == 70.0
