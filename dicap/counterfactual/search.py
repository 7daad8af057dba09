"""Sufficiency and minimality: who judges a counterfactual, and the smallest intervention that satisfies the judge.

Sufficient: the judge's margin for the target over its best rival reaches delta. The amount of intervention is the mean
kappa in [0, 1], the share of the class shift performed: a grid in time would be too coarse at its first point.
"""

import dataclasses
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import normalize

from .estimators import Estimator
from .mechanism import ClassMechanism, Gaussian
from .process import Eps, Rows
from .space import FeatureSpace

LEVELS = (0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)  # of the most that can be reached, which comes last
HALVINGS = 5

Attempt = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]  # (rows (R,), amount (R,)) -> features (R, e), margin (R,)


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


Judge = GaussJudge | TextJudge


def margin(scores: Tensor, target: Tensor) -> Tensor:
    """Score of the target over the best other class, (B,), of scores (B, C) and target (B,)."""
    own = scores.gather(1, target[:, None])
    return (own - scores.scatter(1, target[:, None], -torch.inf).amax(1, keepdim=True))[:, 0]


def judge_gradient(
    judge: Judge, space: FeatureSpace, estimator: Estimator, texts: Tensor, condition: Tensor, residual: Tensor
) -> Eps:
    """Gradient in z (B, k) of the judge's log p(c | lift(x0(z, t, c), r)) for condition c (B, d) and residual r (B, e), among
    c and texts (C, d)."""
    texts, index = torch.unique(torch.cat([texts, condition]), dim=0, return_inverse=True)
    target = index[-len(condition) :]

    def gradient(z: Tensor, t: Tensor, rows: Rows) -> Tensor:
        with torch.enable_grad():
            point = z.clone().requires_grad_()
            moved = space.lift(estimator.x0(point, t, condition[rows]), residual[rows])
            chosen = judge.scores(moved, texts).log_softmax(1).gather(1, target[rows][:, None])
            return torch.autograd.grad(chosen.sum(), point)[0]

    return gradient


@dataclasses.dataclass
class SearchResult:
    """Outcome of a search over R rows. Where nothing suffices it holds the full intervention."""

    features: Tensor  # (R, e) of the smallest sufficient intervention
    margin: Tensor  # (R,) of those features
    amount: Tensor  # (R,) mean kappa
    below: Tensor  # (R,) largest amount tried that did not suffice
    sufficient: Tensor  # (R,) bool
    trivial: Tensor  # (R,) bool: the judge takes the factual itself for the target; then never `sufficient`


def minimal(attempt: Attempt, factual: Tensor, factual_margin: Tensor, most: float, delta: float) -> SearchResult:
    """The smallest sufficient amount of each row: first success on a grid, then bisection towards the last failure.

    factual: (R, e). factual_margin: (R,) at amount 0. most: the full intervention. delta: the sufficient margin.
    """
    trivial, zeros = factual_margin >= delta, torch.zeros(len(factual), dtype=torch.float64, device=factual.device)
    none = torch.zeros_like(trivial)
    result = SearchResult(factual.clone(), factual_margin.clone(), zeros.clone(), zeros.clone(), none, trivial)

    def attempt_at(pending: Tensor, amount: Tensor, keep_failures: bool = False) -> None:
        rows = pending.nonzero()[:, 0]
        if len(rows) == 0:
            return
        amount = amount[rows]
        features, reached = attempt(rows, amount)
        enough = reached >= delta
        result.below[rows[~enough]] = amount[~enough]
        result.sufficient[rows[enough]] = True
        kept = enough | keep_failures
        result.features[rows[kept]], result.margin[rows[kept]] = features[kept], reached[kept]
        result.amount[rows[kept]] = amount[kept]

    for level in LEVELS:
        attempt_at(~result.sufficient & ~trivial, torch.full_like(zeros, level * most))
    attempt_at(~result.sufficient, torch.full_like(zeros, most), keep_failures=True)
    result.sufficient &= ~trivial
    for _ in range(HALVINGS):
        attempt_at(result.sufficient.clone(), (result.below + result.amount) / 2)
    return result
