"""A run that is killed and started again ends as one that was not: bit equality of the parameters."""

import logging
import os
from pathlib import Path

import pytest
import torch

from dicap.options import ConfigError


@pytest.fixture(scope="module")
def reference(toy, pictures, tmp_path_factory):
    """Digest of the run that nothing disturbs."""
    return toy.train(pictures, str(tmp_path_factory.mktemp("reference")))


def stop_after(toy, epochs, before_saving=False):
    """A run that dies as soon as that many epochs are on the disk; before_saving: all of the last one but its resume file."""

    class Stop(Exception):
        pass

    def train(pictures, output, *options):
        trainer = toy.build(toy.config(pictures, output, *options))
        save = trainer.save_resume

        def save_and_die():
            last = trainer.epoch + 1 == epochs
            if not (last and before_saving):
                save()
            if last:
                raise Stop

        trainer.save_resume = save_and_die
        with pytest.raises(Stop):
            trainer.train()
        return trainer

    return train


@pytest.mark.parametrize("epochs", [1, 3, 6])
def test_stopped_and_resumed_equals_never_stopped(toy, pictures, tmp_path, reference, epochs):
    stop_after(toy, epochs)(pictures, str(tmp_path))
    torch.manual_seed(99)  # whatever the new process draws before training
    assert toy.train(pictures, str(tmp_path)) == reference


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_twenty_kills_at_random_moments_and_inside_saves(toy, pictures, tmp_path, python):
    whole = toy.train(pictures, str(tmp_path / "whole"), "OPTIM.MAX_EPOCH", "60")
    out = python(toy.__file__, "kill", pictures, tmp_path / "cut", 20, 0)
    assert f"digest {whole}" in out
    assert int(out.split("kills ")[1]) >= 12, out  # on a fast machine the run may end before all kills are spent
    assert not list((tmp_path / "cut").glob("*/.*.tmp"))  # nothing half-written stays


@pytest.mark.parametrize(
    "options",
    [
        ("TRAINER.NAME", "ToyXU"),
        (
            "OPTIM.NAME",
            "adamw",
            "OPTIM.LR_SCHEDULER",
            "multi_step",
            "OPTIM.STEPSIZE",
            (2, 4),
            "OPTIM.WARMUP_TYPE",
            "linear",
        ),
        ("TEST.FINAL_MODEL", "best_val", "DATALOADER.NUM_WORKERS", "2", "OPTIM.MAX_EPOCH", "4"),
    ],
)
def test_every_loop_optimiser_and_loader_resumes_exactly(toy, pictures, tmp_path, options):
    whole = toy.train(pictures, str(tmp_path / "whole"), *options)
    stop_after(toy, 2)(pictures, str(tmp_path / "cut"), *options)
    assert toy.train(pictures, str(tmp_path / "cut"), *options) == whole


def test_a_truncated_newest_file_falls_back_to_the_one_before(toy, pictures, tmp_path, reference, caplog):
    stop_after(toy, 4)(pictures, str(tmp_path))
    newest = tmp_path / "resume" / "epoch-4.pt"
    newest.write_bytes(newest.read_bytes()[:-200])
    with caplog.at_level(logging.WARNING, logger="dicap"):
        assert toy.train(pictures, str(tmp_path)) == reference
    assert "epoch-4.pt is damaged" in caplog.text


def test_two_damaged_files_start_anew_and_still_end_the_same(toy, pictures, tmp_path, reference):
    stop_after(toy, 4)(pictures, str(tmp_path))
    for path in (tmp_path / "resume").glob("*.pt"):
        path.write_bytes(b"")
    stop_after(toy, 2)(pictures, str(tmp_path))
    assert sorted(p.name for p in (tmp_path / "resume").iterdir()) == ["epoch-1.pt", "epoch-2.pt"]
    assert toy.train(pictures, str(tmp_path)) == reference


def test_a_flipped_bit_is_noticed_or_changes_nothing(toy, pictures, tmp_path, reference):
    """A bit in the random state alters no size and no name: only a checksum tells."""
    stop_after(toy, 3)(pictures, str(tmp_path))
    newest = tmp_path / "resume" / "epoch-3.pt"
    whole = newest.read_bytes()
    state = torch.load(newest, weights_only=True)["random"]["torch"].numpy().tobytes()
    place = whole.index(state) + len(state) // 2
    newest.write_bytes(whole[:place] + bytes([whole[place] ^ 4]) + whole[place + 1 :])
    trainer = toy.build(toy.config(pictures, str(tmp_path)))
    trainer.train()
    assert trainer.start_epoch == 2 and toy.digest(trainer.model) == reference


