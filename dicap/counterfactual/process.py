"""Diffusion in time: cosine schedule, grids uniform in log-SNR, deterministic DDIM in both directions.

    alpha_bar(t) = cos^2(pi t / 2),   A = sqrt(alpha_bar),   S = sqrt(1 - alpha_bar),   eps = (z - A x0) / S
    one step t -> t':  z' = (A'/A)(z - S eps) + S' eps      (Song et al. 2021, arXiv 2010.02502, eq. 13 without noise)

Decoding takes eps at t. Its exact inverse takes eps at t', the unknown: `encode` finds it by fixed-point refinement.
Grids go from 0, the data itself, to alpha_bar = 1e-6, where nothing of the factual class leaks through. Times are fp64
whatever z is: near this ceiling fp32 would not resolve them.
"""

import itertools
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

FLOOR = 1e-5  # 1 - alpha_bar at the first noisy time: the last step costs a relative FLOOR / 2 l along an eigenvalue l
CEILING = 1e-6  # alpha_bar at the last time: leaves sqrt(CEILING l) of the shift undone along an eigenvalue l

Rows = Any  # a slice or LongTensor: which rows of the batch a call holds
Eps = Callable[[Tensor, Tensor, Rows], Tensor]  # (z (R, k), t () or (R,), rows) -> eps (R, k)
Solve = Callable[[Tensor, Tensor, Tensor], Tensor]  # (gap (B, k), t, t_next) -> correction (B, k)


