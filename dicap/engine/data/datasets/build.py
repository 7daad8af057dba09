"""The dataset that a configuration names."""

import logging
from typing import Any

from dicap.engine.utils import Registry, check_availability

DATASET_REGISTRY = Registry("DATASET")
_log = logging.getLogger(__name__)


def build_dataset(cfg: Any) -> Any:
    """The dataset cfg.DATASET.NAME.

    Raises:
        ValueError: none of that name is registered.
    """
    check_availability(cfg.DATASET.NAME, DATASET_REGISTRY.registered_names())
    if cfg.VERBOSE:
        _log.info("Loading dataset: %s", cfg.DATASET.NAME)
    return DATASET_REGISTRY.get(cfg.DATASET.NAME)(cfg)
