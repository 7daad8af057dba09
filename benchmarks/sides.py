"""The two sides of a comparison: the same method by the textbook and by DiCap, from the same start, on the same random CLIP."""

import argparse
import contextlib
import copy
import importlib.util
import os
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, normalize

from benchmarks import harness, textbook
from dicap import discover
from dicap.choose_engine import choose_engine
from dicap.learner import LearnedCLIP, Learner, build_learner, learner_class

discover.load_all()

METHODS = ("CoOp", "CoCoOp")
BATCH = {"CoOp": 32, "CoCoOp": 1}  # of the published recipes
PREFIX = 1 + len(harness.WORDS.split())  # tokens: start-of-text and the context


class Textbook(nn.Module):
    """CoOp or CoCoOp by the textbook formula.

    Args:
        clip: a frozen `clip.model.CLIP`.
        learner: DiCap's, whose learned parameters are copied.
        names: C class names.
    """

    def __init__(self, clip: nn.Module, learner: Learner, names: list[str]):
        super().__init__()
        self.clip = clip
        self.ctx = copy.deepcopy(learner.ctx)
        self.meta_net = copy.deepcopy(getattr(learner, "meta_net", None))
        self.tokens, self.lens = harness.prompt_tokens(names, clip.logit_scale.device)

    def forward(self, image: Tensor) -> Tensor:
        """Logits (B, C) of images (B, 3, H, W), or of L2-normalised features (B, e)."""
        f = image if image.dim() == 2 else textbook.image_features(self.clip, image)
        if self.meta_net is None:
            return textbook.coop_logits(self.clip, self.ctx, self.tokens, self.lens, f)
        return textbook.cocoop_logits(self.clip, self.ctx, self.meta_net, self.tokens, self.lens, f)


def make_learner(name: str, clip: nn.Module, texts: Sequence[str], **settings: Any) -> Learner:
    """A learner by its name, with the context "a photo of a" where it has one, and else its default settings.

    Args:
        settings: others, as attributes of its options: ctx_init="", n_ctx=8, text_memory=1.0.
    """
    options = {key.lower(): option.default for key, option in learner_class(name).OPTIONS.items()}
    options |= {"ctx_init": harness.WORDS, **settings}
    with torch.random.fork_rng():
        torch.manual_seed(2)
        return build_learner(name, clip, SimpleNamespace(**options), texts, f"{harness.WORDS} {{}}.")


def make_sides(method: str, clip: nn.Module, names: list[str], **settings: Any) -> tuple[Textbook, LearnedCLIP]:
    """CoOp or CoCoOp with the context "a photo of a", on both sides; settings: see `make_learner`."""
    learner = make_learner(method, clip, names, **settings)
    return Textbook(clip, learner, names), LearnedCLIP(clip, learner)


def learned(model: nn.Module) -> list[tuple[str, nn.Parameter]]:
    """Name and value of what is learned, the same names on both sides."""
    found = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    return [(name.removeprefix("prompt_").removeprefix("learner."), p) for name, p in found]


def random_images(clip: nn.Module, count: int) -> Tensor:
    """Noise (count, 3, H, W)."""
    size, generator = clip.visual.input_resolution, torch.Generator().manual_seed(count)
    return torch.randn(count, 3, size, size, generator=generator).to(clip.logit_scale.device)


def random_features(clip: nn.Module, count: int) -> Tensor:
    """L2-normalised (count, e), as cached image features are."""
    f = torch.randn(count, clip.text_projection.shape[1], generator=torch.Generator().manual_seed(count))
    return normalize(f, dim=-1).to(clip.logit_scale.device)


def random_labels(clip: nn.Module, count: int, classes: int) -> Tensor:
    """(count,) below classes."""
    drawn = random.Random(count).choices(range(classes), k=count)
    return torch.tensor(drawn, device=clip.logit_scale.device)


