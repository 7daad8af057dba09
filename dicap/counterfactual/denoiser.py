"""The denoising network: conditional and marginal in one, with explicit randomness.

Residual MLP of two AdaLN-zero blocks (Peebles and Xie 2023, arXiv 2212.09748) over sinusoidal log-SNR plus Linear(c).
A learned embedding takes the text's place for the marginal (classifier-free guidance, Ho and Salimans 2022, arXiv
2207.12598). Initial weights and dropout come from a torch.Generator: neither construction nor training touches the
global random state.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import layer_norm, silu

BLOCKS = 2
LONGEST = 64.0  # longest period of the sinusoids, in units of log-SNR (which spans about 25)


class Denoiser(nn.Module):
    """Network F(z, log-SNR, text) (B, k); its output is zero at first.

    Args:
        k: diffused directions. d: text width. width: hidden width. dropout: share of hidden units dropped in training.
        generator: source of the initial weights.
    """

    def __init__(self, k: int, d: int, width: int, dropout: float, generator: torch.Generator):
        super().__init__()
        self.dropout = dropout
        self.inward = _linear(k, width, generator)
        self.embedding = max(8, width // 4)  # the modulation is most of the network's cost
        self.time = _linear(self.embedding, self.embedding, generator)
        self.text = _linear(d, self.embedding, generator)
        self.null = nn.Parameter(torch.randn(self.embedding, generator=generator) * 0.02)
        self.modulation = _linear(self.embedding, (3 * BLOCKS + 2) * width)
        self.widen = nn.ModuleList(_linear(width, width, generator) for _ in range(BLOCKS))
        self.narrow = nn.ModuleList(_linear(width, width, generator) for _ in range(BLOCKS))
        self.outward = _linear(width, k)

    def forward(
        self,
        z: Tensor,
        log_snr: Tensor,
        text: Tensor | None,
        null: Tensor | None = None,
        noise: torch.Generator | None = None,
    ) -> Tensor:
        """Estimate (B, k).

        Args:
            z: (B, k). log_snr: () or (B,). text: (B, d) standardised texts; None is the marginal for every row.
            null: (B,) bool, rows that take the marginal. noise: source of dropout, which is off without it.
        """
        spoken = self.null if text is None else self.text(text)  # (embedding,) or (B, embedding)
        if null is not None:
            spoken = torch.where(null[:, None], self.null, spoken)
        clock = _sinusoids(log_snr.reshape(-1, 1), self.embedding, z.dtype)  # (B or 1, embedding)
        embedding = silu(self.time(clock) + spoken)
        shift, scale, *blocks = self.modulation(embedding).chunk(3 * BLOCKS + 2, dim=-1)
        h = self.inward(z)
        for index, (widen, narrow) in enumerate(zip(self.widen, self.narrow, strict=True)):
            block_shift, block_scale, gate = blocks[3 * index : 3 * index + 3]
            inner = silu(widen(torch.addcmul(block_shift, _norm(h), 1 + block_scale)))
            h = torch.addcmul(h, gate, narrow(_drop(inner, self.dropout, noise)))
        return self.outward(torch.addcmul(shift, _norm(h), 1 + scale))


def _linear(inputs: int, outputs: int, generator: torch.Generator | None = None) -> nn.Linear:
    """A linear layer with weights from the generator, or all zero without one; made without touching global
    randomness."""
    layer = nn.utils.skip_init(nn.Linear, inputs, outputs)
    with torch.no_grad():
        layer.bias.zero_()
        if generator is None:
            layer.weight.zero_()
        else:
            layer.weight.normal_(0, 1 / math.sqrt(inputs), generator=generator)
    return layer


def _norm(h: Tensor) -> Tensor:
    return layer_norm(h, h.shape[-1:])


def _drop(h: Tensor, share: float, noise: torch.Generator | None) -> Tensor:
    if noise is None or share == 0:
        return h
    kept = torch.rand(h.shape, generator=noise) >= share  # on the CPU, so that every device trains alike
    return h * (kept.to(h.device, h.dtype) / (1 - share))


def _sinusoids(values: Tensor, width: int, dtype: torch.dtype) -> Tensor:
    periods = LONGEST ** torch.linspace(0, 1, width // 2, dtype=torch.float64, device=values.device)
    angles = values.double() * (2 * math.pi) / periods
    features = torch.cat([angles.sin(), angles.cos()], dim=-1).to(dtype)
    return torch.nn.functional.pad(features, (0, width - features.shape[-1]))