def test_a_finished_run_does_not_train_again(toy, pictures, tmp_path, reference, capsys):
    toy.train(pictures, str(tmp_path))
    capsys.readouterr()
    trainer = toy.build(toy.config(pictures, str(tmp_path)))
    trainer.forward_backward = None  # would fail if it were called
    trainer.train()
    assert toy.digest(trainer.model) == reference
    out = capsys.readouterr().out
    assert "Finish training" in out and "* accuracy" in out and "batch [" not in out
    assert trainer.epoch == 5


def test_only_two_resume_files_stay_and_they_hold_no_objects(toy, pictures, tmp_path):
    toy.train(pictures, str(tmp_path))
    assert sorted(p.name for p in (tmp_path / "resume").iterdir()) == ["epoch-5.pt", "epoch-6.pt"]
    state = torch.load(tmp_path / "resume" / "epoch-6.pt", weights_only=True)
    assert set(state) == {"epoch", "run", "best_result", "models", "extra", "random"}


def test_schedule_and_best_result_after_resume(toy, pictures, tmp_path):
    whole = toy.build(toy.config(pictures, str(tmp_path / "whole"), "TEST.FINAL_MODEL", "best_val"))
    rates = record_rates(whole)
    whole.train()
    cut = stop_after(toy, 3)(pictures, str(tmp_path / "cut"), "TEST.FINAL_MODEL", "best_val")
    again = toy.build(toy.config(pictures, str(tmp_path / "cut"), "TEST.FINAL_MODEL", "best_val"))
    rest = record_rates(again)
    again.train()
    assert rest == rates[3:]
    assert again.best_result == whole.best_result >= cut.best_result > 0


def record_rates(trainer):
    rates = []
    trainer.before_epoch = lambda: rates.append(trainer.get_current_lr())
    return rates


def test_resume_folder_of_another_run(toy, pictures, tmp_path, reference):
    stop_after(toy, 2)(pictures, str(tmp_path / "a"))
    assert toy.train(pictures, str(tmp_path / "b"), "RESUME", str(tmp_path / "a")) == reference
    assert not (tmp_path / "a" / "toy").exists()
    with pytest.raises(FileNotFoundError, match="nowhere is no folder"):
        toy.train(pictures, str(tmp_path / "c"), "RESUME", str(tmp_path / "nowhere"))


@pytest.fixture(scope="module")
def stopped(toy, pictures, tmp_path_factory):
    """Folders of a run that stopped after two epochs, and of one that ended."""
    folders = [str(tmp_path_factory.mktemp(name)) for name in ("cut", "ended")]
    stop_after(toy, 2)(pictures, folders[0])
    toy.train(pictures, folders[1])
    return folders


@pytest.mark.parametrize(
    "options, message",
    [
        (("SEED", "1"), "SEED was 0 and is 1"),
        (("OPTIM.LR", "0.5"), "OPTIM.LR was 0.02 and is 0.5"),
        (("OPTIM.MAX_EPOCH", "9"), "OPTIM.MAX_EPOCH was 6 and is 9"),  # the schedule would be another one
        (("DATALOADER.TRAIN_X.BATCH_SIZE", "6"), "DATALOADER.TRAIN_X.BATCH_SIZE was 4 and is 6"),
        (("DATALOADER.NUM_WORKERS", "1"), "DATALOADER.NUM_WORKERS was 0 and is 1"),
        (("INPUT.TRANSFORMS", "('normalize',)"), "INPUT.TRANSFORMS was .*random_flip.* and is"),
        (
            ("TEST.FINAL_MODEL", "best_val", "TRAINER.SE.RAMPUP", "7"),
            "RAMPUP was 300 and is 7|FINAL_MODEL was last_step",
        ),
        (("MODEL.INIT_WEIGHTS", "x"), "MODEL.INIT_WEIGHTS was  and is x"),
    ],
)
def test_a_folder_of_other_settings_is_refused_and_left_as_it_is(toy, pictures, stopped, options, message):
    for folder in stopped:
        before = {path: path.read_bytes() for path in Path(folder).rglob("*") if path.is_file()}
        with pytest.raises(
            ConfigError, match=f"is of another run: .*{message}.*another OUTPUT_DIR, or delete {folder}"
        ):
            toy.train(pictures, folder, *options)
        assert {path: path.read_bytes() for path in Path(folder).rglob("*") if path.is_file()} == before


