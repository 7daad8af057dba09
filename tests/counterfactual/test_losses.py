"""Losses of counterfactuals: closed-form gradients, masks."""

import pytest
import torch
import torch.nn.functional as F

from dicap.counterfactual.losses import contrast, weighted
from dicap.tasks.classification import Classification


def unit(*shape, seed=0):
    return F.normalize(torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64), dim=-1)


def test_text_contrast_gradient_is_parallel_to_the_causal_difference():
    t = unit(3, 8).requires_grad_()
    f, cf = unit(3, 8, seed=1), unit(3, 1, 8, seed=2)
    contrast(t, f, cf, torch.ones(3, 1, dtype=torch.bool), 24.0).backward()
    p = torch.sigmoid(24.0 * (t * (cf[:, 0] - f)).sum(-1, keepdim=True)).detach()  # probability of the counterfactual
    assert torch.allclose(t.grad, 24.0 / 3 * p * (cf[:, 0] - f), atol=1e-12)


def test_an_unmoved_counterfactual_gives_no_gradient():
    t, f = unit(3, 8).requires_grad_(), unit(3, 8, seed=1)
    contrast(t, f, f[:, None].clone(), torch.ones(3, 1, dtype=torch.bool), 24.0).backward()
    assert t.grad.abs().max() < 1e-12


@pytest.mark.parametrize("text_first", [True, False])
def test_invalid_counterfactuals_have_no_say(text_first):
    f, cf, t = unit(2, 8, seed=1), unit(2, 3, 8, seed=2), unit(2, 8)
    valid = torch.tensor([[True, False, True], [False, False, False]])
    args = (t, f) if text_first else (f, t)
    moved = torch.where(valid[..., None], cf, unit(2, 3, 8, seed=9))
    assert contrast(*args, cf, valid, 24.0) == contrast(*args, moved, valid, 24.0)
    alone = contrast(*(x[:1] for x in args), cf[:1, [0, 2]], valid[:1, [0, 2]], 24.0)
    assert torch.allclose(contrast(*args, cf, valid, 24.0), alone.float() / 2)  # the second image has none: it adds 0


def counterfactual_loss(logits, target, valid):
    """The term of counterfactuals alone, undivided: of logits (B, M, C), as DiCap makes it."""
    values = Classification().losses(logits, target)
    return weighted(torch.zeros(len(logits)), values, valid, 1.0)["cf"] * (1 + valid.float().mean())


def test_the_loss_of_counterfactuals_is_cross_entropy_over_valid_ones():
    logits = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(0)).requires_grad_()
    target = torch.tensor([[0, 1, 2], [3, 3, 0]])
    valid = torch.tensor([[True, False, True], [False, True, False]])
    got = counterfactual_loss(logits, target, valid)
    by_hand = sum(-logits[b, m].log_softmax(-1)[target[b, m]] for b, m in valid.nonzero().tolist()) / 6
    assert torch.allclose(got, by_hand)
    got.backward()
    assert (logits.grad[~valid] == 0).all() and (logits.grad[valid] != 0).any()


def test_a_batch_without_a_valid_one_gives_zero_and_no_gradient():
    logits = torch.full((2, 1, 3), float("inf")).requires_grad_()  # even where the numbers are useless
    none = torch.zeros(2, 1, dtype=torch.bool)
    loss = counterfactual_loss(torch.nan_to_num(logits, posinf=1.0), torch.zeros(2, 1, dtype=torch.long), none)
    loss.backward()
    assert loss == 0 and (logits.grad == 0).all()


def test_weighted_losses_sum_to_a_mean_of_what_is_there():
    factual, counterfactual = torch.tensor([1.0, 3.0]), torch.tensor([[2.0, torch.inf], [4.0, 6.0]])
    valid = torch.tensor([[True, False], [True, True]])
    parts = weighted(factual, counterfactual, valid, 2.0)
    assert set(parts) == {"ce", "cf"}
    assert float(sum(parts.values())) == pytest.approx((2 + 2 * 12 / 4) / (1 + 2 * 3 / 4))
    nothing = weighted(factual, counterfactual, torch.zeros(2, 2, dtype=torch.bool), 2.0)
    assert {name: float(value) for name, value in nothing.items()} == {"ce": 2, "cf": 0}
    assert float(weighted(factual, counterfactual, valid, 0.0)["ce"]) == 2
