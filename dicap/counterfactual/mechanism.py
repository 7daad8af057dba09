"""The class mechanism Y -> X: what a text says about where its class lies, and the Gaussian spread around it.

    m_c = M + (c~ - mean c~) W,    c~ = (c - mean c) / RMS,    W = ridge regression of the class means on their texts

Scenes that come with classes sit in the class means, but not in the frozen text of a class name. So the class effect
is restricted to what the text explains, and the rest of a feature stays in the residual z - m_c, that is in U. The
strength of the ridge is chosen by leaving classes out: only what carries over to a class never seen is believed. Where
nothing does (the digits: "four" tells nothing of "five"), the strongest ridge would win and no class would have an
effect; there the strength is the one that leaving out chooses where it can choose.
(`means` = class or blend put the class means back: ablations.) Around m_c one shared covariance Sw, shrunk after
Ledoit and Wolf (2004).
"""

import dataclasses

import numpy as np
import torch
from sklearn.covariance import LedoitWolf  # type: ignore[import-untyped]
from torch import Tensor

from .process import coefficients

STRENGTHS = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0)  # in units of the mean squared length of a centred text
DEFAULT_STRENGTH = 0.3  # where leaving out cannot choose: under four classes, or names that say nothing of one another
TELLS = 0.9  # held-out error, relative to no effect at all, under which the texts are believed to carry over
SAME = 1e-5  # standardised texts closer than this, RMS per coordinate, are one text


@dataclasses.dataclass(frozen=True)
class ClassMechanism:
    """Class effect m_c as a map of the text c; an unseen text needs nothing special.

    Attributes:
        centre: (d,) mean text. scale: () RMS per coordinate of the centred texts. weight: (d, k) ridge map.
        offset: (k,) m at the mean text. known: (C, d) texts of the fit, standardised.
        correction: (C, k) what `means` = class|blend add for a known text; zero for `text`.
        strength: () ridge strength. holdout: () held-out squared error over that of the mean class, < 1 where texts
            help.
    """

    centre: Tensor
    scale: Tensor
    weight: Tensor
    offset: Tensor
    known: Tensor
    correction: Tensor
    strength: Tensor
    holdout: Tensor

    @classmethod
    def fit(cls, z: Tensor, labels: Tensor, conditions: Tensor, means: str = "text") -> "ClassMechanism":
        """Fit to one row per image: z (N, k), labels (N,) in 0..C-1, conditions (C, d); classes may lack images.

        Raises:
            ValueError: images of fewer than two classes, or texts that are all equal.
        """
        counts = torch.bincount(labels, minlength=len(conditions))
        seen = counts > 0
        if int(seen.sum()) < 2:
            raise ValueError(f"images of {int(seen.sum())} class: a class effect needs images of at least 2 classes")
        z, conditions = z.double(), conditions.double()
        centre = conditions[seen].mean(0)
        scale = (conditions[seen] - centre).square().mean().sqrt()
        if not scale > SAME * conditions.square().mean().sqrt():
            raise ValueError("the conditions of all classes are equal: give each class its own text feature")
        known = (conditions - centre) / scale  # (C, d)
        class_means = torch.zeros(len(conditions), z.shape[1], dtype=z.dtype, device=z.device)
        class_means = class_means.index_add(0, labels, z) / counts.clamp_min(1)[:, None]
        offset = class_means[seen].mean(0)
        weight, strength, holdout = ridge_map(known[seen], class_means[seen] - offset)
        share = {"text": torch.zeros_like(counts), "class": torch.ones_like(counts), "blend": counts / (counts + 2)}[
            means
        ]
        correction = (class_means - offset - known @ weight) * (share * seen)[:, None]
        numbers = [torch.tensor(value, device=z.device) for value in (strength, holdout)]
        tensors = [centre, scale, weight, offset, known, correction, *numbers]
        return cls(*(tensor.float() for tensor in tensors))

    def standardise(self, conditions: Tensor) -> Tensor:
        """Centred and scaled texts (..., d) of texts (..., d): what the ridge map and the network read."""
        return (conditions - self.centre) / self.scale

    def mean(self, conditions: Tensor) -> Tensor:
        """Class effect m_c (B, k) of texts (B, d)."""
        standard = self.standardise(conditions)
        mean = self.offset + standard @ self.weight
        if not bool(self.correction.any()):
            return mean
        gap = torch.cdist(standard, self.known) / standard.shape[1] ** 0.5  # (B, C)
        nearest = gap.min(1)
        found = nearest.values < max(SAME, 1e-3)  # fp32 cdist resolves about 1e-3
        return mean + self.correction[nearest.indices] * found[:, None]


