"""Protocols and their driver: what is planned, skipped and why, how a failure ends, that a plan ends in a table."""

import json
import multiprocessing
import os
import shutil
import time
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import pytest
import torch
from PIL import Image

import dicap.experiments.run
from dicap import results as store
from dicap.config import published_recipes
from dicap.data.named import PUBLISHED, SHIFTS, Data
from dicap.experiments import executor
from dicap.experiments import finished as digests
from dicap.experiments.cost import Work, downloads, rate_of, work_of
from dicap.experiments.driver import run_protocol
from dicap.experiments.executor import DIED, RunError, execute, figure_of
from dicap.experiments.protocols import (
    BASE2NEW,
    CROSS_DATASET,
    DOMAIN_GENERALIZATION,
    FEW_SHOT,
    METHODS,
    find_datasets,
    find_method,
    plan,
    protocol_of,
    request_of,
)
from dicap.files import locked
from dicap.options import ConfigError

QUICK = ["OPTIM.MAX_EPOCH", "1"]


def make_request(out, **values):
    return request_of(
        **{
            "methods": ["CoOp"],
            "datasets": ["digits"],
            "seeds": [0],
            "shots": 1,
            "settings": QUICK,
            "out": str(out),
            **values,
        }
    )


@pytest.fixture(scope="module")
def done(tmp_path_factory, embedded_data):
    """One finished comparison of ZeroshotCLIP and CoOp on digits, on the tiny backbone; not to be changed."""
    out = tmp_path_factory.mktemp("done")
    run_protocol(BASE2NEW, make_request(out, methods=["zeroshot", "coop"]), shots=[1])
    return out


@pytest.fixture
def finished(done, tmp_path):
    """A copy of the finished comparison."""
    shutil.copytree(done, tmp_path / "out")
    return tmp_path / "out"


@pytest.fixture
def ran(monkeypatch):
    """The runs that are really made: (stage, method, eval_only)."""
    made, real = [], dicap.experiments.run.run

    def run(cfg, **kwargs):
        made.append((Path(cfg.OUTPUT_DIR).parts[-6], cfg.TRAINER.NAME, kwargs["eval_only"]))
        return real(cfg, **kwargs)

    monkeypatch.setattr(dicap.experiments.run, "run", run)
    return made


def folder(out, stage, method="CoOp", protocol="base2new", dataset="digits", shots=1):
    part = {"DiCap": "DiCap-CoOp"}.get(method, method)
    return out / protocol / stage / dataset / f"shots_{shots}" / part / "tiny" / "seed0"


def test_it_ends_in_results_of_the_schema_at_the_familys_paths_and_a_table(done):
    for method in ("ZeroshotCLIP", "CoOp"):
        base, new = (store.read_result(folder(done, stage, method)) for stage in ("train_base", "test_new"))
        assert (base["split"], new["split"], base["protocol"], base["recipe"]) == ("base", "new", "base2new", "tiny")
        assert base["n"] + new["n"] == 1397 and base["config"]["DATASET"]["SUBSAMPLE_CLASSES"] == "base"
        assert new["digests"]["model"] == base["digests"]["model"]
        assert (base["digests"]["model"] == "") == (method == "ZeroshotCLIP")
    table = json.loads((done / "base2new.json").read_text())
    assert table["complete"] and [row["method"] for row in table["rows"]] == ["ZeroshotCLIP", "CoOp"]
    assert (done / "base2new.md").is_file() and (done / "base2new.csv").is_file()


def test_finished_runs_are_skipped(finished, ran):
    execute(plan(BASE2NEW, make_request(finished)))
    assert ran == []


def test_more_seeds_or_methods_add_only_what_is_missing(finished, ran):
    execute(plan(BASE2NEW, make_request(finished, methods=["ZeroshotCLIP"], seeds=[0, 1])))
    assert [made[:2] for made in ran] == [("train_base", "ZeroshotCLIP"), ("test_new", "ZeroshotCLIP")]


def test_a_cut_result_is_made_again_from_the_trained_prompt(finished, ran):
    path = folder(finished, "train_base") / store.FILE
    before = store.read_result(path)
    path.write_text(path.read_text()[:200])
    execute(plan(BASE2NEW, make_request(finished)))
    assert ran == [("train_base", "CoOp", False)]
    after = store.read_result(path)
    assert after["digests"] == before["digests"] and after["resumed_from_epoch"] == 1


def test_changed_settings_are_run_again_and_the_old_run_is_put_aside(finished, ran, caplog):
    caplog.set_level("INFO", "dicap")
    jobs = plan(BASE2NEW, make_request(finished, settings=["OPTIM.MAX_EPOCH", "2"]))
    execute(jobs)
    assert ran == [("train_base", "CoOp", False), ("test_new", "CoOp", True)]
    assert "settings changed, OPTIM.MAX_EPOCH 1 -> 2" in caplog.text
    result = store.read_result(folder(finished, "train_base"))
    assert result["config"]["OPTIM"]["MAX_EPOCH"] == 2 and result["resumed_from_epoch"] == 0
    (aside,) = (folder(finished, "train_base").parent / ".old").iterdir()
    assert store.read_result(aside)["config"]["OPTIM"]["MAX_EPOCH"] == 1


