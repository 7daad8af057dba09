"""On a GPU: the numbers of a CPU, no waiting in a step, exact resume. `python -m benchmarks.gpu` runs what is marked gpu.

Rows named cpu run everywhere: they show that the tests themselves work, and hold nothing of a GPU.
"""

import dataclasses
import functools
import itertools
import os
import sys
from contextlib import contextmanager
from pathlib import Path

os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # before CUDA starts; else its products may not repeat

import pytest  # noqa: E402
import torch  # noqa: E402
from safetensors.torch import save_file  # noqa: E402

from dicap import discover  # noqa: E402
from dicap.config import build_cfg, config_path, split_method  # noqa: E402
from dicap.experiments.run import run  # noqa: E402

ROOT = str(Path(__file__).parents[1])
sys.path.insert(0, ROOT)  # benchmarks is no part of the package
from benchmarks import harness, sides  # noqa: E402

sys.path.remove(ROOT)
discover.load_all()
from dassl.engine import TRAINER_REGISTRY, build_trainer  # noqa: E402

METHODS = ("CoOp", "CoCoOp", "FeatureMap", "CLIPAdapter", "DiCap:CoOp")
# relative error against fp32 on the CPU: of logits, of gradients
LIMITS = {"fp32": (1e-4, 1e-4), "bf16": (0.05, 0.3), "amp": (0.01, 0.05), "fp16": (0.01, 0.05)}
SHORT = ["DATASET.NUM_SHOTS", "4", "DATASET.SUBSAMPLE_CLASSES", "base", "OPTIM.MAX_EPOCH", "3"]
SHORT += ["DATALOADER.TRAIN_X.BATCH_SIZE", "4", "TRAINER.DICAP.TRAIN_STEPS", "20", "TRAINER.DICAP.STEPS", "8"]


def rows(cpu, gpu):
    """Rows (device, ...) of a test: some that run everywhere, and all of those that need a GPU."""
    return [*(("cpu", *row) for row in cpu), *(pytest.param("cuda", *row, marks=pytest.mark.gpu) for row in gpu)]


@pytest.fixture(autouse=True)
def exact_products(embedded_data):
    """No TF32; all as it was afterwards."""
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    yield
    torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before
    torch.use_deterministic_algorithms(False)


@pytest.fixture(scope="module")
def random_weights(tmp_path_factory):
    """Settings that name a small random CLIP of the true architecture."""
    path = tmp_path_factory.mktemp("clip") / "random.safetensors"
    state = harness.make_clip(quick=True).state_dict()
    save_file({name: value.contiguous() for name, value in state.items()}, path)
    return ["MODEL.BACKBONE.NAME", str(path), "INPUT.SIZE", "(32, 32)"]


def config(name, device, out, *settings, prec="fp32"):
    section = f"TRAINER.{split_method(name)[0].upper()}"
    settings = [*SHORT, "USE_CUDA", str(device == "cuda"), f"{section}.PREC", prec, *settings]
    files = config_path("datasets", "digits"), config_path("trainers/CoOp", "tiny")
    return build_cfg(*files, name, output_dir=str(out), seed=1, opts=settings)


def trainer_of(*args, **kwargs):
    """A trainer on the point of its first step."""
    torch.manual_seed(1)
    trainer = build_trainer(config(*args, **kwargs))
    trainer.before_train()
    trainer.close_writer()
    trainer.set_model_mode("train")
    trainer.num_batches, trainer.batch_idx = 100, 0
    return trainer


# ---- the same numbers


def outcome(trainer):
    """Logits of eight random images, and the gradients of a step's losses, on the CPU."""
    images, index = sides.random_images(trainer.model.clip, 8).cpu(), torch.arange(8)
    batch = trainer.parse_batch_train({"img": images, "index": index, "view": torch.zeros_like(index)})
    with trainer.autocast():
        logits, losses = trainer.loss(batch)
    trainer.learner.backward(losses)
    values = {f"gradient of {name}": p.grad for name, p in trainer.learner.named_parameters()}
    assert {value.dtype for value in values.values()} == {torch.float32}  # what is learned is, whatever PREC
    return {name: value.detach().float().cpu() for name, value in {"logits": logits, **values}.items()}


@pytest.fixture(scope="module")
def reference(embedded_data, random_weights, tmp_path_factory):
    """reference(name): the trainer in fp32 on the CPU, and its outcome."""

    @functools.cache
    def make(name):
        trainer = trainer_of(name, "cpu", tmp_path_factory.mktemp("cpu"), *random_weights)
        return trainer, outcome(trainer)

    return make


def same_start(trainer, other):
    """What is learned, and DiCap's counterfactuals, become those of another trainer."""
    trainer.learner.load_state_dict(other.learner.state_dict())
    bank = getattr(other, "bank", None)
    if bank is not None:
        moved = {key: getattr(bank, key).to(trainer.device) for key in ("features", "valid", "target")}
        trainer.bank = dataclasses.replace(bank, **moved)