def ridge_map(texts: Tensor, targets: Tensor) -> tuple[Tensor, float, float]:
    """Ridge map of centred texts (C, d) to centred class means (C, k), its strength chosen by leaving one class out.

    The held-out error has a closed form (the PRESS residual, intercept included): error_i / (1 - h_i - 1/C).

    Returns:
        weight (d, k), the strength, and the held-out squared error relative to predicting the mean of the other
        classes.
    """
    count, width = texts.shape
    values, vectors = torch.linalg.eigh(texts @ texts.T / width)  # mean diagonal 1: strength 1 halves a typical text
    values = values.clamp_min(0)
    projected = vectors.T @ targets

    def fitted(strength: float) -> tuple[Tensor, Tensor]:
        gain = values / (values + strength)
        return vectors @ (gain[:, None] * projected), vectors.square() @ gain  # predictions (C, k), leverages (C,)

    def held_out(strength: float) -> float:
        prediction, leverage = fitted(strength)
        remaining = (1 - 1 / count - leverage).clamp_min(1e-9)
        return float(((targets - prediction) / remaining[:, None]).square().sum())

    unmoved = max(float((targets / (1 - 1 / count)).square().sum()), 1e-30)
    strength = min(STRENGTHS, key=held_out)
    if count < 4 or held_out(strength) > TELLS * unmoved:  # the best would be no effect, and so no counterfactual
        strength = DEFAULT_STRENGTH
    dual = vectors @ (projected / (values + strength)[:, None])
    return texts.T @ dual / width, strength, held_out(strength) / unmoved


@dataclasses.dataclass(frozen=True)
class Gaussian:
    """A covariance by its eigenvalues (k,) and eigenvectors (k, k), columns; and what it says about x0."""

    values: Tensor
    vectors: Tensor

    @classmethod
    def of(cls, covariance: Tensor) -> "Gaussian":
        """Eigenvalues of a covariance (k, k), kept above 1e-6 of the largest."""
        values, vectors = torch.linalg.eigh(covariance)
        return cls(values.clamp_min(1e-6 * float(values[-1].clamp_min(1e-12))), vectors.contiguous())

    def x0(self, z: Tensor, t: Tensor, mean: Tensor) -> Tensor:
        """Posterior mean of x0 (B, k) at z (B, k), time t () or (B,): m + S (S + sigma^2)^-1 (z/A - m)."""
        signal, noise = coefficients(t, z)
        ratio = (noise / signal).square()
        return mean + ((z / signal - mean) @ self.vectors * (self.values / (self.values + ratio))) @ self.vectors.T

    def solve(self, gap: Tensor, t: Tensor, t_next: Tensor) -> Tensor:
        """Newton correction (B, k) of an encoding step's gap (B, k), with this Gaussian's score as the derivative.

        d step / d z+ = (1 - sigma/sigma+) sigma+^2 / (l + sigma+^2) along an eigenvalue l.
        """
        signal, noise = coefficients(t, gap)
        signal_next, noise_next = coefficients(t_next, gap)
        ratio, ratio_next = noise / signal, noise_next / signal_next
        slope = (1 - ratio / ratio_next) * ratio_next.square() / (self.values + ratio_next.square())
        return (gap @ self.vectors / (1 - slope)) @ self.vectors.T

    def whiten(self, z: Tensor) -> Tensor:
        """z (..., k) in units of standard deviations along the eigenvectors."""
        return z @ self.vectors / self.values.sqrt()

    def to(self, target: torch.device | torch.dtype) -> "Gaussian":
        return Gaussian(self.values.to(target), self.vectors.to(target))


def within_and_total(residuals: Tensor, class_effects: Tensor) -> tuple[Gaussian, Gaussian]:
    """Shrunk covariance Sw around m_c, and the total one that the marginal has: Sw + spread of the class effects.

    Args:
        residuals: (N, V, k) z - m_c. The shrinkage is Ledoit-Wolf's for N images, since views of an image are no new
            images; the covariance that it shrinks is that of all views.
        class_effects: (C, k) m_c of the classes, each as likely.
    """
    count, views, k = residuals.shape
    images = residuals.double().mean(1).cpu().numpy()
    shrinkage = (
        float(LedoitWolf(assume_centered=True).fit(images).shrinkage_) if count > 1 and np.ptp(images) > 0 else 1.0
    )
    rows = residuals.double().reshape(-1, k)
    covariance = rows.T @ rows / (count * views)
    identity = torch.eye(k, dtype=covariance.dtype, device=covariance.device)
    within = (1 - shrinkage) * covariance + shrinkage * covariance.trace() / k * identity
    effects = class_effects.double() - class_effects.double().mean(0)
    total = within + effects.T @ effects / len(effects)
    return Gaussian.of(within).to(torch.float32), Gaussian.of(total).to(torch.float32)
