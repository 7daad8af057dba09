"""Counterfactuals of a training set: their targets, what may stand in for them, and the bank that keeps them.

    bank = CounterfactualBank.build(views, labels, texts, GeneratorConfig(), logit_scale=scale, seed=1)    # stage 1
    cf, valid, target = bank(index, view)                                      # (B, M, e), (B, M), (B, M)
    parts = weighted(ce_of_images, ce_of_counterfactuals, valid, 1.0)          # stage 2: {"ce", "cf"}, minimise the sum

Knows features and texts alone: no CLIP, no Dassl, no trainer.
"""

import dataclasses
import json
import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

from dicap.files import keep, write_text

from .checks import check_features, check_indices, check_labels
from .config import GeneratorConfig
from .diagnostics import diagnose
from .generator import FORMAT, CounterfactualGenerator, classes_of, digest

logger = logging.getLogger(__name__)

TARGETS = ("top1", "top3", "random")
CONTROLS = ("random-cf", "real-neighbour-cf", "recombine", "prototype")


@dataclasses.dataclass(eq=False)
class CounterfactualBank:
    """Counterfactuals of the V cached views of N training images, M each, with their targets. Made by `build`."""

    generator: CounterfactualGenerator  # fitted, on the device of the views
    figures: dict[str, float]  # diagnosis, and the seconds of `build` (stage1_seconds), for logs and results
    target: Tensor  # (N, M) long, index into the conditions that each counterfactual is to be scored as
    generate: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]  # index (B,), view (B,) -> (B, M, e), valid (B, M)
    features: Tensor | None = None  # (N, V, M, e) fp32, on the device of the bank; None where each call generates
    valid: Tensor | None = None  # (N, V, M) bool, likewise

    @classmethod
    def build(
        cls,
        views: Tensor,
        labels: Tensor | None,
        conditions: Tensor,
        config: GeneratorConfig,
        *,
        m: int = 3,
        target: str = "random",
        control: str = "none",
        train_on: str = "full",
        lazy: bool = False,
        logit_scale: float | None = None,
        seed: int = 0,
        truth: Callable[[Tensor], Tensor] | None = None,
        cache: Path | None = None,
        device: torch.device | str = "cpu",
    ) -> "CounterfactualBank":
        """Fit the generator or take it from the cache, diagnose it, choose targets and answer for every view.

        Args:
            views: (N, V, e) fp32 unit length, frozen. labels: (N,) long. conditions: (C, d) texts of the classes; with
                labels None (N, d), a text an image, and equal texts are one class.
            m: targets an image, cut to C - 1. target: how they are chosen (`choose_targets`).
            control: `none`, or what stands in for counterfactuals, to see whether it is them that help: one of CONTROLS
                (`control_counterfactuals`), or `truth`, what the function truth makes of targets (N, M): (N, V, M, e).
            train_on: `full` or `minimal` counterfactuals. lazy: generate at each call instead of once, slower.
            logit_scale: as for `CounterfactualGenerator.fit`. seed: of targets and stand-ins; below 0 counts as 0.
            cache: folder of generators and diagnoses, named by what they are made from.
            device: where the bank is kept and answers.

        Raises ValueError on settings that contradict each other, and on all that `CounterfactualGenerator.fit` refuses.
        """
        start, seed = time.perf_counter(), max(seed, 0)
        if control not in ("none", "truth", *CONTROLS):
            raise ValueError(f"control={control!r}: allowed are none, truth, {', '.join(CONTROLS)}")
        if lazy and control != "none":
            raise ValueError(f"lazy=True contradicts control={control!r}: what stands in is drawn once, for all images")
        if (control == "truth") != (truth is not None):
            raise ValueError(f"control={control!r}, truth={truth}: control='truth' and a function belong together")
        conditions, row = conditions.to(views.device), None
        if labels is None:
            conditions, labels, row = classes_of(conditions)
        labels = labels.to(views.device)
        random = torch.Generator().manual_seed(seed)
        drawn = choose_targets(conditions, labels, min(m, len(conditions) - 1), target, random)  # (N, M)
        generator, figures = _fit(config, (views, labels, conditions), drawn, logit_scale, cache)

        def generate(index: Tensor, view: Tensor) -> tuple[Tensor, Tensor]:
            index, view = index.to(views.device), view.to(views.device)
            batch = views[index, view], labels[index], drawn[index]
            if control in CONTROLS:
                return control_counterfactuals(control, generator, *batch, seed)
            answer = generator.counterfactual(*batch, train_on)
            return answer.features, answer.valid

        scored = labels[:, None].expand_as(drawn) if control == "random-cf" else drawn  # noise is of its own class
        bank = cls(generator, figures, (scored if row is None else row[scored]).to(device), generate)
        if truth is not None:
            bank.features = truth(bank.target).to(device)
            bank.valid = torch.ones(bank.features.shape[:3], dtype=torch.bool, device=device)
        elif not lazy:
            pairs = torch.cartesian_prod(torch.arange(len(views)), torch.arange(views.shape[1]))  # (N * V, 2)
            answers = generate(*pairs.unbind(1))
            bank.features, bank.valid = (part.unflatten(0, views.shape[:2]).to(device) for part in answers)
        figures["stage1_seconds"] = time.perf_counter() - start
        return bank

    def __call__(self, index: Tensor, view: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Counterfactuals (B, M, e), whether valid (B, M), and targets (B, M) of views view (B,) of images index (B,)."""
        target = self.target[index]
        if self.features is not None and self.valid is not None:
            return self.features[index, view], self.valid[index, view], target
        features, valid = self.generate(index, view)
        return features.to(target.device), valid.to(target.device), target


# ---- target classes


def choose_targets(conditions: Tensor, labels: Tensor, m: int, mode: str, generator: torch.Generator) -> Tensor:
    """M target classes of every image, all different and none its own: base classes, never new ones.

    Args:
        conditions: (C, d) texts of the base classes. labels: (N,) long in 0..C-1. m: targets an image, 1..C-1.
        mode: `top1` the m nearest texts by cosine, nearest first; `top3` m of the max(3, m) nearest; `random` m of all.
        generator: on the CPU, the only source of randomness.

    Returns (N, M) long, on the device of labels. Raises ValueError on an unknown mode, m or labels out of range.
    """
    count = len(conditions)
    if mode not in TARGETS:
        raise ValueError(f"mode={mode!r}: allowed are {', '.join(TARGETS)}")
    if not 1 <= m <= count - 1:
        raise ValueError(f"m={m} targets an image: {count} classes allow 1 to {count - 1}; lower M or add classes")
    check_labels("labels", labels, count)
    texts = normalize(conditions.double().cpu(), dim=-1)
    similarity = (texts @ texts.T).fill_diagonal_(-torch.inf)  # so that the class itself comes last
    pool = {"top1": m, "top3": min(max(3, m), count - 1), "random": count - 1}[mode]
    near = similarity.argsort(dim=1, descending=True, stable=True)[labels.cpu(), :pool]  # (N, pool)
    if mode == "top1":
        return near.to(labels.device)
    order = torch.rand(near.shape, generator=generator).argsort(1)[:, :m]
    return near.gather(1, order).to(labels.device)


# ---- what may stand in for counterfactuals


@torch.no_grad()
def control_counterfactuals(
    name: str, generator: CounterfactualGenerator, features: Tensor, labels: Tensor, target: Tensor, seed: int = 0
) -> tuple[Tensor, Tensor]:
    """Features (B, M, e) in the place of counterfactuals, and whether there is one (B, M).

    Args:
        name: `random-cf` noise as long as the counterfactual's displacement; `real-neighbour-cf` the nearest of the
            features of the target class; `recombine` the target's class effect on another image's residual;
            `prototype` the target's class effect alone.
        features: (B, e) unit length. labels: (B,). target: (B, M). seed: of the noise and of the other images.

    Raises ValueError on an unknown name, wrong shapes or NaN.
    """
    if name not in CONTROLS:
        raise ValueError(f"control {name!r}: allowed are {', '.join(CONTROLS)}")
    generator.check_fitted()
    check_features(features, generator.space.mu.shape[0])
    check_indices(labels, target, len(features), len(generator.conditions))
    features, labels, target = (tensor.to(generator.device) for tensor in (features.float(), labels, target))
    random, space = torch.Generator().manual_seed(seed), generator.space
    valid = torch.ones_like(target, dtype=torch.bool)
    if name == "random-cf":
        distance = (generator.counterfactual(features, labels, target).features - features[:, None]).norm(dim=-1)
        return _noise(features, distance, random), valid
    if name == "real-neighbour-cf":
        cosine = features @ features.T  # (B, B)
        columns = [cosine.masked_fill(labels != column[:, None], -torch.inf).max(1) for column in target.T]
        best, nearest = (torch.stack(parts, 1) for parts in zip(*columns))
        return features[nearest], torch.isfinite(best)
    effects = generator.mechanism.mean(generator.conditions)  # (C, k)
    if name == "prototype":
        return space.lift(effects[target], torch.zeros_like(features)[:, None]), valid
    other = torch.randint(len(features), target.shape, generator=random).to(target.device)
    z, residual = space.encode(features)
    return space.lift((z - effects[labels])[other] + effects[target], residual[other]), valid


def _noise(features: Tensor, distance: Tensor, random: torch.Generator) -> Tensor:
    """Unit-length features (B, M, e) in random directions at the given distances (B, M) from features (B, e)."""
    factual, shape = features[:, None], (*distance.shape, features.shape[-1])
    direction = torch.randn(shape, generator=random).to(features)
    tangent = normalize(direction - (direction * factual).sum(-1, keepdim=True) * factual, dim=-1)
    angle = 2 * torch.asin((distance / 2).clamp(0, 1))[..., None]  # chord -> angle on the sphere
    return angle.cos() * factual + angle.sin() * tangent


# ---- the cache


def _fit(
    config: GeneratorConfig, data: tuple[Tensor, ...], target: Tensor, scale: float | None, cache: Path | None
) -> tuple[CounterfactualGenerator, dict[str, float]]:
    """The generator of views, labels and conditions, and its diagnosis, which costs more than the fit."""
    views, labels, conditions = data
    key = digest((FORMAT, config.to_json(), scale), *data)
    path = cache and cache / f"{key}.safetensors"
    generator = _cached(path, lambda path: CounterfactualGenerator.load(path, views.device))
    if generator is None:
        generator = CounterfactualGenerator(config).fit(views, labels, conditions, scale)
        keep(path, generator.save, "generators")
    path = cache and cache / f"{key}-{digest((), target)}.json"
    figures = _cached(path, _read_figures)
    if figures is None:
        figures = diagnose(generator, views, labels, target)
        text = json.dumps({"figures": figures, "sha256": digest((sorted(figures.items()),))})
        keep(path, lambda path: write_text(path, text), "diagnoses")
    return generator, figures


def _read_figures(path: Path) -> dict[str, float]:
    content = json.loads(path.read_text(encoding="utf-8"))
    figures = {name: float(value) for name, value in content["figures"].items()}
    if content["sha256"] != digest((sorted(figures.items()),)):
        raise ValueError("its content is not what was written")
    return figures


def _cached(path: Path | None, read: Callable[[Path], Any]) -> Any:
    """What the file holds; None where there is none, or, with a warning, none that can be read."""
    try:
        return read(path) if path is not None and path.is_file() else None
    except (ValueError, TypeError, LookupError, AttributeError, OSError) as error:
        logger.warning("%s of the cache cannot be read (%s): made again", path, error)
        return None
