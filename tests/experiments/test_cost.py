"""What a plan costs: the arithmetic by hand, trials that are runs and leave nothing behind, how a failing one is told."""

import concurrent.futures
import os

import pytest

from dicap import cli
from dicap.experiments import cost
from dicap.experiments.cost import Rate, Work, rate_between, shortened, show_costs, try_out, work_of
from dicap.experiments.executor import DIED, execute
from dicap.experiments.protocols import BASE2NEW, FEW_SHOT, plan, request_of
from dicap.results import flatten, plain

RATE = Rate(step=0.1, item=0.01, memory=700.0, source="measured now", fixed=2.0, fit=0.05, encode=0.02)
WORK = Work(steps=200, items=300, train=160)


def make_request(out, **values):
    settings = ["OPTIM.MAX_EPOCH", "3"]
    defaults = {"methods": ["CoOp"], "datasets": ["digits"], "seeds": [1, 2], "shots": 2, "settings": settings}
    return request_of(**{**defaults, "out": str(out), **values})


@pytest.fixture
def own_cache(embedded_data, tmp_path, monkeypatch):
    """A cache of this test alone."""
    monkeypatch.setenv("DICAP_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


# --- arithmetic ------------------------------------------------------------------------------------------------------


def test_seconds_are_rates_times_counts():
    assert RATE.seconds(WORK) == pytest.approx(2 + 200 * 0.1 + 300 * 0.01 + 160 * 0.05)
    assert RATE.seconds(Work(0, 300)) == pytest.approx(2 + 3)


def result(steps, items, build, fit, train, test, memory=500.0):
    seconds = {"build": build, "fit": fit, "train": train, "test": test}
    return {"steps": steps, "n": items, "seconds": seconds, "peak_memory_mib": memory, "versions": {"device": "cpu"}}


@pytest.mark.parametrize("steps, items, train", [(5000, 8100, 160), (40, 100, 40), (0, 100, 160)])
def test_two_trials_give_back_what_a_run_takes(steps, items, train):
    """Seconds: 2 and 0.04 a test item to build, 3 and 0.1 a training item before the first step, 0.3 a step, 1 and 0.002 an
    item to test. The encoding of test items is apart: it is done once."""

    def run(number, test_items, train_items):
        fit = 3 + 0.1 * train_items
        took = result(number, test_items, 2 + 0.04 * test_items, fit, fit + 0.3 * number, 1 + 0.002 * test_items)
        return Work(number, test_items, train_items), took

    small = (5, 10) if steps else (0, 0)
    short, long = run(small[0], 100, 20), run(small[1], 200, 40)
    rate = rate_between(short, long)
    expected = run(steps, items, train)[1]["seconds"]
    whole = rate.seconds(Work(steps, items, train)) + rate.encode * items
    assert whole == pytest.approx(expected["build"] + expected["train"] + expected["test"])
    assert rate.encode == pytest.approx(0.04) and "200 test images; cpu" in rate.source


def test_trials_of_all_items_tell_no_slope():
    """A data set with few test items, one shot: both trials are of the same items, and everything counts as it is."""
    took = result(4, 50, 2.0, 1.0, 3.0, 0.5)
    rate = rate_between((Work(4, 50, 10), took), (Work(4, 50, 10), {**took, "peak_memory_mib": 400.0}))
    assert (rate.encode, rate.item, rate.fit, rate.memory) == (0, 0, 0, 500.0)
    assert rate.seconds(Work(8, 50, 10)) == pytest.approx(2 + 1 + 0.5 + 8 * 2 / 4)


def test_a_plan_counts_what_is_encoded_once(tmp_path, caplog, monkeypatch, own_cache):
    """Two methods, two seeds: test images once, the rest in each run."""
    caplog.set_level("INFO", "dicap")
    monkeypatch.setattr(cost, "measured", lambda job: Rate(0.0, 0.0, 9000.0, "now", fixed=3600.0, encode=36.0))
    monkeypatch.setattr(cost, "capacity", lambda: 8000.0)
    jobs = plan(FEW_SHOT, make_request(tmp_path / "out", methods=["CoOp", "CoCoOp"]))
    show_costs(jobs, str(tmp_path / "out"), measure=True)
    hours = 4 + 36 * work_of(jobs[0]).items / 3600
    assert f"In all: about {hours:.1f} h; TOO MUCH: 9,000 of 8,000 MiB of memory" in caplog.text


def test_a_failing_trial_is_told_and_the_others_count(tmp_path, caplog, monkeypatch, own_cache):
    caplog.set_level("INFO", "dicap")
    made = []

    def measured(job):
        made.append(job.method)
        return "RuntimeError: out of memory" if job.method == "CoOp" else RATE

    monkeypatch.setattr(cost, "measured", measured)
    monkeypatch.setattr(cost, "capacity", lambda: 8000.0)
    request = make_request(tmp_path / "out", methods=["CoOp", "CoCoOp"])
    jobs = [
        job for shots in (1, 2) for job in plan(FEW_SHOT, make_request(tmp_path, methods=request.methods, shots=shots))
    ]
    show_costs(jobs, str(tmp_path / "out"), measure=True)
    assert caplog.text.count("no estimate, its trial failed: RuntimeError: out of memory") == 2
    assert ", and 4 runs without an estimate yet; about 700 of 8,000 MiB" in caplog.text
    assert made == ["CoOp", "CoCoOp"]  # seeds and numbers of shots share a trial


@pytest.mark.parametrize("rate, told", [(Rate(1.0, 1.0, 300.0, "from runs"), "from runs"), (None, "measured now")])
def test_what_has_not_run_is_measured(rate, told, tmp_path, caplog, monkeypatch, own_cache):
    caplog.set_level("INFO", "dicap")
    monkeypatch.setattr(cost, "rate_of", lambda job, results: rate)
    monkeypatch.setattr(cost, "measured", lambda job: RATE)
    show_costs(plan(FEW_SHOT, make_request(tmp_path / "out")), str(tmp_path / "out"), measure=True)
    assert told in caplog.text and caplog.text.count("MiB (") == 1


# --- trials ----------------------------------------------------------------------------------------------------------


def test_a_trial_is_the_run_with_fewer_epochs_shots_and_test_items(tmp_path, own_cache):
    (job,) = plan(FEW_SHOT, make_request(tmp_path, shots=16, seeds=[1], settings=["OPTIM.MAX_EPOCH", "50"]))
    small, large = (shortened(job, size, tmp_path / "trial") for size in (1, 2))
    # 10 classes, batches of 32: 4 shots fill one; 10 steps are made, where a run makes as many
    assert [cfg.DATASET.NUM_SHOTS for cfg in (small, large)] == [4, 8]
    assert [cfg.OPTIM.MAX_EPOCH for cfg in (small, large)] == [1, 5]
    assert [cfg.DATASET.TEST_LIMIT for cfg in (small, large)] == [100, 200]
    for cfg in (small, large):
        other = {"OUTPUT_DIR", "DATASET.NUM_SHOTS", "DATASET.TEST_LIMIT", "OPTIM.MAX_EPOCH"}
        before, after = (flatten(plain(tree)) for tree in (job.cfg, cfg))
        assert {key for key in before if before[key] != after[key]} == other
    (short,) = plan(FEW_SHOT, make_request(tmp_path, shots=1, seeds=[1]))
    assert shortened(short, 2, tmp_path).DATASET.NUM_SHOTS == 1 and shortened(short, 2, tmp_path).OPTIM.MAX_EPOCH == 3


def test_a_trial_has_figures_and_leaves_nothing_behind(own_cache, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    train, test = (job for job in plan(BASE2NEW, make_request(tmp_path / "out", methods=["dicap"])) if job.seed == 1)
    (short, first), (long, last) = try_out(train)
    assert (short.items, long.items) == (100, 200) and 0 < short.steps <= long.steps and long.train == 10
    assert (last["method"], last["n"], last["steps"]) == ("DiCap:CoOp", 200, long.steps)
    rate = rate_between((short, first), (long, last))
    assert rate.step > 0 and rate.seconds(work_of(train)) > 0 and rate.memory > 50
    tested = try_out(test)
    assert [work.steps for work, _ in tested] == [0, 0] and rate_between(*tested).seconds(work_of(test)) > 0
    assert not own_cache.exists() and not (tmp_path / "out").exists()
    assert not any((tmp_path / "temporary").glob("dicap*"))  # torch may leave a folder of its own
    os.environ["DICAP_CACHE"] = str(own_cache)


def test_a_plan_is_measured_in_processes_of_their_own(own_cache, tmp_path, caplog, capsys):
    """What has run is not measured again; a trial that fails is a line of the plan, and the next one goes on."""
    caplog.set_level("INFO", "dicap")
    request = make_request(tmp_path / "out", methods=["zeroshot"], seeds=[1], shots=1)
    assert execute(plan(FEW_SHOT, request)) == []
    caplog.clear()
    command = ["few_shot", "--methods", "zeroshot", "coop", "cocoop", "--datasets", "digits", "--seeds", "1", "2"]
    command += ["--shots", "1", "--out", str(tmp_path / "out")]
    command += ["--set", *request.settings, "TRAINER.COOP.CTX_INIT", "much " * 99]
    before = sorted(tmp_path.rglob("*"))
    assert cli.main([*command, "--dry-run", "--measure"]) == 0
    coop, cocoop, zeroshot = (
        [line for line in caplog.text.splitlines() if f"{name} (tiny) on" in line]
        for name in (" CoOp", "CoCoOp", "ZeroshotCLIP")
    )
    assert all("its trial failed: ConfigError: " in line for line in coop) and len(coop) == 1
    assert all("measured now" in line for line in cocoop) and len(cocoop) == 1
    assert all("from 1 finished run on digits" in line for line in zeroshot) and len(zeroshot) == 1
    assert "In all: about" in caplog.text and "2 runs without an estimate yet; about" in caplog.text
    assert sorted(tmp_path.rglob("*")) == before


def test_measuring_is_for_dry_runs(capsys, tmp_path):
    assert cli.main(["base2new", "--measure", "--out", str(tmp_path)]) == 2
    assert "--measure goes with --dry-run" in capsys.readouterr().err


def test_a_dead_process_is_one_failed_trial(tmp_path, own_cache, monkeypatch):
    class Dead(concurrent.futures.Executor):
        def __init__(self, number):
            pass

        def submit(self, *args):
            future = concurrent.futures.Future()
            future.set_exception(concurrent.futures.process.BrokenProcessPool())
            return future

    monkeypatch.setattr(cost, "Processes", Dead)
    assert cost.measured(plan(BASE2NEW, make_request(tmp_path / "out"))[0]) == DIED