def coefficients(t: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
    """A and S at times t () or (B,), shaped to multiply z (B, k), in the dtype of `like`."""
    angle = t.double() * (math.pi / 2)
    signal, noise = torch.cos(angle).to(like.dtype), torch.sin(angle).to(like.dtype)
    return (signal, noise) if t.dim() == 0 else (signal[:, None], noise[:, None])


def log_snr(t: Tensor) -> Tensor:
    """log(alpha_bar / (1 - alpha_bar)) at times t in (0, 1)."""
    return -2 * torch.log(torch.tan(t.double() * (math.pi / 2)))


def time_of(log_ratio: Tensor) -> Tensor:
    """The time with that log-SNR: inverse of `log_snr`."""
    return torch.atan(torch.exp(-log_ratio.double() / 2)) * (2 / math.pi)


def time_grid(steps: int, device: torch.device | str = "cpu") -> Tensor:
    """(S + 1,) fp64 times: 0, then `steps` of them uniform in log-SNR from FLOOR to CEILING, increasing."""
    most, least = math.log((1 - FLOOR) / FLOOR), math.log(CEILING / (1 - CEILING))
    noisy = time_of(torch.linspace(most, least, steps, dtype=torch.float64))
    return torch.cat([torch.zeros(1, dtype=torch.float64), noisy]).to(device)


def kappa(t: Tensor, eigenvalues: Tensor) -> Tensor:
    """Share (..., k) in [0, 1] of the class shift that decoding from time t performs along each eigenvalue l:
    1 - sqrt(alpha_bar l / (alpha_bar l + 1 - alpha_bar)), exact for a shared Gaussian covariance, nominal otherwise."""
    kept = torch.cos(t.double() * (math.pi / 2)).square()[..., None]
    signal = kept * eigenvalues.double()
    return 1 - (signal / (signal + 1 - kept)).sqrt()


def kappa_table(eigenvalues: Tensor, size: int = 4096) -> tuple[Tensor, Tensor]:
    """Times (size,) and their mean kappa (size,), both increasing: `start_times` inverts it."""
    times = time_grid(size - 1, eigenvalues.device)
    return times, kappa(times, eigenvalues).mean(-1)


def start_times(mean_kappa: Tensor, table: tuple[Tensor, Tensor]) -> Tensor:
    """Start times at which the mean kappa is the given one, by linear interpolation in the table; shape as given."""
    times, values = table
    mean_kappa = mean_kappa.double().clamp(0, float(values[-1]))
    right = torch.searchsorted(values, mean_kappa).clamp(1, len(values) - 1)
    share = (mean_kappa - values[right - 1]) / (values[right] - values[right - 1]).clamp_min(1e-300)
    return torch.lerp(times[right - 1], times[right], share.clamp(0, 1))


def epsilon(x0: Tensor, z: Tensor, t: Tensor) -> Tensor:
    """eps (B, k) that belongs to an estimate x0 (B, k) at z (B, k), t > 0."""
    signal, noise = coefficients(t, z)
    return (z - signal * x0) / noise


def guided(marginal: Tensor, conditional: Tensor, w: float) -> Tensor:
    """Classifier-free guidance: eps_null + w (eps_c - eps_null), all (B, k). At w = 1 the marginal cancels."""
    return marginal + w * (conditional - marginal)


def ddim_step(z: Tensor, eps: Tensor, t: Tensor, t_next: Tensor) -> Tensor:
    """z (B, k) at time t moved to t_next along eps (B, k); the identity where the times are equal."""
    signal, noise = coefficients(t, z)
    signal_next, noise_next = coefficients(t_next, z)
    return (signal_next / signal) * (z - noise * eps) + noise_next * eps


def unpreconditioned(gap: Tensor, t: Tensor, t_next: Tensor) -> Tensor:
    """The plain fixed-point correction: the gap (B, k) itself."""
    return gap


def refine_step(
    eps: Eps, z: Tensor, t: Tensor, t_next: Tensor, guess: Tensor, refinements: int, solve: Solve
) -> tuple[Tensor, Tensor]:
    """One encoding step t -> t_next from the guess of eps, refined towards z+ = step(z, eps(z+, t_next)): z+ (B, k), and
    the last eps (B, k), which serves as the next step's guess."""
    z_next = ddim_step(z, guess, t, t_next)
    for _ in range(refinements):
        guess = eps(z_next, t_next, slice(None))
        z_next = z_next + solve(ddim_step(z, guess, t, t_next) - z_next, t, t_next)
    return z_next, guess


def encode(eps: Eps, z: Tensor, times: Tensor, fixed_point: int, solve: Solve = unpreconditioned) -> Tensor:
    """Abduction: z (B, k) at time 0 carried up the grid times (S + 1,) along eps; the whole path (S + 1, B, k).

    fixed_point: refinements a step; 0 is the plain first-order inversion. solve: turns the gap of a refinement into its
    correction. The plain one shrinks the error by 1 - sigma/sigma+ a time, which is slow on coarse grids; a Gaussian's is
    exact for its own score and fast for scores near it.
    """
    path = [z]
    guess = eps(z, times[1], slice(None))  # at t = 0 eps is undefined; at the first noisy time it is known
    for t, t_next in itertools.pairwise(times):
        if fixed_point == 0 and t > 0:
            guess = eps(path[-1], t, slice(None))
        z_next, guess = refine_step(eps, path[-1], t, t_next, guess, fixed_point, solve)
        path.append(z_next)
    return torch.stack(path)


def stop_at(
    eps: Eps, path: Tensor, times: Tensor, start: Tensor, fixed_point: int, solve: Solve = unpreconditioned
) -> Tensor:
    """Latents (B, k) at start times () or (B,) on an encoded path (S + 1, B, k): a partial step from the stop below, with at
    least one refinement. eps, times, fixed_point and solve are those that encoded the path."""
    if start.dim() == 0 and start == times[-1]:
        return path[-1]
    start = start.expand(path.shape[1]).contiguous()
    below = (torch.searchsorted(times, start) - 1).clamp(0, len(times) - 2)
    row = torch.arange(path.shape[1], device=path.device)
    z = path[below, row]
    safe = start.clamp_min(float(times[1]) / 2)  # a start of 0 is answered with z itself
    guess = eps(coefficients(safe, z)[0] / coefficients(times[below], z)[0] * z, safe, slice(None))
    moved, _ = refine_step(eps, z, times[below], safe, guess, max(fixed_point, 1), solve)
    moved = torch.where((start == times[below + 1])[:, None], path[below + 1, row], moved)
    return torch.where((start > 0)[:, None], moved, z)


def decode(eps: Eps, z: Tensor, start: Tensor, times: Tensor) -> Tensor:
    """Prediction: z (B, k) at its start time () or (B,) carried down the grid to time 0, (B, k); each row joins at its own
    start with a partial step, and costs nothing before."""
    z = z.clone()
    for t, t_next in itertools.pairwise(times.flip(0)):
        now = torch.minimum(start, t)
        joined = start > t_next
        if bool(joined.all()):
            z = ddim_step(z, eps(z, now, slice(None)), now, t_next)
        elif start.dim() and bool(joined.any()):
            rows = joined.nonzero()[:, 0]
            z[rows] = ddim_step(z[rows], eps(z[rows], now[rows], rows), now[rows], t_next)
    return z
