"""Abduction, action, prediction: counterfactual features f^cf = f had the class been another, all else unchanged.

Everything runs in fp32, also under autocast, without gradients, and every random number comes from `config.seed`.
"""

import dataclasses
import functools
import hashlib
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_bytes
from torch import Tensor

from dicap.files import replacing

from . import process
from .checks import check_features, check_fit, check_indices, check_texts
from .config import NETWORK, GeneratorConfig
from .denoiser import Denoiser
from .estimators import Estimator, TrainingData, train
from .interventions import Batch, Counterfactuals, answer
from .mechanism import ClassMechanism, Gaussian, within_and_total
from .search import GaussJudge, Judge, TextJudge, judge_gradient
from .space import FeatureSpace

logger = logging.getLogger(__name__)

PARTS = {"space": FeatureSpace, "mechanism": ClassMechanism, "within": Gaussian, "total": Gaussian}
FORMAT = "dicap.counterfactual/4"  # of saved generators; carries the names of settings and parameters
CHUNK = 4096  # rows answered at a time


@dataclasses.dataclass(frozen=True)
class Latents:
    """What abduction keeps of features."""

    path: Tensor  # (S + 1, B, k) from data to the latent at the ceiling; of the generator `shift` one stop, z - m_c
    residual: Tensor  # (B, e) what is not diffused
    condition: Tensor  # (B, d) factual texts

    @property
    def z(self) -> Tensor:
        """The abducted latent (B, k): U, as far as it is diffused."""
        return self.path[-1]

    def rows(self, index: process.Rows) -> "Latents":
        """The latents of the rows index (R,), or a slice of them."""
        return Latents(self.path[:, index], self.residual[index], self.condition[index])


def _exact(method: Callable[..., Any]) -> Callable[..., Any]:
    """Run in fp32 without gradients, whatever the caller's autocast or grad mode."""

    @functools.wraps(method)
    def run(self: "CounterfactualGenerator", *args: Any, **kwargs: Any) -> Any:
        self.check_fitted()
        with torch.inference_mode(False), torch.no_grad(), torch.autocast(self.device.type, enabled=False):
            return method(self, *args, **kwargs)

    return run


