"""DDIM against closed forms: exact Gaussian scores, known counterfactuals, and negative controls (docs/method.md)."""

import itertools
import math

import numpy as np
import pytest
import reference
import scm
import torch
from scm import exact, marginal, transport

from dicap.counterfactual import process
from dicap.counterfactual.diagnostics import hsic_p
from dicap.counterfactual.mechanism import Gaussian

EIGENVALUES = (0.01, 0.05, 0.3, 1.0, 10.0)


@pytest.fixture
def shared():
    """x (50, 5) of class 0, the two class means and the shared covariance."""
    means, covariance = scm.means(2, 5), scm.covariance(EIGENVALUES)
    return means[0] + scm.noise(50, 5) @ reference.root(covariance), means, covariance


def test_grid_and_schedule():
    times = process.time_grid(40)
    ratio = process.log_snr(times[1:])
    assert times[0] == 0 and times.dtype == torch.float64 and len(times) == 41
    assert torch.allclose(ratio.diff(), ratio.diff()[:1].expand(39), atol=1e-9)
    signal, noise = process.coefficients(times[-1], times)
    assert abs(float(signal**2 + noise**2) - 1) < 1e-12 and float(signal**2) <= 1.0001e-6
    assert torch.allclose(process.time_of(ratio), times[1:], atol=1e-14)


def test_1_exact_scores_from_the_ceiling_give_the_shift(shared):
    x, means, covariance = shared
    shift = means[1] - means[0]

    def error(fixed_point):
        moved = transport(x, exact(means[0], covariance), exact(means[1], covariance), 400, fixed_point)
        return float((moved - (x + shift)).norm(dim=1).max() / shift.norm())

    assert error(1) < 0.01 and error(3) < 0.01
    assert error(0) > 0.01  # first-order inversion is not enough at 400 steps


def test_1_control_a_low_ceiling_leaves_the_factual_class():
    means, covariance = scm.means(2, 3), torch.diag(torch.tensor([1.0, 10.0, 100.0], dtype=torch.float64))
    x = means[0] + scm.noise(20, 3) @ reference.root(covariance)
    moved = transport(x, exact(means[0], covariance), exact(means[1], covariance), 200, start=0.98)
    undone = 1 - ((moved - x) / (means[1] - means[0])).mean(0)
    assert torch.allclose(undone, torch.tensor([0.03, 0.10, 0.30], dtype=torch.float64), atol=0.02)


def test_2_plain_inversion_is_first_order(shared):
    x, means, covariance = shared
    score, steps = exact(means[0], covariance), [200, 400, 800]
    errors = [float((transport(x, score, score, n, fixed_point=0) - x).norm(dim=1).mean()) for n in steps]
    order = -np.polyfit(np.log(steps), np.log(errors), 1)[0]  # fitted over all of them
    assert 0.9 < order < 1.1
    local = [math.log2(coarse / fine) for coarse, fine in itertools.pairwise(errors)]
    assert all(0.9 < value < 1.1 for value in local)


def test_2_refinement_inverts_and_newton_is_exact(shared):
    """Two plain refinements leave 3e-3 at 50 steps, three 5e-4; one of Newton's, for its own score, nothing at 10."""
    x, means, covariance = shared
    score = exact(means[0], covariance)

    def relative(steps, fixed_point, solve=process.unpreconditioned):
        return float(
            ((transport(x, score, score, steps, fixed_point, solve=solve) - x).norm(dim=1) / x.norm(dim=1)).max()
        )

    assert relative(50, 3) < 1e-3 < relative(50, 2) < 5e-3
    assert (
        relative(50, 2, Gaussian.of(covariance).solve) < 1e-9 and relative(10, 1, Gaussian.of(covariance).solve) < 1e-9
    )


@pytest.mark.parametrize("t", [0.1, 0.4, 0.7, 0.95])
def test_3_kappa_is_the_share_of_the_shift(shared, t):
    x, means, covariance = shared
    moved = transport(x, exact(means[0], covariance), exact(means[1], covariance), 400, start=t)
    vectors = torch.linalg.eigh(covariance)[1]
    share = (((moved - x) @ vectors) / ((means[1] - means[0]) @ vectors)).mean(0)
    expected = torch.tensor([reference.kappa(t, value) for value in EIGENVALUES], dtype=torch.float64)
    assert torch.allclose(share, expected, atol=5e-3)
    ours = process.kappa(torch.tensor(t), torch.tensor(EIGENVALUES))
    assert torch.allclose(ours, expected, atol=1e-7)


