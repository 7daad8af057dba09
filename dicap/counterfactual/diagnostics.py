"""Whether counterfactuals can be believed: validity, proximity, minimality, and whether U is free of the class.

Reconstruction proves nothing: with an exact inverse it is near zero for any score, however wrong. What the error
bound needs is a latent that is independent of the class (`hsic_p`, `latent_probe` near `latent_chance`). Where scenes
come with classes, U itself is tied to the class in the data: there a latent that tells the class is no fault.
"""

import math
from typing import NamedTuple

import numpy as np
import torch
from sklearn.linear_model import RidgeClassifier  # type: ignore[import-untyped]
from sklearn.model_selection import StratifiedKFold, cross_val_score  # type: ignore[import-untyped]
from torch import Tensor

from .estimators import TrainingData, loss
from .generator import CounterfactualGenerator
from .interventions import Counterfactuals
from .search import margin

LIMIT = 256  # images looked at, evenly spread over the data
PERMUTATIONS = 200


@torch.no_grad()
def diagnose(
    generator: CounterfactualGenerator,
    features: Tensor,
    labels: Tensor,
    targets: Tensor,
    held_out: tuple[Tensor, Tensor] | None = None,
) -> dict[str, float]:
    """Figures for log and result, all finite; those that the data cannot give (one image a class ...) are left out.

    Args:
        generator: fitted. features: (N, V, e) or (N, e), of which the first view is judged. labels: (N,).
        targets: (N, M) target classes. held_out: features (N', e) and labels (N',) that the fit has not seen.

    Returns `valid_full|minimal` share that reaches the judge's margin, `invalid_percent_*` the rest in %; `head_valid_*`
    share that a linear probe on the real features takes for the target; `proximity_*` 1 - cos to the factual and
    `mahalanobis_*` distance in Sw, means over valid ones, as are `start_time_minimal` and `kappa_minimal`;
    `factual_sufficient` share whose factual already reaches the margin; `reconstruction_error` abduct and decode with
    one score, `null_error` y' = y, `round_trip_error` y -> y' -> y, in units of `moved_full`, the mean distance of the
    full counterfactual; `cld_*` counterfactual latent divergence, lower is better (Sanchez and Tsaftaris 2022, arXiv
    2202.10166); `hsic_p` p-value of the latent against the class, `latent_probe` held-out accuracy of the class from the
    latent and its `latent_chance`; `mmd_full` squared MMD of counterfactuals to real features of the target class;
    `loss`, `loss_gauss` denoising loss on the training data with and without the network, `loss_held_out*` likewise.
    """
    generator.check_fitted()
    views = features if features.dim() == 3 else features[:, None]
    views, labels, targets = (tensor.to(generator.device) for tensor in (views.float(), labels, targets))
    some = torch.linspace(0, len(views) - 1, min(LIMIT, len(views))).round().long().to(generator.device)
    sample = _Sample(generator, views[some, 0], labels[some], targets[some], views[:, 0], labels)
    full = generator.counterfactual(sample.factual, sample.own, sample.target)
    moved = _distance(full.features, sample.factual[:, None])
    figures = {"moved_full": moved} | _of_counterfactuals("full", sample, full)
    if generator.config.search != "none":
        minimal = generator.counterfactual(sample.factual, sample.own, sample.target, train_on="minimal")
        figures |= _of_counterfactuals("minimal", sample, minimal)
        figures["start_time_minimal"] = _mean_of(minimal.start_time, minimal.valid)
        figures["kappa_minimal"] = _mean_of(minimal.kappa, minimal.valid)
    figures |= _consistency(sample, full, max(moved, 1e-12))
    figures["mmd_full"] = class_mmd(full.features, sample.target, sample.real, labels, generator)
    if generator.estimator.network is not None:
        figures |= _losses("", generator, views.flatten(0, 1), labels.repeat_interleave(views.shape[1]))
        if held_out is not None and len(held_out[0]):
            figures |= _losses("_held_out", generator, held_out[0].to(views), held_out[1].to(labels))
    return {name: float(value) for name, value in figures.items() if math.isfinite(value)}


