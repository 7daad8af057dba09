"""Sufficiency and minimality: who judges a counterfactual, and the smallest intervention that satisfies the judge.

Sufficient: the judge's margin for the target over its best rival reaches delta. Minimal: the smallest amount of
intervention that is sufficient. The amount is the mean kappa in [0, 1], the share of the class shift performed: as a
start time of the diffusion or as a fraction of the line to the full counterfactual. A grid in time would be too
coarse at its first point.
"""

import dataclasses
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import normalize

from .mechanism import ClassMechanism, Gaussian
from .space import FeatureSpace

LEVELS = (0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)  # of the most that can be reached, which comes last
HALVINGS = 5
GUIDANCE = (1.5, 2.0, 3.0)  # tried from the ceiling where the plain full intervention does not suffice


@dataclasses.dataclass(frozen=True)
class GaussJudge:
    """Gaussian discriminant with the shared covariance, every class as likely; it has seen the few shots. Nats."""

    space: FeatureSpace
    mechanism: ClassMechanism
    within: Gaussian

    def scores(self, features: Tensor, conditions: Tensor) -> Tensor:
        """log p(f | class) (B, C) up to a constant a row: features (B, e), conditions (C, d)."""
        means = self.within.whiten(self.mechanism.mean(conditions))  # (C, k)
        z = self.within.whiten(self.space.encode(features)[0])
        return z @ means.T - 0.5 * means.square().sum(1)


@dataclasses.dataclass(frozen=True)
class TextJudge:
    """Frozen text head: logit_scale (a multiplier, about 24 to 100) times the cosine. Nats."""

    logit_scale: float

    def scores(self, features: Tensor, conditions: Tensor) -> Tensor:
        """Logits (B, C) of features (B, e) and conditions (C, e)."""
        return self.logit_scale * features @ normalize(conditions, dim=-1).T


def margin(scores: Tensor, target: Tensor) -> Tensor:
    """Score of the target over the best other class, (B,), of scores (B, C) and target (B,)."""
    own = scores.gather(1, target[:, None])
    return (own - scores.scatter(1, target[:, None], -torch.inf).amax(1, keepdim=True))[:, 0]


@dataclasses.dataclass
class Found:
    """Outcome of a search over R rows.

    Attributes:
        features: (R, e) of the smallest sufficient intervention, or of the full one where none suffices.
        margin: (R,) of those features. amount: (R,) mean kappa. below: (R,) largest amount tried that did not suffice.
        found: (R,) bool. trivial: (R,) bool, sufficient without any intervention.
    """

    features: Tensor
    margin: Tensor
    amount: Tensor
    below: Tensor
    found: Tensor
    trivial: Tensor


Attempt = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]  # (rows (R,), amount (R,)) -> features (R, e), margin (R,)


def minimal(attempt: Attempt, factual: Tensor, factual_margin: Tensor, most: float, delta: float) -> Found:
    """The smallest sufficient amount of each row: first success on a grid, then bisection towards the last failure.

    Args:
        attempt: features and margins of rows at amounts. factual: (R, e). factual_margin: (R,) at amount 0.
        most: the largest amount, the full intervention. delta: sufficient margin.

    A row whose factual already suffices is `trivial`, never `found`: the judge takes the factual for the target.
    """
    count, device = len(factual), factual.device
    trivial = factual_margin >= delta
    nothing = torch.zeros(count, dtype=torch.float64, device=device)
    state = Found(
        factual.clone(), factual_margin.clone(), nothing.clone(), nothing.clone(), torch.zeros_like(trivial), trivial
    )
    for level in LEVELS:
        pending = ~state.found & ~trivial
        _attempt_at(attempt, state, pending, torch.full_like(nothing, level * most), delta, keep_failures=False)
    _attempt_at(attempt, state, ~state.found, torch.full_like(nothing, most), delta, keep_failures=True)
    state.found &= ~trivial
    for _ in range(HALVINGS):
        _attempt_at(attempt, state, state.found.clone(), (state.below + state.amount) / 2, delta, keep_failures=False)
    return state


def _attempt_at(
    attempt: Attempt, state: Found, pending: Tensor, amount: Tensor, delta: float, keep_failures: bool
) -> None:
    rows = pending.nonzero()[:, 0]
    if len(rows) == 0:
        return
    features, reached = attempt(rows, amount[rows])
    enough = reached >= delta
    state.below[rows[~enough]] = amount[rows[~enough]]
    state.found[rows[enough]] = True
    kept = torch.ones_like(enough) if keep_failures else enough
    state.features[rows[kept]], state.margin[rows[kept]] = features[kept], reached[kept]
    state.amount[rows[kept]] = amount[rows[kept]]
