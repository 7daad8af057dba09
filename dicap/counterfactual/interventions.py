"""Counterfactuals of a batch: every image in every target class, the full intervention or the minimal sufficient one.

The full intervention (from the ceiling, w = 1) is the counterfactual of the causal model. The minimal sufficient one
is a partial intervention: it stops at the smallest share of the shift that convinces the judge. Errors against a
known truth belong to the first, proximity to the second.
"""

import dataclasses
import typing

import torch
from torch import Tensor

from . import process, search
from .checks import check_features, check_indices

if typing.TYPE_CHECKING:
    from .generator import CounterfactualGenerator, Latents

CHUNK = 4096  # rows decoded at a time


@dataclasses.dataclass(frozen=True)
class Counterfactuals:
    """Counterfactual features and how they came about; rows B, targets M. All detached.

    Attributes:
        features: (B, M, e) unit length, always finite. An invalid row holds the full intervention, or the factual
            feature where that is not finite.
        valid: (B, M) bool, the judge's margin reaches delta; for minimal ones the factual must not already reach it.
        start_time: (B, M) in (0, 1], where decoding began; 1 for the generator `shift`, which has no time.
        kappa: (B, M) mean share of the class shift that was performed, 0 to 1.
        margin: (B, M) of the judge for the target, nats. w: (B, M) guidance that was used.
    """

    features: Tensor
    valid: Tensor
    start_time: Tensor
    kappa: Tensor
    margin: Tensor
    w: Tensor


@dataclasses.dataclass(frozen=True)
class _Batch:
    """Rows R = B * M: factual features (R, e), their latents, target indices (R,) into texts (U, d)."""

    generator: "CounterfactualGenerator"
    factual: Tensor
    latents: "Latents"
    target: Tensor
    texts: Tensor

    def judged(self, features: Tensor, rows: Tensor | slice = slice(None)) -> Tensor:
        """Margins (R,) of features (R, e) that stand for the given rows."""
        return search.margin(self.generator.judge.scores(features, self.texts), self.target[rows])

    def moved(self, rows: Tensor, start: Tensor | None = None, w: float | None = None) -> Tensor:
        """Counterfactual features (R, e) of the given rows."""
        return self.generator.predict(self.latents.rows(rows), self.texts[self.target[rows]], start=start, w=w)

    @property
    def everything(self) -> Tensor:
        return torch.arange(len(self.target), device=self.target.device)


