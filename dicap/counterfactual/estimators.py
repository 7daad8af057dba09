"""The generators behind one calling convention, x0(z, t, condition), and the training of those that learn.

| generator | x0 estimate | the network's target |
|---|---|---|
| gauss | G(z, t, c) = m_c + Sw (Sw + sigma^2)^-1 (z/A - m_c); marginal: mean of m and the total covariance | none |
| gskip | G(z, t, c) + S F(z, t, c) | (x0 - G) / S: only what the Gaussian misses |
| v | A z - S F | A eps - S x0 (Salimans and Ho 2022, arXiv 2202.00512) |
| eps | (z - S F) / A | eps (Ho et al. 2020, arXiv 2006.11239) |

For gskip and v the squared error of F is |x0hat - x0|^2 / (1 - alpha_bar). `shift` has no x0: it moves by m_c' - m_c.

What the network is trained on decides what it can learn. A residual z - m_y = r_y + v has two parts: what the text leaves
unexplained of its class's mean, r_y (the scene that comes with the class), and the image's own distance v. The x0 of
`observed` is m_y + r_y + v; of `swap` m_y + r_y' + v with y' random; of `do` m_y + r_y' + v' of another image: there the
class shapes m_y alone, an additive law, and so `gauss`.
"""

import dataclasses
import functools
import logging

import torch
from torch import Tensor

from .config import GeneratorConfig
from .denoiser import Denoiser
from .mechanism import ClassMechanism, Gaussian
from .process import Eps, Rows, coefficients, epsilon, guided, log_snr, time_grid

logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Estimator:
    """x0(z, t, condition) of the generator `name`."""

    name: str
    mechanism: ClassMechanism
    within: Gaussian
    total: Gaussian
    middle: Tensor  # (k,) mean class effect
    network: Denoiser | None = None  # None for gauss and shift

    def eps(self, condition: Tensor | None, w: float = 1.0, gamma: float = 0.0, gradient: Eps | None = None) -> Eps:
        """The score that DDIM follows, of texts (B, d), None the marginal: eps_null + w (eps_c - eps_null) - gamma S gradient."""

        def eps(z: Tensor, t: Tensor, rows: Rows) -> Tensor:
            value = epsilon(self.x0(z, t, None if condition is None else condition[rows]), z, t)
            if w != 1:
                value = guided(epsilon(self.x0(z, t, None), z, t), value, w)
            if gradient is not None:
                value = value - gamma * coefficients(t, z)[1] * gradient(z, t, rows)
            return value

        return eps

    def x0(self, z: Tensor, t: Tensor, condition: Tensor | None) -> Tensor:
        """Estimate of x0 (B, k) at z (B, k), time t () or (B,) in (0, 1); condition (B, d) texts, None the marginal."""
        base = self.gaussian(z, t, condition) if self.name in ("gauss", "gskip") else z
        if self.network is None:
            return base
        text = None if condition is None else self.mechanism.standardise(condition)
        output, (signal, noise) = self.network(z, log_snr(t), text), coefficients(t, z)
        if self.name == "gskip":
            return base + noise * output
        return signal * z - noise * output if self.name == "v" else (z - noise * output) / signal

    def gaussian(self, z: Tensor, t: Tensor, condition: Tensor | None) -> Tensor:
        """G (B, k), the closed form; arguments as for `x0`."""
        if condition is None:
            return self.total.x0(z, t, self.middle)
        return self.within.x0(z, t, self.mechanism.mean(condition))

    def target(self, x0: Tensor, noise: Tensor, z: Tensor, t: Tensor, base: Tensor) -> Tensor:
        """What the network's output (B, k) should be for data x0 (B, k) under noise (B, k); base is G for gskip."""
        signal, spread = coefficients(t, z)
        if self.name == "gskip":
            return (x0 - base) / spread
        return signal * noise - spread * x0 if self.name == "v" else noise