@pytest.mark.parametrize(
    "part, value, why",
    [("data", "x", "the data changed"), ("weights", "x", "the backbone's weights changed"), ("model", "x", "")],
)
def test_other_data_weights_or_prompt_are_run_again(finished, ran, caplog, part, value, why):
    caplog.set_level("INFO", "dicap")
    path = folder(finished, "train_base") / store.FILE
    result = store.read_result(path)
    result["digests"][part] = value
    store.write_json(path, result)
    execute(plan(BASE2NEW, make_request(finished)))
    stages = [stage for stage, _, _ in ran]
    if part == "model":  # the new classes are not tested with another prompt than the one that was measured
        assert stages == ["test_new"] and "the model there is not the one that its result.json measured" in caplog.text
    else:
        assert stages == ["train_base"] and why in caplog.text
    if part == "weights":  # a prompt that was trained with other weights is no start
        assert store.read_result(path)["resumed_from_epoch"] == 0


@pytest.mark.parametrize("file", ["model.pth.tar-1", "checkpoint"])
def test_a_damaged_model_is_named_and_its_training_heals(finished, ran, caplog, file):
    caplog.set_level("INFO", "dicap")
    place = folder(finished, "train_base")
    before, path = store.read_result(place), place / "prompt_learner" / file
    whole, ctx = path.read_bytes(), torch.load(place / "prompt_learner" / "model.pth.tar-1")["state_dict"]["ctx"]
    bit = whole.index(b"1") if file == "checkpoint" else whole.index(ctx.numpy().tobytes())
    path.write_bytes(bytes([*whole[:bit], whole[bit] ^ 64, *whole[bit + 1 :]]))
    execute(plan(BASE2NEW, make_request(finished)))
    assert ran == [("train_base", "CoOp", False)] and "(again: its trained model " in caplog.text
    after = store.read_result(place)
    assert (after["digests"], after["resumed_from_epoch"]) == (before["digests"], 0) and path.read_bytes() == whole
    execute(plan(BASE2NEW, make_request(finished)))
    assert len(ran) == 1


def test_checkpoints_of_other_weights_are_no_start_of_an_interrupted_run(finished, ran, monkeypatch):
    place = folder(finished, "train_base")
    for weights, resumed in (("w", 0), ("w", 1), ("x", 0)):  # stamped for the first time, goes on, changed
        monkeypatch.setattr(digests, "_weights_digest", lambda cfg, weights=weights: weights)
        (place / store.FILE).unlink()
        if (weights, resumed) == ("w", 0):
            shutil.rmtree(place)
        execute(plan(BASE2NEW, make_request(finished))[:1])
        assert store.read_result(place)["resumed_from_epoch"] == resumed


def test_a_run_that_another_process_is_at_is_left_to_it(finished, ran):
    place = folder(finished, "train_base")
    (place / store.FILE).unlink()
    jobs = plan(BASE2NEW, make_request(finished))
    with locked(place.parent / ".seed0.lock") as mine:
        failures = execute(jobs)
    assert mine and ran == [] and [failure.job for failure in failures] == jobs
    assert "another process is at work on it" in failures[0].cause and "not run: its training" in failures[1].cause
    assert execute(jobs) == [] and [made[0] for made in ran] == ["train_base"]
    assert not list(place.parent.glob(".*.lock"))


def test_the_folder_of_a_run_that_is_mounted_alone_holds_its_lock_itself(tmp_path, monkeypatch):
    with executor.at_work(tmp_path / "beside"):
        assert [path.name for path in tmp_path.iterdir()] == [".beside.lock"]
    monkeypatch.setattr("os.access", lambda *_: False)  # the folder above it is not ours
    with executor.at_work(tmp_path / "alone"), pytest.raises(RunError, match="another process is at work on it"):
        assert [path.name for path in (tmp_path / "alone").iterdir()] == [".alone.lock"]
        with executor.at_work(tmp_path / "alone"):
            pass


def test_what_another_process_finished_meanwhile_is_not_made_again(finished, ran, monkeypatch):
    job = plan(BASE2NEW, make_request(finished))[0]
    told = iter([digests.NOT_FINISHED, ""])
    monkeypatch.setattr(executor, "why_run", lambda *_: next(told))
    assert executor.finish(job, digests.planned_digests(job))[1] == "" and ran == []


@pytest.mark.parametrize(
    "field, value", [("protocol", ""), ("recipe", "other"), ("trained_on", "causal_shapes"), ("dataset", "other")]
)
def test_a_result_of_a_run_by_hand_under_another_name_is_not_taken(finished, ran, field, value):
    path = folder(finished, "test_new") / store.FILE
    store.write_json(path, {**store.read_result(path), field: value})
    execute(plan(BASE2NEW, make_request(finished)))
    assert ran == [("test_new", "CoOp", True)]