def test_3_start_times_invert_the_mean_kappa():
    values = torch.tensor([0.02, 0.2, 3.0])
    table = process.kappa_table(values)
    wanted = torch.tensor([0.0, 0.02, 0.3, 0.77, float(table[1][-1])], dtype=torch.float64)
    assert torch.allclose(process.kappa(process.start_times(wanted, table), values).mean(-1), wanted, atol=1e-5)


def test_5_classifier_free_guidance_is_classifier_guidance():
    means, covariances = scm.means(3, 4), [scm.covariance((0.1, 0.4, 1.0, 2.0), seed) for seed in range(3)]
    z = scm.noise(30, 4)
    for t in (0.05, 0.5, 0.9):
        null = reference.eps_of(reference.mixture_score(z, t, means, covariances), t)
        conditional = reference.eps_of(reference.gaussian_score(z, t, means[1], covariances[1]), t)
        gradient = reference.class_gradient(z, t, 1, means, covariances)
        for w in (0.0, 0.5, 1.0, 3.0):
            expected = null - w * reference.signal_and_noise(t)[1] * gradient
            assert (process.guided(null, conditional, w) - expected).abs().max() < 1e-12


def test_6_the_same_class_is_the_identity(shared):
    x, means, covariance = shared
    score = exact(means[0], covariance)
    null = transport(x, score, score, 25, fixed_point=1, solve=Gaussian.of(covariance).solve)
    assert (null - x).norm(dim=1).max() < 1e-9


def test_7_only_conditional_abduction_frees_the_latent_of_the_class():
    rejected = {"cond": 0, "marg": 0}
    means, covariance = scm.means(3, 3, spread=1.5, seed=4), scm.covariance((0.1, 0.5, 1.0))
    times, labels = process.time_grid(10), torch.arange(3).repeat_interleave(20)
    null = marginal(means, [covariance] * 3)
    conditional = exact(means[labels], covariance)
    for seed in range(100):
        x = means[labels] + scm.noise(60, 3, seed) @ reference.root(covariance)
        latents = {"cond": process.encode(conditional, x, times, 1)[-1], "marg": process.encode(null, x, times, 1)[-1]}
        for name, latent in latents.items():
            rejected[name] += hsic_p(latent, labels, seed) <= 0.05
    assert rejected["cond"] <= 10 and rejected["marg"] >= 95, rejected


def test_8_guidance_other_than_one_misses_the_truth():
    means, covariance = scm.means(3, 4), scm.covariance((0.1, 0.5, 1.0, 2.0))
    x = means[0] + scm.noise(40, 4) @ reference.root(covariance)
    null, conditional = marginal(means, [covariance] * 3), exact(means[1], covariance)

    def error(w):
        score = lambda z, t, rows: process.guided(null(z, t, rows), conditional(z, t, rows), w)  # noqa: E731
        return float(
            (transport(x, exact(means[0], covariance), score, 50) - x - means[1] + means[0]).norm(dim=1).mean()
        )

    exactly = error(1.0)
    assert error(0.5) > 5 * exactly and error(2.0) > 5 * exactly


def test_8_marginal_abduction_is_biased():
    means, covariance = scm.means(3, 4), scm.covariance((0.1, 0.5, 1.0, 2.0))
    x = means[0] + scm.noise(40, 4) @ reference.root(covariance)
    truth, target = x + means[1] - means[0], exact(means[1], covariance)
    right = transport(x, exact(means[0], covariance), target, 50)
    wrong = transport(x, marginal(means, [covariance] * 3), target, 50)
    assert (wrong - truth).norm(dim=1).mean() > 5 * (right - truth).norm(dim=1).mean()


def test_rows_join_at_their_own_start(shared):
    x, means, covariance = shared
    one, other, times = exact(means[0], covariance), exact(means[1], covariance), process.time_grid(30)
    starts = torch.linspace(0.0, float(times[-1]), len(x), dtype=torch.float64)

    path = process.encode(one, x, times, 3)
    together = process.decode(other, process.stop_at(one, path, times, starts, 3), starts, times)
    for row in (0, 7, 25, 49):
        alone = process.stop_at(one, path[:, row : row + 1], times, starts[row], 3)
        alone = process.decode(other, alone, starts[row], times)
        assert torch.allclose(together[row], alone[0], atol=1e-10)
    assert torch.equal(together[0], x[0])  # start 0: untouched
