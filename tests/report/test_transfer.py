"""Cross-dataset and domain tables: source, targets, their average; a target counts only with the source's prompt."""

import pytest

from dicap.report.table import gather
from dicap.report.transfer import fresh, transfer_sheets


@pytest.fixture
def run(put):
    """run("CoOp", targets={"eurosat": 50.0, "dtd": 40.0}): source 70 + seed, targets their figure + seed."""

    def write(
        method,
        targets,
        protocol="cross_dataset",
        seeds=(1, 2, 3),
        source=True,
        prompt=lambda seed: f"p{seed}",
        **fields,
    ):
        common = {"split": "all", "method": method, "trained_on": "imagenet", **fields}
        for seed in seeds:
            if source:
                folder = put(
                    protocol="source", dataset="imagenet", seed=seed, value=70.0 + seed, model=f"p{seed}", **common
                )
            for name, value in targets.items():
                folder = put(
                    protocol=protocol, dataset=name, seed=seed, value=value + seed, model=prompt(seed), **common
                )
        return folder

    return write


def sheets(folder):
    return {sheet.name: sheet for sheet in transfer_sheets(gather(folder)[0])}


def test_source_targets_and_their_average(run):
    run("CoOp", {"dtd": 40.0, "eurosat": 50.0})
    found = sheets(run("CoOp", {"imagenet_a": 30.0}, "domain_generalization"))
    (row,) = found["cross_dataset"].rows
    assert (row["on_source"].mean, row["on_dtd"].mean, row["average"].mean, row["average"].std) == (
        72.0,
        42.0,
        47.0,
        1.0,
    )
    assert [column.name for column in found["cross_dataset"].columns_of()] == [
        "Method",
        "Recipe",
        "Source: imagenet",
        "dtd",
        "eurosat",
        "Average of 2 targets",
    ]
    assert "trained on imagenet" in found["cross_dataset"].title and not found["cross_dataset"].problems
    assert found["domain_generalization"].rows[0]["on_imagenet_a"].mean == 32.0
    assert set(found) == {"cross_dataset", "domain_generalization"}


def test_a_stale_target_is_flagged_and_neither_it_nor_the_average_is_shown(run):
    folder = run("CoOp", {"dtd": 40.0, "eurosat": 50.0})
    run("CoOp", {"dtd": 40.0}, seeds=(2,), source=False, prompt=lambda seed: "old")
    sheet = sheets(folder)["cross_dataset"]
    (row,) = sheet.rows
    assert row["on_dtd"] == row["average"] == "incomplete" and row["on_eurosat"].mean == 52.0
    assert (
        "CoOp (tiny) on imagenet, target dtd: stale prompt: another than that of the present training, seed 2"
        in sheet.problems
    )
    assert len(fresh(gather(folder)[0])) == 8


def test_a_missing_source_target_or_seed_is_named(run):
    run("CoOp", {"dtd": 40.0, "eurosat": 50.0})
    run("CoCoOp", {"dtd": 40.0}, seeds=(1, 2))
    sheet = sheets(run("DiCap", {"dtd": 40.0, "eurosat": 50.0}, source=False))["cross_dataset"]
    coop, cocoop, dicap = sheet.rows
    assert coop["complete"] == "yes" and coop["average"].mean == 47.0
    assert cocoop["on_source"] == cocoop["on_dtd"] == cocoop["on_eurosat"] == cocoop["average"] == "incomplete"
    assert dicap["on_source"] == dicap["on_dtd"] == "incomplete"
    for problem in (
        "CoCoOp (tiny) on imagenet, target dtd: lacks seed 3",
        "CoCoOp (tiny) on imagenet, target eurosat: not run",
        "DiCap (tiny) on imagenet, target dtd: no training to check the prompt against, seed 1, 2, 3",
    ):
        assert problem in sheet.problems


def test_the_source_is_of_the_seeds_of_its_targets(run):
    run("CoOp", {}, seeds=(4, 5))  # trained for another table
    sheet = sheets(run("CoOp", {"dtd": 40.0}))["cross_dataset"]
    assert sheet.rows[0]["on_source"].mean == 72.0 and sheet.rows[0]["seeds"] == "1 2 3" and not sheet.problems
    assert sheet.title.endswith("seeds 1 2 3")


def test_the_source_alone_is_a_table_of_its_own(run):
    sheet = sheets(run("CoOp", {}))["source"]
    assert sheet.rows[0]["on_source"].mean == 72.0 and not sheet.problems


def test_prompts_of_two_sources_stay_apart(run, put):
    run("CoOp", {"dtd": 40.0})
    for seed in (1, 2, 3):
        common = {
            "split": "all",
            "method": "CoOp",
            "seed": seed,
            "trained_on": "sun397",
            "model": f"q{seed}",
            "folder": "other",
        }
        put(protocol="source", dataset="sun397", value=60.0, **common)
        folder = put(protocol="cross_dataset", dataset="dtd", value=30.0, **common)
    sheet = sheets(folder)["cross_dataset"]
    found = [(row["source"], row["on_source"].mean, row["on_dtd"].mean) for row in sheet.rows]
    assert found == [("imagenet", 72.0, 42.0), ("sun397", 60.0, 30.0)]
    assert not sheet.problems and len(fresh(gather(folder)[0])) == 12


def test_backbones_and_shots_stay_apart(run):
    run("CoOp", {"dtd": 40.0})
    folder = run("CoOp", {"digits": 20.0}, backbone="tiny2", shots=4)
    sheet = sheets(folder)["cross_dataset"]
    assert [(row["backbone"], row["shots"], row.get("on_dtd") is None) for row in sheet.rows] == [
        ("tiny", 16, False),
        ("tiny2", 4, True),
    ]
    assert not sheet.problems and len(sheet.plots) == 2


def test_targets_stand_in_the_published_order(run):
    found = sheets(run("CoOp", {"eurosat": 50.0, "my_own": 20.0, "dtd": 40.0, "caltech101": 90.0}))
    names = [column.name for column in found["cross_dataset"].columns_of() if column.key.startswith("on_")]
    assert names == ["Source: imagenet", "caltech101", "dtd", "eurosat", "my_own"]
