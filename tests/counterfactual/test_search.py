"""Minimal sufficiency: judges against closed forms, the search on known margins, and through a generator."""

import dataclasses

import pytest
import reference
import scm
import torch

from dicap.counterfactual import CounterfactualGenerator, process, search
from dicap.counterfactual.mechanism import ClassMechanism, Gaussian
from dicap.counterfactual.space import FeatureSpace


def test_margin_is_own_over_best_other():
    scores = torch.tensor([[1.0, 5.0, 2.0], [4.0, 0.0, 3.5]])
    assert torch.equal(search.margin(scores, torch.tensor([1, 2])), torch.tensor([3.0, -0.5]))


def test_gauss_judge_gives_log_odds():
    texts, labels = torch.eye(3), torch.arange(3).repeat_interleave(10)
    covariance, means = scm.covariance((0.2, 1.0, 2.0)), scm.means(3, 3)
    z = means[labels] + scm.noise(30, 3) @ reference.root(covariance)
    mechanism = ClassMechanism.fit(z, labels, texts, "class")
    space = FeatureSpace(torch.zeros(3), torch.eye(3), torch.tensor(1.0))
    judge = search.GaussJudge(space, mechanism, Gaussian.of(covariance).to(torch.float32))
    scores = judge.scores(z.float(), texts)
    expected = reference.gaussian_log_odds(z, mechanism.mean(texts).double(), covariance, 2, 0)
    assert torch.allclose((scores[:, 2] - scores[:, 0]).double(), expected, atol=1e-4)


def test_text_judge_is_the_scaled_cosine():
    features, texts = scm.noise(4, 5).float(), scm.noise(3, 5, seed=3).float()
    unit = torch.nn.functional.normalize(features, dim=1)
    cosine = torch.nn.functional.cosine_similarity(unit[:, None], texts[None], dim=-1)
    assert torch.allclose(search.TextJudge(24.0).scores(unit, texts), 24 * cosine, atol=1e-5)


def known(margins):
    """An attempt whose margin is a known function of amount, for each row; its feature is the amount."""

    def attempt(rows, amount):
        values = torch.stack([margins[int(row)](float(a)) for row, a in zip(rows, amount)])
        return amount[:, None].float(), values

    return attempt


def line(slope, start):
    return lambda a: torch.tensor(slope * a + start)


def test_11_the_search_brackets_the_threshold():
    roots = [0.003, 0.11, 0.4999, 0.93]
    attempt = known([line(10.0, -10 * root) for root in roots])
    result = search.minimal(attempt, torch.zeros(4, 1), torch.full((4,), -1.0), most=1.0, delta=0.0)
    assert bool(result.sufficient.all()) and bool((result.margin >= 0).all())
    for row, root in enumerate(roots):
        assert float(result.below[row]) < root <= float(result.amount[row])
        assert float(result.amount[row] - result.below[row]) < 0.1 / 2**search.HALVINGS + 1e-9
        assert result.features[row, 0] == pytest.approx(float(result.amount[row]))


def test_first_success_where_the_margin_is_not_monotone():
    attempt = known([lambda a: torch.tensor(1.0 if 0.25 < a < 0.35 or a > 0.8 else -1.0)])
    result = search.minimal(attempt, torch.zeros(1, 1), torch.tensor([-1.0]), most=1.0, delta=0.0)
    assert 0.25 < float(result.amount) < 0.3


def test_a_misjudged_factual_and_an_unreachable_target_are_never_found():
    attempt = known([line(1.0, 0.5), line(1.0, -5.0)])
    result = search.minimal(attempt, torch.zeros(2, 1), torch.tensor([0.5, -5.0]), most=1.0, delta=0.0)
    assert result.sufficient.tolist() == [False, False] and result.trivial.tolist() == [True, False]
    assert result.amount.tolist() == [1.0, 1.0]  # what they hold is the full intervention


@pytest.mark.parametrize("way", ["t0", "line"])
def test_11_minimal_counterfactuals_stop_just_past_the_threshold(images, targets, gauss, way):
    generator = again(gauss, search=way, delta=0.5)
    f, y = images.features[:, 0], images.labels
    full = generator.counterfactual(f, y, targets)
    minimal = generator.counterfactual(f, y, targets, train_on="minimal")
    assert bool((minimal.valid >= full.valid).all()) and minimal.valid.float().mean() > 0.3
    assert bool((minimal.margin[minimal.valid] >= 0.5).all())
    plain = minimal.valid & (minimal.w == 1)
    moved = (minimal.features - f[:, None]).norm(dim=-1) / (full.features - f[:, None]).norm(dim=-1)
    assert bool((moved[plain] <= 1 + 1e-4).all()) and float(moved[plain].mean()) < 0.95
    early = plain & (minimal.kappa < 0.9)
    assert bool(early.any()) and float((minimal.margin[early] - 0.5).max()) < 0.3  # just past the threshold
    if way == "t0":  # a bisected interval less of the shift, and none is sufficient
        rows, columns = early.nonzero(as_tuple=True)
        less = process.start_times(
            minimal.kappa[early] - 0.1 / 2**search.HALVINGS, process.kappa_table(gauss.estimator.within.values)
        )
        below = generator.predict(
            generator.abduct(f[rows], images.texts[y[rows]]), images.texts[targets[early]], start=less
        )
        margins = search.margin(generator.judge.scores(below, images.texts), targets[early])
        assert len(margins) > 10 and bool((margins < 0.5).all())


def test_stronger_guidance_is_tried_from_the_ceiling(images, targets, gauss):
    f, y = images.features[:, 0], images.labels
    full = gauss.counterfactual(f, y, targets)
    beyond = float(full.margin.median())  # half of the full interventions do not reach it
    generator = again(gauss, delta=beyond)
    full = generator.counterfactual(f, y, targets)
    minimal = generator.counterfactual(f, y, targets, train_on="minimal")
    guided = minimal.w > 1
    assert bool((guided & minimal.valid).any()) and not bool((guided & full.valid).any())
    assert bool((minimal.margin[guided] >= beyond).all())
    assert torch.allclose(minimal.features[~minimal.valid], full.features[~minimal.valid], atol=1e-5)


def test_no_search_means_full(images, targets, gauss):
    generator = again(gauss, search="none")
    f, y = images.features[:, 0], images.labels
    minimal = generator.counterfactual(f, y, targets, train_on="minimal")
    assert torch.equal(minimal.features, generator.counterfactual(f, y, targets).features)


def again(generator, **settings):
    """The same fit under other settings that fitting does not read."""
    copy = CounterfactualGenerator(dataclasses.replace(generator.config, **settings))
    copy.__dict__.update({name: value for name, value in generator.__dict__.items() if name != "config"})
    return copy