def test_a_failing_run_stops_only_what_needs_it_and_is_listed_with_its_cause_and_log(
    finished, monkeypatch, ran, caplog
):
    from dicap.trainer import LearnerTrainer

    caplog.set_level("INFO", "dicap")
    real = LearnerTrainer.loss

    def fail(self, batch):
        if self.cfg.SEED == 5:
            raise ValueError("the cause")
        return real(self, batch)

    monkeypatch.setattr(LearnerTrainer, "loss", fail)
    request = make_request(finished, seeds=[5, 0, 6])
    with pytest.raises(
        RunError,
        match=r"(?s)^2 of 6 runs failed:\n- digits, CoOp \(tiny\), seed 5, base classes: ValueError: the "
        r"cause\n  log: .*seed5/log.txt\n- .*seed 5, new classes: not run: its training failed",
    ):
        run_protocol(BASE2NEW, request, shots=[1])
    jobs = plan(BASE2NEW, request)
    assert "ValueError: the cause" in (jobs[0].folder / "log.txt").read_text() and not jobs[1].folder.exists()
    assert [made[0] for made in ran] == [
        "train_base",
        "train_base",
        "test_new",
    ] and "2 finished before, 2 failed" in caplog.text
    assert json.loads((finished / "base2new.json").read_text())["rows"]
    monkeypatch.undo()
    assert execute(jobs) == []  # the same command runs these again
    assert store.read_result(jobs[1].folder)["seed"] == 5


def test_data_that_cannot_be_read_stop_only_their_own_runs(tmp_path, embedded_data, monkeypatch, caplog):
    from dicap.datasets.digits import Digits

    caplog.set_level("INFO", "dicap")
    own = tmp_path / "own.json"
    own.write_text("{")
    monkeypatch.setattr(Digits, "counts", (10, 300, 100, 1))
    request = make_request(tmp_path / "out", datasets=["digits", str(own)], methods=["zeroshot"], recipe="tiny")
    with pytest.raises(RunError) as error:
        run_protocol(FEW_SHOT, request, shots=[1, 2])
    assert "4 of 4 runs failed" in str(error.value) and str(own) in str(error.value)
    assert str(error.value).count("this is not the benchmark's split") == 1  # one cause of two runs stands once
    assert f"No table: nothing below {tmp_path / 'out'} is finished" in caplog.text
    caplog.clear()
    run_protocol(FEW_SHOT, request, shots=[1, 2], dry_run=True)
    assert (
        caplog.text.count("this is not the benchmark's split") == caplog.text.count("its data cannot be read") / 2 == 2
    )


def test_what_was_done_before_a_kill_is_not_done_again(tmp_path, embedded_data, ran, monkeypatch):
    counted = dicap.experiments.run.run

    def killed(cfg, **kwargs):
        if len(ran) == 2:
            raise KeyboardInterrupt
        return counted(cfg, **kwargs)

    monkeypatch.setattr(dicap.experiments.run, "run", killed)
    request = make_request(tmp_path, methods=["zeroshot"], seeds=[1, 2, 3])
    with pytest.raises(KeyboardInterrupt):
        execute(plan(FEW_SHOT, request))
    monkeypatch.setattr(dicap.experiments.run, "run", counted)
    assert execute(plan(FEW_SHOT, request)) == [] and len(ran) == 3


def test_a_plan_is_printed_and_nothing_is_run(finished, ran, caplog):
    caplog.set_level("INFO", "dicap")
    run_protocol(BASE2NEW, make_request(finished, seeds=[0, 1]), shots=[1], dry_run=True)
    assert ran == [] and "2 to run, 2 finished" in caplog.text
    assert "digits, CoOp (tiny), seed 1, base classes: to run (not finished)" in caplog.text
    assert "digits, CoOp (tiny), seed 0, new classes: finished" in caplog.text
    assert not (folder(finished, "train_base").parent / "seed1").exists()
    assert (
        "CoOp (tiny) on digits, base classes, 1 shot: 1 to run, each 1 optimiser step and 701 test images; about"
        in caplog.text
    )
    assert "from 1 finished run on digits, new classes; cpu" in caplog.text


def test_a_plan_tells_that_a_finished_test_is_of_a_prompt_that_will_be_another(finished, caplog):
    caplog.set_level("INFO", "dicap")
    path = folder(finished, "train_base") / store.FILE
    result = store.read_result(path)
    store.write_json(path, {**result, "digests": {**result["digests"], "data": "x"}})
    run_protocol(BASE2NEW, make_request(finished), shots=[1], dry_run=True)
    assert "base classes: to run (the data changed)" in caplog.text and "2 to run, 0 finished" in caplog.text
    assert "new classes: to run (its prompt will be trained again)" in caplog.text


def test_the_main_job(tmp_path, embedded_data):
    jobs = plan(BASE2NEW, request_of(out=str(tmp_path)))
    assert len(jobs) == 2 * 4 * 3 * 2 and {job.recipe for job in jobs} == {"tiny"}
    assert list(dict.fromkeys(job.method for job in jobs)) == [*METHODS[:3], "DiCap:CoOp"]
    assert {job.dataset for job in jobs} == {"causal_shapes", "digits"} and {job.seed for job in jobs} == {1, 2, 3}


