"""Abduction, action, prediction: counterfactual features f^cf = f had the class been another, all else unchanged.

    from dicap.counterfactual import CounterfactualGenerator, GeneratorConfig
    generator = CounterfactualGenerator(GeneratorConfig(train_steps=300)).fit(features, labels, text_features)
    answer = generator.counterfactual(features[:, 0], labels, targets)      # answer.features (B, M, e), answer.valid
    (B, M)

Needs features, labels and one text feature per class; no CLIP, no Dassl, no GPU. Everything runs in fp32, also under
autocast, without gradients, and every random number comes from `config.seed`.
"""

import dataclasses
import functools
import logging
import os
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from . import process, scores, store
from .checks import check_features, check_fit, check_texts
from .config import NETWORK, GeneratorConfig
from .denoiser import Denoiser
from .estimators import Estimator, TrainingData, train
from .interventions import Counterfactuals, answer
from .mechanism import ClassMechanism, within_and_total
from .search import GaussJudge, TextJudge
from .space import FeatureSpace

logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Latents:
    """What abduction keeps of features: path (S + 1, B, k), from data to the latent at the ceiling, and residual (B,
    e).

    For the generator `shift` the path is one stop, z - m_c. `condition` (B, d) is the factual text.
    """

    path: Tensor
    residual: Tensor
    condition: Tensor

    @property
    def z(self) -> Tensor:
        """The abducted latent (B, k): U, as far as it is diffused."""
        return self.path[-1]

    def rows(self, index: Tensor) -> "Latents":
        """The latents of some rows, repeated as index (R,) says."""
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
    """Generator of counterfactual features; `fit` or `load` first.

    Attributes:
        config: its settings. conditions: (C, d) texts of the fit. logit_scale: of the text head, 0 where none was
            given.
        space, mechanism, estimator: the fitted parts. final_loss: denoising loss at the end of training.
    """

    config: GeneratorConfig
    space: FeatureSpace
    mechanism: ClassMechanism
    estimator: Estimator
    conditions: Tensor

    def __init__(self, config: GeneratorConfig | None = None):
        self.config = config or GeneratorConfig()
        self.device = torch.device("cpu")
        self.logit_scale = 0.0
        self.final_loss = 0.0

    def fit(
        self, features: Tensor, labels: Tensor, conditions: Tensor, logit_scale: float | None = None
    ) -> "CounterfactualGenerator":
        """Learn the space, the class mechanism, the covariances and the network.

        Args:
            features: (N, V, e) or (N, e) unit-length image features; the V views of an image count as one image.
            labels: (N,) long in 0..C-1. conditions: (C, d) frozen text features of the C base classes.
            logit_scale: multiplier of cosines in the text head (CLIP's logit_scale.exp()); needed for judge="text"
                only.

        Returns:
            self, on the device of features.

        Raises:
            ValueError: wrong shapes, NaN, rows that are not unit length, fewer than two classes with images or two
                images, equal texts, judge="text" without logit_scale or with d != e.
            FloatingPointError: training diverged.
        """
        features = features[:, None] if features.dim() == 2 else features
        check_fit(features, labels, conditions, self.config.judge, logit_scale)
        self.device, self.logit_scale = features.device, float(logit_scale or 0.0)
        with torch.inference_mode(False), torch.enable_grad(), torch.autocast(self.device.type, enabled=False):
            self._fit(_plain(features), labels.to(self.device).long().clone(), _plain(conditions).to(self.device))
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
        randomness = torch.Generator().manual_seed(config.seed)
        network = None
        if config.generator in NETWORK:
            network = Denoiser(self.space.k, conditions.shape[1], config.width, config.dropout, randomness)
            network = network.to(self.device).requires_grad_(False)
        self.estimator = Estimator(config.generator, self.mechanism, within, total, effects.mean(0), network)
        data = TrainingData(z.reshape(count * views, -1), labels.repeat_interleave(views), conditions, effects)
        steps = min(config.train_steps, -(-config.passes * count // config.batch))
        self.final_loss = train(self.estimator, data, dataclasses.replace(config, train_steps=steps), randomness)
        logger.info(
            "counterfactual generator %s: %d images x %d views, k=%d, median text ridge %g (held-out error %.2f of none)",
            config.generator,
            count,
            views,
            self.space.k,
            float(self.mechanism.strength.median()),
            float(self.mechanism.holdout),
        )

    @_exact
    def abduct(self, features: Tensor, condition: Tensor) -> Latents:
        """U of features (B, e) given their factual texts condition (B, d) or (d,): DDIM up to the ceiling.

        Raises:
            ValueError: not fitted, wrong shapes or NaN.
        """
        features = _plain(features).to(self.device)
        check_features(features, self.space.mu.shape[0])
        condition = self.texts(condition, len(features))
        z, residual = self.space.encode(features)
        if self.config.generator == "shift":
            return Latents((z - self.mechanism.mean(condition))[None], residual, condition)
        path = process.encode(
            scores.abduction(self, condition), z, self.times, self.config.fixed_point, scores.solver(self)
        )
        return Latents(path, residual, condition)

    @_exact
    def predict(
        self, latents: Latents, condition: Tensor, start: Tensor | float | None = None, w: float | None = None
    ) -> Tensor:
        """Features (B, e), unit length, of latents under the texts condition (B, d) or (d,).

        Args:
            start: time () or (B,) in [0, ceiling] to decode from; None is the ceiling, the full intervention; 0 changes
                nothing.
            w: classifier-free guidance; None is the configured one.

        Raises:
            ValueError: not fitted, wrong shapes, or start or w given to the generator `shift`.
        """
        condition = self.texts(condition, len(latents.residual))
        if self.config.generator == "shift":
            if start is not None or w not in (None, 1):
                raise ValueError(f"start={start}, w={w}: the generator 'shift' has neither; leave them out")
            return self.space.lift(latents.z + self.mechanism.mean(condition), latents.residual)
        times = self.times
        begin = times[-1] if start is None else torch.as_tensor(start, dtype=torch.float64, device=self.device)
        begin = begin.clamp(0, float(times[-1]))
        abduction, refinements = scores.abduction(self, latents.condition), self.config.fixed_point
        z = process.stop_at(abduction, latents.path, times, begin, refinements, scores.solver(self))
        score = scores.prediction(self, condition, self.config.w if w is None else w, latents.residual)
        z = process.decode(score, z, begin, times)
        return self.space.lift(z, latents.residual)

    @_exact
    def reconstruct(self, latents: Latents) -> Tensor:
        """Features (B, e) decoded with the score that abducted them: near the factual for any score, however wrong."""
        if self.config.generator == "shift":
            return self.predict(latents, latents.condition)
        z = process.decode(scores.abduction(self, latents.condition), latents.z, self.times[-1], self.times)
        return self.space.lift(z, latents.residual)

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
            conditions: (C, d) the texts that the indices refer to and among which the judge decides; None: those of the
                fit.

        Raises:
            ValueError: not fitted, wrong shapes, NaN, indices outside the texts, an unknown train_on.
        """
        return answer(self, _plain(features).to(self.device), factual, target, train_on, conditions)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the fitted generator as safetensors, atomically; `load` gives bit-equal counterfactuals.

        Raises:
            ValueError: not fitted. OSError: the folder cannot be written.
        """
        self.check_fitted()
        store.save(self, path)

    @classmethod
    def load(cls, path: str | os.PathLike[str], device: torch.device | str = "cpu") -> "CounterfactualGenerator":
        """The generator that `save` wrote, on a device.

        Raises:
            FileNotFoundError: no such file. ValueError: not a generator's file, truncated, or of another version.
        """
        return store.load(cls, path, torch.device(device))

    # ---- what the searches, judges and diagnostics ask for

    def check_fitted(self) -> None:
        """Raises ValueError before `fit` or `load`."""
        if not hasattr(self, "estimator"):
            raise ValueError("this generator is not fitted: call fit(features, labels, conditions) or load(path) first")

    @property
    def times(self) -> Tensor:
        """(S + 1,) fp64 grid from 0 to the ceiling."""
        return process.time_grid(self.config.steps, self.device)

    @property
    def judge(self) -> GaussJudge | TextJudge:
        """The configured judge."""
        if self.config.judge == "text":
            return TextJudge(self.logit_scale)
        return GaussJudge(self.space, self.mechanism, self.estimator.within)

    def texts(self, condition: Tensor, rows: int) -> Tensor:
        """Texts (rows, d) in fp32 on this device, of texts (rows, d) or (d,).

        Raises:
            ValueError: another shape, or NaN.
        """
        condition = _plain(condition).to(self.device)
        condition = condition.expand(rows, -1) if condition.dim() == 1 else condition
        check_texts(condition, self.conditions.shape[1])
        if len(condition) != rows:
            raise ValueError(f"conditions of shape {tuple(condition.shape)}: expected {rows} rows, one per feature")
        return condition


def _plain(tensor: Tensor) -> Tensor:
    """An ordinary fp32 tensor: detached, and usable in autograd even if it was made in inference mode."""
    return tensor.detach().float().clone() if tensor.is_inference() else tensor.detach().float()
