"""The loop, its files and its lines; log, meters, evaluator, models."""

import contextlib
import io
import logging
import os
import sys

import numpy as np
import pytest
import torch
from dassl.config import get_cfg_default
from dassl.engine import TrainerBase, build_trainer
from dassl.evaluation import Classification, build_evaluator
from dassl.metrics import compute_accuracy
from dassl.modeling import BACKBONE_REGISTRY, build_backbone, build_head
from dassl.utils import (
    AverageMeter,
    MetricMeter,
    Registry,
    check_availability,
    collect_env_info,
    count_num_param,
    read_json,
    set_random_seed,
    setup_logger,
    tolist_if_not,
    write_json,
)
from torch import nn


@contextlib.contextmanager
def logged_to(folder):
    """The log of one run; afterwards the library's messages go where they went before."""
    library = logging.getLogger("dicap")
    handlers, level = list(library.handlers), library.level
    try:
        with setup_logger(str(folder)):
            yield
    finally:
        library.handlers = handlers
        library.setLevel(level)


def calls_of(trainer, *names):
    seen = []
    for name in names:
        method = getattr(trainer, name)
        setattr(trainer, name, lambda *a, _n=name, _m=method, **k: (seen.append(_n), _m(*a, **k))[1])
    return seen


def test_order_of_the_hooks(toy, pictures, tmp_path):
    trainer = toy.build(toy.config(pictures, str(tmp_path), "OPTIM.MAX_EPOCH", "2"))
    seen = calls_of(trainer, "before_train", "before_epoch", "run_epoch", "after_epoch", "after_train", "test")
    trainer.train()
    epoch = ["before_epoch", "run_epoch", "after_epoch"]
    assert seen == ["before_train", *epoch, *epoch, "after_train", "test"]


def test_files_and_keys_of_a_run(toy, pictures, tmp_path):
    toy.train(pictures, str(tmp_path), "TRAIN.CHECKPOINT_FREQ", "4")
    assert sorted(os.listdir(tmp_path / "toy")) == ["checkpoint", "model.pth.tar-4", "model.pth.tar-6"]
    assert (tmp_path / "toy" / "checkpoint").read_text() == "model.pth.tar-6\n"
    saved = torch.load(tmp_path / "toy" / "model.pth.tar-6", weights_only=True)
    assert set(saved) == {"state_dict", "epoch", "optimizer", "scheduler", "val_result"}
    assert saved["epoch"] == 6 and saved["val_result"] is None
    assert os.listdir(tmp_path / "tensorboard")


def test_lines_that_other_programs_read(toy, pictures, tmp_path, capsys):
    trainer = toy.build(
        toy.config(
            pictures,
            str(tmp_path),
            "OPTIM.MAX_EPOCH",
            "1",
            "TEST.PER_CLASS_RESULT",
            "True",
            "TEST.COMPUTE_CMAT",
            "True",
        )
    )
    trainer.train()
    out = capsys.readouterr().out
    correct = sum(t == p for t, p in zip(trainer.evaluator._y_true, trainer.evaluator._y_pred))
    for line in (
        "Finish training",
        "Evaluate on the *test* set",
        "=> result",
        "* total: 15",
        f"* correct: {correct}",
        f"* accuracy: {correct / 0.15:.1f}%",
        f"* error: {100 - correct / 0.15:.1f}%",
        "=> per-class result",
    ):
        assert line in out.splitlines(), line
    assert "* macro_f1: " in out and "* class: 1 (green)\ttotal: 5\t" in out and "* average: " in out
    assert "epoch [1/1] batch [2/4] time " in out and " lr 1.0000e-05 eta " in out and " loss " in out
    assert "\r" not in out and "%|" not in out  # no progress bar where there is no terminal
    matrix = torch.load(tmp_path / "cmat.pt", weights_only=True)
    assert torch.allclose(matrix.sum(1), torch.ones(3, dtype=matrix.dtype))


