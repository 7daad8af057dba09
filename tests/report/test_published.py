"""Published numbers: the averages that the papers print follow from the rows, and they stand beside comparable runs only."""

import json

import pytest
import yaml

from dicap import results as store
from dicap.config import CONFIGS
from dicap.experiments.protocols import BASE2NEW, plan, request_of
from dicap.report import published
from dicap.report.base2new import base2new_sheets
from dicap.report.sheet import markdown
from dicap.report.table import Row, gather

# average rows as the papers and the READMEs of MaPLe, KgCoOp and PromptSRC print them: base, new, H
AVERAGES = {
    "ZeroshotCLIP": (69.34, 74.22, 71.70),
    "CoOp": (82.69, 63.22, 71.66),
    "CoCoOp": (80.47, 71.69, 75.83),
    "KgCoOp": (80.73, 73.60, 77.00),
    "MaPLe": (82.28, 75.14, 78.55),
    "PromptSRC": (84.26, 76.10, 79.97),
}


@pytest.mark.parametrize("method", AVERAGES)
def test_the_published_average_rows_follow_from_the_dataset_rows(method):
    found = published.average(one for (_, _, name), one in published.published().items() if name == method)
    assert (found.base, found.new, found.h) == pytest.approx(AVERAGES[method], abs=0.0101)


def test_each_row_is_whole_and_its_h_is_that_of_its_halves():
    table = published.published()
    assert len(table) == 66 and len({name for name, _, _ in table}) == 11
    for one in table.values():
        assert one.h == pytest.approx(2 * one.base * one.new / (one.base + one.new), abs=0.0101)


def test_the_names_are_those_that_the_datasets_are_registered_with():
    there = {yaml.safe_load(path.read_text())["DATASET"]["NAME"] for path in (CONFIGS / "datasets").glob("*.yaml")}
    assert {name for name, _, _ in published.published()} <= there


@pytest.fixture
def run(put):
    """run("EuroSAT", "CoOp", base=..., new=...): results of seeds 1 2 3, ViT-B/16, 16 shots."""

    def write(registered, method, base=90.0, new=60.0, seeds=(1, 2, 3), **fields):
        for seed in seeds:
            for split, value in (("base", base), ("new", new)):
                folder = put(
                    **{
                        "registered": registered,
                        "dataset": registered.lower(),
                        "method": method,
                        "split": split,
                        "seed": seed,
                        "value": value,
                        "backbone": "ViT-B/16",
                        "recipe": "vit_b16",
                        "model": f"m{seed}",
                        **fields,
                    }
                )
        return gather(folder)[0]

    return write


def test_beside_a_comparable_run_with_the_difference(run):
    run("EuroSAT", "CoOp", 92.0, 55.0)
    sheet, context = base2new_sheets(run("DescribableTextures", "CoOp", 79.44, 41.18))
    eurosat, dtd, average = sheet.rows
    assert (eurosat["published_base"], eurosat["published_new"], eurosat["published_h"]) == (92.19, 54.74, 68.69)
    assert eurosat["base_difference"] == pytest.approx(-0.19) and eurosat["new_difference"] == pytest.approx(0.26)
    assert dtd["base_difference"] == pytest.approx(0) and dtd["h_difference"] == pytest.approx(0, abs=0.01)
    base, new = (79.44 + 92.19) / 2, (41.18 + 54.74) / 2  # of the same two datasets
    assert (average["published_base"], average["published_new"]) == pytest.approx((base, new))
    assert average["published_h"] == pytest.approx(2 * base * new / (base + new))
    assert average["h_difference"] == pytest.approx(average["h"] - average["published_h"])
    assert "| 92.00 ± 0.00 | 55.00 ± 0.00 |" in markdown(sheet) and "| -0.19 | +0.26 |" in markdown(sheet)
    assert [row["method"] for row in context.rows][:5] == ["ZeroshotCLIP", "CoCoOp", "KgCoOp", "MaPLe", "PromptSRC"]
    assert context.rows[4]["h"] == 82.32 and context.name == "base2new_published"


@pytest.mark.parametrize(
    "registered, changes",
    [
        ("Digits", {}),
        ("CausalShapes", {}),
        ("Folder", {"dataset": "EuroSAT"}),
        ("EuroSAT", {"backbone": "tiny"}),
        ("EuroSAT", {"backbone": "RN50"}),
        ("EuroSAT", {"shots": 8}),
    ],
)
def test_never_beside_a_run_that_is_not_comparable(run, registered, changes):
    (sheet,) = base2new_sheets(run(registered, "CoOp", **changes))
    assert all(row["published_h"] is None and row["h_difference"] is None for row in sheet.rows)
    assert "ublished" not in markdown(sheet).replace("not with published ones", "")