class _Sample(NamedTuple):
    generator: CounterfactualGenerator
    factual: Tensor  # (B, e) images looked at
    own: Tensor  # (B,) their classes
    target: Tensor  # (B, M)
    real: Tensor  # (N, e) all images
    labels: Tensor  # (N,)


def _of_counterfactuals(kind: str, sample: _Sample, answer: Counterfactuals) -> dict[str, float]:
    generator, factual, real = sample.generator, sample.factual, sample.real
    gap = generator.space.encode(answer.features)[0] - generator.space.encode(factual)[0][:, None]
    distance = 1 - (answer.features * factual[:, None]).sum(-1)  # (B, M)
    valid = float(answer.valid.float().mean())
    probe = RidgeClassifier().fit(_standardised(real, real), sample.labels.cpu().numpy())
    predicted = probe.predict(_standardised(answer.features.flatten(0, 1), real)).reshape(sample.target.shape)
    return {
        f"valid_{kind}": valid,
        f"invalid_percent_{kind}": 100 * (1 - valid),
        f"head_valid_{kind}": float((predicted == sample.target.cpu().numpy()).mean()),
        f"proximity_{kind}": _mean_of(distance, answer.valid),
        f"mahalanobis_{kind}": _mean_of(generator.estimator.within.whiten(gap).norm(dim=-1), answer.valid),
        f"cld_{kind}": latent_divergence(factual, sample.own, sample.target, distance, real, sample.labels),
    }


def _consistency(sample: _Sample, full: Counterfactuals, moved: float) -> dict[str, float]:
    generator, factual, own = sample.generator, sample.factual, sample.own
    latents = generator.abduct(factual, generator.conditions[own])
    null = generator.predict(latents, generator.conditions[own])
    back = generator.counterfactual(full.features[:, 0], sample.target[:, 0], own).features[:, 0]
    scores = generator.judge.scores(factual, generator.conditions)
    already = torch.stack([margin(scores, column) for column in sample.target.T], 1) >= generator.config.delta
    return {
        "factual_sufficient": float(already.float().mean()),
        "reconstruction_error": _distance(generator.reconstruct(latents), factual) / moved,
        "null_error": _distance(null, factual) / moved,
        "round_trip_error": _distance(back, factual) / moved,
    } | _independence(latents.z, own, generator.config.seed)


def _independence(latents: Tensor, own: Tensor, seed: int) -> dict[str, float]:
    """Whether latents (B, k) tell the class own (B,)."""
    classes, counts = torch.unique(own, return_counts=True)
    figures, folds = {"latent_chance": 1 / len(classes)}, min(4, int(counts.min()))
    if len(classes) > 1 and len(own) > len(classes):
        figures["hsic_p"] = hsic_p(latents, own, seed)
    if len(classes) > 1 and folds > 1:
        split = StratifiedKFold(folds, shuffle=True, random_state=seed % 2**32)
        scores = cross_val_score(RidgeClassifier(), _standardised(latents, latents), own.cpu().numpy(), cv=split)
        figures["latent_probe"] = float(scores.mean())
    return figures


def _losses(suffix: str, generator: CounterfactualGenerator, features: Tensor, labels: Tensor) -> dict[str, float]:
    """Conditional denoising loss on fixed draws; for gskip beside that of its Gaussian alone."""
    z, effects = generator.space.encode(features)[0], generator.mechanism.mean(generator.conditions)
    data, config, figures = TrainingData(z, labels, generator.conditions, effects), generator.config, {}
    for name, share in (("loss", 1.0), ("loss_gauss", 0.0)) if config.generator == "gskip" else (("loss", 1.0),):
        random = torch.Generator().manual_seed(config.seed)
        x0, texts = data.draw(2048, config.train_data, random)
        value = loss(generator.estimator, x0, texts, 0.0, random, train=False, network_share=share)
        figures[name + suffix] = float(value)
    return figures


def _distance(one: Tensor, other: Tensor) -> float:
    return float((one - other).norm(dim=-1).mean())


