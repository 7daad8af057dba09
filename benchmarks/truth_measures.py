"""What is measured of counterfactual features whose truth is known (benchmarks/counterfactual_truth.py).

Distances are Euclidean between unit-length features, and relative: divided by the mean distance that the truth moved.
B images, M targets, e features, C classes.
"""

import dataclasses

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from torch import Tensor
from torch.nn.functional import normalize

from dicap.counterfactual import CounterfactualGenerator
from dicap.counterfactual.diagnostics import hsic_p
from dicap.counterfactual.search import margin

STEP = 0.1  # of a finite difference in the latent, whose coordinates have unit variance under an exact score


@dataclasses.dataclass(frozen=True)
class Case:
    """Images and their truth: features (B, e), labels (B,), texts (C, d), targets (B, M), truth (B, M, e)."""

    features: Tensor
    labels: Tensor
    texts: Tensor
    targets: Tensor
    truth: Tensor

    @property
    def distance(self) -> float:
        """Mean distance that the truth moved."""
        return float((self.truth - self.features[:, None]).norm(dim=-1).mean())


def errors(case: Case, found: Tensor) -> dict[str, float]:
    """Of counterfactuals (B, M, e): mean error, its part along the truth's movement and its part across; how far they
    moved along it, 1 = all the way; mean cosine of both movements, NaN where nothing moved."""
    wanted, moved, gap = case.truth - case.features[:, None], found - case.features[:, None], found - case.truth
    direction = normalize(wanted, dim=-1)
    along = (gap * direction).sum(-1)
    across = gap - along[..., None] * direction
    cosine = (normalize(moved, dim=-1) * direction).sum(-1).mean() if bool(moved.any()) else torch.tensor(torch.nan)
    relative = {
        "error": gap.norm(dim=-1).mean(),
        "along": along.abs().mean(),
        "across": across.norm(dim=-1).mean(),
        "moved": (moved * direction).sum(-1).mean(),
    }
    return {name: float(value) / case.distance for name, value in relative.items()} | {"cosine": float(cosine)}


def best_additive(case: Case, own_amount: bool = False) -> Tensor:
    """Counterfactuals (B, M, e) of the additive law f + e_y' - e_y whose effects fit the truth best (least squares); with
    own_amount each image has its best multiple of it. Both look at the truth: no generator can, they say what it costs
    to be additive."""
    codes = torch.eye(len(case.texts))
    design = codes[case.targets] - codes[case.labels][:, None]  # (B, M, C)
    moved = case.truth - case.features[:, None]
    shift = design @ (torch.linalg.pinv(design.flatten(0, 1)) @ moved.flatten(0, 1))  # (B, M, e)
    if own_amount:
        shift = shift * ((shift * moved).sum((1, 2)) / shift.square().sum((1, 2)))[:, None, None]
    return normalize(case.features[:, None] + shift, dim=-1)


@dataclasses.dataclass(frozen=True)
class Probe:
    """A linear reader of one variable, fitted to independent pictures in which all variables are independent."""

    mean: np.ndarray
    spread: float
    model: LogisticRegression

    @classmethod
    def fit(cls, features: Tensor, answers: np.ndarray) -> "Probe":
        """Fit to features (R, e) and answers (R,)."""
        rows = features.numpy()
        mean, spread = rows.mean(0), float(rows.std(0).mean())
        return cls(mean, spread, LogisticRegression(max_iter=300).fit((rows - mean) / spread, answers))

    def reads(self, features: Tensor) -> Tensor:
        """Answers (...,) for features (..., e)."""
        rows = (features.flatten(0, -2).numpy() - self.mean) / self.spread
        return torch.from_numpy(self.model.predict(rows)).reshape(features.shape[:-1])


