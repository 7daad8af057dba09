"""The dataset that a configuration names."""

from typing import Any

from dicap.engine.utils import Registry

DATASET_REGISTRY = Registry("DATASET")


def build_dataset(cfg: Any) -> Any:
    """The dataset cfg.DATASET.NAME; raises ValueError where none of that name is registered."""
    return DATASET_REGISTRY.build(cfg.DATASET.NAME, "Loading dataset" if cfg.VERBOSE else "", cfg)
