"""The space that is diffused: principal directions of image features, and the way back.

    z = P^T (f - mu) / s,   r = (I - P P^T)(f - mu),   f' = normalise(mu + s P z' + r)

P: the top k principal directions, from one row per image (the mean of its views); s: one scalar, so that z has RMS 1.
The residual r passes through untouched. Keep k small: with every direction diffused, U still tells the class at few shots.

Legend (all of this package): B rows, N images, V views, e feature width, k PCA directions, C classes, d text width, M
counterfactuals of an image, S diffusion steps.
"""

import dataclasses

import torch
from torch import Tensor
from torch.nn.functional import normalize


@dataclasses.dataclass(frozen=True)
class FeatureSpace:
    """Affine map between features (B, e) and diffused coordinates (B, k), with the residual (B, e) kept aside."""

    mu: Tensor  # (e,) mean of the images
    directions: Tensor  # (e, k) orthonormal
    scale: Tensor  # () RMS per coordinate before scaling, > 0

    @classmethod
    def fit(cls, features: Tensor, k: int) -> "FeatureSpace":
        """Principal directions of features (N, V, e); k is cut to min(k, e / 2, N - 1) and to the rank of the data.

        Raises ValueError on fewer than two images or features, or images that are all equal.
        """
        count, _, width = features.shape
        k = min(k, width // 2, count - 1)
        if k < 1:
            raise ValueError(f"{count} images of {width} features leave no direction to diffuse: at least 2 are needed")
        images = features.double().mean(1)  # (N, e)
        mu = images.mean(0)
        _, spread, rows = torch.linalg.svd(images - mu, full_matrices=False)
        k = min(k, int((spread > 1e-6 * max(float(spread[0]), 1e-6)).sum()))
        if k < 1:
            raise ValueError(f"the {count} images have equal features: there is nothing to learn from")
        directions = rows[:k].T.contiguous()  # (e, k)
        scale = ((features.double() - mu) @ directions).square().mean().sqrt()
        return cls(mu.float(), directions.float(), scale.float())

    @property
    def k(self) -> int:
        """Number of diffused directions."""
        return self.directions.shape[1]

    def encode(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Coordinates z (..., k) and residual r (..., e) of features (..., e)."""
        centred = features - self.mu
        coordinates = centred @ self.directions
        return coordinates / self.scale, centred - coordinates @ self.directions.T

    def unnormalised(self, z: Tensor, residual: Tensor) -> Tensor:
        """mu + s P z + r (..., e): the feature before it returns to the unit sphere."""
        return self.mu + self.scale * (z @ self.directions.T) + residual

    def lift(self, z: Tensor, residual: Tensor) -> Tensor:
        """Unit-length features (..., e) of coordinates z (..., k) and residual r (..., e)."""
        return normalize(self.unnormalised(z, residual), dim=-1)
