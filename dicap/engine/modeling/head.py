"""Heads by name: layers between a backbone and its classifier."""

import logging
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from dicap.engine.utils import Registry, check_availability

__all__ = ["HEAD_REGISTRY", "MLP", "build_head"]

HEAD_REGISTRY = Registry("HEAD")
_log = logging.getLogger(__name__)
_ACTIVATIONS = {"relu": nn.ReLU, "leaky_relu": nn.LeakyReLU}


class MLP(nn.Module):
    """Linear layers, each with activation and, on request, batch normalisation and dropout: (B, in) to (B, last width)."""

    def __init__(
        self,
        in_features: int = 2048,
        hidden_layers: int | Sequence[int] = (),
        activation: str = "relu",
        bn: bool = True,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        widths = [hidden_layers] if isinstance(hidden_layers, int) else list(hidden_layers)
        if not widths or activation not in _ACTIVATIONS:
            raise ValueError(
                f"MODEL.HEAD: HIDDEN_LAYERS {widths} must not be empty, ACTIVATION {activation} one of "
                f"{', '.join(_ACTIVATIONS)}"
            )
        layers: list[nn.Module] = []
        for before, width in zip([in_features, *widths], widths):
            layers.append(nn.Linear(before, width))
            if bn:
                layers.append(nn.BatchNorm1d(width))
            layers.append(_ACTIVATIONS[activation](inplace=True))
            if dropout > 0:
                layers.append(nn.Dropout(dropout))
        self.mlp = nn.Sequential(*layers)
        self.out_features = widths[-1]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, in_features) to (B, out_features)."""
        return self.mlp(x)


@HEAD_REGISTRY.register()
def mlp(**kwargs: Any) -> MLP:
    """The head MODEL.HEAD.NAME = mlp."""
    return MLP(**kwargs)


def build_head(name: str, verbose: bool = True, **kwargs: Any) -> Any:
    """The head of that name.

    Raises:
        ValueError: none of that name is registered.
    """
    check_availability(name, HEAD_REGISTRY.registered_names())
    if verbose:
        _log.info("Head: %s", name)
    return HEAD_REGISTRY.get(name)(**kwargs)
