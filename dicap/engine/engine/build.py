"""The trainer that a configuration names."""

import logging
from typing import Any

from dicap.engine.utils import Registry, check_availability

TRAINER_REGISTRY = Registry("TRAINER")
_log = logging.getLogger(__name__)


def build_trainer(cfg: Any) -> Any:
    """The trainer cfg.TRAINER.NAME.

    Raises:
        ValueError: none of that name is registered.
    """
    check_availability(cfg.TRAINER.NAME, TRAINER_REGISTRY.registered_names())
    if cfg.VERBOSE:
        _log.info("Loading trainer: %s", cfg.TRAINER.NAME)
    return TRAINER_REGISTRY.get(cfg.TRAINER.NAME)(cfg)
