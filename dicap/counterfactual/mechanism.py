"""The class mechanism Y -> X: what a text says about where its class lies, and the Gaussian spread around it.

    m_c = M + (c~ - mean c~) W,    c~ = (c - mean c) / RMS,    W = ridge regression of the class means on their texts

Scenes that come with classes sit in the class means, but not in the text of a class name. So the class effect is what
the text explains, and the rest stays in the residual z - m_c, that is in U. The strength of the ridge is chosen by leaving
classes out: only what carries over to a class never seen is believed. Where texts live in the space of the images (CLIP's
do), each direction that they span has its own strength. Where nothing carries over ("four" tells nothing of "five") the
strongest ridge would win, and no class have an effect: there it is DEFAULT_STRENGTH. Around m_c one shared covariance Sw,
shrunk after Ledoit and Wolf (2004).
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
NEIGHBOURS = 3  # directions whose held-out errors are added: of one alone, 25 classes tell too little
SAME = 1e-5  # standardised texts closer than this, RMS per coordinate, are one text


@dataclasses.dataclass(frozen=True)
class ClassMechanism:
    """Class effect m_c as a map of the text c; an unseen text needs nothing special."""

    centre: Tensor  # (d,) mean text
    scale: Tensor  # () RMS per coordinate of the centred texts
    weight: Tensor  # (d, k) ridge map
    offset: Tensor  # (k,) m at the mean text
    known: Tensor  # (C, d) texts of the fit, standardised
    correction: Tensor  # (C, k) what `means` = class|blend add for a known text; zero for `text`
    strength: Tensor  # (k,) ridge strengths: one for each direction of `text_axes`, then the one that all others share
    holdout: Tensor  # () held-out squared error over that of the mean class, < 1 where texts help

    @classmethod
    def fit(
        cls, z: Tensor, labels: Tensor, conditions: Tensor, means: str = "text", directions: Tensor | None = None
    ) -> "ClassMechanism":
        """Fit to one row per image: z (N, k), labels (N,) in 0..C-1, conditions (C, d); classes may lack images.

        directions: (d, k) those of z in the space of the texts, where images and texts share one. Raises ValueError on
        images of fewer than two classes, or texts that are all equal.
        """
        counts = torch.bincount(labels, minlength=len(conditions))
        seen = counts > 0
        if int(seen.sum()) < 2:
            raise ValueError(f"images of {int(seen.sum())} class: a class effect needs images of at least 2 classes")
        z, conditions = z.double(), conditions.double()
        centre = conditions[seen].mean(0)
        scale = (conditions[seen] - centre).square().mean().sqrt()
        if not scale > SAME * conditions.square().mean().sqrt():
            hint = "a CLIP that knows none of the names' words gives all the same, as the tiny one does outside of its world"
            raise ValueError(f"the conditions of all classes are equal: give each its own text feature ({hint})")
        known = (conditions - centre) / scale  # (C, d)
        sums = z.new_zeros(len(conditions), z.shape[1]).index_add(0, labels, z)
        class_means = sums / counts.clamp_min(1)[:, None]
        offset = class_means[seen].mean(0)
        axes = None if directions is None else text_axes(known[seen] @ directions.double())
        weight, strength, holdout = ridge_map(known[seen], class_means[seen] - offset, axes)
        shares = {"text": torch.zeros_like(counts), "class": torch.ones_like(counts), "blend": counts / (counts + 2)}
        correction = (class_means - offset - known @ weight) * (shares[means] * seen)[:, None]
        parts = centre, scale, weight, offset, known, correction, strength, holdout
        return cls(*(part.float() for part in parts))

    def standardise(self, conditions: Tensor) -> Tensor:
        """Centred and scaled texts (..., d) of texts (..., d): what the ridge map and the network read."""
        return (conditions - self.centre) / self.scale

    def mean(self, conditions: Tensor) -> Tensor:
        """Class effect m_c (B, k) of texts (B, d)."""
        standard = self.standardise(conditions)
        mean = self.offset + standard @ self.weight
        if not bool(self.correction.any()):
            return mean
        nearest = (torch.cdist(standard, self.known) / standard.shape[1] ** 0.5).min(1)  # of (B, C)
        known = nearest.values < max(SAME, 1e-3)  # fp32 cdist resolves about 1e-3
        return mean + self.correction[nearest.indices] * known[:, None]


def text_axes(projected: Tensor) -> Tensor:
    """Orthonormal directions (k, r) that centred texts, projected into the image space (C, k), span; widest first."""
    _, spread, rows = torch.linalg.svd(projected, full_matrices=False)
    return rows[spread > 1e-6 * spread[0].clamp_min(1e-30)].T


def ridge_map(texts: Tensor, targets: Tensor, axes: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
    """Ridge map of centred texts (C, d) to centred class means (C, k), its strengths chosen by leaving one class out.

    The held-out error is the PRESS residual, intercept included: error_i / (1 - h_i - 1/C). axes (k, r): orthonormal
    directions of the targets with a strength each; all others share one. Returns weight (d, k), the strengths (k,), those
    of the axes first, and the held-out squared error () relative to predicting the other classes' mean.
    """
    count, width = texts.shape
    axes = targets.new_zeros(targets.shape[1], 0) if axes is None else axes
    basis = torch.linalg.svd(axes, full_matrices=True)[0] if axes.shape[1] else torch.eye(len(axes)).to(targets)
    basis = torch.cat([axes, basis[:, axes.shape[1] :]], dim=1)  # (k, k)
    values, vectors = torch.linalg.eigh(texts @ texts.T / width)  # mean diagonal 1: strength 1 halves a typical text
    values, projected = values.clamp_min(0), vectors.T @ targets @ basis
    choices = torch.tensor(STRENGTHS, dtype=targets.dtype, device=targets.device)
    gains = values / (values + choices[:, None])  # (L, C)
    remaining = (1 - 1 / count - gains @ vectors.square().T).clamp_min(1e-9)  # (L, C)
    gap = targets @ basis - vectors @ (gains[..., None] * projected)  # (L, C, k)
    held_out = (gap / remaining[..., None]).square().sum(1)  # (L, k)
    unmoved = (targets / (1 - 1 / count)).square().sum().clamp_min(1e-30)
    chosen = _best_strengths(held_out, axes.shape[1])
    if count < 4 or held_out.sum(1).min() > TELLS * unmoved:  # the best would be no effect, and so no counterfactual
        chosen = torch.full_like(chosen, STRENGTHS.index(DEFAULT_STRENGTH))
    dual = vectors @ (projected / (values[:, None] + choices[chosen])) @ basis.T
    return texts.T @ dual / width, choices[chosen], held_out.gather(0, chosen[None]).sum() / unmoved


def _best_strengths(held_out: Tensor, axes: int) -> Tensor:
    """Indices (k,) of the best strengths by held-out errors (L, k): the first `axes` directions add their neighbours'
    errors, the others decide together."""
    along, across = held_out[:, :axes], held_out[:, axes:]
    around = [along[:, max(0, j - NEIGHBOURS // 2) : j + NEIGHBOURS // 2 + 1].mean(1) for j in range(axes)]
    return torch.stack([*around, *[across.sum(1)] * across.shape[1]], 1).argmin(0)


@dataclasses.dataclass(frozen=True)
class Gaussian:
    """A covariance by its eigenvalues and eigenvectors, and what it says about x0."""

    values: Tensor  # (k,)
    vectors: Tensor  # (k, k), columns

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
        """Newton correction (B, k) of an encoding step's gap (B, k), with this Gaussian's score as the derivative:
        d step / d z+ = (1 - sigma/sigma+) sigma+^2 / (l + sigma+^2) along an eigenvalue l."""
        ratio, ratio_next = (noise / signal for signal, noise in (coefficients(t, gap), coefficients(t_next, gap)))
        slope = (1 - ratio / ratio_next) * ratio_next.square() / (self.values + ratio_next.square())
        return (gap @ self.vectors / (1 - slope)) @ self.vectors.T

    def whiten(self, z: Tensor) -> Tensor:
        """z (..., k) in units of standard deviations along the eigenvectors."""
        return z @ self.vectors / self.values.sqrt()

    def to(self, target: torch.device | torch.dtype) -> "Gaussian":
        return Gaussian(self.values.to(target), self.vectors.to(target))


def within_and_total(residuals: Tensor, class_effects: Tensor) -> tuple[Gaussian, Gaussian]:
    """Covariance Sw of residuals z - m_c (N, V, k), shrunk as Ledoit-Wolf shrinks that of N images (views are no new ones),
    and the marginal's: Sw + spread of class_effects m_c (C, k)."""
    count, views, k = residuals.shape
    images, shrinkage = residuals.double().mean(1).cpu().numpy(), 1.0
    if count > 1 and np.ptp(images) > 0:
        shrinkage = float(LedoitWolf(assume_centered=True).fit(images).shrinkage_)
    rows = residuals.double().reshape(-1, k)
    covariance = rows.T @ rows / (count * views)
    identity = torch.eye(k).to(covariance)
    within = (1 - shrinkage) * covariance + shrinkage * covariance.trace() / k * identity
    effects = class_effects.double() - class_effects.double().mean(0)
    total = within + effects.T @ effects / len(effects)
    return Gaussian.of(within).to(torch.float32), Gaussian.of(total).to(torch.float32)