def answer(
    generator: "CounterfactualGenerator",
    features: Tensor,
    factual: Tensor,
    target: Tensor,
    train_on: str,
    conditions: Tensor | None,
) -> Counterfactuals:
    """Body of `CounterfactualGenerator.counterfactual`; arguments and errors as there."""
    if train_on not in ("full", "minimal"):
        raise ValueError(f"train_on={train_on!r}: allowed are full, minimal")
    conditions = generator.conditions if conditions is None else generator.texts(conditions, len(conditions))
    target = target[:, None] if target.dim() == 1 else target
    check_features(features, generator.space.mu.shape[0])
    check_indices(factual, target, len(features), len(conditions))
    texts, merged = torch.unique(conditions, dim=0, return_inverse=True)  # equal texts are one class to the judge
    if len(texts) < 2 or len(features) == 0:
        raise ValueError(f"{len(features)} features and {len(texts)} different texts: at least 1 and 2 are needed")
    intervene = _minimal if train_on == "minimal" and generator.config.search != "none" else _full
    factual, target = merged[factual.to(generator.device)], merged[target.to(generator.device)]
    parts = []
    for rows in torch.arange(len(features), device=generator.device).split(max(1, CHUNK // target.shape[1])):
        copies = torch.arange(len(rows), device=generator.device).repeat_interleave(target.shape[1])
        latents = generator.abduct(features[rows], texts[factual[rows]]).rows(copies)
        batch = _Batch(generator, features[rows][copies], latents, target[rows].reshape(-1), texts)
        parts.append(_finite(intervene(batch), batch.factual))
    shape = target.shape
    columns = {
        name: torch.cat([getattr(part, name) for part in parts]) for name in Counterfactuals.__dataclass_fields__
    }
    return Counterfactuals(**{name: column.reshape(*shape, *column.shape[1:]) for name, column in columns.items()})


def _finite(result: Counterfactuals, factual: Tensor) -> Counterfactuals:
    finite = torch.isfinite(result.features).all(-1)
    features = torch.where(finite[:, None], result.features, factual)
    return dataclasses.replace(result, features=features, valid=result.valid & finite)


def _ceiling(generator: "CounterfactualGenerator") -> tuple[float, float]:
    """Start time and mean kappa of the full intervention."""
    if generator.config.generator == "shift":
        return 1.0, 1.0
    last = generator.times[-1]
    return float(last), float(process.kappa(last, generator.estimator.within.values).mean())


def _full(batch: _Batch) -> Counterfactuals:
    config = batch.generator.config
    features = batch.moved(batch.everything)
    margin = batch.judged(features)
    start, kappa, w = (torch.full_like(margin, value) for value in (*_ceiling(batch.generator), config.w))
    return Counterfactuals(features, margin >= config.delta, start, kappa, margin, w)


def _minimal(batch: _Batch) -> Counterfactuals:
    config = batch.generator.config
    attempt, most, start_of = _along_line(batch) if config.search == "line" else _along_time(batch)
    found = search.minimal(attempt, batch.factual, batch.judged(batch.factual), most, config.delta)
    w = torch.full_like(found.margin, config.w)
    if config.search == "t0":
        _guide(batch, found, w)
    start, kappa = start_of(found.amount), found.amount
    return Counterfactuals(found.features, found.found, start.float(), kappa.float(), found.margin, w)


Path = tuple[search.Attempt, float, typing.Callable[[Tensor], Tensor]]


def _along_time(batch: _Batch) -> Path:
    """Decoding from smaller start times: every eigen-direction moves by its own kappa."""
    table = process.kappa_table(batch.generator.estimator.within.values)

    def attempt(rows: Tensor, amount: Tensor) -> tuple[Tensor, Tensor]:
        together = amount[0] if bool((amount == amount[0]).all()) else amount  # one time for all rows is cheaper
        features = batch.moved(rows, process.start_times(together, table))
        return features, batch.judged(features, rows)

    return attempt, float(table[1][-1]), lambda amount: process.start_times(amount, table)


def _along_line(batch: _Batch) -> Path:
    """A fraction of the straight line to the full counterfactual: all directions move alike."""
    space, residual = batch.generator.space, batch.latents.residual
    begin, end = space.encode(batch.factual)[0], space.encode(batch.moved(batch.everything))[0]
    start, most = _ceiling(batch.generator)

    def attempt(rows: Tensor, amount: Tensor) -> tuple[Tensor, Tensor]:
        share = (amount / most)[:, None].to(begin.dtype)
        features = space.lift(torch.lerp(begin[rows], end[rows], share), residual[rows])
        return features, batch.judged(features, rows)

    return attempt, most, lambda amount: torch.full_like(amount, start)


def _guide(batch: _Batch, found: search.Found, w: Tensor) -> None:
    """Stronger guidance from the ceiling for rows that the full intervention left insufficient; in place."""
    for stronger in search.GUIDANCE:
        rows = (~found.found & ~found.trivial).nonzero()[:, 0]
        if len(rows) == 0 or stronger <= batch.generator.config.w:
            continue
        features = batch.moved(rows, w=stronger)
        margin = batch.judged(features, rows)
        enough = margin >= batch.generator.config.delta
        rows = rows[enough]
        found.features[rows], found.margin[rows], w[rows] = features[enough], margin[enough], stronger
        found.found[rows] = True
