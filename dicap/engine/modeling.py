"""Backbones and heads by name, for trainers that build a classifier themselves. None is built in: plugins register theirs."""

from typing import Any

from dicap.engine.utils import Registry

BACKBONE_REGISTRY, HEAD_REGISTRY = Registry("BACKBONE"), Registry("HEAD")


def build_backbone(name: str, verbose: bool = True, **kwargs: Any) -> Any:
    """The backbone of that name; ValueError where none is registered."""
    return BACKBONE_REGISTRY.build(name, "Backbone" if verbose else "", **kwargs)


def build_head(name: str, verbose: bool = True, **kwargs: Any) -> Any:
    """The head of that name; ValueError where none is registered."""
    return HEAD_REGISTRY.build(name, "Head" if verbose else "", **kwargs)