def check_errors(got, expected, limits, record_property):
    """Relative errors within the limits (logits, gradients); the largest of each is recorded."""
    errors = {name: harness.relative(got[name], expected[name]) for name in expected}
    largest = errors.pop("logits"), max(errors.values())
    record_property("relative error", f"logits {largest[0]:.1e}, gradients {largest[1]:.1e}")
    assert largest[0] <= limits[0], f"logits {largest[0]:.1e}"
    assert largest[1] <= limits[1], errors


@pytest.mark.parametrize(
    "device, name, prec", rows(cpu=[("CoCoOp", "bf16"), ("DiCap:CoOp", "fp32")], gpu=itertools.product(METHODS, LIMITS))
)
def test_a_step_has_the_numbers_of_the_cpu(device, name, prec, reference, random_weights, tmp_path, record_property):
    ours, expected = reference(name)
    trainer = trainer_of(name, device, tmp_path, *random_weights, prec=prec)
    same_start(trainer, ours)
    halved = prec == "fp16" and device == "cuda"
    assert trainer.model.clip.text_projection.dtype == (torch.float16 if halved else torch.float32)
    check_errors(outcome(trainer), expected, LIMITS[prec], record_property)


def test_a_number_that_is_a_little_wrong_is_seen(reference, record_property):
    _, expected = reference("CoOp")
    for wrong in expected:
        got = {**expected, wrong: expected[wrong] * 1.001}
        with pytest.raises(AssertionError, match=wrong):
            check_errors(got, expected, LIMITS["fp32"], record_property)


@pytest.mark.gpu
@pytest.mark.parametrize("name", METHODS)
def test_amp_learns_once_its_loss_scale_has_settled(name, tmp_path):
    trainer = trainer_of(name, "cuda", tmp_path, prec="amp")
    before = [p.detach().clone() for p in trainer.learner.parameters()]
    for batch in list(trainer.train_loader_x) * 4:
        assert trainer.forward_backward(batch)["loss"].isfinite()
    assert trainer.scaler.get_scale() >= 1
    assert not any(map(torch.equal, before, trainer.learner.parameters()))


# ---- no waiting


@contextmanager
def waiting_is_an_error(device):
    """Whatever makes the host wait for the GPU raises RuntimeError."""
    if device == "cuda":
        torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        if device == "cuda":
            torch.cuda.set_sync_debug_mode("default")


@pytest.mark.gpu
def test_waiting_is_seen():
    x = torch.ones(2, device="cuda")
    with pytest.raises(RuntimeError), waiting_is_an_error("cuda"):
        x.sum().item()


@pytest.mark.parametrize(
    "device, name, prec",  # amp waits once a step: dicap/trainer.py
    rows(cpu=[("DiCap:CoOp", "fp32")], gpu=itertools.product(METHODS, ("fp32", "bf16", "fp16"))),
)
def test_a_step_waits_for_nothing(device, name, prec, tmp_path):
    trainer = trainer_of(name, device, tmp_path, prec=prec)
    batches = list(trainer.train_loader_x)[:3]
    for batch in batches[:2]:
        trainer.forward_backward(batch)
    with waiting_is_an_error(device):
        summary = trainer.forward_backward(batches[2])
    assert summary["loss"].isfinite()


# ---- resume


@pytest.mark.parametrize(
    "device, name, algorithms",
    rows(
        cpu=[("CoOp", "deterministic")],
        gpu=itertools.product(("CoOp", "CoCoOp", "DiCap:CoOp"), ("deterministic", "default")),
    ),
)
def test_a_run_that_was_killed_and_resumed_ends_as_one_that_was_not(
    device, name, algorithms, tmp_path, monkeypatch, record_property
):
    """With its default algorithms a GPU may not repeat its own run; where it does, a resumed one has to as well."""
    exact = algorithms == "deterministic"
    torch.use_deterministic_algorithms(exact, warn_only=True)

    def digest(out):
        return run(config(name, device, tmp_path / out))["digests"]["model"]

    whole, again = digest("whole"), digest("again")
    record_property("two runs", "equal" if whole == again else "differ")
    cls = TRAINER_REGISTRY.get(split_method(name)[0])
    step = cls.forward_backward

    def killed(self, batch):
        if (self.epoch, self.batch_idx) == (1, 1):
            raise KeyboardInterrupt
        return step(self, batch)

    monkeypatch.setattr(cls, "forward_backward", killed)
    with pytest.raises(KeyboardInterrupt):
        digest("cut")
    monkeypatch.setattr(cls, "forward_backward", step)
    assert whole == again or not exact
    assert digest("cut") == whole or whole != again
