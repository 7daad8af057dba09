"""Short trials before a plan: their arithmetic by hand, what they leave behind (nothing), how a failing one is told."""

import concurrent.futures
import dataclasses
import os
import time
from pathlib import Path

import pytest
import torch
from torch.utils.data import DataLoader

from dicap import cli
from dicap.experiments import preflight
from dicap.experiments.driver import execute
from dicap.experiments.estimate import Encoding, Rate, Trial, TrialError, Work, show_costs, work_of
from dicap.experiments.preflight import Preflight, alike, try_out
from dicap.experiments.protocols import BASE2NEW, FEW_SHOT, plan, request_of
from dicap.experiments.trial import Encoder, Evaluation, Few, Training, encode_some, like

TRIAL = Trial(
    build=2.0,
    before=10.0,
    epoch=0.5,
    step=0.1,
    test=1.0,
    image=0.01,
    memory=700.0,
    capacity=8000.0,
    device="cpu",
    steps=7,
    images=40,
    encodings=(Encoding("t", 400, 0.05), Encoding("v", 64, 0.25, training=True)),
)
WORK = Work(steps=200, images=300, epochs=20, train=160, batch=16, views=4)


def make_request(out, **values):
    return request_of(
        **{
            "methods": ["CoOp"],
            "datasets": ["digits"],
            "seeds": [1, 2],
            "shots": 2,
            "out": str(out),
            "settings": ["OPTIM.MAX_EPOCH", "3"],
            **values,
        }
    )


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr("dicap.experiments.trial.SECONDS", 0.2)


