"""A small non-Gaussian structural causal model with known counterfactuals: a world to check a generator against.

    Y -> X <- U,   Y independent of U,   text c_y
    x_j = m_yj + s_yj u_j,   m_y and log s_y linear in the text,   u_j a skewed mixture of two Gaussians (mean 0, variance 1)
    f = normalise(base + Q x),   Q with orthonormal columns

The class moves and stretches. Each coordinate increases in its own u_j and these are independent, so the counterfactual
x'_j = m_y'j + (s_y'j / s_yj) (x_j - m_yj) is identified by the conditional distributions: it is the increasing map
between them, which exact diffusion follows. Moving by class means is wrong here, even with the true means.
"""

import dataclasses

import torch
from torch import Tensor
from torch.nn.functional import normalize

NEAR, FAR = -0.6, 1.4  # centres of the two bumps of u, weights 0.7 and 0.3: mean 0
SPREAD = (1 - 0.7 * NEAR**2 - 0.3 * FAR**2) ** 0.5  # of each bump: variance 1


@dataclasses.dataclass(frozen=True)
class World:
    """Data of the model and its truth: features (N, e) and texts (C, d), unit length; labels (N,) long in 0..C-1;
    exogenous noise u (N, q); m_y and s_y, centres and scales (C, q); base (e,); directions Q (e, q)."""

    features: Tensor
    labels: Tensor
    texts: Tensor
    u: Tensor
    centres: Tensor
    scales: Tensor
    base: Tensor
    directions: Tensor

    def truth(self, target: Tensor) -> Tensor:
        """Features (N, e) or (N, M, e), unit length: every row with its own u in the classes target (N,) or (N, M)."""
        u = self.u if target.dim() == 1 else self.u[:, None]
        return normalize(self.base + (self.centres[target] + self.scales[target] * u) @ self.directions.T, dim=-1)


def skewed(
    seed: int = 0, classes: int = 25, shots: int = 16, coordinates: int = 4, width: int = 64, stretch: float = 0.7
) -> World:
    """A world of C classes with `shots` rows each, q coordinates x_j, features and texts of one width.

    stretch: standard deviation of log s over the classes; 0 makes the class act additively. Raises ValueError on fewer
    than two classes, no shots, or more coordinates than the width holds.
    """
    if classes < 2 or shots < 1 or not 1 <= coordinates < width:
        values = f"classes={classes}, shots={shots}, coordinates={coordinates}, width={width}"
        raise ValueError(f"{values}: at least 2 classes, 1 shot, and 1 <= coordinates < width")
    g = torch.Generator().manual_seed(seed)
    frame = torch.linalg.qr(torch.randn(width, width, generator=g))[0]
    named = torch.randn(classes, coordinates, generator=g)  # what a text says, a coordinate at a time
    common, words = 8 * torch.randn(width, generator=g), torch.randn(coordinates, width, generator=g)
    texts = normalize(common + named @ words, dim=-1)  # so nearly linear in what they say
    turn = torch.linalg.qr(torch.randn(coordinates, coordinates, generator=g))[0]
    labels = torch.arange(classes).repeat_interleave(shots)
    shape = (len(labels), coordinates)
    bump = torch.where(torch.rand(shape, generator=g) < 0.3, FAR, NEAR)
    u = bump + SPREAD * torch.randn(shape, generator=g)
    base = 6 * coordinates**0.5 * frame[:, -1]  # far from the origin: the sphere is nearly flat
    blank = torch.empty(0)
    world = World(blank, labels, texts, u, 1.5 * named, (stretch * named @ turn).exp(), base, frame[:, :coordinates])
    return dataclasses.replace(world, features=world.truth(labels))