def test_best_val_keeps_and_deploys_the_best(toy, pictures, tmp_path, capsys):
    trainer = toy.build(toy.config(pictures, str(tmp_path), "TEST.FINAL_MODEL", "best_val"))
    results = []
    test = trainer.test
    trainer.test = lambda split=None: results.append(test(split)) or results[-1]
    trainer.train()
    best = torch.load(tmp_path / "toy" / "model-best.pth.tar", weights_only=True)
    assert best["val_result"] == max(results[:-1]) == trainer.best_result
    assert best["epoch"] == 1 + int(np.argmax(results[:-1]))
    assert f'Loading weights to toy from "{tmp_path}/toy/model-best.pth.tar"' in capsys.readouterr().out
    assert all(torch.equal(best["state_dict"][k], v) for k, v in trainer.model.state_dict().items())


def test_load_model(toy, pictures, tmp_path, capsys):
    digest = toy.train(pictures, str(tmp_path / "a"), "TRAIN.CHECKPOINT_FREQ", "3")
    trainer = toy.build(toy.config(pictures, str(tmp_path / "b")))
    trainer.load_model(str(tmp_path / "a"))  # none named and no best one: the last
    assert toy.digest(trainer.model) == digest and 0 <= trainer.test() <= 100
    trainer.load_model(str(tmp_path / "a"), epoch=3)
    assert toy.digest(trainer.model) != digest and "(epoch = 3)" in capsys.readouterr().out
    with pytest.raises(FileNotFoundError, match="model.pth.tar-5; in its folder: model.pth.tar-3, model.pth.tar-6"):
        trainer.load_model(str(tmp_path / "a"), epoch=5)
    with pytest.raises(FileNotFoundError, match="in its folder: none"):
        trainer.load_model(str(tmp_path / "none"))
    trainer.cfg = toy.config(pictures, str(tmp_path / "b"), "TEST.FINAL_MODEL", "best_val")
    with pytest.raises(FileNotFoundError, match="model-best.pth.tar"):
        trainer.load_model(str(tmp_path / "a"))
    trainer.load_model("")
    trainer._models["toy"] = nn.Linear(2, 2)
    with pytest.raises(ValueError, match="model.pth.tar-6 does not fit the model"):
        trainer.load_model(str(tmp_path / "a"), epoch=6)


def test_unlabelled_data(toy, pictures, tmp_path):
    for count, batches in (("train_x", 4), ("train_u", 1), ("smaller_one", 1)):
        trainer = toy.build(
            toy.config(
                pictures,
                str(tmp_path / count),
                "TRAINER.NAME",
                "ToyXU",
                "TRAIN.COUNT_ITER",
                count,
                "OPTIM.MAX_EPOCH",
                "1",
            )
        )
        seen = calls_of(trainer, "forward_backward")
        trainer.train()
        assert len(seen) == batches == trainer.num_batches
    trainer.train_loader_u = None
    with pytest.raises(ValueError, match="ToyColours has no train_u"):
        trainer.run_epoch()


def test_a_trainer_without_a_registered_model_is_tested(toy, pictures, tmp_path):
    class Training_free(toy.TrainerX):
        def build_model(self):
            pass

        def model_inference(self, image):
            return image.mean((2, 3))

    trainer = Training_free(toy.config(pictures, str(tmp_path)))
    assert trainer.test() > 90 and trainer.test(split="val") > 90
    assert len(trainer.evaluator._y_true) == 12


def test_trainer_by_name(toy, pictures):
    with pytest.raises(ValueError, match=r"\[Toyy\].*do you mean \[Toy\]"):
        build_trainer(toy.config(pictures, "out", "TRAINER.NAME", "Toyy"))


def test_registered_models():
    trainer = TrainerBase()
    with pytest.raises(AttributeError, match="before super"):
        TrainerBase.__new__(TrainerBase).register_model("a")
    one, two = nn.Linear(1, 1), nn.Linear(1, 1)
    trainer.register_model("one", one, torch.optim.SGD(one.parameters(), lr=0.5))
    trainer.register_model("two", two)
    assert trainer.get_model_names() == ["one", "two"] and trainer.get_model_names("two") == ["two"]
    with pytest.raises(ValueError, match="one is registered already"):
        trainer.register_model("one")
    with pytest.raises(ValueError, match="no model named three"):
        trainer.get_model_names(["three"])
    trainer.set_model_mode("eval", "one")
    assert not one.training and two.training
    with pytest.raises(KeyError):
        trainer.set_model_mode("tests")
    before = one.weight.item()
    trainer.model_backward_and_update((one.weight + two.weight).sum())
    assert one.weight.item() == pytest.approx(before - 0.5) and two.weight.grad is not None
    trainer.check_losses()
    assert not trainer._unchecked  # each loss is looked at once
    for _ in range(2):  # and again: what is broken stays broken
        trainer.model_backward((one.weight * float("nan")).sum())
        with pytest.raises(FloatingPointError, match="nan in epoch 1, batch 1"):
            trainer.check_losses()