def test_a_folder_where_nothing_is_saved_yet_is_anyones(toy, pictures, tmp_path, reference):
    toy.build(toy.config(pictures, str(tmp_path), "OPTIM.LR", "0.5"))._write_resume(0)
    assert toy.train(pictures, str(tmp_path)) == reference
    assert torch.load(tmp_path / "resume" / "epoch-6.pt", weights_only=True)["run"]["OPTIM.LR"] == 0.02


def test_settings_that_decide_no_number_may_change(toy, pictures, tmp_path, reference):
    stop_after(toy, 2)(pictures, str(tmp_path))
    options = ("TRAIN.PRINT_FREQ", "1", "TRAIN.CHECKPOINT_FREQ", "1", "VERBOSE", "False")
    assert toy.train(pictures, str(tmp_path), *options) == reference


@pytest.mark.parametrize("split", ["train", "val"])
def test_a_folder_of_other_pictures_is_refused(toy, tmp_path, split):
    toy.make(str(tmp_path / "data"))
    stop_after(toy, 1)(str(tmp_path / "data"), str(tmp_path / "out"), "DATASET.NUM_SHOTS", "-1")
    picture = tmp_path / "data" / split / "red" / "0.png"
    picture.write_bytes(picture.read_bytes() + b"longer")
    with pytest.raises(ConfigError, match="the training set was .* and is"):
        toy.train(str(tmp_path / "data"), str(tmp_path / "out"), "DATASET.NUM_SHOTS", "-1")


@pytest.mark.parametrize("final", ["last_step", "best_val"])
@pytest.mark.parametrize("epochs", [1, 2])
def test_killed_between_checkpoint_and_resume_file_ends_as_never_killed(toy, pictures, tmp_path, final, epochs):
    options = ("TRAIN.CHECKPOINT_FREQ", "1", "TEST.FINAL_MODEL", final, "OPTIM.MAX_EPOCH", "3")
    whole = toy.train(pictures, str(tmp_path / "whole"), *options)
    stop_after(toy, epochs, before_saving=True)(pictures, str(tmp_path / "cut"), *options)
    assert (tmp_path / "cut" / "toy" / f"model.pth.tar-{epochs}").exists()
    torch.manual_seed(99)
    assert toy.train(pictures, str(tmp_path / "cut"), *options) == whole
    for path in (tmp_path / "whole" / "toy").iterdir():
        assert (tmp_path / "cut" / "toy" / path.name).read_bytes() == path.read_bytes()


class Average:
    """As PromptSRC: weights that are averaged over the epochs, beside the registered model, and taken in the last one."""

    def build_model(self):
        super().build_model()
        self.average, self.steps = None, 0

    def after_epoch(self):
        self.steps += 1
        weights = {name: value.clone() for name, value in self.model.state_dict().items()}
        for name in weights:
            weights[name] += 0 if self.average is None else self.average[name]
        self.average = weights
        if self.steps == self.max_epoch:
            self.model.load_state_dict({name: value / self.steps for name, value in weights.items()})
        super().after_epoch()


@pytest.mark.parametrize("frequency", ["0", "1"])
def test_a_method_with_state_of_its_own_starts_anew_and_ends_as_never_killed(
    toy, pictures, tmp_path, monkeypatch, reference, frequency, caplog
):
    caplog.set_level(logging.INFO, "dicap")
    monkeypatch.setattr(toy, "build_trainer", type("Averaged", (Average, toy.Toy), {}))
    options = ("TRAIN.CHECKPOINT_FREQ", frequency)
    whole = toy.train(pictures, str(tmp_path / "whole"), *options)
    assert whole != reference
    stop_after(toy, 3)(pictures, str(tmp_path / "cut"), *options)
    torch.manual_seed(99)
    assert toy.train(pictures, str(tmp_path / "cut"), *options) == whole
    assert "Averaged is not RESUMABLE: if it is stopped, it starts anew" in caplog.text
    with pytest.raises(ConfigError, match="OPTIM.LR was"):
        toy.train(pictures, str(tmp_path / "cut"), "OPTIM.LR", "0.5", *options)