@pytest.fixture
def own_cache(embedded_data, tmp_path, monkeypatch):
    """A cache of this test alone."""
    monkeypatch.setenv("DICAP_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def everything(*folders: Path) -> dict[str, tuple]:
    return {
        str(path): (path.stat().st_mtime_ns, path.stat().st_size) for folder in folders for path in folder.rglob("*")
    }


# --- arithmetic ------------------------------------------------------------------------------------------------------


def test_seconds_are_rates_times_counts():
    assert TRIAL.train_seconds(WORK) == pytest.approx(10 + 20 * 0.5 + 200 * 0.1)
    assert TRIAL.test_seconds(WORK) == pytest.approx(1 + 300 * 0.01)
    assert TRIAL.seconds(WORK) == pytest.approx(2 + 40 + 4)
    assert TRIAL.encoding_seconds(WORK, training=False) == pytest.approx(400 * 0.05)
    assert TRIAL.encoding_seconds(WORK, training=True) == pytest.approx(160 * 4 * 0.25)  # of the run, not of the trial
    assert TRIAL.seconds(Work(0, 300)) == pytest.approx(2 + 4) and "7 steps and 40 test images; cpu" in TRIAL.source


def test_a_plan_counts_what_is_encoded_once(tmp_path, caplog, monkeypatch, own_cache):
    """Two methods, two seeds: test images once, views once a seed; without a cache in each run."""
    caplog.set_level("INFO", "dicap")
    jobs = plan(FEW_SHOT, make_request(tmp_path / "out", methods=["CoOp", "CoCoOp"]))
    trial = dataclasses.replace(
        TRIAL,
        build=3600.0,
        before=0,
        epoch=0,
        step=0,
        test=0,
        image=0,
        memory=9000.0,
        encodings=(Encoding("t", 400, 36.0), Encoding("v", 80, 45.0, training=True)),
    )
    assert work_of(jobs[0]).train * work_of(jobs[0]).views == 80  # ten classes, two shots, four views
    show_costs(jobs, [], make_request(tmp_path / "out"), lambda job: trial)
    assert f"In all: about {4 + 4 + 2:.1f} h; TOO MUCH: 9,000 of 8,000 MiB of memory" in caplog.text
    monkeypatch.setenv("DICAP_CACHE", "off")
    show_costs(jobs, [], make_request(tmp_path / "out"), lambda job: trial)
    assert f"In all: about {4 + 4 * 4 + 4:.1f} h" in caplog.text


def test_a_failing_trial_is_told_and_the_others_count(tmp_path, caplog, own_cache):
    caplog.set_level("INFO", "dicap")

    def measure(job):
        if job.method == "CoOp":
            raise TrialError("RuntimeError: out of memory")
        return dataclasses.replace(TRIAL, encodings=())

    jobs = plan(FEW_SHOT, make_request(tmp_path / "out", methods=["CoOp", "CoCoOp"]))
    show_costs(jobs, [], make_request(tmp_path / "out"), measure)
    assert "no estimate, its trial failed: RuntimeError: out of memory" in caplog.text
    assert ", and 2 runs without an estimate yet; at most 700 of 8,000 MiB" in caplog.text


@pytest.mark.parametrize("near, told", [(True, "from runs"), (False, "measured now")])
def test_what_has_run_on_other_data_is_measured(near, told, tmp_path, caplog, monkeypatch, own_cache):
    caplog.set_level("INFO", "dicap")
    monkeypatch.setattr(
        "dicap.experiments.estimate.rate_of", lambda job, results: Rate(1.0, 1.0, 300.0, "from runs", near)
    )
    show_costs(plan(FEW_SHOT, make_request(tmp_path / "out")), [], make_request(tmp_path / "out"), lambda job: TRIAL)
    assert told in caplog.text and caplog.text.count("MiB (") == 1


class Clock:
    """Time that passes where a fake trainer says so."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


class Batches(list):
    """A loader."""

    persistent_workers = False


class Trainer:
    """10 test images in batches of 2. Seconds: 7 before, 1 for the loader (2 more in the first epoch), 0.5 a step (0.9 more in the
    first), 2 for a checkpoint, 3 + 0.1 n for a test of n images."""

    def __init__(self, clock, epochs, batches=5, step=0.5):
        self.clock, self.epochs, self.step = clock, epochs, step
        self.train_loader_x = Batches([{"label": [0, 0]}] * batches)
        self.test_loader, self.val_loader = DataLoader([0] * 10, 2), None
        self.ran = self.tested = 0

    def train(self):
        self.clock.now += 7
        for _ in range(self.epochs):
            self.before_epoch()
            self.run_epoch()
            self.clock.now += 2
        self.test()

    def before_epoch(self):
        pass

    def run_epoch(self):
        assert len(self.train_loader_x) >= 1
        self.clock.now += 1 + 2 * (self.ran == 0)
        for batch in self.train_loader_x:
            self.forward_backward(batch)

    def forward_backward(self, batch):
        self.clock.now += self.step + 0.9 * (self.ran == 0)
        self.ran += 1

    def test(self):
        self.clock.now += 3
        for images in self.test_loader:
            self.model_inference(images)

    def model_inference(self, images):
        self.clock.now += 0.1 * len(images)
        self.tested += len(images)


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(time, "perf_counter", clock)
    return clock


def figures_of(trainer, workers_stay=False):
    test = Evaluation(trainer)
    trainer.train_loader_x.persistent_workers = workers_stay
    training = Training(trainer, test, Encoder(None))
    test.until_warm()
    return {**training.figures(), **test.figures()}


@pytest.mark.parametrize(
    "epochs, batches, step, ran",
    [
        (9, 5, 0.5, 10),  # two epochs, the first of which was warm-up
        (9, 2, 0.05, 4),  # the same, of epochs that are shorter than the warm-up of one
        (1, 5, 0.5, 5),  # one epoch that is all: its first second, at least a step, was warm-up
        (9, 100, 2.0, 4),  # a long epoch is cut short: a warm-up step and three
    ],
)
def test_a_training_is_cut_short_and_its_rates_are_right(clock, epochs, batches, step, ran):
    trainer = Trainer(clock, epochs, batches, step)
    found = figures_of(trainer)
    several = ran > batches  # epochs
    assert (
        trainer.ran == ran
        and found["step"] == pytest.approx(step)
        and found["before"] == pytest.approx(7 + 2 * several)
    )
    assert found["epoch"] == pytest.approx(
        (1 if several else 3) + 2 * (epochs > 1)
    )  # the end of an only epoch is not seen
    assert found["test"] == pytest.approx(3) and found["image"] == pytest.approx(0.1)


def test_workers_that_stay_are_started_once(clock):
    """Of an epoch that is cut short, too: its start is no other's."""
    found = figures_of(Trainer(clock, 9, 100, 2.0), workers_stay=True)
    assert found["before"] == pytest.approx(7 + 3) and found["epoch"] == pytest.approx(2)


def test_a_test_is_cut_short(clock, monkeypatch):
    monkeypatch.setattr("dicap.experiments.trial.SECONDS", 0.5)
    trainer = Trainer(clock, 1)
    test = Evaluation(trainer)
    trainer.test()
    assert test.figures() == {"test": pytest.approx(3), "image": pytest.approx(0.1), "images": 6}  # more than 0.5 s
    assert test.take_left_out() == pytest.approx(0.4) and test.take_left_out() == 0


def test_an_epoch_counts_the_whole_validation(clock, monkeypatch):
    """Where each epoch tests, the epoch's end is as long as a test that is not cut short."""
    monkeypatch.setattr("dicap.experiments.trial.SECONDS", 0.5)
    trainer = Trainer(clock, 9)
    test, before = Evaluation(trainer), trainer.before_epoch
    trainer.before_epoch = lambda: (before(), trainer.test())
    training = Training(trainer, test, Encoder(None))
    plain = 2 + 3  # checkpoint, loader of the only epoch that is seen
    assert training.figures()["epoch"] == pytest.approx(
        plain + 0.4
    )  # + what was left out; the test itself came before the loader


def test_some_images_are_encoded_and_the_rest_made_of_them(clock):
    loader = DataLoader([{"img": torch.full((2,), float(n))} for n in range(10)], 4)

    def encode(seconds):
        def of(batch):
            clock.now += seconds
            return batch["img"]

        return of

    rows, each = encode_some(encode(8.0), loader)  # slow: one batch
    assert rows.shape == (4, 2) and each == pytest.approx(2.0)
    rows, each = encode_some(encode(0.5), loader)
    assert rows.shape == (10, 2) and each == pytest.approx(0.15)
    made = like(rows[:4], 9)
    assert (
        made.shape == (9, 2) and made[:4].equal(rows[:4]) and not made[4:8].equal(rows[:4]) and like(rows, 10) is rows
    )
    assert len(Few(loader)) == 3 and Few(loader).dataset is loader.dataset


# --- real trials -----------------------------------------------------------------------------------------------------


def test_a_trial_has_figures_and_leaves_nothing_behind(quick, own_cache, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    train, test = (job for job in plan(BASE2NEW, make_request(tmp_path / "out")) if job.seed == 1)
    trial = try_out(train)
    assert isinstance(trial, Trial), trial
    values = dataclasses.asdict(trial)
    assert all(values[name] > 0 for name in ("build", "test", "image", "before", "epoch", "step", "steps", "images"))
    assert 50 < trial.memory < trial.capacity and trial.device == "cpu" and trial.images == work_of(train).images
    work = work_of(train)
    assert [(found.images, found.training) for found in trial.encodings if found.training] == [
        (work.train * work.views, True)
    ]
    assert work.images in [found.images for found in trial.encodings] and all(
        found.seconds > 0 for found in trial.encodings
    )
    tested = try_out(test)
    assert tested.steps == 0 == tested.step and tested.images == work_of(test).images
    assert (
        not own_cache.exists() and not (tmp_path / "out").exists() and not any((tmp_path / "temporary").glob("dicap*"))
    )
    assert os.environ["DICAP_CACHE"] == str(own_cache)


def test_features_in_the_cache_are_free_and_stay_as_they_are(quick, own_cache, tmp_path):
    job, other = (plan(BASE2NEW, make_request(tmp_path / "out", methods=[method]))[0] for method in ("CoOp", "CoCoOp"))
    assert execute([job]) == []
    before = everything(own_cache, tmp_path / "out")
    assert before and try_out(job).encodings == ()  # the other method sees the same images
    assert try_out(other).encodings == () and everything(own_cache, tmp_path / "out") == before


def test_a_plan_is_measured_in_a_process_of_its_own(own_cache, tmp_path, caplog, capsys):
    """What has run is not measured again; a trial that fails is a line of the plan, and the next one goes on."""
    caplog.set_level("INFO", "dicap")
    request = make_request(tmp_path / "out", methods=["zeroshot"], seeds=[1], shots=1)
    assert execute(plan(FEW_SHOT, request)) == []
    caplog.clear()
    command = [
        "few_shot",
        "--methods",
        "zeroshot",
        "coop",
        "cocoop",
        "--datasets",
        "digits",
        "--seeds",
        "1",
        "2",
        "--shots",
        "1",
        "--out",
        str(tmp_path / "out"),
        "--set",
        *request.settings,
        "TRAINER.COOP.CTX_INIT",
        "much " * 99,
    ]
    assert cli.main([*command, "--dry-run", "--measure"]) == 0
    coop, cocoop, zeroshot = (
        [line for line in caplog.text.splitlines() if f"{name} (tiny) on" in line]
        for name in (" CoOp", "CoCoOp", "ZeroshotCLIP")
    )
    assert all("its trial failed: ConfigError: " in line for line in coop) and len(coop) == 1
    assert all("measured now" in line for line in cocoop) and len(cocoop) == 1
    assert all("from 1 finished run on digits" in line for line in zeroshot) and len(zeroshot) == 1
    assert "In all: about" in caplog.text and "2 runs without an estimate yet; at most" in caplog.text


def test_measuring_is_for_dry_runs(capsys, tmp_path):
    assert cli.main(["base2new", "--measure", "--out", str(tmp_path)]) == 2
    assert "--measure goes with --dry-run" in capsys.readouterr().err


def test_a_dead_process_is_one_failed_trial(tmp_path, own_cache, monkeypatch):
    class Dead(concurrent.futures.Executor):
        def submit(self, *args):
            raise concurrent.futures.process.BrokenProcessPool

    started = []
    monkeypatch.setattr(preflight, "_start_process", lambda: started.append(1) or Dead())
    jobs = plan(BASE2NEW, make_request(tmp_path / "out"))
    measure = Preflight()
    for job in (jobs[0], jobs[0], jobs[1]):
        with pytest.raises(TrialError, match="out of memory"):
            measure(job)
    assert len(started) == 2  # the second of the same job is remembered, the other has a process of its own


def test_what_is_alike_shares_a_trial(tmp_path, own_cache):
    def key(shots=2, place=0, **values):
        return alike(plan(FEW_SHOT, make_request(tmp_path / "out", shots=shots, **values))[place])

    assert key() == key(place=1)  # seeds
    assert key(shots=4) == key(shots=8) != key(shots=1) and key(shots=4) != key(
        shots=4, methods=["CoCoOp"]
    )  # batches of 32
    assert key(shots=4, methods=["DiCap"]) != key(shots=8, methods=["DiCap"])  # its first stage grows with the images


def test_a_trainer_that_is_built_otherwise_is_told(clock):
    trainer = Trainer(clock, 1)
    trainer.test_loader = DataLoader([], 2)
    with pytest.raises(TrialError, match="Trainer.model_inference is not called"):
        Evaluation(trainer).test()