def readings(
    case: Case, found: Tensor, probes: dict[str, Probe], head: Tensor, generator: CounterfactualGenerator
) -> dict[str, float]:
    """Shares of counterfactuals (B, M, e): scene and colour read as on the factual; class read as the target; the
    target the first choice of the generator's judge, and of the frozen text head (C, e) of another template."""
    figures = {}
    for name in ("scene", "colour"):
        figures[name] = share(probes[name].reads(found) == probes[name].reads(case.features)[:, None])
    figures["class"] = share(probes["class"].reads(found) == case.targets)
    scores = generator.judge.scores(found.flatten(0, 1), generator.conditions)
    figures["judge"] = share(margin(scores, case.targets.flatten()) >= generator.config.delta)
    figures["text head"] = share((found @ head.T).argmax(-1) == case.targets)
    return figures


def share(said: Tensor) -> float:
    """Mean of booleans."""
    return float(said.float().mean())


def minimality(
    case: Case, generator: CounterfactualGenerator, probes: dict[str, Probe], head: Tensor
) -> dict[str, float]:
    """Of the minimal sufficient counterfactuals: share that exists, 1 - cos to the factual beside the full one's, mean
    kappa, and what the two heads that the search has not seen say; means over valid ones."""
    least = generator.counterfactual(case.features, case.labels, case.targets, train_on="minimal")
    full = generator.counterfactual(case.features, case.labels, case.targets)
    valid = least.valid

    def apart(found: Tensor) -> float:
        return float((1 - (found * case.features[:, None]).sum(-1))[valid].mean())

    return {
        "valid": share(valid),
        "proximity": apart(least.features),
        "full proximity": apart(full.features),
        "kappa": float(least.kappa[valid].mean()),
        "class": share((probes["class"].reads(least.features) == case.targets)[valid]),
        "text head": share(((least.features @ head.T).argmax(-1) == case.targets)[valid]),
        "scene": share((probes["scene"].reads(least.features) == probes["scene"].reads(case.features)[:, None])[valid]),
    }


def bound_terms(case: Case, generator: CounterfactualGenerator) -> dict[str, float]:
    """Terms of |cf - x*| <= Lip |E(f, y) - E(x*, y')| + |D(u*, r) - D(u*, r*)| + |D(u*, r*) - x*|, first targets.

    E abducts, D decodes under y', x* is the truth, u* = E(x*, y'), r and r* what lies outside the diffused directions
    of f and of x*. Were the generator exact, both abductions would find one U, and every term but the second be 0. Lip
    is estimated from below: the largest ratio of finite differences along the three widest directions and between the
    pairs of latents themselves. `hsic` is the p-value of "latent and class are independent".
    """
    target, truth = generator.conditions[case.targets[:, 0]], case.truth[:, 0]
    own = generator.abduct(case.features, generator.conditions[case.labels])
    true = generator.abduct(truth, target)
    mixed = dataclasses.replace(true, residual=own.residual)  # the true U with the factual's untouched part
    found, swapped, back = (generator.predict(latents, target) for latents in (own, mixed, true))
    latent = (own.z - true.z).norm(dim=-1)
    steepest = float(((found - swapped).norm(dim=-1) / latent.clamp_min(1e-6)).max())
    for direction in generator.estimator.within.vectors.T[-3:]:
        nudged = dataclasses.replace(own, path=own.path + STEP * direction)
        steepest = max(steepest, float((generator.predict(nudged, target) - found).norm(dim=-1).max()) / STEP)
    terms = {"latent": latent, "outside": (swapped - back).norm(dim=-1), "decoder": (back - truth).norm(dim=-1)}
    distance = float((truth - case.features).norm(dim=-1).mean())
    figures = {name: float(value.mean()) for name, value in terms.items()}
    relative = {name: figures[name] / distance for name in ("outside", "decoder")}
    first = steepest * figures["latent"] / distance
    return {
        "latent": figures["latent"],
        "of": float(own.z.norm(dim=-1).mean()),
        "lipschitz": steepest,
        "first": first,
        **relative,
        "bound": first + relative["outside"] + relative["decoder"],
        "error": float((found - truth).norm(dim=-1).mean()) / distance,
        "hsic": hsic_p(own.z[::2], case.labels[::2]),
    }