def check_step(title: str, sides: tuple[nn.Module, nn.Module], inputs: tuple[Tensor, Tensor], label: Tensor) -> None:
    """Compares logits, loss and gradients of both sides, in fp32.

    Args:
        sides: textbook, DiCap.
        inputs: what each is given: images (B, 3, H, W) or features (B, e).

    Raises:
        SystemExit: they differ.
    """
    outcomes = []
    for model, given in zip(sides, inputs):
        logits = model(given)
        loss = cross_entropy(logits, label)
        outcomes.append(harness.outcome(loss, learned(model), logits=logits.detach(), loss=loss.detach()))
    harness.compare(title, outcomes[1], outcomes[0])


def make_step(model: nn.Module, given: Tensor, label: Tensor, precision: str = "fp32") -> Callable[[], None]:
    """One training step: forward, cross-entropy, backward, SGD as in the published recipes.

    Args:
        given: images (B, 3, H, W) or features (B, e).
        precision: fp32, amp (with a loss scaler) or bf16.
    """
    optimizer = torch.optim.SGD([p for _, p in learned(model)], lr=0.002, momentum=0.9, weight_decay=5e-4)
    scaler = torch.amp.GradScaler(given.device.type, enabled=precision == "amp")

    def step() -> None:
        with harness.autocast(given.device, precision):
            loss = cross_entropy(model(given), label)
        optimizer.zero_grad()
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()

    return step


def make_inference(model: Callable[[Tensor], Tensor], given: Tensor, precision: str = "fp32") -> Callable[[], Tensor]:
    """model(given) without a gradient."""

    @torch.no_grad()
    def infer() -> Tensor:
        with harness.autocast(given.device, precision):
            return model(given)

    return infer


def text_counts(clip: nn.Module, method: str, names: list[str], batch: int, backward: bool) -> tuple[float, float]:
    """Multiply-adds of the text side: by the textbook, and those that are left."""
    prefixes = batch if method == "CoCoOp" else 1
    suffixes = harness.suffix_lens(harness.prompt_tokens(names)[1])
    return (
        harness.textbook_counts(clip, prefixes * len(names), backward),
        harness.shortest_counts(clip, prefixes, PREFIX, suffixes, backward),
    )


def arguments(doc: str | None) -> argparse.ArgumentParser:
    """The flags of all benchmarks, which methods, and how many classes."""
    parser = harness.parser(doc)
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=METHODS, help="default: both")
    parser.add_argument(
        "--classes", nargs="+", type=int, help="default: 50, on a GPU 50 and 500; made-up names beyond 50"
    )
    return parser


def start(args: argparse.Namespace) -> tuple[nn.Module, list[list[str]]]:
    """The random CLIP, and lists of class names: Caltech101's base classes, names as long as ImageNet's where more are needed.

    With --quick the CLIP is tiny and the classes are five.
    """
    on_gpu, known = torch.device(args.device).type == "cuda", harness.CALTECH101_BASE
    counts = args.classes or ([5] if args.quick else [50, 500] if on_gpu else [50])
    if min(counts) < 1:
        raise SystemExit(f"--classes {min(counts)}: at least 1")
    names = [known[:count] if count <= len(known) else harness.synthetic_names(count) for count in counts]
    return harness.make_clip(args.quick, args.device), names


def coop_repository(path: Path, method: str, clip: nn.Module, names: list[str]) -> nn.Module:
    """CoOp's or CoCoOp's own model, made by its own code.

    Args:
        path: a clone of KaiyangZhou/CoOp. Its trainers/coop.py or cocoop.py is imported, with the built-in engine answering
            to `dassl` and the installed package `clip` to `clip`.

    Raises:
        SystemExit: no such file.
    """
    file = path / "trainers" / f"{method.lower()}.py"
    if not file.is_file():
        raise SystemExit(
            f"--coop {path}: no {file.relative_to(path)} there; give a clone of github.com/KaiyangZhou/CoOp"
        )
    choose_engine("builtin")
    spec = importlib.util.spec_from_file_location(f"coop_repository_{method}", file)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    section = SimpleNamespace(N_CTX=4, CTX_INIT=harness.WORDS, CSC=False, CLASS_TOKEN_POSITION="end", PREC="fp32")
    size = clip.visual.input_resolution
    cfg = SimpleNamespace(
        TRAINER=SimpleNamespace(COOP=section, COCOOP=section), INPUT=SimpleNamespace(SIZE=(size, size))
    )
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
        return module.CustomCLIP(cfg, names, clip)
