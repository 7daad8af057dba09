"""The training step: nothing in it waits for the device, in any registered trainer; reduced precision; compiling.

Without a GPU no wait is felt, so every way from a tensor to a Python number, and every operation whose shape depends on values,
is watched for instead.
"""

import multiprocessing
import random

import numpy as np
import pytest
import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.data import DataLoader, Dataset, RandomSampler

from dicap import discover
from dicap.config import build_cfg, config_path, recipes, split_method
from dicap.experiments.run import model_digest
from dicap.features import seeded_loader

discover.load_all()
from dassl.engine import TRAINER_REGISTRY, build_trainer  # noqa: E402
from dassl.evaluation import Classification  # noqa: E402
from dassl.utils import AverageMeter, MetricMeter  # noqa: E402

LEARNING = ["CoOp", "CoCoOp", "CLIPAdapter", "FeatureMap", "DiCap:CoOp", "DiCap:CoOp+FeatureMap"]
QUICK = ["DATASET.NUM_SHOTS", "4", "OPTIM.MAX_EPOCH", "2", "DATALOADER.TRAIN_X.BATCH_SIZE", "2"]
VARIANTS = [(name, ()) for name in LEARNING] + [
    ("CoOp", ("TRAINER.COOP.CSC", "True", "TRAINER.COOP.CLASS_TOKEN_POSITION", "middle")),
    ("CoOp", ("TRAINER.COOP.PREC", "bf16")),
    ("DiCap:CoOp", ("TRAINER.DICAP.L_CON", "1", "TRAINER.DICAP.CON_MODE", "both", "TRAINER.DICAP.L_KG", "1")),
    ("DiCap:CoCoOp", ("TRAINER.DICAP.CONTROL", "random-cf", "TRAINER.DICAP.L_CON", "1")),
]


class _Functions(TorchFunctionMode):
    METHODS = {
        getattr(torch.Tensor, name)
        for name in (
            "item",
            "tolist",
            "cpu",
            "numpy",
            "__bool__",
            "__float__",
            "__int__",
            "__index__",
            "__array__",
            "__contains__",
        )
    }

    def __init__(self, seen):
        self.seen = seen

    def __torch_function__(self, function, types, args=(), kwargs=None):
        if function in self.METHODS:
            self.seen.append(function.__name__)
        return function(*args, **(kwargs or {}))


class _Operations(TorchDispatchMode):
    NAMES = {"_local_scalar_dense", "is_nonzero", "equal", "nonzero", "masked_select", "_unique2", "unique_dim"}

    def __init__(self, seen):
        super().__init__()
        self.seen = seen

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        name = operation.overloadpacket.__name__
        masks = args[1] if name in ("index", "index_put", "index_put_") else ()
        masked = any(mask is not None and mask.dtype in (torch.bool, torch.uint8) for mask in masks)
        if name in self.NAMES or masked or (name == "repeat_interleave" and not (kwargs or {}).get("output_size")):
            self.seen.append(name)
        return operation(*args, **(kwargs or {}))


class Waits:
    """While it is entered, `seen` collects what would make the host wait for a GPU."""

    def __init__(self):
        self.seen = []

    def __enter__(self):
        self.modes = _Functions(self.seen), _Operations(self.seen)
        for mode in self.modes:
            mode.__enter__()
        return self

    def __exit__(self, *error):
        for mode in reversed(self.modes):
            mode.__exit__(*error)


@pytest.fixture(autouse=True)
def folders(embedded_data, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)


SGD = ["OPTIM.NAME", "sgd"]  # Adam reads a counter of its own in each step, which lives on the CPU whatever the device


def built(name, *opts, out="out"):
    quick = ["TRAINER.DICAP.TRAIN_STEPS", "20", "TRAINER.DICAP.STEPS", "8"] if name.startswith("DiCap") else []
    torch.manual_seed(1)
    return build_trainer(
        build_cfg(
            config_path("datasets", "digits"),
            recipes(name)["tiny"],
            name,
            output_dir=out,
            seed=1,
            opts=[*QUICK, "DATASET.SUBSAMPLE_CLASSES", "base", *quick, *opts],
        )
    )


def trainer_of(name, *opts):
    trainer = built(name, *opts)
    trainer.before_train()
    trainer.close_writer()
    trainer.set_model_mode("train")
    trainer.num_batches = len(trainer.train_loader_x)
    return trainer