class CounterfactualGenerator:
    """Generator of counterfactual features; `fit` or `load` first."""

    space: FeatureSpace
    mechanism: ClassMechanism
    estimator: Estimator
    conditions: Tensor  # (C, d) different texts of the fit

    def __init__(self, config: GeneratorConfig | None = None):
        self.config = config or GeneratorConfig()
        self.device = torch.device("cpu")
        self.logit_scale = 0.0  # of the text head, 0 where none was given
        self.final_loss = 0.0  # denoising loss at the end of training

    def fit(
        self, features: Tensor, labels: Tensor | None, conditions: Tensor, logit_scale: float | None = None
    ) -> "CounterfactualGenerator":
        """Learn the space, the class mechanism, the covariances and the network; self, on the device of features.

        Args:
            features: (N, V, e) or (N, e) unit length; the V views of an image count as one image.
            labels: (N,) long in 0..C-1. conditions: (C, d) frozen texts of the classes; with labels None (N, d), one an
                image (its caption), and equal texts are one class.
            logit_scale: multiplier of cosines in the text head, CLIP's logit_scale.exp(); for judge="text" alone.

        Raises ValueError on wrong shapes, NaN, rows not of unit length, fewer than two images or classes with images,
        equal texts, judge="text" without logit_scale or with d != e; FloatingPointError where training diverges.
        """
        features = features[:, None] if features.dim() == 2 else features
        check_fit(features, labels, conditions)
        self._check_judge(features.shape[-1], conditions.shape[1], logit_scale)
        self.device, self.logit_scale = features.device, float(logit_scale or 0.0)
        with torch.inference_mode(False), torch.enable_grad(), torch.autocast(self.device.type, enabled=False):
            conditions = _plain(conditions).to(self.device)
            if labels is None:
                conditions, labels, _ = classes_of(conditions)
            self._fit(_plain(features), labels.to(self.device).long().clone(), conditions)
        return self

    def _fit(self, features: Tensor, labels: Tensor, conditions: Tensor) -> None:
        config, (count, views, _) = self.config, features.shape
        self.conditions = conditions
        self.space = FeatureSpace.fit(features, config.pca_k)
        z = self.space.encode(features)[0]  # (N, V, k)
        shared = self.space.directions if conditions.shape[1] == features.shape[-1] else None  # CLIP's common space
        self.mechanism = ClassMechanism.fit(z.mean(1), labels, conditions, config.means, shared)
        effects = self.mechanism.mean(conditions)  # (C, k)
        within, total = within_and_total(z - effects[labels][:, None], effects)
        random = torch.Generator().manual_seed(config.seed)
        network = self._network(random) if config.generator in NETWORK else None
        self.estimator = Estimator(config.generator, self.mechanism, within, total, effects.mean(0), network)
        data = TrainingData(z.reshape(count * views, -1), labels.repeat_interleave(views), conditions, effects)
        steps = min(config.train_steps, -(-config.passes * count // config.batch))
        self.final_loss = train(self.estimator, data, dataclasses.replace(config, train_steps=steps), random)
        message = "counterfactual generator %s: %d images x %d views, k=%d, median text ridge %g (held-out error %.2f of none)"
        ridge = float(self.mechanism.strength.median()), float(self.mechanism.holdout)
        logger.info(message, config.generator, count, views, self.space.k, *ridge)

    @_exact
    def abduct(self, features: Tensor, condition: Tensor) -> Latents:
        """U of features (B, e), given factual texts (B, d) or (d,): DDIM up to the ceiling.

        Raises ValueError where it is not fitted, or on wrong shapes or NaN.
        """
        features = _plain(features).to(self.device)
        check_features(features, self.space.mu.shape[0])
        condition = self.texts(condition, len(features))
        z, residual = self.space.encode(features)
        if self.config.generator == "shift":
            return Latents((z - self.mechanism.mean(condition))[None], residual, condition)
        score, fixed_point, solve = self._abduction(condition)
        return Latents(process.encode(score, z, self.times, fixed_point, solve), residual, condition)

    @_exact
    def predict(
        self, latents: Latents, condition: Tensor, start: Tensor | float | None = None, w: float | None = None
    ) -> Tensor:
        """Features (B, e), unit length, of latents under texts (B, d) or (d,).

        start: time () or (B,) in [0, ceiling] to decode from: None the ceiling, the full intervention; 0 no change. w:
        classifier-free guidance; None the configured one. Raises ValueError where it is not fitted, on wrong shapes, or
        either given to `shift`.
        """
        condition, config = self.texts(condition, len(latents.residual)), self.config
        if config.generator == "shift":
            if start is not None or w not in (None, 1):
                raise ValueError(f"start={start}, w={w}: the generator 'shift' has neither; leave them out")
            return self.space.lift(latents.z + self.mechanism.mean(condition), latents.residual)
        times = self.times
        begin = torch.as_tensor(times[-1] if start is None else start, dtype=torch.float64, device=self.device)
        begin = begin.clamp(0, float(times[-1]))
        score, fixed_point, solve = self._abduction(latents.condition)
        z = process.stop_at(score, latents.path, times, begin, fixed_point, solve)
        judged = self.judge, self.space, self.estimator, self.conditions, condition, latents.residual
        gradient = judge_gradient(*judged) if config.gamma else None
        score = self.estimator.eps(condition, config.w if w is None else w, config.gamma, gradient)
        return self.space.lift(process.decode(score, z, begin, times), latents.residual)

    @_exact
    def reconstruct(self, latents: Latents) -> Tensor:
        """Features (B, e) decoded with the score that abducted them: near the factual for any score, however wrong."""
        if self.config.generator == "shift":
            return self.predict(latents, latents.condition)
        score = self._abduction(latents.condition)[0]
        return self.space.lift(process.decode(score, latents.z, self.times[-1], self.times), latents.residual)

    def _abduction(self, condition: Tensor) -> tuple[process.Eps, int, process.Solve]:
        """The score of factual texts (B, d), refinements a step, and their Newton correction: the nearest Gaussian's."""
        marginal, estimator = self.config.abduct == "marg", self.estimator
        score = estimator.eps(None if marginal else condition)
        return score, self.config.fixed_point, (estimator.total if marginal else estimator.within).solve

    @_exact
    def counterfactual(
        self,
        features: Tensor,
        factual: Tensor,
        target: Tensor,
        train_on: str = "full",
        conditions: Tensor | None = None,
    ) -> Counterfactuals:
        """What each image would have been in other classes.

        Args:
            features: (B, e) unit length. factual: (B,) class indices. target: (B, M) or (B,) class indices.
            train_on: `full` performs the whole intervention; `minimal` the smallest sufficient one (`config.search`).
            conditions: (C, d) texts of the indices, among which the judge decides, equal ones one class; None: the fit's.

        Raises ValueError where it is not fitted, on wrong shapes, NaN, indices outside the texts, an unknown train_on.
        """
        if train_on not in ("full", "minimal"):
            raise ValueError(f"train_on={train_on!r}: allowed are full, minimal")
        features = _plain(features).to(self.device)
        conditions = self.conditions if conditions is None else self.texts(conditions, len(conditions))
        target = target[:, None] if target.dim() == 1 else target
        check_features(features, self.space.mu.shape[0])
        check_indices(factual, target, len(features), len(conditions))
        texts, merged = torch.unique(conditions, dim=0, return_inverse=True)
        if len(texts) < 2 or len(features) == 0:
            raise ValueError(f"{len(features)} features and {len(texts)} different texts: at least 1 and 2 are needed")
        columns = features, merged[factual.to(self.device)], merged[target.to(self.device)]
        chunks = zip(*(column.split(max(1, CHUNK // target.shape[1])) for column in columns))
        parts = [vars(answer(self._batch(texts, *chunk), train_on)) for chunk in chunks]
        joined = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
        return Counterfactuals(**{name: column.unflatten(0, target.shape) for name, column in joined.items()})

    def _batch(self, texts: Tensor, features: Tensor, factual: Tensor, target: Tensor) -> Batch:
        """Features (B, e) of classes factual (B,) in targets (B, M), as B * M rows."""
        copies = torch.arange(len(features), device=self.device).repeat_interleave(target.shape[1])
        latents, target = self.abduct(features, texts[factual]).rows(copies), target.flatten()

        def decode(rows: process.Rows = slice(None), start: Tensor | None = None, w: float | None = None) -> Tensor:
            return self.predict(latents.rows(rows), texts[target[rows]], start, w)

        parts = self.judge, self.config, self.space, self.estimator.within
        return Batch(features[copies], latents.residual, target, texts, decode, *parts)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the fitted generator as safetensors, atomically; `load` gives bit-equal counterfactuals.

        Raises ValueError where it is not fitted, OSError where the folder cannot be written.
        """
        self.check_fitted()
        estimator = self.estimator
        numbers = torch.tensor([self.logit_scale, self.final_loss], dtype=torch.float64)
        tensors = {"conditions": self.conditions, "middle": estimator.middle, "numbers": numbers}
        groups = dict(zip(PARTS, map(vars, (self.space, self.mechanism, estimator.within, estimator.total))))
        groups["network"] = estimator.network.state_dict() if estimator.network else {}
        tensors |= {f"{name}.{key}": value for name, group in groups.items() for key, value in group.items()}
        tensors = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
        config = self.config.to_json()
        metadata = {"format": FORMAT, "config": config, "sha256": _digest_of(config, tensors)}
        with replacing(path) as temporary:
            temporary.write_bytes(to_bytes(tensors, metadata))

    @classmethod
    def load(cls, path: str | os.PathLike[str], device: torch.device | str = "cpu") -> "CounterfactualGenerator":
        """The generator that `save` wrote. Raises FileNotFoundError, or ValueError for a damaged file, another kind or version."""
        if not Path(path).is_file():
            raise FileNotFoundError(f"{path}: no such file; a generator is written by CounterfactualGenerator.save")
        try:
            with safe_open(path, framework="pt") as file:
                metadata = file.metadata() or {}
                # copied: mapped tensors are not aligned, and sums then differ in the last bit
                tensors = {name: file.get_tensor(name).to(device, copy=True) for name in file.keys()}  # noqa: SIM118
            if metadata.get("format") != FORMAT:
                raise ValueError(f"format {metadata.get('format')!r}, expected {FORMAT!r}")
            if metadata["sha256"] != _digest_of(metadata["config"], tensors):
                raise ValueError("its content is not what was written")
            return cls(GeneratorConfig.from_json(metadata["config"]))._restored(tensors)
        except (SafetensorError, KeyError, RuntimeError, ValueError) as error:
            raise ValueError(f"{path}: does not hold a complete generator ({error}); fit and save again") from error

    def _restored(self, tensors: dict[str, Tensor]) -> "CounterfactualGenerator":
        """This generator with the fitted parts that `save` wrote."""

        def group(name: str) -> dict[str, Tensor]:
            return {key.removeprefix(f"{name}."): value for key, value in tensors.items() if key.startswith(f"{name}.")}

        self.conditions, self.device = tensors["conditions"], tensors["conditions"].device
        self.logit_scale, self.final_loss = tensors["numbers"].tolist()
        self.space, self.mechanism, within, total = (part(**group(name)) for name, part in PARTS.items())
        network = self._network(torch.Generator()) if self.config.generator in NETWORK else None
        if network is not None:
            network.load_state_dict(group("network"))
        self.estimator = Estimator(self.config.generator, self.mechanism, within, total, tensors["middle"], network)
        return self

    def _check_judge(self, e: int, d: int, logit_scale: float | None) -> None:
        """Raises ValueError where the text head is to judge and cannot."""
        if self.config.judge == "text" and not 0 < (logit_scale or 0) < float("inf"):
            raise ValueError(f"judge='text' with logit_scale={logit_scale}: pass CLIP's logit_scale.exp()")
        if self.config.judge == "text" and d != e:
            raise ValueError(f"judge='text': texts of width {d} do not meet features of width {e}; use judge='gauss'")

    def _network(self, random: torch.Generator) -> Denoiser:
        sizes = self.space.k, self.conditions.shape[1], self.config.width, self.config.dropout
        return Denoiser(*sizes, random).to(self.device).requires_grad_(False)

    def check_fitted(self) -> None:
        """Raises ValueError before `fit` or `load`."""
        if not hasattr(self, "estimator"):
            raise ValueError("this generator is not fitted: call fit(features, labels, conditions) or load(path) first")

    @property
    def times(self) -> Tensor:
        """(S + 1,) fp64 grid from 0 to the ceiling."""
        return process.time_grid(self.config.steps, self.device)

    @property
    def judge(self) -> Judge:
        """The configured judge."""
        if self.config.judge == "text":
            return TextJudge(self.logit_scale)
        return GaussJudge(self.space, self.mechanism, self.estimator.within)

    def texts(self, condition: Tensor, rows: int) -> Tensor:
        """Texts (rows, d) in fp32 on this device, of (rows, d) or (d,). Raises ValueError on another shape, or NaN."""
        condition = _plain(condition).to(self.device)
        condition = condition.expand(rows, -1) if condition.dim() == 1 else condition
        check_texts(condition, self.conditions.shape[1], rows)
        return condition


def classes_of(conditions: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Different texts (C, d) of conditions (N, d) as they first appear, the class of each row (N,), and that first row (C,)."""
    texts, labels = torch.unique(conditions, dim=0, return_inverse=True)
    rows = torch.arange(len(labels), device=labels.device)
    first, order = rows[: len(texts)].scatter_reduce(0, labels, rows, "amin", include_self=False).sort()
    return texts[order], order.argsort()[labels], first


def digest(settings: tuple, *tensors: Tensor) -> str:
    """SHA-256 of settings and of type, shape and content of tensors."""
    total = hashlib.sha256(repr(settings).encode())
    for tensor in tensors:
        total.update(f"{tensor.dtype} {tuple(tensor.shape)}".encode() + tensor.cpu().contiguous().numpy().tobytes())
    return total.hexdigest()


def _digest_of(config: str, tensors: dict[str, Tensor]) -> str:
    return digest((config, names := sorted(tensors)), *(tensors[name] for name in names))


def _plain(tensor: Tensor) -> Tensor:
    """An ordinary fp32 tensor: detached, and usable in autograd even if it was made in inference mode."""
    return tensor.detach().float().clone() if tensor.is_inference() else tensor.detach().float()
