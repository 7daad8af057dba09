"""The driver of protocols: what is planned, what is skipped and why, how a failure ends, that a plan ends in a table."""
import json
import shutil

import pytest

import dicap.run
from dicap.options import ConfigError
from dicap.protocols import (
    BASE2NEW,
    METHODS,
    RunError,
    dataset_names,
    execute,
    find_datasets,
    find_method,
    plan,
    request_of,
    run_protocol,
)
from dicap.report import store

QUICK = ["OPTIM.MAX_EPOCH", "1"]


def make_request(out, **values):
    return request_of(**{"methods": ["CoOp"], "datasets": ["digits"], "seeds": [0], "shots": 1, "settings": QUICK,
                         "out": str(out), **values})


@pytest.fixture(scope="module")
def done(tmp_path_factory, embedded_data):
    """One finished comparison of ZeroshotCLIP and CoOp on digits, on the tiny backbone; not to be changed."""
    out = tmp_path_factory.mktemp("done")
    run_protocol(BASE2NEW, make_request(out, methods=["zeroshot", "coop"]))
    return out


@pytest.fixture
def finished(done, tmp_path):
    """A copy of the finished comparison."""
    shutil.copytree(done, tmp_path / "out")
    return tmp_path / "out"


@pytest.fixture
def ran(monkeypatch):
    """The runs that are really made: (stage, method, eval_only)."""
    made, real = [], dicap.run.run

    def run(cfg, **kwargs):
        made.append((cfg.OUTPUT_DIR.split("/base2new/")[1].split("/")[0], cfg.TRAINER.NAME, kwargs["eval_only"]))
        return real(cfg, **kwargs)

    monkeypatch.setattr(dicap.run, "run", run)
    return made


def folder(out, stage, method="CoOp"):
    return out / "base2new" / stage / "digits" / "shots_1" / method / "tiny" / "seed0"


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
    aside, = (folder(finished, "train_base").parent / ".old").iterdir()
    assert store.read_result(aside)["config"]["OPTIM"]["MAX_EPOCH"] == 1


@pytest.mark.parametrize("part, value, why", [
    ("data", "x", "the data changed"), ("weights", "x", "the backbone's weights changed"), ("model", "x", "")])
def test_other_data_weights_or_prompt_are_run_again(finished, ran, caplog, part, value, why):
    caplog.set_level("INFO", "dicap")
    path = folder(finished, "train_base") / store.FILE
    result = store.read_result(path)
    result["digests"][part] = value
    store.write_json(path, result)
    execute(plan(BASE2NEW, make_request(finished)))
    stages = [stage for stage, _, _ in ran]
    if part == "model":  # the new classes were tested with a prompt that is not the present one
        assert stages == ["test_new"] and "the trained prompt changed" in caplog.text
    else:
        assert stages == ["train_base"] and why in caplog.text


def test_a_result_of_a_run_by_hand_under_another_name_is_not_taken(finished, ran):
    path = folder(finished, "test_new") / store.FILE
    store.write_json(path, {**store.read_result(path), "protocol": ""})
    execute(plan(BASE2NEW, make_request(finished)))
    assert ran == [("test_new", "CoOp", True)]


def test_a_failing_run_stops_the_driver_with_its_cause_and_its_log(finished, monkeypatch):
    from dicap.trainers.coop import CoOp

    def fail(self, batch):
        raise ValueError("the cause")

    monkeypatch.setattr(CoOp, "loss", fail)
    jobs = plan(BASE2NEW, make_request(finished, seeds=[5, 6]))
    with pytest.raises(RunError, match=r"(?s)seed 5, base classes failed: ValueError: the cause\nlog: .*seed5/log.txt"):
        execute(jobs)
    assert "ValueError: the cause" in (jobs[0].folder / "log.txt").read_text()
    assert not jobs[2].folder.exists()  # nothing was run behind it
    monkeypatch.undo()
    execute(jobs[:2])  # the same command goes on
    assert store.read_result(jobs[1].folder)["seed"] == 5


def test_a_plan_is_printed_and_nothing_is_run(finished, ran, caplog):
    caplog.set_level("INFO", "dicap")
    run_protocol(BASE2NEW, make_request(finished, seeds=[0, 1]), dry_run=True)
    assert ran == [] and "2 to run, 2 finished" in caplog.text
    assert "digits, CoOp (tiny), seed 1, base classes: to run (not finished)" in caplog.text
    assert "digits, CoOp (tiny), seed 0, new classes: finished" in caplog.text
    assert not (folder(finished, "train_base").parent / "seed1").exists()


def test_the_main_job(tmp_path, embedded_data):
    jobs = plan(BASE2NEW, request_of(out=str(tmp_path)))
    assert len(jobs) == 2 * 4 * 3 * 2 and {job.recipe for job in jobs} == {"tiny"}
    assert list(dict.fromkeys(job.method for job in jobs)) == list(METHODS)
    assert {job.dataset for job in jobs} == {"causal_shapes", "digits"} and {job.seed for job in jobs} == {1, 2, 3}


@pytest.mark.parametrize("method, dataset, recipe", [
    ("CoOp", "caltech101", "vit_b16_ctxv1"), ("CoCoOp", "caltech101", "vit_b16_c4_ep10_batch1_ctxv1"),
    ("DiCap", "caltech101", "vit_b16_ctxv1"), ("ZeroshotCLIP", "caltech101", "vit_b16")])
def test_the_real_benchmark_takes_the_published_recipes(tmp_path, method, dataset, recipe):
    jobs = plan(BASE2NEW, request_of(methods=[method], datasets=[dataset], data=str(tmp_path), out="o"))
    assert {job.recipe for job in jobs} == {recipe} and jobs[0].cfg.MODEL.BACKBONE.NAME == "ViT-B/16"
    assert jobs[0].cfg.DATASET.ROOT == str(tmp_path) and len(jobs) == 6


def test_names():
    assert [find_method(name) for name in ("zeroshot", "coop", "CoCoOp", "DICAP")] == [
        "ZeroshotCLIP", "CoOp", "CoCoOp", "DiCap"]
    real, embedded = dataset_names()
    assert embedded == ["causal_shapes", "digits"] and "caltech101" in real
    assert find_datasets([], "") == embedded and find_datasets(["all"], "/data") == real


@pytest.mark.parametrize("values, message", [
    ({"methods": ["coap"]}, "unknown method 'coap'; allowed: .*CoOp"), ({"methods": [""]}, "unknown method ''"),
    ({"datasets": ["digit"]}, "unknown dataset 'digit'; allowed: causal_shapes, digits, .*caltech101"),
    ({"datasets": ["caltech101"]}, "'caltech101' needs a data folder: DATA="),
    ({"datasets": ["all"]}, "'all' needs a data folder"), ({"data": "/no/such/folder"}, "no folder '/no/such/folder'"),
    ({"seeds": [-1]}, "seeds"), ({"shots": 0}, "shots"), ({"recipe": "vit_b61"}, "no recipe vit_b61.*tiny"),
    ({"settings": ["OPTIM.LRR", "1"]}, "OPTIM.LRR.*did you mean OPTIM.LR"), ({"settings": ["OPTIM.LR"]}, "pairs")])
def test_what_cannot_be_is_refused_before_any_work(tmp_path, ran, values, message):
    with pytest.raises(ConfigError, match=f"(?s){message}"):
        run_protocol(BASE2NEW, make_request(tmp_path / "out", **values))
    assert ran == [] and not (tmp_path / "out").exists()
