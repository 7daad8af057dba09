"""Structural causal models with known counterfactuals, for tests: Gaussian ones in latent space, scenes in feature space.

Exact scores come from the textbook formulas of tests/reference.py; `transport` is abduction, action and prediction by them.
"""

import dataclasses
from collections.abc import Callable

import reference
import torch
from torch import Tensor
from torch.nn.functional import normalize

from dicap.counterfactual import GeneratorConfig, process


def small(**settings) -> GeneratorConfig:
    """A configuration that trains in a moment."""
    fast = {"train_steps": 30, "batch": 32, "width": 32, "pca_k": 12, "steps": 12, "seed": 5}
    if settings.get("generator") == "shift":
        fast["search"] = "line"
    return GeneratorConfig(**(fast | settings))


@dataclasses.dataclass(frozen=True)
class Images:
    """features (N, V, e), labels (N,), texts (C, d), and truth(labels (N,)) -> features (N, e) of the first view."""

    features: Tensor
    labels: Tensor
    texts: Tensor
    truth: Callable[[Tensor], Tensor]


def scenes(
    rho: float, patterns: int = 5, shapes: int = 5, shots: int = 16, views: int = 1, width: int = 64, seed: int = 0
) -> Images:
    """Features = class (pattern + shape) + scene + noise; the scene is the class's own with probability rho, else random.

    Texts name pattern and shape and carry no scene, as the texts of class names do.
    """
    g = torch.Generator().manual_seed(seed)

    def draw(*shape):
        return torch.randn(*shape, generator=g)

    classes = patterns * shapes
    which = torch.arange(classes)
    pattern, shape = which // shapes, which % shapes
    effect = (draw(patterns, width)[pattern] + draw(shapes, width)[shape]) / 2**0.5 + 0.3 * draw(classes, width)
    texts = 3 * draw(width) + draw(patterns, width)[pattern] + draw(shapes, width)[shape] + 0.3 * draw(classes, width)
    labels = which.repeat_interleave(shots)
    scene, tied = 1.2 * draw(8, width), torch.randint(8, (classes,), generator=g)
    own = torch.rand(len(labels), generator=g) < rho
    place = torch.where(own, tied[labels], torch.randint(8, (len(labels),), generator=g))
    decay = torch.exp(-torch.arange(width) / (width / 4))[:, None]
    residual = scene[place] + 2 * draw(len(labels), width) * width**-0.5 @ (decay * draw(width, width))
    view, base = 0.2 * draw(len(labels), views, width), 3 * draw(width)

    def features(of: Tensor) -> Tensor:
        return normalize(base + (effect[of] + residual)[:, None] + view, dim=-1)

    return Images(features(labels), labels, normalize(texts, dim=-1), lambda of: features(of)[:, 0])


def covariance(eigenvalues, seed: int = 0) -> Tensor:
    """(k, k) fp64 with these eigenvalues and random eigenvectors; the same seed gives commuting ones."""
    g = torch.Generator().manual_seed(seed)
    values = torch.as_tensor(eigenvalues, dtype=torch.float64)
    vectors = torch.linalg.qr(torch.randn(len(values), len(values), generator=g, dtype=torch.float64))[0]
    return vectors @ torch.diag(values) @ vectors.T


def means(classes: int, k: int, spread: float = 1.0, seed: int = 1) -> Tensor:
    """(C, k) fp64 class means."""
    return spread * torch.randn(classes, k, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def noise(rows: int, k: int, seed: int = 2) -> Tensor:
    """(B, k) fp64 standard normal: the exogenous U."""
    return torch.randn(rows, k, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


FAR = 30.0  # distance of the origin from `on_the_sphere`'s rows: there the sphere is flat to a relative |z|^2 / FAR^2


def on_the_sphere(z: Tensor, width: int = 16, seed: int = 11) -> Tensor:
    """Unit-length features (..., e) that hold coordinates z (..., k) without bending them: normalise(FAR b + z Q^T)."""
    frame = torch.linalg.qr(noise(width, width, seed))[0]
    return normalize(FAR * frame[:, -1] + z @ frame[:, : z.shape[-1]].T, dim=-1).float()


# ---- exact scores, and DDIM along them


def rowwise(score) -> process.Eps:
    """eps(z, t, rows) of a textbook score(z, float t), for one time or a time per row."""

    def eps(z, t, rows):
        if t.dim() == 0:
            return reference.eps_of(score(z, float(t)), float(t))
        return torch.cat([eps(row[None], time, rows) for row, time in zip(z, t)])

    return eps


def exact(mean, covariance) -> process.Eps:
    """eps of N(mean, covariance); mean (k,) or one per row."""
    return rowwise(lambda z, t: reference.gaussian_score(z, t, mean, covariance))


def marginal(means, covariances) -> process.Eps:
    """eps of the mixture of all classes."""
    return rowwise(lambda z, t: reference.mixture_score(z, t, means, covariances))


def transport(x, source, target, steps, fixed_point=3, start=None, solve=process.unpreconditioned) -> Tensor:
    """Abduct x (B, k) with the score `source`, predict with `target`."""
    times = process.time_grid(steps)
    path = process.encode(source, x, times, fixed_point, solve)
    start = times[-1] if start is None else torch.tensor(start, dtype=torch.float64)
    return process.decode(target, process.stop_at(source, path, times, start, fixed_point, solve), start, times)


def linear_part(function, k: int) -> tuple[Tensor, Tensor]:
    """M (k, k) and b (k,) of an affine map x -> x M + b of rows (B, k)."""
    offset = function(torch.zeros(1, k, dtype=torch.float64))
    return function(torch.eye(k, dtype=torch.float64)) - offset, offset[0]
