"""Textbook formulas, written plainly in fp64. Imports nothing of dicap.

Diffusion: variance preserving with alpha_bar(t) = cos^2(pi t / 2) (Song et al. 2021, arXiv 2011.13456; DDIM 2010.02502).
Everything Gaussian follows from conditioning: x0 ~ N(m, S0), z = A x0 + S eps.
"""

import math

import torch

# ---- diffusion of Gaussians


def signal_and_noise(t):
    """A = sqrt(alpha_bar) and S = sqrt(1 - alpha_bar) at a float time."""
    return math.cos(math.pi * t / 2), math.sin(math.pi * t / 2)


def gaussian_score(z, t, mean, covariance):
    """Gradient of log p_t at rows z (B, k) for data N(mean, covariance)."""
    a, s = signal_and_noise(t)
    noisy = a**2 * covariance + s**2 * torch.eye(len(covariance), dtype=z.dtype)
    return -torch.linalg.solve(noisy, (z - a * mean).T).T


def mixture_log_density(z, t, means, covariances, weights=None):
    """log p_t(z, class) (B, C) for a mixture with class means (C, k) and covariances (C, k, k)."""
    a, s = signal_and_noise(t)
    identity = torch.eye(z.shape[1], dtype=z.dtype)
    weights = torch.full((len(means),), 1 / len(means), dtype=z.dtype) if weights is None else weights
    columns = [
        torch.distributions.MultivariateNormal(a * mean, a**2 * covariance + s**2 * identity).log_prob(z)
        for mean, covariance in zip(means, covariances)
    ]
    return torch.stack(columns, 1) + weights.log()


def mixture_score(z, t, means, covariances):
    """Gradient of the marginal log p_t at rows z (B, k)."""
    z = z.detach().requires_grad_()
    total = mixture_log_density(z, t, means, covariances).logsumexp(1).sum()
    return torch.autograd.grad(total, z)[0]


def class_gradient(z, t, label, means, covariances):
    """Gradient of log p_t(class = label | z) at rows z (B, k)."""
    z = z.detach().requires_grad_()
    posterior = mixture_log_density(z, t, means, covariances).log_softmax(1)[:, label].sum()
    return torch.autograd.grad(posterior, z)[0]


def eps_of(score, t):
    """eps = -S score."""
    return -signal_and_noise(t)[1] * score


def posterior_mean(z, t, mean, covariance):
    """E[x0 | z] by Tweedie's formula: (z + S^2 score) / A."""
    a, s = signal_and_noise(t)
    return (z + s**2 * gaussian_score(z, t, mean, covariance)) / a


def kappa(t, eigenvalue):
    """Share of a class shift that decoding from t performs along an eigenvalue of a shared covariance."""
    kept = signal_and_noise(t)[0] ** 2
    return 1 - math.sqrt(kept * eigenvalue / (kept * eigenvalue + 1 - kept))


def root(covariance):
    """Symmetric square root."""
    values, vectors = torch.linalg.eigh(covariance)
    return vectors @ torch.diag(values.clamp_min(0).sqrt()) @ vectors.T


def optimal_transport(x, mean, covariance, target_mean, target_covariance):
    """m' + S'^1/2 S^-1/2 (x - m) of rows x: the counterfactual for commuting covariances."""
    return target_mean + (x - mean) @ torch.linalg.inv(root(covariance)) @ root(target_covariance)


# ---- estimation


def shift_error(covariance, shots):
    """Root mean square error of a difference of two class means, each from `shots` images."""
    return math.sqrt(2 * float(torch.trace(covariance)) / shots)


def principal_directions(rows, k):
    """Top k eigenvectors (e, k) of the covariance of rows (N, e)."""
    centred = rows - rows.mean(0)
    return torch.linalg.eigh(centred.T @ centred)[1].flip(1)[:, :k]


def ridge(inputs, outputs, penalty):
    """Coefficients (d, k) of a ridge regression with free intercept by its normal equations, and the intercept (k,)."""
    x, y = inputs - inputs.mean(0), outputs - outputs.mean(0)
    weight = torch.linalg.solve(x.T @ x + penalty * torch.eye(x.shape[1], dtype=x.dtype), x.T @ y)
    return weight, outputs.mean(0) - inputs.mean(0) @ weight


def leave_one_out_error(inputs, outputs, penalty):
    """Sum of squared errors of a ridge regression, each row predicted by a fit to the others."""
    total = 0.0
    for row in range(len(inputs)):
        others = torch.arange(len(inputs)) != row
        weight, intercept = ridge(inputs[others], outputs[others], penalty)
        total += float((inputs[row] @ weight + intercept - outputs[row]).square().sum())
    return total


def gaussian_log_odds(x, means, covariance, one, other):
    """log p(x | one) - log p(x | other) of rows x for a shared covariance."""
    density = [torch.distributions.MultivariateNormal(means[c], covariance).log_prob(x) for c in (one, other)]
    return density[0] - density[1]


def affine_lipschitz(function, k):
    """Spectral norm of the linear part of an affine map of rows (B, k)."""
    origin = function(torch.zeros(1, k, dtype=torch.float64))
    return float(torch.linalg.matrix_norm(function(torch.eye(k, dtype=torch.float64)) - origin, 2))


def biased_average(values, decay):
    """Bias-corrected exponential average after the last value: sum decay^(n-i) v_i / sum decay^(n-i)."""
    weights = [decay ** (len(values) - 1 - i) for i in range(len(values))]
    return sum(w * v for w, v in zip(weights, values)) / sum(weights)
