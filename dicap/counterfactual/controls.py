"""What stands in for counterfactuals to see whether it is them that help: each control answers for the same images and
targets. (`no-cf`, training without any, is the trainer's.)
"""

import torch
from torch import Tensor
from torch.nn.functional import normalize

from .checks import check_features, check_indices
from .generator import CounterfactualGenerator

CONTROLS = ("random-cf", "real-neighbour-cf", "recombine", "prototype")


@torch.no_grad()
def control_counterfactuals(
    name: str,
    generator: CounterfactualGenerator,
    features: Tensor,
    labels: Tensor,
    target: Tensor,
    seed: int = 0,
    pool: Tensor | None = None,
    pool_labels: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Features in the place of counterfactuals.

    Args:
        name: `random-cf` noise as long as the counterfactual's displacement; `real-neighbour-cf` the nearest real
            feature of the target class; `recombine` the target's class effect on another image's residual; `prototype`
            the target's class effect alone.
        features: (B, e) unit length. labels: (B,). target: (B, M) class indices.
        seed: of the noise and of the choice of other images.
        pool, pool_labels: (P, e) and (P,) real features to take neighbours and residuals from; None: the batch itself.

    Returns:
        (B, M, e) unit length, and (B, M) bool: False only where no real feature of the target class is in the pool.

    Raises:
        ValueError: an unknown name, wrong shapes or NaN.
    """
    if name not in CONTROLS:
        raise ValueError(f"control {name!r}: allowed are {', '.join(CONTROLS)}")
    generator.check_fitted()
    check_features(features, generator.space.mu.shape[0])
    check_indices(labels, target, len(features), len(generator.conditions))
    features, labels, target = (tensor.to(generator.device) for tensor in (features.float(), labels, target))
    pool = features if pool is None else pool.to(features)
    pool_labels = labels if pool_labels is None else pool_labels.to(labels)
    randomness = torch.Generator().manual_seed(seed)
    if name == "random-cf":
        distance = (generator.counterfactual(features, labels, target).features - features[:, None]).norm(dim=-1)
        return noise(features, distance, randomness), torch.ones_like(target, dtype=torch.bool)
    if name == "real-neighbour-cf":
        return real_neighbours(features, target, pool, pool_labels)
    effects = generator.mechanism.mean(generator.conditions)  # (C, k)
    if name == "prototype":
        moved = generator.space.lift(effects[target], torch.zeros_like(features)[:, None])
    else:
        moved = recombined(generator, effects, target, pool, pool_labels, randomness)
    return moved, torch.ones_like(target, dtype=torch.bool)


def noise(features: Tensor, distance: Tensor, randomness: torch.Generator) -> Tensor:
    """Unit-length features (B, M, e) in random directions at exactly the given distances (B, M) from features (B,
    e)."""
    shape = (*distance.shape, features.shape[-1])
    direction = torch.randn(shape, generator=randomness).to(features)
    factual = features[:, None]
    tangent = normalize(direction - (direction * factual).sum(-1, keepdim=True) * factual, dim=-1)
    angle = 2 * torch.asin((distance / 2).clamp(0, 1))[..., None]  # chord -> angle on the sphere
    return angle.cos() * factual + angle.sin() * tangent


def real_neighbours(features: Tensor, target: Tensor, pool: Tensor, pool_labels: Tensor) -> tuple[Tensor, Tensor]:
    """Nearest feature of the target class by cosine, (B, M, e), and whether the pool has one, (B, M)."""
    similarity = features @ pool.T  # (B, P)
    columns = [similarity.masked_fill(pool_labels != wanted[:, None], -torch.inf).max(1) for wanted in target.T]
    best = torch.stack([column.values for column in columns], 1)
    return pool[torch.stack([column.indices for column in columns], 1)], torch.isfinite(best)


def recombined(
    generator: CounterfactualGenerator,
    effects: Tensor,
    target: Tensor,
    pool: Tensor,
    pool_labels: Tensor,
    randomness: torch.Generator,
) -> Tensor:
    """(B, M, e): the target's class effect on the residual of a random feature of the pool."""
    other = torch.randint(len(pool), target.shape, generator=randomness).to(target.device)
    z, residual = generator.space.encode(pool)
    return generator.space.lift((z - effects[pool_labels])[other] + effects[target], residual[other])
