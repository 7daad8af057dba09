"""Structural causal models with known counterfactuals, for tests: Gaussian ones in latent space, scenes in feature space."""

import dataclasses
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import normalize

from dicap.counterfactual import GeneratorConfig


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
