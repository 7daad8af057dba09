"""Feature space, class effect and covariances against closed forms; confounding and its cure."""

import pytest
import reference
import scm
import torch
from sklearn.covariance import LedoitWolf

from dicap.counterfactual import CounterfactualGenerator
from dicap.counterfactual.mechanism import (
    DEFAULT_STRENGTH,
    STRENGTHS,
    TELLS,
    ClassMechanism,
    Gaussian,
    ridge_map,
    text_axes,
    within_and_total,
)
from dicap.counterfactual.space import FeatureSpace


def test_space_is_the_textbook_pca_and_comes_back():
    images = scm.scenes(0.5, views=3, width=20, patterns=2, shapes=2)
    space = FeatureSpace.fit(images.features, 6)
    ours = space.directions.double()
    textbook = reference.principal_directions(images.features.double().mean(1), 6)
    assert space.k == 6
    assert torch.allclose(ours @ ours.T, textbook @ textbook.T, atol=1e-5)
    z, residual = space.encode(images.features)
    assert abs(float(z.square().mean()) - 1) < 1e-5
    assert torch.allclose(space.lift(z, residual), images.features, atol=1e-6)


def test_k_is_cut_to_half_the_width_and_to_the_images():
    images = scm.scenes(0.5, width=20, patterns=2, shapes=2, shots=2)
    assert FeatureSpace.fit(images.features, 128).k == 7  # N - 1
    assert FeatureSpace.fit(scm.scenes(0.5, width=20).features, 128).k == 10  # e / 2
    twice = torch.cat([images.features[:3], images.features[:3]])
    assert FeatureSpace.fit(twice, 128).k == 2  # the rank


def test_16_the_residual_passes_through_before_normalising():
    images = scm.scenes(0.5, width=20, patterns=2, shapes=2)
    space = FeatureSpace.fit(images.features, 5)
    z, residual = space.encode(images.features[:, 0])
    moved = space.unnormalised(z + 3.0, residual)
    assert torch.allclose(space.encode(moved)[1], residual, atol=1e-5)
    assert not torch.allclose(space.encode(space.unnormalised(z, residual + 0.1))[1], residual, atol=1e-3)


def test_ridge_map_is_the_textbook_one_with_the_best_held_out_class():
    texts, outputs = scm.noise(9, 4, seed=1), scm.noise(9, 3, seed=2)
    outputs = texts @ scm.noise(4, 3, seed=3) + 0.8 * outputs
    texts, outputs = texts - texts.mean(0), outputs - outputs.mean(0)
    weight, strength, holdout = ridge_map(texts, outputs)
    errors = {s: reference.leave_one_out_error(texts, outputs, 4 * s) for s in STRENGTHS}
    nothing = reference.leave_one_out_error(texts, outputs, 1e12)
    best = min(errors, key=errors.get)
    assert (strength - best).abs().max() < 1e-9
    assert torch.allclose(weight, reference.ridge(texts, outputs, 4 * best)[0], atol=1e-9)
    assert abs(holdout - errors[best] / nothing) < 1e-6


def test_where_texts_tell_nothing_classes_still_have_an_effect():
    texts, outputs = torch.eye(5, dtype=torch.float64), scm.means(5, 3)  # every text is as far from every other
    weight, strength, holdout = ridge_map(texts - texts.mean(0), outputs - outputs.mean(0))
    assert (strength == DEFAULT_STRENGTH).all() and holdout > TELLS
    moved = (texts - texts.mean(0)) @ weight
    assert moved.norm() > 0.1 * (outputs - outputs.mean(0)).norm()


def test_gaussian_is_the_posterior_mean_and_newton_solves_its_step():
    covariance, mean = scm.covariance((0.05, 0.4, 2.0)), scm.means(1, 3)[0]
    gaussian, z = Gaussian.of(covariance), scm.noise(20, 3)
    for t in (0.02, 0.5, 0.99):
        ours = gaussian.x0(z, torch.tensor(t), mean)
        assert torch.allclose(ours, reference.posterior_mean(z, t, mean, covariance), atol=1e-9)
    times = torch.linspace(0.05, 0.95, 20, dtype=torch.float64)
    rowwise = gaussian.x0(z, times, mean)
    assert torch.allclose(rowwise[7], gaussian.x0(z[7:8], times[7], mean)[0], atol=1e-12)


def test_shrinkage_counts_images_not_views():
    residuals = scm.noise(30, 8).float()
    views = residuals[:, None].repeat(1, 5, 1)
    within, _ = within_and_total(views, torch.zeros(2, 8))
    shrunk = LedoitWolf(assume_centered=True).fit(residuals.double().numpy()).covariance_
    ours = (within.vectors * within.values) @ within.vectors.T
    assert torch.allclose(ours.double(), torch.as_tensor(shrunk), atol=1e-5)


def test_total_covariance_adds_the_class_effects():
    effects = scm.means(5, 4).float()
    within, total = within_and_total(scm.noise(40, 1, 4).reshape(40, 1, 1).repeat(1, 1, 4).float(), effects)
    added = (total.vectors * total.values) @ total.vectors.T - (within.vectors * within.values) @ within.vectors.T
    assert torch.allclose(added, torch.cov(effects.T, correction=0), atol=1e-4)


