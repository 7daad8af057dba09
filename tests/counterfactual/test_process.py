"""DDIM against closed forms: exact Gaussian scores, known counterfactuals, and negative controls (docs/method.md)."""

import math

import pytest
import reference
import scm
import torch

from dicap.counterfactual import process
from dicap.counterfactual.diagnostics import hsic_p
from dicap.counterfactual.mechanism import Gaussian

EIGENVALUES = (0.01, 0.05, 0.3, 1.0, 10.0)


def rowwise(score):
    """eps(z, t, rows) of a textbook score(z, float t), for one time or a time per row."""

    def eps(z, t, rows):
        if t.dim() == 0:
            return reference.eps_of(score(z, float(t)), float(t))
        return torch.cat([eps(row[None], time, rows) for row, time in zip(z, t)])

    return eps


def exact(mean, covariance):
    """eps of N(mean, covariance); mean (k,) or one per row."""
    return rowwise(lambda z, t: reference.gaussian_score(z, t, mean, covariance))


def marginal(means, covariances):
    """eps of the mixture of all classes."""
    return rowwise(lambda z, t: reference.mixture_score(z, t, means, covariances))


def transport(x, source, target, steps, fixed_point=3, start=None, solve=process.unpreconditioned):
    """Abduct with the score `source`, predict with `target`."""
    times = process.time_grid(steps)
    path = process.encode(source, x, times, fixed_point, solve)
    start = times[-1] if start is None else torch.tensor(start, dtype=torch.float64)
    return process.decode(target, process.stop_at(source, path, times, start, fixed_point, solve), start, times)


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
    moved = transport(x, exact(means[0], covariance), exact(means[1], covariance), 400)
    assert (moved - (x + shift)).norm(dim=1).max() < 0.01 * shift.norm()


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
    order = -(math.log(errors[2]) - math.log(errors[0])) / (math.log(steps[2]) - math.log(steps[0]))
    assert 0.9 < order < 1.1


def test_2_refinement_inverts_and_newton_is_exact(shared):
    x, means, covariance = shared
    score = exact(means[0], covariance)
    plain = (transport(x, score, score, 50, fixed_point=3) - x).norm(dim=1) / x.norm(dim=1)
    newton = (transport(x, score, score, 10, fixed_point=1, solve=Gaussian.of(covariance).solve) - x).norm(dim=1)
    assert plain.max() < 1e-3
    assert newton.max() < 1e-9


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


def test_4_commuting_covariances_give_the_transport_map():
    one, other = scm.covariance((0.02, 0.5, 1.0, 4.0)), scm.covariance((0.3, 0.1, 2.0, 1.0))
    means = scm.means(2, 4)
    x = means[0] + scm.noise(50, 4) @ reference.root(one)
    moved = transport(x, exact(means[0], one), exact(means[1], other), 800)
    expected = reference.optimal_transport(x, means[0], one, means[1], other)
    assert (moved - expected).norm(dim=1).max() < 0.02 * (expected - x).norm(dim=1).mean()


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
        return float((transport(x, exact(means[0], covariance), score, 50) - x - means[1] + means[0]).norm(dim=1).mean())

    exactly = error(1.0)
    assert error(0.5) > 5 * exactly and error(2.0) > 5 * exactly


def test_8_marginal_abduction_is_biased():
    means, covariance = scm.means(3, 4), scm.covariance((0.1, 0.5, 1.0, 2.0))
    x = means[0] + scm.noise(40, 4) @ reference.root(covariance)
    truth, target = x + means[1] - means[0], exact(means[1], covariance)
    right = transport(x, exact(means[0], covariance), target, 50)
    wrong = transport(x, marginal(means, [covariance] * 3), target, 50)
    assert (wrong - truth).norm(dim=1).mean() > 5 * (right - truth).norm(dim=1).mean()


def test_9_the_error_is_within_its_bound():
    means, covariance = scm.means(2, 4), scm.covariance((0.05, 0.3, 1.0, 2.0))
    shots = scm.noise(2 * 16, 4, seed=8) @ reference.root(covariance)
    fitted = [means[c] + shots[16 * c : 16 * c + 16].mean(0) for c in range(2)]  # 16 shots, wrong as they are
    estimate = torch.cov(shots.T)
    x = means[0] + scm.noise(40, 4) @ reference.root(covariance)
    truth, times = x + means[1] - means[0], process.time_grid(50)
    newton, fitted_newton = Gaussian.of(covariance).solve, Gaussian.of(estimate).solve
    noise = process.encode(exact(means[0], covariance), x, times, 2, newton)[-1]
    abducted = process.encode(exact(fitted[0], estimate), x, times, 2, fitted_newton)[-1]

    def decode(latent):
        return process.decode(exact(fitted[1], estimate), latent, times[-1], times)

    error = (decode(abducted) - truth).norm(dim=1)
    lipschitz = reference.affine_lipschitz(decode, 4)
    bound = lipschitz * (abducted - noise).norm(dim=1) + (decode(noise) - truth).norm(dim=1)
    assert bool((error <= bound * (1 + 1e-9)).all())
    assert float(bound.mean()) < 20 * float(error.mean())  # and it says something


def test_10_control_a_rotation_of_the_noise_is_invisible_to_the_likelihood():
    means, covariance = scm.means(2, 4), scm.covariance((0.3, 0.5, 1.0, 2.0))
    half = reference.root(covariance)
    rotation = torch.linalg.qr(scm.noise(4, 4, seed=9))[0]
    u = scm.noise(200, 4)
    x, plain, rotated = means[0] + u @ half, means[1] + u @ half, means[1] + u @ rotation @ half
    # both mechanisms have the same p(x | y): the exact scores below are those of either
    moved = transport(x, exact(means[0], covariance), exact(means[1], covariance), 100)
    size = (plain - x).norm(dim=1).mean()
    assert (moved - plain).norm(dim=1).mean() < 0.01 * size
    assert (moved - rotated).norm(dim=1).mean() > 0.5 * size


def test_10_control_a_wrong_score_reconstructs_perfectly(shared):
    x, means, covariance = shared
    wrong_mean, wrong = scm.means(2, 5, spread=3.0, seed=21), scm.covariance((1.0, 2.0, 0.5, 0.2, 0.1), seed=7)
    score, solve = exact(wrong_mean[0], wrong), Gaussian.of(wrong).solve
    reconstruction = transport(x, score, score, 50, fixed_point=2, solve=solve)
    moved = transport(x, score, exact(wrong_mean[1], wrong), 50, fixed_point=2, solve=solve)
    shift = means[1] - means[0]
    assert (reconstruction - x).norm(dim=1).max() < 1e-9
    assert (moved - x - shift).norm(dim=1).min() > shift.norm()


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
