"""A run that is killed and started again ends as one that was not: bit equality of the parameters."""

import logging
import os

import pytest
import torch


@pytest.fixture(scope="module")
def reference(toy, pictures, tmp_path_factory):
    """Digest of the run that nothing disturbs."""
    return toy.train(pictures, str(tmp_path_factory.mktemp("reference")))


def stop_after(toy, epochs):
    """A run that dies as soon as that many epochs are on the disk."""

    class Stop(Exception):
        pass

    def train(pictures, output, *options):
        trainer = toy.build(toy.config(pictures, output, *options))
        save = trainer.save_resume

        def save_and_die():
            save()
            if trainer.epoch + 1 == epochs:
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


def test_a_run_with_another_seed_is_not_continued_by_mistake(toy, pictures, tmp_path):
    stop_after(toy, 2)(pictures, str(tmp_path))
    with pytest.raises(ValueError, match="SEED was 0 and is 1.*another OUTPUT_DIR"):
        toy.train(pictures, str(tmp_path), "SEED", "1")


def test_checkpoints_of_the_family_are_resumed_where_no_resume_file_is(toy, pictures, tmp_path):
    toy.train(pictures, str(tmp_path), "TRAIN.CHECKPOINT_FREQ", "2")
    for path in (tmp_path / "resume").iterdir():
        path.unlink()
    (tmp_path / "toy" / "checkpoint").write_text("model.pth.tar-4\n")
    trainer = toy.build(toy.config(pictures, str(tmp_path)))
    rates = record_rates(trainer)
    trainer.train()
    assert trainer.start_epoch == 4 and len(rates) == 2
    assert rates[0] == pytest.approx(0.01 * (1 + torch.cos(torch.tensor(torch.pi * 3 / 6)).item()))  # (e - W) / N


def test_a_method_keeps_what_it_needs_and_its_first_stage_does_not_shift_training(toy, pictures, tmp_path, reference):
    seen = []

    class Staged(toy.Toy):
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
