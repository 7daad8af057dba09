"""Few-shot curves: means over seeds, averages over datasets, and what is shown as incomplete."""

import pytest

from dicap.report.sheet import to_csv
from dicap.report.table import gather
from dicap.report.transfer import few_shot_sheets


@pytest.fixture
def curve(put):
    """curve("CoOp", "a", {1: 50.0, 2: 60.0}, seeds=(1, 2)): seed s has s points more than seed 0 would."""

    def write(method, dataset, values, seeds=(1, 2, 3), recipe="tiny", **fields):
        for shots, value in values.items():
            for seed in seeds:
                name = recipe if isinstance(recipe, str) else recipe[shots]
                folder = put(
                    protocol="few_shot",
                    split="all",
                    method=method,
                    dataset=dataset,
                    shots=shots,
                    seed=seed,
                    recipe=name,
                    value=value + seed,
                    **fields,
                )
        return folder

    return write


def rows(folder):
    (sheet,) = few_shot_sheets(gather(folder)[0])
    return {(row["dataset"], row["method"], row["recipe"]): row for row in sheet.rows}, sheet


def test_curves_and_their_average(curve):
    curve("CoOp", "a", {1: 50.0, 4: 60.0})
    found, sheet = rows(curve("CoOp", "b", {1: 70.0, 4: 70.0}))
    assert found["a", "CoOp", "tiny"]["shots_1"].mean == 52.0 and found["a", "CoOp", "tiny"]["shots_1"].std == 1.0
    average = found["average of 2", "CoOp", "tiny"]
    assert (average["shots_1"].mean, average["shots_4"].mean, average["shots_4"].std) == (62.0, 67.0, 1.0)
    assert [plot.title for plot in sheet.plots] == ["average of 2, tiny", "a, tiny", "b, tiny"] and sheet.plots[
        0
    ].labels == ("1", "4")
    assert to_csv(sheet).splitlines()[0] == (
        "dataset,method,recipe,backbone,seeds,shots_1_mean,shots_1_std,shots_4_mean,shots_4_std,complete,problems"
    )


def test_a_missing_seed_shot_or_dataset_is_named_and_not_averaged(curve):
    curve("CoOp", "a", {1: 50.0, 4: 60.0})
    curve("CoOp", "b", {1: 50.0, 4: 60.0})
    curve("DiCap", "a", {1: 50.0, 4: 60.0}, seeds=(1, 3))
    curve("DiCap", "b", {1: 50.0})
    found, sheet = rows(curve("CoCoOp", "a", {1: 50.0, 4: 60.0}))
    assert found["a", "DiCap", "tiny"]["shots_1"] == found["b", "DiCap", "tiny"]["shots_4"] == "incomplete"
    assert (
        found["b", "DiCap", "tiny"]["shots_1"].mean == 52.0
        and found["average of 2", "DiCap", "tiny"]["shots_1"] == "incomplete"
    )
    assert found["average of 2", "CoCoOp", "tiny"]["shots_1"] == "incomplete"
    for problem in (
        "DiCap (tiny) on a, 1 shot: lacks seed 2",
        "DiCap (tiny) on b, 4 shots: not run",
        "DiCap (tiny) on average of 2, 4 shots: not complete: a, b",
        "CoCoOp (tiny) on average of 2, 1 shot: not complete: b",
    ):
        assert problem in sheet.problems
    assert not any(problem.startswith("CoOp (tiny) on") for problem in sheet.problems)


def test_an_average_over_datasets_with_other_settings_says_so(curve):
    curve("CoOp", "a", {1: 50.0})
    results = gather(curve("CoOp", "b", {1: 50.0, 4: 60.0}, registered="B"))[0]
    assert not any("not all" in note for note in few_shot_sheets(results)[0].notes)
    for result in results:
        result["config"]["OPTIM"] = {"LR": result["dataset"]}
    assert (
        few_shot_sheets(results)[0].notes[-1]
        == "CoOp (tiny) on average of 2: not all datasets were run with the same OPTIM.LR."
    )


def test_a_curve_has_the_same_seeds_at_each_number_of_shots(curve):
    """Else one of its points would be a mean of three and the next a single run."""
    curve("CoOp", "a", {1: 50.0})
    found, sheet = rows(curve("CoOp", "a", {4: 60.0}, seeds=(1,)))
    assert found["a", "CoOp", "tiny"]["shots_4"] == "incomplete" and found["a", "CoOp", "tiny"]["shots_1"].mean == 52.0
    assert "CoOp (tiny) on a, 4 shots: lacks seed 2, 3" in sheet.problems


def test_seeds_are_shown_where_they_differ(curve):
    curve("CoOp", "a", {1: 50.0})
    _, sheet = rows(curve("CoOp", "b", {1: 50.0}, seeds=(1,)))
    assert [row[sheet.grid[0].index("Seeds")] for row in sheet.grid[1]] == ["1 2 3", "1", ""]


def test_a_method_that_learns_nothing_needs_one_number_of_shots(curve):
    curve("CoOp", "a", {1: 50.0, 2: 60.0})
    found, sheet = rows(curve("ZeroshotCLIP", "a", {1: 40.0}, model=""))
    assert found["a", "ZeroshotCLIP", "tiny"]["shots_2"] is None and not sheet.problems


def test_recipes_that_differ_by_shots_are_one_curve_and_two_of_one_shot_are_two(curve):
    found, _ = rows(curve("CoOp", "a", {1: 50.0, 4: 60.0}, recipe={1: "ep50", 4: "ep100"}))
    assert list(found) == [("a", "CoOp", "ep100, ep50")] or list(found) == [("a", "CoOp", "ep50, ep100")]
    found, sheet = rows(curve("CoOp", "a", {1: 70.0}, recipe="ep200"))
    assert len(found) == 3 and found["a", "CoOp", "ep200"]["shots_1"].mean == 72.0
    assert len(sheet.plots[0].series) == 3


def test_two_results_of_one_run_and_unequal_settings_are_not_averaged(curve, put):
    folder = curve("CoOp", "a", {1: 50.0})
    put(protocol="few_shot", split="all", method="CoOp", dataset="a", shots=1, seed=2, folder="elsewhere")
    _, sheet = rows(folder)
    assert "2 results of seed 2" in sheet.problems[0] and sheet.rows[0]["shots_1"] == "incomplete"
    put(protocol="few_shot", split="all", method="DiCap", dataset="a", shots=1, seed=1)
    put(protocol="few_shot", split="all", method="DiCap", dataset="a", shots=1, seed=2, registered="Another")
    _, sheet = rows(folder)
    assert "DiCap (tiny) on a, 1 shot: lacks seed 3" in sheet.problems
    assert "DiCap (tiny) on a, 1 shot: seeds were run with unequal settings: DATASET.NAME" in sheet.problems


def test_nothing_and_validation_results(put):
    assert few_shot_sheets([]) == []
    assert few_shot_sheets(gather(put(protocol="few_shot", split="all", test_set="val"))[0]) == []
