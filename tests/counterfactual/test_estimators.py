"""The table of generators: x0 conventions, losses, training, averaging."""

import dataclasses

import pytest
import reference
import scm
import torch

from dicap.counterfactual import CounterfactualGenerator, process
from dicap.counterfactual.denoiser import Denoiser
from dicap.counterfactual.estimators import TrainingData, average_weight, learning_rate, loss, train


def fitted(images, **settings):
    config = scm.small(**settings)
    return CounterfactualGenerator(config).fit(images.features, images.labels, images.texts).estimator


@pytest.fixture(scope="module")
def rows(images):
    return (
        scm.noise(16, 12).float(),
        torch.linspace(0.05, 0.95, 16, dtype=torch.float64),
        images.texts[torch.arange(16) % 6],
    )


def test_an_untrained_gskip_is_the_gaussian(images, rows):
    z, t, texts = rows
    gskip, gauss = (fitted(images, generator=name, train_steps=0) for name in ("gskip", "gauss"))
    for condition in (texts, None):
        assert torch.allclose(gskip.x0(z, t, condition), gauss.x0(z, t, condition), atol=1e-6)
    covariance = ((gauss.within.vectors * gauss.within.values) @ gauss.within.vectors.T).double()
    mean = gauss.mechanism.mean(texts).double()
    expected = reference.posterior_mean(z[3:4].double(), float(t[3]), mean[3], covariance)
    assert torch.allclose(gauss.x0(z, t, texts)[3].double(), expected[0], atol=1e-4)


@pytest.mark.parametrize("name", ["gskip", "v", "eps"])
def test_the_loss_is_the_denoising_error_of_x0(images, name):
    estimator = fitted(images, generator=name)
    x0, texts = scm.noise(64, 12, seed=3).float(), images.texts[torch.arange(64) % 6]
    value = float(loss(estimator, x0, texts, 0.0, torch.Generator().manual_seed(1), train=False))
    g = torch.Generator().manual_seed(1)
    first, last = (float(time) for time in process.time_grid(2)[1:])
    t = first + (last - first) * torch.rand(64, generator=g, dtype=torch.float64)
    noise = torch.randn(64, 12, generator=g)
    signal, spread = process.coefficients(t, x0)
    z = signal * x0 + spread * noise
    estimate = estimator.x0(z, t, texts)
    squares = (estimate - x0).square() / spread**2
    if name == "eps":
        squares = ((z - signal * estimate) / spread - noise).square()
    assert abs(value - float(squares.mean())) < 1e-3 * value


def test_null_rows_take_the_marginal():
    net = Denoiser(4, 6, 16, 0.0, torch.Generator().manual_seed(0))
    for parameter in net.parameters():
        torch.nn.init.normal_(parameter, generator=torch.Generator().manual_seed(1))
    z, text, ratio = scm.noise(5, 4).float(), scm.noise(5, 6).float(), torch.zeros(5)
    null = torch.tensor([True, False, True, False, False])
    mixed = net(z, ratio, text, null)
    assert torch.allclose(mixed[null], net(z, ratio, None)[null])
    assert torch.allclose(mixed[~null], net(z, ratio, text)[~null])
    assert torch.allclose(net(z, torch.tensor(0.0), text), net(z, ratio, text), atol=1e-6)


def test_do_recombines_residuals_and_observed_keeps_pairs():
    effects = scm.means(4, 3).float()
    labels = torch.arange(4).repeat_interleave(5)
    residual = scm.noise(20, 3).float()
    data = TrainingData(effects[labels] + residual, labels, torch.eye(4), effects)
    x0, texts = data.draw(500, "do", torch.Generator().manual_seed(0))
    assert (
        torch.cdist(x0 - effects[texts.argmax(1)], residual).min(1).values.max() < 2e-3
    )  # any residual with any effect
    x0, texts = data.draw(500, "observed", torch.Generator().manual_seed(0))
    nearest = torch.cdist(x0, data.z).argmin(1)
    assert torch.equal(labels[nearest], texts.argmax(1))


def test_training_learns_what_the_gaussian_misses():
    k, count = 4, 400
    signs = torch.sign(scm.noise(count, k))
    z = (signs + 0.1 * scm.noise(count, k, seed=7)).float()  # two-point coordinates: far from Gaussian
    images = scm.scenes(0.0, patterns=2, shapes=2, width=16)
    estimator = fitted(images, generator="gskip", train_steps=0, pca_k=k)
    data = TrainingData(z, torch.zeros(count, dtype=torch.long), images.texts, torch.zeros(4, k))
    before = evaluate(estimator, data)
    train(
        estimator,
        data,
        scm.small(generator="gskip", train_data="do", train_steps=300, width=64),
        torch.Generator().manual_seed(0),
    )
    assert evaluate(estimator, data) < 0.85 * before


def evaluate(estimator, data):
    g = torch.Generator().manual_seed(9)
    x0, texts = data.draw(4000, "do", g)
    with torch.no_grad():
        return float(loss(estimator, x0, texts, 0.0, g, train=False))


def test_the_average_is_the_bias_corrected_one():
    average, values = 0.0, [3.0, -1.0, 4.0, 1.0, 5.0]
    for step, value in enumerate(values):
        average += average_weight(step, 0.9, 1000) * (value - average)
    assert abs(average - reference.biased_average(values, 0.9)) < 1e-12


def test_the_rate_rises_then_falls_to_nothing():
    rates = [learning_rate(step, 1000, 100) for step in range(1000)]
    assert rates[0] < 0.02 and max(rates) == rates[100] == 1.0 and rates[-1] < 1e-4
    assert rates[:100] == sorted(rates[:100]) and rates[100:] == sorted(rates[100:], reverse=True)
    assert learning_rate(0, 1, 100) == 1.0


def test_divergence_is_reported(images):
    estimator = fitted(images, generator="v", train_steps=0)
    data = TrainingData(
        torch.full((8, 12), float("nan")), torch.zeros(8, dtype=torch.long), images.texts, torch.zeros(6, 12)
    )
    with pytest.raises(FloatingPointError, match="lr"):
        train(estimator, data, scm.small(generator="v", train_steps=3), torch.Generator())


def test_estimators_are_immutable(images):
    with pytest.raises(dataclasses.FrozenInstanceError):
        fitted(images, generator="gauss").name = "v"


def test_swap_exchanges_what_the_text_leaves_of_the_class_means():
    effects, rest = scm.means(4, 3).float(), 5 * scm.means(4, 3, seed=8).float()
    labels = torch.arange(4).repeat_interleave(5)
    around = scm.noise(20, 3).float()
    around = around - around.reshape(4, 5, 3).mean(1)[labels]
    data = TrainingData(effects[labels] + rest[labels] + around, labels, torch.eye(4), effects)
    x0, texts = data.draw(2000, "swap", torch.Generator().manual_seed(0))
    own = texts.argmax(1)
    gap = (x0 - effects[own])[:, None, None] - rest[:, None] - around  # (B, C, N, k)
    at = gap.norm(dim=-1).flatten(1).min(1)
    assert at.values.max() < 1e-4
    assert torch.equal(labels[at.indices % 20], own)  # the image keeps its class
    drawn = torch.zeros(4, 4).index_put_((own, at.indices // 20), torch.ones(()), accumulate=True)
    assert drawn.min() > 80  # any class's rest with any class: 125 expected of each
