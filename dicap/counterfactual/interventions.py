"""Counterfactuals of a batch: every image in every target class.

The full intervention (from the ceiling, w = 1) is the counterfactual of the causal model: errors against a known truth
belong to it. The minimal one stops at the smallest share of the shift that convinces the judge: proximity belongs to it.
"""

import dataclasses
from collections.abc import Callable

import torch
from torch import Tensor

from . import process, search
from .config import GeneratorConfig
from .mechanism import Gaussian
from .space import FeatureSpace

GUIDANCE = (1.5, 2.0, 3.0)  # tried from the ceiling where the plain full intervention does not suffice

Path = tuple[search.Attempt, float, Callable[[Tensor], Tensor]]  # attempt, most, amount (R,) -> start times (R,)


@dataclasses.dataclass(frozen=True)
class Counterfactuals:
    """Counterfactual features and how they came about, all (B, M, ...) and detached.

    An invalid row holds the full intervention, or the factual feature where that is not finite.
    """

    features: Tensor  # (B, M, e) unit length, always finite
    valid: Tensor  # bool: the judge's margin reaches delta; for minimal ones the factual must not already reach it
    start_time: Tensor  # in (0, 1], where decoding began; 1 for the generator `shift`, which has no time
    kappa: Tensor  # mean share of the class shift that was performed, 0 to 1
    margin: Tensor  # of the judge for the target, nats
    w: Tensor  # guidance that was used


@dataclasses.dataclass(frozen=True)
class Batch:
    """Rows R = B * M to be answered, and the parts of a generator that answer."""

    factual: Tensor  # (R, e)
    residual: Tensor  # (R, e), what of them is not diffused
    target: Tensor  # (R,) index into texts
    texts: Tensor  # (C, d) among which the judge decides
    decode: Callable[..., Tensor]  # (rows=all, start=times, w=guidance) -> features (R, e) in their target classes
    judge: search.Judge
    config: GeneratorConfig
    space: FeatureSpace
    within: Gaussian

    def margin(self, features: Tensor, rows: Tensor | slice = slice(None)) -> Tensor:
        """The judge's margins (R,) of features (R, e) that stand for the given rows."""
        return search.margin(self.judge.scores(features, self.texts), self.target[rows])

    @property
    def ceiling(self) -> tuple[float, float]:
        """Start time and mean kappa of the full intervention."""
        if self.config.generator == "shift":
            return 1.0, 1.0
        last = process.time_grid(self.config.steps, self.factual.device)[-1]
        return float(last), float(process.kappa(last, self.within.values).mean())


def answer(batch: Batch, train_on: str) -> Counterfactuals:
    """The whole intervention (`full`), or the smallest sufficient one (`minimal`); fields of shape (R, ...)."""
    partial = train_on == "minimal" and batch.config.search != "none"
    result = _minimal(batch) if partial else _full(batch)
    finite = torch.isfinite(result.features).all(-1)
    features = torch.where(finite[:, None], result.features, batch.factual)
    return dataclasses.replace(result, features=features, valid=result.valid & finite)


def _full(batch: Batch) -> Counterfactuals:
    features = batch.decode()
    margin = batch.margin(features)
    start, kappa, w = (torch.full_like(margin, value) for value in (*batch.ceiling, batch.config.w))
    return Counterfactuals(features, margin >= batch.config.delta, start, kappa, margin, w)


def _minimal(batch: Batch) -> Counterfactuals:
    config = batch.config
    attempt, most, start_of = _along_line(batch) if config.search == "line" else _along_time(batch)
    result = search.minimal(attempt, batch.factual, batch.margin(batch.factual), most, config.delta)
    w = torch.full_like(result.margin, config.w)
    if config.search == "t0":
        _guide(batch, result, w)
    start, kappa = start_of(result.amount).float(), result.amount.float()
    return Counterfactuals(result.features, result.sufficient, start, kappa, result.margin, w)


def _along_time(batch: Batch) -> Path:
    """Decoding from smaller start times: every eigen-direction moves by its own kappa."""
    table = process.kappa_table(batch.within.values)

    def attempt(rows: Tensor, amount: Tensor) -> tuple[Tensor, Tensor]:
        together = amount[0] if bool((amount == amount[0]).all()) else amount  # one time for all rows is cheaper
        features = batch.decode(rows, start=process.start_times(together, table))
        return features, batch.margin(features, rows)

    return attempt, float(table[1][-1]), lambda amount: process.start_times(amount, table)


def _along_line(batch: Batch) -> Path:
    """A fraction of the straight line to the full counterfactual: all directions move alike."""
    begin, end = (batch.space.encode(f)[0] for f in (batch.factual, batch.decode()))
    start, most = batch.ceiling

    def attempt(rows: Tensor, amount: Tensor) -> tuple[Tensor, Tensor]:
        share = (amount / most)[:, None].to(begin.dtype)
        features = batch.space.lift(torch.lerp(begin[rows], end[rows], share), batch.residual[rows])
        return features, batch.margin(features, rows)

    return attempt, most, lambda amount: torch.full_like(amount, start)


def _guide(batch: Batch, result: search.SearchResult, w: Tensor) -> None:
    """Stronger guidance from the ceiling for rows that the full intervention left insufficient; in place."""
    for stronger in GUIDANCE:
        rows = (~result.sufficient & ~result.trivial).nonzero()[:, 0]
        if len(rows) == 0 or stronger <= batch.config.w:
            continue
        features = batch.decode(rows, w=stronger)
        margin = batch.margin(features, rows)
        enough = margin >= batch.config.delta
        rows = rows[enough]
        result.features[rows], result.margin[rows], w[rows] = features[enough], margin[enough], stronger
        result.sufficient[rows] = True