@pytest.mark.parametrize("damaged", [False, True])
def test_a_folder_of_another_run_with_nothing_whole_is_refused(toy, pictures, tmp_path, damaged):
    (tmp_path / "a").mkdir()
    if damaged:
        stop_after(toy, 2)(pictures, str(tmp_path / "a"), "TRAIN.CHECKPOINT_FREQ", "1")
        for path in (tmp_path / "a" / "resume").iterdir():
            path.write_bytes(path.read_bytes()[:-100])
    what = "damaged resume files alone" if damaged else "neither resume files nor checkpoints"
    with pytest.raises(ConfigError, match=f"/a holds {what}: name another folder"):
        toy.train(pictures, str(tmp_path / "b"), "RESUME", str(tmp_path / "a"))
    assert not list((tmp_path / "b").rglob("*.pt"))


def test_the_best_model_comes_along_from_the_folder_of_another_run(toy, pictures, tmp_path, monkeypatch):
    options = ("TEST.FINAL_MODEL", "best_val")
    results = iter([50.0, 70.0, 60.0, 55.0, 65.0, 0.0] * 3)  # the best is epoch 2's
    test = toy.Toy.test
    monkeypatch.setattr(toy.Toy, "test", lambda self, split=None: next(results) if split else test(self))
    whole = toy.train(pictures, str(tmp_path / "whole"), *options)
    results = iter([50.0, 70.0, 60.0])
    stop_after(toy, 3)(pictures, str(tmp_path / "a"), *options)
    results = iter([55.0, 65.0, 0.0] * 2)
    best = tmp_path / "b" / "toy" / "model-best.pth.tar"
    assert toy.train(pictures, str(tmp_path / "b"), *options, "RESUME", str(tmp_path / "a")) == whole
    assert best.read_bytes() == (tmp_path / "whole" / "toy" / "model-best.pth.tar").read_bytes()
    source = tmp_path / "a" / "toy" / "model-best.pth.tar"
    source.write_bytes(source.read_bytes()[:-100])
    with pytest.raises(ConfigError, match="a/toy/model-best.pth.tar is damaged"):
        toy.train(pictures, str(tmp_path / "c"), *options, "RESUME", str(tmp_path / "a"))


def test_checkpoints_of_the_family_are_resumed_where_no_resume_file_is(toy, pictures, tmp_path, caplog):
    toy.train(pictures, str(tmp_path), "TRAIN.CHECKPOINT_FREQ", "2")
    for path in (tmp_path / "resume").iterdir():
        path.unlink()
    (tmp_path / "toy" / "checkpoint").write_text("model.pth.tar-4\n")
    trainer = toy.build(toy.config(pictures, str(tmp_path)))
    rates = record_rates(trainer)
    trainer.train()
    assert trainer.start_epoch == 4 and len(rates) == 2 and "will not end exactly" in caplog.text
    assert rates[0] == pytest.approx(0.01 * (1 + torch.cos(torch.tensor(torch.pi * 3 / 6)).item()))  # (e - W) / N


def test_a_method_keeps_what_it_needs_and_its_first_stage_does_not_shift_training(toy, pictures, tmp_path, reference):
    seen = []

    class Staged(toy.Toy):
        RESUMABLE = True

        def before_train(self):
            super().before_train()
            torch.randn(7)  # computed the first time, from a cache later

        def resume_state(self):
            return {**super().resume_state(), "steps": torch.tensor(self.epoch)}

        def load_resume_state(self, state):
            super().load_resume_state(state)
            seen.append(state["steps"].item())

    def build(*_):
        toy.set_random_seed(0)
        return Staged(toy.config(pictures, str(tmp_path)))

    first = build()
    save = first.save_resume
    first.save_resume = lambda: save() or (_ for _ in ()).throw(KeyboardInterrupt)
    with pytest.raises(KeyboardInterrupt):
        first.train()
    second = build()
    second.train()
    assert seen == [0] and toy.digest(second.model) == reference


def test_gradient_scaler_state_travels(toy, pictures, tmp_path):
    trainer = toy.build(toy.config(pictures, str(tmp_path)))
    trainer.scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
    state = trainer.resume_state()
    trainer.scaler = torch.amp.GradScaler("cpu")
    trainer.load_resume_state(state)
    assert trainer.scaler.get_scale() == 8.0
