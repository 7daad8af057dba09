"""The trainer that a configuration names."""

from typing import Any

from dicap.engine.utils import Registry

TRAINER_REGISTRY = Registry("TRAINER")


def build_trainer(cfg: Any) -> Any:
    """The trainer cfg.TRAINER.NAME; raises ValueError where none of that name is registered."""
    return TRAINER_REGISTRY.build(cfg.TRAINER.NAME, "Loading trainer" if cfg.VERBOSE else "", cfg)