@pytest.mark.parametrize(
    "wait",
    [
        lambda x: x.sum().item(),
        lambda x: x.tolist(),
        lambda x: x.cpu(),
        lambda x: x.numpy(),
        lambda x: bool(x.any()),
        lambda x: float(x[0]),
        lambda x: int(x[0]),
        lambda x: f"{x[0]:.2f}",
        lambda x: x[x > 0],
        lambda x: torch.equal(x, x),
        lambda x: torch.nonzero(x),
        lambda x: x.unique(),
        lambda x: torch.where(x > 0),
        lambda x: x.masked_select(x > 0),
        lambda x: x.repeat_interleave(x.long()),
        lambda x: x.clone().__setitem__(x > 0, x[:1]),
        lambda x: 1.0 in x,
    ],
)
def test_every_way_of_waiting_is_seen(wait):
    with Waits() as waits:
        wait(torch.ones(3))
    assert waits.seen


@pytest.mark.parametrize(
    "name, opts", VARIANTS, ids=lambda value: "-".join(value) if isinstance(value, tuple) else value
)
def test_a_step_waits_for_nothing(name, opts):
    trainer = trainer_of(name, *SGD, *opts)
    batches = list(trainer.train_loader_x)[:3]
    for trainer.batch_idx, batch in enumerate(batches[:2]):
        trainer.forward_backward(batch)
    with Waits() as waits:
        summary = trainer.forward_backward(batches[2])
    assert not waits.seen
    assert {"loss", "acc"} <= set(summary)
    assert all(value.shape == () and not value.requires_grad for value in summary.values())


@pytest.mark.parametrize("name", LEARNING)
def test_between_two_lines_the_loop_waits_for_nothing(name, capsys):
    trainer = trainer_of(name, *SGD, "TRAIN.PRINT_FREQ", "3")
    batches = list(trainer.train_loader_x)[:7]
    trainer.forward_backward(batches[0])  # the first step prepares what is kept: the packing of texts, hand prompts
    trainer.num_batches, read, reads = 7, MetricMeter.read, []
    waits = Waits()
    write = trainer._write_points

    def write_points(*args):
        waits.__exit__(None, None, None)
        reads.append(trainer.batch_idx)
        write(*args)
        waits.__enter__()

    trainer._write_points = write_points
    with waits:
        trainer._run_batches((batch,) for batch in batches)
    assert not waits.seen and reads == [2, 5, 6] and MetricMeter.read is read
    assert capsys.readouterr().out.count(" loss ") == 2


def test_meters_keep_tensors_unread_and_exact():
    last = torch.tensor([0.1], dtype=torch.float64)
    values = [torch.tensor(0.3, dtype=torch.half), torch.tensor(0.2, requires_grad=True), torch.tensor(3), last]
    numbers, meter, metrics = [value.item() for value in values], AverageMeter(), MetricMeter()
    with Waits() as waits:
        for i, value in enumerate(values):
            meter.update(value)
            metrics.update({"a": value, "b": i} if i else None)
    assert not waits.seen
    last.zero_()  # as where a step writes its results to the same memory again
    assert (meter.val, meter.sum, meter.avg) == (numbers[-1], sum(numbers), sum(numbers) / 4)
    assert metrics.read() == [{}, *({"a": sum(numbers[1 : n + 1]) / n, "b": (n + 1) / 2} for n in (1, 2, 3))]
    assert metrics.read() == [] and metrics.meters["a"].val == numbers[-1]


def test_the_evaluator_reads_once_a_batch():
    evaluator = Classification(
        build_cfg(config_path("datasets", "digits"), config_path("trainers/CoOp", "tiny"), "CoOp")
    )
    with Waits() as waits:
        evaluator.process(torch.eye(4)[[0, 3, 3]], torch.tensor([0, 3, 2]))
    assert waits.seen == ["tolist"] and (evaluator._y_true, evaluator._y_pred) == ([0, 3, 2], [0, 3, 3])
    assert evaluator._correct == 2


@pytest.mark.parametrize("name", LEARNING)
def test_bf16_trains_near_fp32(name):
    """bf16 keeps 8 bits, a rounding is up to 2^-8 = 0.4 %: losses within 1 %; gradients, of many roundings, point the same way."""
    losses, grads = [], []
    for precision in ("fp32", "bf16"):
        trainer = trainer_of(
            name,
            f"TRAINER.{split_method(name)[0].upper()}.PREC",
            precision,
            "DATALOADER.TRAIN_X.BATCH_SIZE",
            "16",
            "DATASET.SUBSAMPLE_CLASSES",
            "all",
        )
        before = [p.detach().clone() for p in trainer.learner.parameters()]
        torch.manual_seed(0)
        losses.append(trainer.forward_backward(next(iter(trainer.train_loader_x)))["loss"].item())
        grads.append(torch.cat([p.grad.flatten() for p in trainer.learner.parameters()]))
        assert trainer.scaler is None and {p.dtype for p in trainer.model.parameters()} == {torch.float32}
        assert not any(map(torch.equal, before, trainer.learner.parameters()))
    assert losses[1] == pytest.approx(losses[0], rel=0.01)
    assert not torch.equal(*grads)  # the loss of a map that is still zero is exact
    assert torch.cosine_similarity(*grads, dim=0) > 0.99
    assert grads[1].norm() == pytest.approx(grads[0].norm().item(), rel=0.1)