@pytest.mark.parametrize(
    "method, dataset, recipe",
    [
        ("CoOp", "caltech101", "vit_b16_ctxv1"),
        ("CoCoOp", "caltech101", "vit_b16_c4_ep10_batch1_ctxv1"),
        ("DiCap", "caltech101", "vit_b16_ctxv1"),
        ("ZeroshotCLIP", "caltech101", "vit_b16"),
    ],
)
def test_the_real_benchmark_takes_the_published_recipes(tmp_path, method, dataset, recipe):
    jobs = plan(BASE2NEW, request_of(methods=[method], datasets=[dataset], data=str(tmp_path), out="o"))
    assert {job.recipe for job in jobs} == {recipe} and jobs[0].cfg.MODEL.BACKBONE.NAME == "ViT-B/16"
    assert jobs[0].cfg.DATASET.ROOT == str(tmp_path) and len(jobs) == 6


def test_names():
    assert [find_method(name) for name in ("zeroshot", "coop", "CoCoOp", "DICAP")] == [
        "ZeroshotCLIP",
        "CoOp",
        "CoCoOp",
        "DiCap",
    ]


@pytest.mark.parametrize(
    "protocol, embedded, everything",
    [
        (BASE2NEW, ["causal_shapes", "digits"], PUBLISHED),
        (FEW_SHOT, ["causal_shapes", "digits"], PUBLISHED),
        (CROSS_DATASET, ["digits"], PUBLISHED[1:]),
        (DOMAIN_GENERALIZATION, ["causal_shapes_scenes", "causal_shapes_colours", "causal_shapes_noise"], SHIFTS),
    ],
)
def test_the_datasets_of_each_protocol(protocol, embedded, everything):
    def names(**values):
        return [data.name for data in find_datasets(protocol, request_of(**values))]

    assert names() == embedded
    assert names(data="/data") == names(datasets=["all"], data="/data") == list(everything)
    assert len(PUBLISHED) == 11 and not set(SHIFTS) & set(PUBLISHED)


def test_a_path_is_a_dataset_and_needs_no_data_folder(tmp_path):
    for name in ("cat", "dog"):
        (tmp_path / "pets" / name).mkdir(parents=True)
    for protocol in (BASE2NEW, CROSS_DATASET):
        jobs = plan(protocol, make_request("o", datasets=[str(tmp_path / "pets")]))
        settings = ("DATASET.FOLDER.PATH", str(tmp_path / "pets"))
        assert jobs[-1].data == Data("pets", "folder", settings) and jobs[-1].cfg.DATASET.FOLDER.PATH == settings[1]
        # its own training has the published recipe; a prompt that is tested keeps that of its training
        assert jobs[-1].recipe == ("vit_b16_ctxv1" if protocol is BASE2NEW else "tiny")
    (tmp_path / "other/pets").mkdir(parents=True)
    with pytest.raises(ConfigError, match="two datasets are called 'pets'"):
        plan(BASE2NEW, make_request("o", datasets=[str(tmp_path / "pets"), str(tmp_path / "other/pets")]))


def test_what_the_data_say_is_shown_once_for_all_runs(tmp_path, embedded_data, ran, capsys, caplog):
    caplog.set_level("INFO", "dicap")
    for name in ("cat", "dog"):
        (tmp_path / "pets" / name).mkdir(parents=True)
        for number in range(3):
            Image.new("RGB", (64, 64)).save(tmp_path / "pets" / name / f"{number}.png")
    request = make_request(
        tmp_path / "out", methods=["zeroshot"], datasets=[str(tmp_path / "pets")], recipe="tiny", seeds=[1, 2]
    )
    run_protocol(FEW_SHOT, request, shots=[1])
    assert "6 images of 2 classes" in capsys.readouterr().err
    Image.new("RGB", (64, 64)).save(tmp_path / "pets/dog/new.png")
    run_protocol(FEW_SHOT, request, shots=[1, 2])
    assert capsys.readouterr().err.count("1 images are new since the split was made and are NOT used: dog/new.png") == 1
    assert len(ran) == 4  # those of one shot are finished: what is added changes nothing


@pytest.mark.parametrize(
    "values, message",
    [
        ({"methods": ["coap"]}, "unknown method 'coap'; allowed: .*CoOp"),
        ({"methods": [""]}, "unknown method ''"),
        ({"datasets": ["digit"]}, "unknown dataset 'digit'; allowed: causal_shapes, digits, .*caltech101, .*path"),
        ({"datasets": ["no/such/folder"]}, "no/such/folder"),
        ({"datasets": ["caltech101"]}, "'caltech101' needs a data folder: DATA="),
        ({"datasets": ["all"]}, "'all' needs a data folder"),
        ({"data": "/no/such/folder"}, "no folder '/no/such/folder'"),
        ({"seeds": [-1]}, "seeds"),
        ({"shots": 0}, "shots"),
        ({"recipe": "vit_b61"}, "no recipe vit_b61.*tiny"),
        ({"settings": ["OPTIM.LRR", "1"]}, "OPTIM.LRR.*did you mean OPTIM.LR"),
        ({"settings": ["OPTIM.LR"]}, "pairs"),
    ],
)
def test_what_cannot_be_is_refused_before_any_work(tmp_path, ran, values, message):
    with pytest.raises(ConfigError, match=f"(?s){message}"):
        run_protocol(BASE2NEW, make_request(tmp_path / "out", **values), shots=[values.get("shots", 1)])
    assert ran == [] and not (tmp_path / "out").exists()


# --- the other protocols -----------------------------------------------------------------------------------------