@dataclasses.dataclass(frozen=True)
class TrainingData:
    """What a network is trained on."""

    z: Tensor  # (N * V, k)
    labels: Tensor  # (N * V,)
    conditions: Tensor  # (C, d)
    effects: Tensor  # (C, k) m_c

    @functools.cached_property
    def unexplained(self) -> tuple[Tensor, Tensor]:
        """What the text leaves of the class means, r (C, k), and the classes that have rows."""
        counts = torch.bincount(self.labels, minlength=len(self.effects))
        rest = torch.zeros_like(self.effects).index_add(0, self.labels, self.z - self.effects[self.labels])
        return rest / counts.clamp_min(1)[:, None], counts.nonzero()[:, 0]

    def draw(self, count: int, train_data: str, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """x0 (B, k) and conditions (B, d), as train_data says: swap, do or observed."""
        rows = torch.randint(len(self.z), (count,), generator=generator).to(self.z.device)
        own = self.labels[rows]
        if train_data == "do":
            classes = torch.randint(len(self.conditions), (count,), generator=generator).to(self.z.device)
            return self.z[rows] - self.effects[own] + self.effects[classes], self.conditions[classes]
        if train_data == "swap":
            rest, seen = self.unexplained
            other = seen[torch.randint(len(seen), (count,), generator=generator).to(seen.device)]
            return self.z[rows] - rest[own] + rest[other], self.conditions[own]
        return self.z[rows], self.conditions[own]


def loss(
    estimator: Estimator,
    x0: Tensor,
    conditions: Tensor,
    null_share: float,
    generator: torch.Generator,
    train: bool = True,
    network_share: float = 1.0,
) -> Tensor:
    """Denoising loss () of data x0 (B, k) under texts (B, d), at uniform times and fresh noise; null_share of the rows take
    the marginal. train: with dropout. network_share: 0 leaves the network out.
    """
    network, device, (count, k) = estimator.network, x0.device, x0.shape
    if network is None:
        raise ValueError(f"generator {estimator.name!r} has no network to train")
    first, last = (float(time) for time in time_grid(2)[1:])
    t = first + (last - first) * torch.rand(count, generator=generator, dtype=torch.float64).to(device)
    noise = torch.randn(count, k, generator=generator).to(device)
    null = (torch.rand(count, generator=generator) < null_share).to(device)
    signal, spread = coefficients(t, x0)
    base = z = signal * x0 + spread * noise
    if estimator.name == "gskip":
        base = torch.where(null[:, None], estimator.gaussian(z, t, None), estimator.gaussian(z, t, conditions))
    text = estimator.mechanism.standardise(conditions)
    output = network_share * network(z, log_snr(t), text, null, generator if train else None)
    return (output - estimator.target(x0, noise, z, t, base)).square().mean()


def train(estimator: Estimator, data: TrainingData, config: GeneratorConfig, generator: torch.Generator) -> float:
    """Train the network in place (AdamW, warm-up, cosine decay, gradient norm 1), leave the bias-corrected average of its
    weights there, and return the mean loss of the last tenth of the steps. Raises FloatingPointError where it diverges.
    """
    steps, network = config.train_steps, estimator.network
    if network is None or steps == 0:
        return 0.0
    parameters = list(network.requires_grad_(True).parameters())
    optimiser = torch.optim.AdamW(parameters, lr=config.lr, weight_decay=config.weight_decay, fused=True)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: learning_rate(step, steps, config.warm_up))
    average = [parameter.detach().clone() for parameter in parameters]
    losses: list[Tensor] = []
    for step in range(steps):
        x0, conditions = data.draw(config.batch, config.train_data, generator)
        value = loss(estimator, x0, conditions, config.null_dropout, generator)
        optimiser.zero_grad(set_to_none=True)
        value.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimiser.step()
        schedule.step()
        losses.append(value.detach())
        torch._foreach_lerp_(average, [p.detach() for p in parameters], average_weight(step, config.ema, steps))
    torch._foreach_copy_([p.detach() for p in parameters], average)
    network.requires_grad_(False)
    final = float(torch.stack(losses[-max(1, steps // 10) :]).mean())
    if not final < float("inf"):
        raise FloatingPointError(f"the denoising loss became {final}: lower lr={config.lr} or look at the features")
    logger.info("counterfactual generator %s: denoising loss %.4f after %d steps", estimator.name, final, steps)
    return final


def learning_rate(step: int, steps: int, warm_up: int) -> float:
    """Share of the full rate at a step from 0: linear warm-up (at most a fifth of the steps), then half a cosine."""
    rise = min(warm_up, steps // 5)
    if step < rise:
        return (step + 1) / (rise + 1)
    done = (step - rise) / max(1, steps - rise)
    return float(0.5 * (1 + torch.cos(torch.tensor(done * torch.pi, dtype=torch.float64))))


def average_weight(step: int, ema: float, steps: int) -> float:
    """Weight of the newest parameters in the bias-corrected exponential average, at a step from 0: 1 at first."""
    decay = max(0.0, min(ema, 1 - 10 / steps))
    return (1 - decay) / (1 - decay ** (step + 1))
