"""Backbones by name: ResNets of torchvision, and whatever a plugin registers."""

import logging
from typing import Any

import torch
import torchvision
from torch import nn

from dicap.engine.utils import Registry, check_availability

__all__ = ["BACKBONE_REGISTRY", "Backbone", "build_backbone"]

BACKBONE_REGISTRY = Registry("BACKBONE")
_log = logging.getLogger(__name__)


class Backbone(nn.Module):
    """Images (B, 3, H, W) to features (B, out_features)."""

    _out_features: int | None = None

    @property
    def out_features(self) -> int | None:
        """Width of the features."""
        return self._out_features


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


def build_backbone(name: str, verbose: bool = True, **kwargs: Any) -> Any:
    """The backbone of that name.

    Raises:
        ValueError: none of that name is registered.
    """
    check_availability(name, BACKBONE_REGISTRY.registered_names())
    if verbose:
        _log.info("Backbone: %s", name)
    return BACKBONE_REGISTRY.get(name)(**kwargs)