def test_few_shot_trains_and_tests_on_all_classes_for_each_number_of_shots(tmp_path, embedded_data):
    run_protocol(FEW_SHOT, make_request(tmp_path, settings=["OPTIM.MAX_EPOCH", "2"]), shots=[1, 8])
    results = [store.read_result(folder(tmp_path, "train", protocol="few_shot", shots=shots)) for shots in (1, 8)]
    for shots, steps, result in zip((1, 8), (2, 4), results):  # 80 images are two batches of 32
        assert (result["protocol"], result["split"], result["shots"]) == ("few_shot", "all", shots)
        assert (
            result["n"] == 1397 and result["trained_on"] == result["dataset"] == "digits" and result["steps"] == steps
        )
    (job,) = plan(FEW_SHOT, make_request(tmp_path, shots=8, settings=["OPTIM.MAX_EPOCH", "2"]))
    assert (work_of(job).steps, work_of(job).items) == (4, 1397)  # what a plan says is what was done


SMALL = [f"DATASET.CAUSALSHAPES.PER_CLASS_{part} {number}" for part, number in (("TRAIN", 2), ("VAL", 1), ("TEST", 2))]
SHORT = [*QUICK, *" ".join(SMALL).split(), "TRAINER.DICAP.TRAIN_STEPS", "5"]


def test_a_prompt_of_one_dataset_is_tested_on_another_with_its_own_words_alone(
    tmp_path, embedded_data, monkeypatch, ran
):
    """Trained once, loaded for other classes; the hand template of the target is the zero-shot method's business."""
    from dicap.datasets.causal_shapes import CausalShapes

    request = make_request(
        tmp_path,
        methods=["zeroshot", "coop", "cocoop", "dicap"],
        datasets=["causal_shapes"],
        source="digits",
        settings=SHORT,
    )
    run_protocol(CROSS_DATASET, request, shots=[1])
    assert sorted(ran) == sorted(
        [("train", m, m == "ZeroshotCLIP") for m in METHODS] + [("test", m, True) for m in METHODS]
    )
    before = {}
    for method in METHODS:
        source = store.read_result(folder(tmp_path, "train", method, "source"))
        target = store.read_result(folder(tmp_path, "test", method, "cross_dataset", "causal_shapes"))
        assert (source["protocol"], source["split"], source["n"]) == ("source", "all", 1397)
        assert (target["protocol"], target["split"], target["n"]) == ("cross_dataset", "all", 100)
        assert (target["dataset"], target["trained_on"], source["trained_on"]) == ("causal_shapes", "digits", "digits")
        assert source["digests"]["model"] == target["digests"]["model"]
        before[method] = target["metrics"]
        shutil.rmtree(folder(tmp_path, "test", method, "cross_dataset", "causal_shapes"))
    monkeypatch.setattr(CausalShapes, "template", "1 2 {} 3 4 5 6 7")
    assert execute(plan(CROSS_DATASET, request)) == []
    for method in METHODS:
        target = store.read_result(folder(tmp_path, "test", method, "cross_dataset", "causal_shapes"))
        assert (target["metrics"] == before[method]) == (method != "ZeroshotCLIP")


def test_both_transfers_share_one_training(tmp_path):
    cross = plan(CROSS_DATASET, request_of(data=str(tmp_path), methods=["coop"], datasets=["eurosat", "dtd"]))
    shifts = plan(DOMAIN_GENERALIZATION, request_of(data=str(tmp_path), methods=["coop"]))
    assert [job.folder for job in cross[:3]] == [job.folder for job in shifts[:3]]
    assert all(job.dataset == "imagenet" and job.depends_on is None for job in cross[:3])
    assert [job.dataset for job in shifts[3:]] == [name for name in SHIFTS for _ in range(3)]
    assert all(job.depends_on.seed == job.seed and job.recipe == "vit_b16_ep50_ctxv1" for job in cross[3:] + shifts[3:])


@pytest.mark.parametrize(
    "protocol, values, message",
    [
        (CROSS_DATASET, {"settings": ["TRAINER.COOP.CSC", "True"]}, "TRAINER.COOP.CSC is True: .*use few_shot"),
        (BASE2NEW, {"settings": ["TRAINER.COOP.CSC", "True"]}, "TRAINER.COOP.CSC is True"),
        (CROSS_DATASET, {"datasets": ["causal_shapes"]}, "'causal_shapes' is the source"),
        (CROSS_DATASET, {"datasets": ["imagenetv2"], "data": "."}, "'imagenetv2' is a shift.*domain_generalization"),
        (FEW_SHOT, {"datasets": ["imagenetv2"], "data": "."}, "'imagenetv2' is a shift"),
        (CROSS_DATASET, {"source": "imagenet_r", "data": "."}, "the source 'imagenet_r' is a shift"),
        (
            DOMAIN_GENERALIZATION,
            {"datasets": ["digits"]},
            "'digits' is no shift of causal_shapes; .*imagenet_a.*cross_dataset",
        ),
    ],
)
def test_what_a_protocol_is_not_for_is_refused(protocol, values, message):
    with pytest.raises(ConfigError, match=message):
        plan(protocol, make_request("o", **values))


