"""Backbones, heads and networks for trainers that build a classifier themselves. CLIP's towers are not here."""

from dicap.engine.modeling.backbone import BACKBONE_REGISTRY, Backbone, build_backbone
from dicap.engine.modeling.head import HEAD_REGISTRY, build_head
from dicap.engine.modeling.network import NETWORK_REGISTRY, build_network

__all__ = [
    "BACKBONE_REGISTRY",
    "HEAD_REGISTRY",
    "NETWORK_REGISTRY",
    "Backbone",
    "build_backbone",
    "build_head",
    "build_network",
]
