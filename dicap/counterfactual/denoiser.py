"""The denoising network: conditional and marginal in one, with explicit randomness.

Residual MLP of two AdaLN-zero blocks (Peebles and Xie 2023, arXiv 2212.09748) over sinusoidal log-SNR plus Linear(c).
A learned embedding takes the text's place for the marginal (classifier-free guidance, Ho and Salimans 2022, arXiv
2207.12598). All randomness comes from a torch.Generator, none from the global state.
"""

import math

import torch
from torch import Generator, Tensor, nn
from torch.nn.functional import layer_norm, silu

BLOCKS = 2
LONGEST = 64.0  # longest period of the sinusoids, in units of log-SNR (which spans about 25)


class Denoiser(nn.Module):
    """Network F(z, log-SNR, text) (B, k) of k diffused directions and texts of width d; its output is zero at first.

    dropout: share of hidden units dropped in training. generator: source of the initial weights.
    """

    def __init__(self, k: int, d: int, width: int, dropout: float, generator: Generator):
        super().__init__()
        self.dropout = dropout
        self.embedding_dim = max(8, width // 4)  # the modulation is most of the network's cost
        self.proj_in = _linear(k, width, generator)
        self.time_embedding = _linear(self.embedding_dim, self.embedding_dim, generator)
        self.text_embedding = _linear(d, self.embedding_dim, generator)
        self.null_embedding = nn.Parameter(torch.randn(self.embedding_dim, generator=generator) * 0.02)
        self.modulation = _linear(self.embedding_dim, (3 * BLOCKS + 2) * width)
        self.fc1 = nn.ModuleList(_linear(width, width, generator) for _ in range(BLOCKS))
        self.fc2 = nn.ModuleList(_linear(width, width, generator) for _ in range(BLOCKS))
        self.proj_out = _linear(width, k)

    def forward(
        self,
        z: Tensor,
        log_snr: Tensor,
        text: Tensor | None,
        null: Tensor | None = None,
        generator: Generator | None = None,
    ) -> Tensor:
        """Output (B, k) for z (B, k), log_snr () or (B,) and standardised texts (B, d), None being the marginal.

        null: (B,) bool, rows that take the marginal. generator: source of dropout, off without it.
        """
        condition = self.null_embedding if text is None else self.text_embedding(text)  # (D,) or (B, D)
        if null is not None:
            condition = torch.where(null[:, None], self.null_embedding, condition)
        time = self.time_embedding(_sinusoids(log_snr.reshape(-1, 1), self.embedding_dim, z.dtype))  # (B or 1, D)
        shift, scale, *blocks = self.modulation(silu(time + condition)).chunk(3 * BLOCKS + 2, dim=-1)
        h = self.proj_in(z)
        for index, (fc1, fc2) in enumerate(zip(self.fc1, self.fc2, strict=True)):
            block_shift, block_scale, gate = blocks[3 * index : 3 * index + 3]
            hidden = silu(fc1(torch.addcmul(block_shift, _norm(h), 1 + block_scale)))
            h = torch.addcmul(h, gate, fc2(_drop(hidden, self.dropout, generator)))
        return self.proj_out(torch.addcmul(shift, _norm(h), 1 + scale))


def _linear(inputs: int, outputs: int, generator: Generator | None = None) -> nn.Linear:
    """A linear layer with weights from the generator, or all zero; made without touching global randomness."""
    layer = nn.utils.skip_init(nn.Linear, inputs, outputs)
    nn.init.zeros_(layer.bias)
    if generator is None:
        nn.init.zeros_(layer.weight)
    else:
        nn.init.normal_(layer.weight, 0, 1 / math.sqrt(inputs), generator=generator)
    return layer


def _norm(h: Tensor) -> Tensor:
    return layer_norm(h, h.shape[-1:])


def _drop(h: Tensor, share: float, generator: Generator | None) -> Tensor:
    if generator is None or share == 0:
        return h
    kept = torch.rand(h.shape, generator=generator) >= share  # on the CPU, so that every device trains alike
    return h * (kept.to(h.device, h.dtype) / (1 - share))


def _sinusoids(values: Tensor, width: int, dtype: torch.dtype) -> Tensor:
    periods = LONGEST ** torch.linspace(0, 1, width // 2, dtype=torch.float64, device=values.device)
    angles = values.double() * (2 * math.pi) / periods
    features = torch.cat([angles.sin(), angles.cos()], dim=-1).to(dtype)
    return torch.nn.functional.pad(features, (0, width - features.shape[-1]))