def test_other_seeds_than_the_published_ones_are_noted(run):
    sheet, _ = base2new_sheets(run("EuroSAT", "CoOp", seeds=(1, 2)))
    assert "Other seeds than the published 1 2 3: CoOp (vit_b16) on eurosat." in sheet.notes


@pytest.mark.parametrize(
    "changes, said",
    [
        ({"OPTIM": {"MAX_EPOCH": 50}}, "OPTIM.MAX_EPOCH 50, not 200"),
        ({"INPUT": {"VIEWS": 4}}, "INPUT.VIEWS 4, not 0"),
        ({"TRAINER": {"COOP": {"CTX_INIT": ""}}}, "TRAINER.COOP.CTX_INIT '', not 'a photo of a'"),
        ({"DATALOADER": {"TRAIN_X": {"BATCH_SIZE": 4}}}, "DATALOADER.TRAIN_X.BATCH_SIZE 4, not 32"),
    ],
)
def test_never_beside_a_run_with_other_settings_which_are_named(run, changes, said):
    run("EuroSAT", "CoOp")
    results = run("FGVCAircraft", "CoOp")
    for result in results:
        result["config"].update(changes if result["dataset"] == "eurosat" else {})
    sheet, _ = base2new_sheets(results)
    eurosat, aircraft, average = sorted(
        sheet.rows, key=lambda row: ("eurosat", "fgvcaircraft", "average of 2").index(row["dataset"])
    )
    assert (
        eurosat["published_h"] is eurosat["h_difference"] is average["published_h"] is average["h_difference"] is None
    )
    assert aircraft["published_h"] == 28.75
    assert (
        f"Not beside its published numbers, since its settings are others: CoOp (vit_b16) on eurosat: {said}."
        in sheet.notes
    )


def test_the_published_settings_are_those_of_the_recipes_that_a_comparison_takes(tmp_path, make_result):
    """What `dicap base2new --data` runs stands beside published numbers; precision decides nothing."""

    def row(job, method, **fields):
        config = json.loads(json.dumps(store.plain(job.cfg) | fields))
        digests = {"config": "", "data": "", "weights": "", "model": "" if method == "ZeroshotCLIP" else "m"}
        result = make_result(method=method, backbone="ViT-B/16", recipe=job.recipe, config=config, digests=digests)
        return Row(method, job.dataset, (result,))

    for method, dataset, more in (
        ("CoOp", "imagenet", []),
        ("CoOp", "eurosat", ["TRAINER.COOP.PREC", "fp32"]),
        ("CoCoOp", "dtd", []),
        ("ZeroshotCLIP", "dtd", ["OPTIM.MAX_EPOCH", "1"]),
        ("CoCoOp", "imagenet", []),
    ):
        job = plan(BASE2NEW, request_of(methods=[method], datasets=[dataset], data=str(tmp_path), settings=more))[0]
        assert published.beside(row(job, method)) and not published.departures(row(job, method)), (method, dataset)
    assert published.departures(row(job, "CoOp", DATASET={"NAME": "EuroSAT"}))  # CoCoOp's settings are not CoOp's


def test_never_beside_another_measure(run):
    results = run("EuroSAT", "CoOp")
    for result in results:
        result["primary"] = "macro_f1"
    (sheet,) = base2new_sheets(results)
    assert "Publ. Base" not in sheet.grid[0]


def test_an_incomplete_run_has_no_difference(run):
    run("EuroSAT", "CoOp", seeds=(1, 2))
    sheet, _ = base2new_sheets(run("EuroSAT", "DiCap"))
    assert (
        sheet.rows[0]["published_h"] == 68.69
        and sheet.rows[0]["h_difference"] is None
        and sheet.rows[0]["h"] == "incomplete"
    )


def test_an_average_that_lacks_a_dataset_or_seed_has_no_published_one_beside_it(run):
    """Else a published average of fewer datasets, or a single dataset's figure, would stand there."""
    for method in ("ZeroshotCLIP", "CoOp"):
        run("EuroSAT", method)
    run("DescribableTextures", "ZeroshotCLIP")
    run("DescribableTextures", "CoCoOp")
    sheet, *_ = base2new_sheets(run("EuroSAT", "CoCoOp", seeds=(1,)))
    averages = {row["method"]: row["published_h"] for row in sheet.rows if row["dataset"] == "average of 2"}
    assert averages.pop("ZeroshotCLIP") and averages == {"CoOp": None, "CoCoOp": None}