def test_csc_is_trained_where_the_same_classes_are_tested():
    (job,) = plan(FEW_SHOT, make_request("o", settings=["TRAINER.COOP.CSC", "True"]))
    assert job.cfg.TRAINER.COOP.CSC


@pytest.mark.parametrize(
    "method, dataset, shots, recipe",
    [
        ("CoOp", "caltech101", 1, "vit_b16_ep50"),
        ("CoOp", "caltech101", 2, "vit_b16_ep100"),
        ("CoOp", "caltech101", 4, "vit_b16_ep100"),
        ("CoOp", "caltech101", 8, "vit_b16"),
        ("CoOp", "caltech101", 16, "vit_b16"),
        ("CoOp", "imagenet", 1, "vit_b16_ep50"),
        ("CoOp", "imagenet", 16, "vit_b16_ep50"),
        ("CoCoOp", "caltech101", 1, "vit_b16_c4_ep10_batch1_ctxv1"),
        ("DiCap", "imagenet", 4, "vit_b16_ctxv1"),
        ("ZeroshotCLIP", "imagenet", 1, "vit_b16"),
    ],
)
def test_few_shot_takes_the_papers_length_for_each_number_of_shots(tmp_path, method, dataset, shots, recipe):
    (job,) = plan(
        FEW_SHOT, request_of(methods=[method], datasets=[dataset], data=str(tmp_path), shots=shots, seeds=[1])
    )
    assert job.recipe == recipe
    if method == "CoOp":
        epochs = 50 if dataset == "imagenet" else {1: 50, 2: 100, 4: 100, 8: 200, 16: 200}[shots]
        assert (job.cfg.OPTIM.MAX_EPOCH, job.cfg.TRAINER.COOP.N_CTX, job.cfg.TRAINER.COOP.CTX_INIT) == (epochs, 16, "")


def test_tiny_is_the_recipe_of_embedded_data_and_of_the_tiny_backbone_alone(tmp_path):
    def recipe(**values):
        return plan(BASE2NEW, request_of(methods=["coop"], **values))[0].recipe

    assert recipe(datasets=["digits"], data=str(tmp_path)) == recipe(datasets=["digits"]) == "tiny"
    assert recipe(datasets=["dtd"], data=str(tmp_path), backbone="tiny") == "tiny"
    assert recipe(datasets=["dtd"], data=str(tmp_path)) == "vit_b16_ctxv1" in published_recipes("base2new", "dtd", 16)


# --- a data folder that lacks datasets ---------------------------------------------------------------------------


@pytest.fixture
def some_data(tmp_path, monkeypatch):
    """A data folder with two of the eleven, at their true layout, a few classes each."""
    from layouts import write_layout

    from dicap.datasets.dtd import DescribableTextures
    from dicap.datasets.eurosat import EuroSAT

    monkeypatch.setenv("DICAP_CACHE", str(tmp_path / "cache"))
    for cls in (DescribableTextures, EuroSAT):
        monkeypatch.setattr(cls, "counts", write_layout(cls.stem(), tmp_path / "data", shots=2))
    (tmp_path / "data/food-101/images").mkdir(parents=True)  # begun
    return tmp_path / "data"


def on(data, out, **values):
    return make_request(
        out, **{"methods": ["zeroshot"], "data": str(data), "datasets": ["all"], "backbone": "tiny", **values}
    )


def test_all_runs_what_is_there_and_names_the_rest(some_data, tmp_path, caplog, ran):
    caplog.set_level("INFO", "dicap")
    run_protocol(BASE2NEW, on(some_data, tmp_path / "out"), shots=[1])
    rows = json.loads((tmp_path / "out/base2new.json").read_text())["rows"]
    assert {row["dataset"] for row in rows} == {"dtd", "eurosat", "average of 2"} and len(ran) == 4
    assert caplog.text.count(": skipped; get it with: dicap data download ") == 9
    assert (
        f"caltech101 is missing (no folder {some_data}/caltech-101): skipped; get it with: dicap data download caltech101 "
        f"--data {some_data}" in caplog.text
    )
    assert "food101 is missing (no split_zhou_Food101.json in" in caplog.text
    assert "the data are not there: imagenet, caltech101" in caplog.text
    assert caplog.text.index("caltech101 is missing") < caplog.text.index("[1/4]")  # up front
    run_protocol(BASE2NEW, on(some_data, tmp_path / "out"), shots=[1])
    assert len(ran) == 4
    (some_data / "dtd/split_zhou_DescribableTextures.json").write_text("{")
    digests._DATA_DIGESTS.clear()
    with pytest.raises(
        RunError, match="^2 of 4 runs failed"
    ):  # those without data are not among "the others are finished"
        run_protocol(BASE2NEW, on(some_data, tmp_path / "bad"), shots=[1])


@pytest.mark.parametrize(
    "names, policy, message",
    [
        (["dtd", "food101"], "", "food101; MISSING=skip"),
        (["all"], "refuse", "imagenet, caltech101, .*MISSING=skip"),
        (["food101"], "skip", "no dataset of this comparison"),
    ],
)
def test_missing_datasets_are_refused_as_asked(some_data, tmp_path, ran, names, policy, message):
    with pytest.raises(ConfigError, match=message):
        run_protocol(BASE2NEW, on(some_data, tmp_path / "out", datasets=names), shots=[1], policy=policy)
    assert ran == [] and not (tmp_path / "out").exists()


