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


def errors(case: Case, cf: Tensor) -> dict[str, float]:
    """Mean errors of counterfactuals cf (B, M, e).

    Returns:
        error; along, across: its parts along the truth's movement and across it; moved: how far they moved along it,
        1 = all the way; cosine: of both movements, NaN where nothing moved.
    """
    moved, gap = cf - case.features[:, None], cf - case.truth
    direction = normalize(case.truth - case.features[:, None], dim=-1)
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
    """Counterfactuals (B, M, e) of the additive law f + e_y' - e_y whose effects e fit the truth best (least squares).

    Args:
        own_amount: each image also has its best multiple of the shift.

    Both look at the truth, which no generator can: they show what it costs to be additive.
    """
    codes = torch.eye(len(case.texts))
    design = codes[case.targets] - codes[case.labels][:, None]  # (B, M, C)
    moved = case.truth - case.features[:, None]
    shift = design @ (torch.linalg.pinv(design.flatten(0, 1)) @ moved.flatten(0, 1))  # (B, M, e)
    if own_amount:
        shift = shift * ((shift * moved).sum((1, 2)) / shift.square().sum((1, 2)))[:, None, None]
    return normalize(case.features[:, None] + shift, dim=-1)


@dataclasses.dataclass(frozen=True)
class Probe:
    """A linear probe of one variable, fitted to independent pictures in which all variables are independent."""

    mean: np.ndarray
    spread: float
    model: LogisticRegression

    @classmethod
    def fit(cls, features: Tensor, values: np.ndarray) -> "Probe":
        """Fit to features (N, e) and values of the variable (N,)."""
        rows = features.numpy()
        mean, spread = rows.mean(0), float(rows.std(0).mean())
        return cls(mean, spread, LogisticRegression(max_iter=300).fit((rows - mean) / spread, values))

    def predict(self, features: Tensor) -> Tensor:
        """Values (...,) for features (..., e)."""
        rows = (features.flatten(0, -2).numpy() - self.mean) / self.spread
        return torch.from_numpy(self.model.predict(rows)).reshape(features.shape[:-1])


def probe_shares(
    case: Case, cf: Tensor, probes: dict[str, Probe], head: Tensor, generator: CounterfactualGenerator
) -> dict[str, float]:
    """Shares of counterfactuals cf (B, M, e) on which probes and classifiers say what they should.

    Args:
        head: text features (C, e) of a template that the generator has not seen.

    Returns:
        scene, colour: predicted as on the image itself. class: predicted as the target. judge, text head: the target
        is the first choice of the generator's judge, and of `head`.
    """
    shares = {name: share(_unchanged(case, cf, probes[name])) for name in ("scene", "colour")}
    shares["class"] = share(probes["class"].predict(cf) == case.targets)
    scores = generator.judge.scores(cf.flatten(0, 1), generator.conditions)
    shares["judge"] = share(margin(scores, case.targets.flatten()) >= generator.config.delta)
    shares["text head"] = share((cf @ head.T).argmax(-1) == case.targets)
    return shares


def _unchanged(case: Case, cf: Tensor, probe: Probe) -> Tensor:
    """(B, M) bool: the probe predicts the same on the counterfactual as on the image."""
    return probe.predict(cf) == probe.predict(case.features)[:, None]


def share(values: Tensor) -> float:
    """Mean of booleans."""
    return float(values.float().mean())


def minimality(
    case: Case, generator: CounterfactualGenerator, probes: dict[str, Probe], head: Tensor
) -> dict[str, float]:
    """Measures of the minimal sufficient counterfactuals; means over the valid ones.

    Returns:
        valid: share that exists. proximity, full proximity: 1 - cos to the image, also of the full counterfactual. kappa.
        class, text head, scene: as `probe_shares`, by two classifiers and a probe that the search has not seen.
    """
    minimal = generator.counterfactual(case.features, case.labels, case.targets, train_on="minimal")
    full = generator.counterfactual(case.features, case.labels, case.targets)
    cf, valid = minimal.features, minimal.valid
    distances = [(1 - (each * case.features[:, None]).sum(-1))[valid].mean() for each in (cf, full.features)]
    return {
        "valid": share(valid),
        "proximity": float(distances[0]),
        "full proximity": float(distances[1]),
        "kappa": float(minimal.kappa[valid].mean()),
        "class": share((probes["class"].predict(cf) == case.targets)[valid]),
        "text head": share(((cf @ head.T).argmax(-1) == case.targets)[valid]),
        "scene": share(_unchanged(case, cf, probes["scene"])[valid]),
    }


def bound_terms(case: Case, generator: CounterfactualGenerator) -> dict[str, float]:
    """Terms of |cf - x*| <= Lip |E(f, y) - E(x*, y')| + |D(u*, r) - D(u*, r*)| + |D(u*, r*) - x*| for the first targets.

    E abducts, D decodes under y', x* is the truth, u* = E(x*, y'), r and r* what lies outside the diffused directions
    of f and of x*. Were the generator exact, both abductions would find one U, and every term but the second be 0. Lip
    is estimated from below: the largest ratio of finite differences along the three widest directions and between the
    pairs of latents themselves. `hsic` is the p-value of "latent and class are independent".
    """
    target, truth = generator.conditions[case.targets[:, 0]], case.truth[:, 0]
    own = generator.abduct(case.features, generator.conditions[case.labels])
    true = generator.abduct(truth, target)
    mixed = dataclasses.replace(true, residual=own.residual)  # the true U with the factual's untouched part
    cf, swapped, back = (generator.predict(latents, target) for latents in (own, mixed, true))
    latent = (own.z - true.z).norm(dim=-1)
    steepest = float(((cf - swapped).norm(dim=-1) / latent.clamp_min(1e-6)).max())
    for direction in generator.estimator.within.vectors.T[-3:]:
        nudged = dataclasses.replace(own, path=own.path + STEP * direction)
        steepest = max(steepest, float((generator.predict(nudged, target) - cf).norm(dim=-1).max()) / STEP)
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
        "error": float((cf - truth).norm(dim=-1).mean()) / distance,
        "hsic": hsic_p(own.z[::2], case.labels[::2]),
    }