@pytest.mark.parametrize("bad", [(0, 0), (0, 1), (1, 3)])
def test_a_loss_that_is_not_finite_is_named_and_nothing_after_it_is_saved(toy, pictures, tmp_path, bad):
    trainer = toy.build(toy.config(pictures, str(tmp_path), "TRAIN.CHECKPOINT_FREQ", "1"))
    step, backward = trainer.forward_backward, trainer.model_backward_and_update
    trainer.model_backward_and_update = lambda loss: backward(
        loss * float("inf") if (trainer.epoch, trainer.batch_idx) == bad else loss
    )
    last = []
    trainer.forward_backward = lambda batch: last.append((trainer.epoch, trainer.batch_idx)) or step(batch)
    with pytest.raises(FloatingPointError, match=f"inf in epoch {bad[0] + 1}, batch {bad[1] + 1}: lower OPTIM.LR"):
        trainer.train()
    assert last[-1] == (bad[0], bad[1] // 2 * 2 + 1)  # PRINT_FREQ 2: seen at the next line
    for save in (lambda: trainer.save_model(9, str(tmp_path)), trainer.save_resume):
        with pytest.raises(FloatingPointError):
            save()
    saved = [path.name for path in tmp_path.rglob("*") if path.name.startswith(("model", "epoch-"))]
    assert sorted(saved) == ["epoch-0.pt", *["epoch-1.pt", "model.pth.tar-1"] * bad[0]]


def test_a_loop_of_a_methods_own_is_checked_before_anything_is_saved(toy, pictures, tmp_path):
    trainer = toy.build(toy.config(pictures, str(tmp_path)))
    trainer.run_epoch = lambda: trainer.model_backward((trainer.model[-1].weight * float("nan")).sum())
    trainer.after_epoch = lambda: pytest.fail("a broken model is kept")
    with pytest.raises(FloatingPointError, match="nan in epoch 1"):
        trainer.train()
    assert [path.name for path in (tmp_path / "resume").iterdir()] == ["epoch-0.pt"]


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_parameters_that_the_last_step_broke_are_named_and_not_saved(toy, pictures, tmp_path, bad):
    trainer = toy.build(toy.config(pictures, str(tmp_path), "OPTIM.MAX_EPOCH", "1"))
    update = trainer.model_update

    def break_at_last(names=None):
        update(names)
        if trainer.batch_idx + 1 == trainer.num_batches:
            trainer.model[-1].bias.data[1] = bad

    trainer.model_update = break_at_last
    with pytest.raises(FloatingPointError, match=r"toy after epoch 1 \(lower OPTIM.LR.*: 3.bias holds NaN or Inf"):
        trainer.train()
    with pytest.raises(FloatingPointError):
        trainer.save_resume()
    assert not (tmp_path / "toy").exists() and [p.name for p in (tmp_path / "resume").iterdir()] == ["epoch-0.pt"]


def test_a_file_with_parameters_that_are_not_finite_is_named(toy, pictures, tmp_path):
    toy.train(pictures, str(tmp_path), "OPTIM.MAX_EPOCH", "1")
    path = tmp_path / "toy" / "model.pth.tar-1"
    saved = torch.load(path, weights_only=True)
    saved["state_dict"]["3.weight"][0, 0] = float("nan")
    torch.save(saved, path)
    trainer = toy.build(toy.config(pictures, str(tmp_path / "b")))
    with pytest.raises(FloatingPointError, match=f"{path} .*: 3.weight holds NaN or Inf"):
        trainer.load_model(str(tmp_path))


@pytest.mark.parametrize("every, lines", [(1, 10), (3, 2), (5, 2), (100, 2)])
def test_points_and_lines_are_those_of_a_loop_that_waits(toy, pictures, tmp_path, capsys, every, lines):
    options = (
        "OPTIM.MAX_EPOCH",
        2,
        "TRAIN.PRINT_FREQ",
        every,
        "DATALOADER.TRAIN_X.BATCH_SIZE",
        3,
        "DATASET.NUM_SHOTS",
        5,
    )
    trainer = toy.build(toy.config(pictures, str(tmp_path), *options))
    points, expected, step = [], [], trainer.forward_backward
    trainer.write_scalar = lambda *point: points.append(point)

    def forward_backward(batch):
        number = trainer.epoch * 5 + trainer.batch_idx
        if trainer.batch_idx == 0:
            sums.update(loss=0.0, acc=0.0)
        report = step(batch)
        for name, value in report.items():
            sums[name] += value
            expected.append((f"train/{name}", sums[name] / (trainer.batch_idx + 1), number))
        expected.append(("train/lr", trainer.get_current_lr(), number))
        return {name: torch.tensor(value, dtype=torch.float64, requires_grad=True) for name, value in report.items()}

    sums = {}
    trainer.forward_backward = forward_backward
    trainer.train()
    assert trainer.num_batches == 5 and [point for point in points if point[0].startswith("train/")] == expected
    assert sum("epoch [" in line for line in capsys.readouterr().out.splitlines()) == lines


def test_many_runs_in_one_process_leave_nothing_open(toy, pictures, tmp_path):
    def run(name):
        with logged_to(tmp_path / name):
            toy.train(pictures, str(tmp_path / name), "OPTIM.MAX_EPOCH", "1")

    def files():
        return sorted(
            os.readlink(f"/proc/self/fd/{n}")
            for n in os.listdir("/proc/self/fd")
            if os.path.exists(f"/proc/self/fd/{n}")
        )

    run("first")
    before, threads = [f for f in files() if str(tmp_path) in f], len(sys._current_frames())
    stdout = sys.stdout
    for i in range(3):
        run(str(i))
    assert [f for f in files() if str(tmp_path) in f] == before == []
    assert len(sys._current_frames()) <= threads and sys.stdout is stdout
    assert "Finish training" in (tmp_path / "2" / "log.txt").read_text()
    assert (tmp_path / "0" / "log.txt").read_text().count("Finish training") == 1


def test_the_writer_is_a_name_of_the_trainers_module(toy, pictures, tmp_path, monkeypatch, caplog):
    import dassl.engine.trainer
    from torch.utils.tensorboard import SummaryWriter

    assert dassl.engine.trainer.SummaryWriter is SummaryWriter
    trainer = toy.build(toy.config(pictures, str(tmp_path)))
    monkeypatch.setattr(dassl.engine.trainer, "SummaryWriter", None)  # as where TensorBoard is not installed
    with caplog.at_level("INFO", logger="dicap"):
        trainer.init_writer(str(tmp_path))
    trainer.write_scalar("a", 1.0, 0)
    assert trainer._writer is None and "no TensorBoard log" in caplog.text


def test_a_run_that_fails_closes_its_writer(toy, pictures, tmp_path):
    trainer = toy.build(toy.config(pictures, str(tmp_path)))
    trainer.run_epoch = lambda: 1 / 0
    with pytest.raises(ZeroDivisionError):
        trainer.train()
    assert trainer._writer is None


# -- log


def test_log_mirrors_stdout_and_the_librarys_messages(tmp_path, capsys):
    with logged_to(tmp_path):
        print("printed")
        logging.getLogger("dicap.anything").info("said")
        assert not sys.stdout.isatty()
    print("after")
    assert (tmp_path / "log.txt").read_text() == "printed\nsaid\n"
    assert capsys.readouterr().out == "printed\nsaid\nafter\n"


def test_log_moves_on_and_continues(tmp_path):
    stdout = sys.stdout
    try:
        for name in ("a", "b", "a"):
            setup_logger(str(tmp_path / name))
            print(name, flush=True)
        log = setup_logger(str(tmp_path / "c" / "own.txt"))
        assert setup_logger(None) is None and sys.stdout is log
    finally:
        log.close()
        log.close()
    assert sys.stdout is stdout
    assert (tmp_path / "a" / "log.txt").read_text() == "a\na\n" and (tmp_path / "b" / "log.txt").read_text() == "b\n"


def test_a_log_survives_an_error(tmp_path):
    stdout = sys.stdout
    with pytest.raises(RuntimeError), logged_to(tmp_path):
        print("a line")
        raise RuntimeError
    assert sys.stdout is stdout and (tmp_path / "log.txt").read_text() == "a line\n"


def test_log_lines_are_on_the_disk_at_once(tmp_path):
    with logged_to(tmp_path):
        print("a line")
        assert (tmp_path / "log.txt").read_text() == "a line\n"


# -- evaluator and metrics


def test_evaluator_equals_scikit_learn(capsys):
    metrics = pytest.importorskip("sklearn.metrics")
    cfg = get_cfg_default()
    evaluator = build_evaluator(cfg, lab2cname={i: str(i) for i in range(5)})
    generator = torch.Generator().manual_seed(0)
    for size in (7, 1, 30):
        evaluator.process(torch.randn(size, 5, generator=generator), torch.randint(0, 4, (size,), generator=generator))
    results = evaluator.evaluate()
    true, pred = evaluator._y_true, evaluator._y_pred
    assert len(true) == 38 and all(type(value) is int for value in true + pred)
    assert list(results) == ["accuracy", "error_rate", "macro_f1"]
    assert results["accuracy"] == pytest.approx(100 * metrics.accuracy_score(true, pred))
    f1 = metrics.f1_score(true, pred, average="macro", labels=np.unique(true))
    assert results["macro_f1"] == pytest.approx(100 * f1)
    evaluator.reset()
    with pytest.raises(ValueError, match="nothing to evaluate"):
        evaluator.evaluate()


@pytest.mark.parametrize("row", [[0.0, np.nan, 1.0], [0.0, np.inf, 1.0], [-np.inf] * 3])
def test_scores_that_are_not_finite_are_no_class(row):
    evaluator = build_evaluator(get_cfg_default())
    evaluator.process(torch.tensor([[0.0, -np.inf, 1.0], [1.0, 1.0, 1.0]]), torch.tensor([0, 0]))
    assert evaluator._y_pred == [2, 0]  # a class that is masked is no fault
    with pytest.raises(FloatingPointError, match="scores of 1 of the 2 images"):
        evaluator.process(torch.tensor([[0.0, 1.0, 2.0], row]), torch.tensor([2, 0]))


def test_confusion_matrix_equals_scikit_learn(tmp_path, capsys):
    metrics = pytest.importorskip("sklearn.metrics")
    cfg = get_cfg_default()
    cfg.TEST.COMPUTE_CMAT, cfg.OUTPUT_DIR = True, str(tmp_path)
    evaluator = Classification(cfg)
    evaluator.process(torch.eye(7)[[0, 2, 2, 6, 5]], torch.tensor([0, 2, 0, 2, 5]))
    evaluator.evaluate()
    expected = metrics.confusion_matrix([0, 2, 0, 2, 5], [0, 2, 2, 6, 5], normalize="true")
    assert np.allclose(torch.load(tmp_path / "cmat.pt", weights_only=True), np.nan_to_num(expected))


def test_top_k_accuracy():
    output = torch.tensor([[0.1, 0.5, 0.4], [0.9, 0.0, 0.1], [0.3, 0.3, 0.4]])
    one, two = compute_accuracy(output, torch.tensor([2, 0, 0]), topk=(1, 2))
    assert one.tolist() == pytest.approx([100 / 3]) and two.shape == (1,) and two.item() >= 200 / 3 - 1e-3
    assert compute_accuracy((output, None), torch.tensor([1, 0, 2]))[0].item() == 100


def test_meters():
    meter = AverageMeter()
    meter.update(1.0, 3)
    meter.update(torch.tensor(5.0))
    assert (meter.val, meter.avg, meter.count) == (5.0, 2.0, 4)
    smooth = AverageMeter(ema=True)
    smooth.update(10)
    assert smooth.avg == pytest.approx(1.0)
    metrics = MetricMeter()
    metrics.update(None)
    metrics.update({"loss": torch.tensor(0.5), "acc": 50})
    metrics.update({"loss": 1.5})
    assert str(metrics) == "loss 1.5000 (1.0000) acc 50.0000 (50.0000)"
    with pytest.raises(TypeError, match="dict"):
        metrics.update([1])
    with pytest.raises(TypeError, match=r"one number, not a tensor of shape \(2,\)"):
        metrics.update({"loss": torch.zeros(2)})


# -- tools and models


def test_seed_zero_seeds_every_generator():
    import random

    def draw(seed):
        set_random_seed(seed)
        return random.random(), np.random.rand(), torch.rand(1).item()

    assert draw(0) == draw(0) != draw(1)
    with pytest.raises(ValueError, match="seed -1"):
        set_random_seed(-1)


def test_registry():
    registry = Registry("THINGS")
    thing = registry.register()(type("Thing", (), {}))
    assert registry.get("Thing") is thing and registry.registered_names() == ["Thing"]
    with pytest.raises(KeyError, match="Thing was already registered in THINGS"):
        registry.register(type("Thing", (), {}))
    other = type("Thing", (), {})
    registry.register(other, force=True)
    assert registry.get("Thing") is other
    with pytest.raises(KeyError, match="Thin is not registered in THINGS; there are: Thing"):
        registry.get("Thin")
    with pytest.raises(ValueError, match=r"do you mean \[Thing\]"):
        check_availability("Thin", ["Thing", "Other"])


def test_small_tools(tmp_path):
    write_json({"a": [1]}, tmp_path / "x" / "a.json")
    assert read_json(tmp_path / "x" / "a.json") == {"a": [1]}
    (tmp_path / "b.json").write_text("{")
    with pytest.raises(ValueError, match="b.json is not a JSON file"):
        read_json(tmp_path / "b.json")
    assert tolist_if_not(1) == [1] and tolist_if_not([1]) == [1]
    assert torch.__version__ in collect_env_info()
    model = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
    assert count_num_param(model) == count_num_param(params=model.parameters()) == 15
    assert count_num_param(params=[{"params": list(model.parameters())}]) == 15


def test_backbones_and_heads_are_the_plugins():
    BACKBONE_REGISTRY.register(nn.Linear, force=True)
    assert build_backbone("Linear", verbose=False, in_features=2, out_features=5).out_features == 5
    with pytest.raises(ValueError, match=r"\[Linea\].*do you mean \[Linear\]"):
        build_backbone("Linea")
    with pytest.raises(ValueError, match=r"\[mlp\] is none of \[\]"):
        build_head("mlp")


def test_images_labels_domains_train(toy, pictures, tmp_path):
    cfg = toy.config(pictures, str(tmp_path), "OPTIM.MAX_EPOCH", "1", "DATALOADER.TRAIN_X.BATCH_SIZE", "9")

    class Plain(toy.ToyModel):
        def forward_backward(self, batch):
            image, label, _ = self.parse_batch_train(batch)
            loss = nn.functional.cross_entropy(self.model(image), label)
            self.model_backward_and_update(loss)
            return {"loss": loss}

    Plain(cfg).train()
    assert (tmp_path / "toy" / "model.pth.tar-1").exists()


def test_progress_bar_on_a_terminal_and_not_in_the_log(toy, pictures, tmp_path, monkeypatch):
    trainer = toy.build(toy.config(pictures, str(tmp_path)))
    shown = io.StringIO()
    monkeypatch.setattr(shown, "isatty", lambda: True)
    monkeypatch.setattr(sys, "stdout", shown)
    with logged_to(tmp_path):
        trainer.test()
    assert "%|" in shown.getvalue() and "* accuracy" in shown.getvalue()
    log = (tmp_path / "log.txt").read_text()
    assert "%|" not in log and "\r" not in log and "* accuracy" in log


@pytest.mark.parametrize("facts", [{}, {"console": None}])
def test_a_log_of_a_repositorys_own_needs_no_isatty(toy, pictures, tmp_path, monkeypatch, facts):
    log = io.StringIO()
    own = type("Logger", (), {"write": lambda self, text: log.write(text), "flush": lambda self: None, **facts})
    monkeypatch.setattr(sys, "stdout", own())
    toy.build(toy.config(pictures, str(tmp_path))).test()
    assert "* accuracy" in log.getvalue() and "%|" not in log.getvalue()