class Dice(Dataset):
    """Items that are drawn from every generator."""

    def __len__(self):
        return 7

    def __getitem__(self, index):
        return torch.tensor([index, random.random(), np.random.rand(), torch.rand(()).item()], dtype=torch.float64)


def dice(workers):
    data = Dice()
    return seeded_loader(DataLoader(data, 2, sampler=RandomSampler(data), num_workers=workers, drop_last=True))


def epoch(loader, state=None):
    if state is not None:
        torch.set_rng_state(state)
    return torch.cat(list(loader))


def test_workers_stay_and_what_they_draw_can_be_resumed():
    torch.manual_seed(3)
    two, states, seen = dice(2), [], []
    for _ in range(3):
        states.append(torch.get_rng_state())
        seen.append(epoch(two))
    workers = two._iterator._workers
    assert all(worker.is_alive() for worker in workers) and len(seen[0]) == 6
    assert not torch.equal(seen[0][:, 1:], seen[1][:, 1:]) and seen[0].unique(dim=0).shape == (6, 4)
    assert torch.equal(epoch(dice(1), states[2]), seen[2])  # a new process, another number of workers
    assert torch.equal(epoch(dice(0), states[2]), seen[2])
    assert torch.equal(epoch(two, states[1]), seen[1]) and two._iterator._workers is workers
    next(iter(two))  # left in the middle
    assert torch.equal(epoch(two, states[0]), seen[0])


@pytest.mark.parametrize("workers", [0, 1])
def test_what_items_draw_does_not_shift_what_training_draws(workers):
    def drawn(use):
        torch.manual_seed(3)
        batches = iter(dice(workers))
        for _ in range(use):
            next(batches)
        return random.random(), np.random.rand(), torch.rand(()).item()

    random.seed(3), np.random.seed(3)
    states = random.getstate(), np.random.get_state()
    one = drawn(1)
    random.setstate(states[0]), np.random.set_state(states[1])
    assert drawn(3) == one


def test_fresh_augmentations_resume_exactly_whatever_the_number_of_workers(monkeypatch):
    def go(out, workers):
        opts = "INPUT.VIEWS", "0", "DATALOADER.TRAIN_X.BATCH_SIZE", "8", "DATALOADER.NUM_WORKERS", str(workers)
        trainer = built("CoOp", *opts, out=out)
        given = trainer.train_loader_x
        try:
            trainer.train()
        finally:
            assert trainer.train_loader_x is given
        assert not multiprocessing.active_children()  # none is left to the garbage collector
        return model_digest(trainer)

    whole, cls = go("whole", 2), TRAINER_REGISTRY.get("CoOp")
    assert go("one", 1) == go("none", 0) == whole
    step = cls.forward_backward
    monkeypatch.setattr(cls, "forward_backward", lambda self, batch: 1 / 0 if self.epoch == 1 else step(self, batch))
    with pytest.raises(ZeroDivisionError):
        go("cut", 0)
    monkeypatch.setattr(cls, "forward_backward", step)
    assert go("cut", 2) == whole


def test_one_and_two_threads_train_the_same_to_rounding(monkeypatch, tmp_path):
    """Features, counterfactuals and two epochs, the second at the full rate: later ones may magnify a difference."""
    threads, ends = torch.get_num_threads(), []
    try:
        for count in (1, 2):
            monkeypatch.setenv("DICAP_CACHE", str(tmp_path / f"cache{count}"))
            torch.set_num_threads(count)
            for name in ("CoOp", "CoCoOp", "DiCap:CoOp"):
                trainer = built(name, "DATALOADER.TRAIN_X.BATCH_SIZE", "8", out=f"{name}{count}")
                trainer.train()
                ends.append((torch.cat([p.detach().flatten() for p in trainer.learner.parameters()]), trainer.test()))
    finally:
        torch.set_num_threads(threads)
    for (one, accuracy), (two, accuracy_of_two) in zip(ends[:3], ends[3:]):
        assert (one - two).abs().max() < 1e-6 and accuracy == accuracy_of_two
