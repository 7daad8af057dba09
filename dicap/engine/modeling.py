"""Backbones, heads and networks by name, for trainers that build a classifier themselves. CLIP's towers are not here.

Built in are torchvision's ResNets and an MLP as head; plugins register theirs.
"""

from collections.abc import Sequence
from operator import attrgetter
from typing import Any

import torch
import torchvision
from torch import nn

from dicap.engine.utils import Registry

__all__ = [
    "BACKBONE_REGISTRY",
    "HEAD_REGISTRY",
    "NETWORK_REGISTRY",
    "Backbone",
    "build_backbone",
    "build_head",
    "build_network",
]

BACKBONE_REGISTRY, HEAD_REGISTRY, NETWORK_REGISTRY = Registry("BACKBONE"), Registry("HEAD"), Registry("NETWORK")
_ACTIVATIONS = {"relu": nn.ReLU, "leaky_relu": nn.LeakyReLU}


def build_backbone(name: str, verbose: bool = True, **kwargs: Any) -> Any:
    """The backbone of that name; ValueError where none is registered."""
    return BACKBONE_REGISTRY.build(name, "Backbone" if verbose else "", **kwargs)


def build_head(name: str, verbose: bool = True, **kwargs: Any) -> Any:
    """The head of that name; ValueError where none is registered."""
    return HEAD_REGISTRY.build(name, "Head" if verbose else "", **kwargs)


def build_network(name: str, verbose: bool = True, **kwargs: Any) -> Any:
    """The network of that name; ValueError where none is registered."""
    return NETWORK_REGISTRY.build(name, "Network" if verbose else "", **kwargs)


class Backbone(nn.Module):
    """Images (B, 3, H, W) to features (B, out_features)."""

    _out_features: int | None = None
    out_features = property(attrgetter("_out_features"), doc="Width of the features.")


class ResNet(Backbone):
    """torchvision's ResNet without its classifier.

    Args:
        name: resnet18 ... resnet152.
        pretrained: with ImageNet weights, which torchvision downloads and checks.
    """

    def __init__(self, name: str, pretrained: bool = False) -> None:
        super().__init__()
        self.body = torchvision.models.get_model(name, weights="IMAGENET1K_V1" if pretrained else None)
        self._out_features = self.body.fc.in_features
        self.body.fc = nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, 3, H, W) to (B, out_features)."""
        return self.body(x)


def _register_resnet(name: str) -> None:
    def build(pretrained: bool = True, **kwargs: Any) -> ResNet:
        return ResNet(name, pretrained)

    build.__name__ = name
    BACKBONE_REGISTRY.register(build)


for _name in ("resnet18", "resnet34", "resnet50", "resnet101", "resnet152"):
    _register_resnet(_name)


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