def test_a_missing_dataset_that_is_named_is_left_out_where_that_is_asked(some_data, tmp_path, ran):
    run_protocol(FEW_SHOT, on(some_data, tmp_path / "out", datasets=["dtd", "food101"]), shots=[1], policy="skip")
    assert len(ran) == 1


def test_nothing_is_transferred_without_the_source(some_data, tmp_path, ran, caplog):
    caplog.set_level("INFO", "dicap")
    with pytest.raises(ConfigError, match="imagenet; prompts are trained on it"):
        run_protocol(CROSS_DATASET, on(some_data, tmp_path / "out", methods=["coop"]), shots=[1], policy="skip")
    run_protocol(CROSS_DATASET, on(some_data, tmp_path / "out"), shots=[1])  # zero-shot has no prompt to be trained
    assert [made[:2] for made in ran] == [("test", "ZeroshotCLIP")] * 2
    result = store.read_result(folder(tmp_path / "out", "test", "ZeroshotCLIP", "cross_dataset", "dtd"))
    assert result["trained_on"] == "imagenet"


def test_a_plan_tells_what_is_missing_and_what_is_downloaded(some_data, tmp_path, monkeypatch, caplog):
    caplog.set_level("INFO", "dicap")
    monkeypatch.setattr("dicap.backbones.DOWNLOADS", tmp_path / "clip")
    request = on(some_data, tmp_path / "out", methods=["coop"], datasets=["dtd", "food101"], backbone="")
    run_protocol(FEW_SHOT, request, shots=[2], dry_run=True)
    assert "food101: 1 run without data" in caplog.text and "food101, CoOp" not in caplog.text
    assert "1 to run, 0 finished, 1 without data" in caplog.text and "food101 is missing" in caplog.text
    assert f"the weights of ViT-B/16 (about 335 MiB) into {tmp_path}/clip" in caplog.text
    assert "1 to run, each 1 optimiser step and" in caplog.text and "no estimate yet" in caplog.text
    assert (
        not (some_data / "dtd/split_fewshot").exists() and not (tmp_path / "out").exists()
    )  # a plan draws and writes nothing
    (tmp_path / "clip").mkdir()
    (tmp_path / "clip/ViT-B-16.pt").touch()
    assert downloads(plan(FEW_SHOT, request)) == []


def test_an_estimate_is_of_finished_runs_of_the_nearest_kind(finished):
    """What does not grow, seconds a step times steps, seconds a test image times images; a resumed run says nothing."""
    run = store.read_result(folder(finished, "train_base"))

    def result(train=20.0, test=5.0, **values):
        seconds = {"build": 0.0, "fit": 0.0, "train": train, "test": test}
        return {**run, "steps": 10, "n": 100, "seconds": seconds, "peak_memory_mib": 300.0, **values}

    job = plan(BASE2NEW, make_request("o"))[0]
    other = result(train=60.0, dataset="dtd", peak_memory_mib=900.0)
    near = [result(), result(steps=30, test=15.0), other]
    assert rate_of(job, near).seconds(Work(5, 40)) == pytest.approx(5 * 40 / 40 + 40 * 20 / 200)
    assert rate_of(job, near).memory == 300 and "2 finished runs on digits, base classes" in rate_of(job, near).source
    assert rate_of(job, [other]) is None and rate_of(job, [result(split="new")]) is None
    assert rate_of(job, [result(method="CoCoOp"), result(backbone="RN50"), result(recipe="other")]) is None
    for untrained in (result(resumed_from_epoch=3), result(train=0.0)):  # which tell what a test takes, and no training
        assert rate_of(job, [untrained]) is None
        tested = plan(BASE2NEW, make_request("o"))[1]
        assert rate_of(tested, [{**untrained, "split": "new"}]).seconds(Work(0, 60)) == pytest.approx(5 * 60 / 100)
    parts = result(seconds={"build": 3.0, "fit": 10.0, "train": 20.0, "test": 5.0})
    assert rate_of(job, [parts]).seconds(Work(20, 200)) == pytest.approx(3 + 10 + 20 * 10 / 10 + 200 * 5 / 100)
    closed = result(steps=0)  # computed without steps
    assert rate_of(job, [closed]).seconds(Work(0, 200)) == pytest.approx(20 + 200 * 5 / 100)


# --- methods, pairs, processes -----------------------------------------------------------------------------------


def test_a_pair_is_a_method_of_its_own(tmp_path, embedded_data):
    """Stored and shown as the pair, and foldered as it; plain DiCap is the pair that its recipe names."""
    request = make_request(tmp_path, methods=["dicap", "DiCap:CoOp"], settings=SHORT)
    jobs = plan(BASE2NEW, request)
    assert [job.method for job in jobs] == ["DiCap:CoOp"] * 2  # two names of one method are one
    assert execute(jobs) == [] and jobs[0].folder == folder(tmp_path, "train_base", "DiCap-CoOp")
    result = store.read_result(jobs[0].folder)
    assert (result["method"], result["recipe"]) == ("DiCap:CoOp", "tiny")
    assert "digits, DiCap:CoOp (tiny), seed 0, base classes" == jobs[0].name
    assert result["config"]["TRAINER"]["NAME"] == "DiCap" and execute(plan(BASE2NEW, request)) == []