def test_18_without_shrinkage_the_shift_errs_as_the_textbook_says():
    covariance, means, shots = scm.covariance((0.1, 0.5, 1.0, 2.0)), scm.means(3, 4), 8
    labels, texts, squares = torch.arange(3).repeat_interleave(shots), torch.eye(3), []
    for seed in range(300):
        z = means[labels] + scm.noise(3 * shots, 4, seed) @ reference.root(covariance)
        fitted = ClassMechanism.fit(z, labels, texts, means="class").mean(texts).double()
        squares.append(((fitted[1] - fitted[0]) - (means[1] - means[0])).square().sum())
    assert abs(float(torch.stack(squares).mean().sqrt()) / reference.shift_error(covariance, shots) - 1) < 0.05


def test_18_the_shift_generator_errs_by_its_class_means():
    """Counterfactuals of `shift` without shrinkage (means=class, every direction diffused), against the true shift."""
    covariance, means, shots = scm.covariance((0.1, 0.5, 1.0, 2.0)), scm.means(3, 4), 8
    labels, squares = torch.arange(3).repeat_interleave(shots), []
    config = scm.small(generator="shift", means="class", pca_k=4)
    for seed in range(300):
        z = means[labels] + scm.noise(3 * shots, 4, seed) @ reference.root(covariance)
        fitted = CounterfactualGenerator(config).fit(scm.on_the_sphere(z), labels, torch.eye(3))
        result = fitted.counterfactual(scm.on_the_sphere(z[:1]), labels[:1], labels[:1] + 1).features[0, 0]
        truth = scm.on_the_sphere(z[:1] + means[1] - means[0])[0]
        squares.append((scm.FAR * (result - truth)).square().sum())
    measured = float(torch.stack(squares).mean().sqrt())
    assert measured == pytest.approx(reference.shift_error(covariance, shots), rel=0.06)


def test_means_text_blend_class_and_unseen_texts():
    labels, texts = torch.arange(5).repeat_interleave(6), scm.noise(5, 7, seed=5).float()
    z = (scm.means(5, 3)[labels] + scm.noise(30, 3)).float()
    raw = torch.stack([z[labels == c].mean(0) for c in range(5)])
    fitted = {kind: ClassMechanism.fit(z, labels, texts, kind) for kind in ("text", "blend", "class")}
    assert torch.allclose(fitted["class"].mean(texts), raw, atol=1e-4)
    expected = 6 / 8 * raw + 2 / 8 * fitted["text"].mean(texts)
    assert torch.allclose(fitted["blend"].mean(texts), expected, atol=1e-4)
    unseen = scm.noise(2, 7, seed=6).float()
    assert torch.allclose(fitted["class"].mean(unseen), fitted["text"].mean(unseen), atol=1e-5)


def relative_error(images, means):
    """Error of full counterfactuals to the truth, over the distance that the truth moved; mean over images."""
    generator = CounterfactualGenerator(scm.small(generator="gauss", means=means, pca_k=32))
    generator.fit(images.features, images.labels, images.texts)
    target = (images.labels + 7) % len(images.texts)
    answer = generator.counterfactual(images.features[:, 0], images.labels, target).features[:, 0]
    truth = images.truth(target)
    return float((answer - truth).norm(dim=1).mean() / (images.features[:, 0] - truth).norm(dim=1).mean())


def test_tied_scenes_confound_class_means_and_the_text_cures_it():
    tied = [scm.scenes(1.0, seed=seed) for seed in range(3)]
    free = [scm.scenes(0.0, seed=seed) for seed in range(3)]
    for one in tied:
        assert relative_error(one, "text") < 0.8 * relative_error(one, "class")
    for one, other in zip(tied, free):
        assert relative_error(other, "class") < 0.75 * relative_error(one, "class")


def test_a_direction_that_texts_tell_nothing_of_is_held_down_and_others_are_not():
    texts = scm.noise(20, 4, seed=1)
    outputs = torch.cat([texts @ scm.noise(4, 6, seed=3), 3 * scm.noise(20, 6, seed=2)], 1)  # told, then not
    texts, outputs = texts - texts.mean(0), outputs - outputs.mean(0)
    weight, strength, _ = ridge_map(texts, outputs, torch.eye(12, dtype=torch.float64)[:, :8])
    assert strength[:5].max() <= 0.03 and strength[7:].min() >= 3 and len(set(strength[8:].tolist())) == 1
    for j in range(12):
        column = reference.ridge(texts, outputs[:, j : j + 1], 4 * float(strength[j]))[0]
        assert torch.allclose(weight[:, j : j + 1], column, atol=1e-9)
    turn = torch.linalg.qr(scm.noise(12, 12, seed=4))[0]
    turned, same, _ = ridge_map(texts, outputs @ turn, turn.T[:, :8])
    assert torch.allclose(turned, weight @ turn, atol=1e-9) and torch.allclose(same, strength)


def test_axes_of_texts_are_those_of_the_common_space():
    images = scm.scenes(0.5, patterns=2, shapes=3, width=16)
    space = FeatureSpace.fit(images.features, 8)
    z, texts = space.encode(images.features)[0].mean(1), images.texts
    shared = ClassMechanism.fit(z, images.labels, texts, directions=space.directions)
    apart = ClassMechanism.fit(z, images.labels, texts)
    assert len(set(apart.strength.tolist())) == 1
    axes = text_axes(((texts - texts.mean(0)) @ space.directions).double())
    assert axes.shape == (8, 5) and torch.allclose(axes.T @ axes, torch.eye(5, dtype=torch.float64), atol=1e-9)
    _, strength, _ = ridge_map(
        *(x.double() - x.double().mean(0) for x in (shared.known, class_means(z, images.labels))), axes
    )
    assert torch.allclose(shared.strength.double(), strength)


def class_means(z, labels):
    return torch.stack([z[labels == label].mean(0) for label in labels.unique()])