def _mean_of(values: Tensor, valid: Tensor) -> float:
    """Mean of the valid values, NaN where there is none."""
    return float(values[valid].mean()) if bool(valid.any()) else math.nan


def _standardised(features: Tensor, reference: Tensor) -> np.ndarray:
    """Features (B, e) centred and scaled by those of a reference (N, e): what linear probes read."""
    spread = reference.std(0).mean().clamp_min(1e-12)
    return ((features - reference.mean(0)) / spread).cpu().numpy()


def latent_divergence(
    factual: Tensor, own: Tensor, target: Tensor, distance: Tensor, real: Tensor, labels: Tensor
) -> float:
    """CLD, mean over rows: log(1/2 exp P(S_y' <= div) + 1/2 exp P(S_y >= div)), S_y = 1 - cos to real features of y.

    Low where it moved less than the distance to images of the target, but more than the spread of its own class. Args:
    factual (B, e), own (B,), target (B, M), distance div (B, M), real (N, e), labels (N,).
    """
    apart = 1 - factual @ real.T  # (B, N)
    among_target = labels == target[..., None]  # (B, M, N)
    among_own = (labels == own[:, None]) & (apart > 1e-6)  # not the image itself
    near = (apart[:, None] <= distance[..., None]) & among_target
    far = (apart[:, None] >= distance[..., None]) & among_own[:, None]
    share_near = near.sum(-1) / among_target.sum(-1).clamp_min(1)
    share_far = far.sum(-1) / among_own.sum(-1).clamp_min(1)[:, None]
    return float((0.5 * share_near.exp() + 0.5 * share_far.exp()).log().mean())


def gaussian_kernel(one: Tensor, other: Tensor, width: Tensor | float) -> Tensor:
    """exp(-|x - y|^2 / (2 width^2)) of rows (A, k) and (B, k)."""
    return torch.exp(-torch.cdist(one, other).square() / (2 * width**2))


def hsic_p(latents: Tensor, labels: Tensor, seed: int = 0) -> float:
    """p-value in [1 / 201, 1] of "latents (N, k) are independent of labels (N,)": HSIC with a Gaussian kernel of median
    width against the same-class kernel, by permutation (Gretton et al. 2007)."""
    latents = latents.double()
    kernel = gaussian_kernel(latents, latents, torch.pdist(latents).median().clamp_min(1e-12))
    kernel = kernel - kernel.mean(0) - kernel.mean(1)[:, None] + kernel.mean()
    same = (labels[:, None] == labels).double()
    random = torch.Generator().manual_seed(seed)
    orders = [torch.randperm(len(labels), generator=random).to(labels.device) for _ in range(PERMUTATIONS)]
    observed = (kernel * same).sum()
    shuffled = torch.stack([(kernel * same[order][:, order]).sum() for order in orders])
    return float((1 + (shuffled >= observed).sum()) / (1 + PERMUTATIONS))


def class_mmd(
    counterfactuals: Tensor, target: Tensor, real: Tensor, labels: Tensor, generator: CounterfactualGenerator
) -> float:
    """Squared MMD (unbiased, Gaussian kernel of median width) of counterfactuals (B, M, e) with target (B, M) to real
    features (N, e) of the target class, mean over classes weighted by counterfactuals; NaN without a pair of each."""
    moved, real = (generator.space.encode(features)[0].double() for features in (counterfactuals.flatten(0, 1), real))
    target = target.flatten()
    width = torch.pdist(real[:LIMIT]).median().clamp_min(1e-12)
    total, weight = 0.0, 0
    for label in torch.unique(target):
        ours, theirs = moved[target == label], real[labels == label]
        if len(ours) > 1 and len(theirs) > 1:
            kernels = [gaussian_kernel(group, group, width) for group in (ours, theirs)]
            alike = sum(float((each.sum() - each.trace()) / (len(each) * (len(each) - 1))) for each in kernels)
            total += len(ours) * (alike - 2 * float(gaussian_kernel(ours, theirs, width).mean()))
            weight += len(ours)
    return total / weight if weight else math.nan