def test_a_recipe_may_name_the_learner(tmp_path):
    (job, _) = plan(BASE2NEW, request_of(methods=["dicap:cocoop"], datasets=["dtd"], data=str(tmp_path), seeds=[1]))
    assert (job.method, job.recipe) == ("DiCap:CoCoOp", "vit_b16_ctxv1")
    assert job.cfg.TRAINER.DICAP.LEARNER == "CoCoOp" and job.cfg.DATALOADER.TRAIN_X.BATCH_SIZE == 1
    assert job.folder.parts[-3:-1] == ("DiCap-CoCoOp", "vit_b16_ctxv1")


@pytest.mark.parametrize(
    "name, found", [("dicap_", "DiCap"), ("dic", "DiCap"), ("DICAP:coop", "DiCap:CoOp"), ("co_op", "CoOp")]
)
def test_names_of_methods(name, found):
    assert find_method(name) == found


def test_a_beginning_must_be_that_of_one_method():
    with pytest.raises(ConfigError, match="'co' may be CoCoOp or CoOp; write more"):
        find_method("co")


@pytest.mark.parametrize(
    "settings, message",
    [
        (["TRAINER.DICAP.LEARNER", "CoCoOp"], "TRAINER.DICAP.LEARNER CoCoOp contradicts .*one of: .*DiCap:CoCoOp"),
        (["DATASET.TEST_LIMIT", "5"], "DATASET.TEST_LIMIT 5 makes trials"),
    ],
)
def test_settings_that_a_comparison_refuses(settings, message):
    with pytest.raises(ConfigError, match=message):
        plan(BASE2NEW, make_request("o", methods=["dicap"], settings=settings))


def test_runs_side_by_side_are_the_same_runs(done, tmp_path, embedded_data, caplog, monkeypatch):
    """Each on one thread, a test behind its training; what a failure does not need goes on."""
    monkeypatch.setenv("OMP_NUM_THREADS", "2")  # of the user, for a single run
    caplog.set_level("INFO", "dicap")
    request = make_request(tmp_path, methods=["zeroshot", "coop"])
    blocked = folder(tmp_path, "train_base", "CoOp").parents[1]
    blocked.parent.mkdir(parents=True)
    blocked.write_text("a file where a folder should be")
    with pytest.raises(RunError, match=r"(?s)^2 of 4 runs failed:.*CoOp.*new classes: not run: its training failed"):
        run_protocol(BASE2NEW, request, shots=[1], parallel=2)
    blocked.unlink()
    caplog.clear()
    run_protocol(BASE2NEW, request, shots=[1], parallel=2)
    assert "2 of 4 runs to make, 2 finished before" in caplog.text
    lines = [line for line in caplog.text.splitlines() if "/2] digits, CoOp (tiny), seed 0" in line]
    assert [line.split(", ")[3].split(":")[0] for line in lines] == ["base classes", "new classes"]
    for method in ("ZeroshotCLIP", "CoOp"):
        for stage in ("train_base", "test_new"):
            one, two = (store.read_result(folder(out, stage, method)) for out in (done, tmp_path))
            assert (two["metrics"], two["digests"]["data"]) == (one["metrics"], one["digests"]["data"])
            assert two["versions"]["threads"] == 1


def test_a_process_that_dies_is_a_failure_and_the_others_go_on(tmp_path, embedded_data, monkeypatch):
    request = make_request(tmp_path, methods=["zeroshot"], seeds=[0, 1, 2])
    jobs = plan(FEW_SHOT, request)
    monkeypatch.setattr(executor, "_attempt", die_with_seed_0)
    failures = execute(jobs, parallel=2)
    assert jobs[0] in [failure.job for failure in failures] and {failure.cause for failure in failures} == {DIED}
    assert len(failures) < 3
    monkeypatch.undo()
    assert execute(jobs) == []


def test_an_interrupt_of_this_process_alone_ends_its_processes():
    with pytest.raises(KeyboardInterrupt), executor.Processes(1) as pool:
        future = pool.submit(time.sleep, 5)
        raise KeyboardInterrupt
    assert isinstance(future.exception(), BrokenProcessPool) and not multiprocessing.active_children()


def die_with_seed_0(job, planned, verbose):
    if job.seed == 0:
        os._exit(1)
    return executor.Outcome(job, "made")


def test_a_run_says_its_primary_measure_with_its_unit():
    def result(unit, higher):
        measure = {"label": "Error", "unit": unit, "higher_is_better": higher}
        return {"primary": "m", "metrics": {"m": 0.314}, "measures": {"m": measure}}

    assert figure_of(result("%", True)) == "0.3 %"
    assert figure_of(result("", False)) == "error 0.31" and figure_of(result("m", False)) == "error 0.31 m"


@pytest.mark.parametrize(
    "path, protocol",
    [
        ("a/base2new/train_base/x", "base2new"),
        ("source/train/x", "source"),
        ("cross_dataset/test", "cross_dataset"),
        ("base2new/train", ""),
        ("", ""),
    ],
)
def test_a_path_tells_its_protocol(path, protocol):
    assert protocol_of(path) == protocol
