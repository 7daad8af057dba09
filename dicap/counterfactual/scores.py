"""The scores that DDIM follows: the factual class's in abduction, the target's, guided, in prediction."""

import typing

import torch
from torch import Tensor

from . import process
from .process import Eps, Rows, Solve

if typing.TYPE_CHECKING:
    from .generator import CounterfactualGenerator


def solver(generator: "CounterfactualGenerator") -> Solve:
    """The Newton correction of abduction's refinements: that of the Gaussian nearest to the score followed."""
    estimator = generator.estimator
    return (estimator.total if generator.config.abduct == "marg" else estimator.within).solve


def abduction(generator: "CounterfactualGenerator", condition: Tensor) -> Eps:
    """eps of the factual texts (B, d), or of the marginal for the ablation abduct="marg"."""

    def eps(z: Tensor, t: Tensor, rows: Rows) -> Tensor:
        factual = None if generator.config.abduct == "marg" else condition[rows]
        return process.epsilon(generator.estimator.x0(z, t, factual), z, t)

    return eps


def prediction(generator: "CounterfactualGenerator", condition: Tensor, w: float, residual: Tensor) -> Eps:
    """eps_null + w (eps_c - eps_null) - gamma S grad log p(c | lift(x0)) for texts (B, d) and residuals (B, e).

    The null is evaluated only where w is not 1: there it cancels.
    """
    x0, gamma = generator.estimator.x0, generator.config.gamma
    gradient = judgement(generator, condition, residual) if gamma else None

    def eps(z: Tensor, t: Tensor, rows: Rows) -> Tensor:
        value = process.epsilon(x0(z, t, condition[rows]), z, t)
        if w != 1:
            value = process.guided(process.epsilon(x0(z, t, None), z, t), value, w)
        if gradient is not None:
            value = value - gamma * process.coefficients(t, z)[1] * gradient(z, t, rows)
        return value

    return eps


def judgement(generator: "CounterfactualGenerator", condition: Tensor, residual: Tensor) -> Eps:
    """Gradient in z (B, k) of the judge's log p(c | lift(x0(z, t, c))) among the texts of the fit and the condition's."""
    texts, index = torch.unique(torch.cat([generator.conditions, condition]), dim=0, return_inverse=True)
    target, judge = index[len(generator.conditions) :], generator.judge

    def gradient(z: Tensor, t: Tensor, rows: Rows) -> Tensor:
        with torch.enable_grad():
            point = z.clone().requires_grad_()
            moved = generator.space.lift(generator.estimator.x0(point, t, condition[rows]), residual[rows])
            chosen = judge.scores(moved, texts).log_softmax(1).gather(1, target[rows][:, None])
            return torch.autograd.grad(chosen.sum(), point)[0]

    return gradient
