"""The evaluator that a configuration names."""

import logging
from typing import Any

from dicap.engine.utils import Registry, check_availability

EVALUATOR_REGISTRY = Registry("EVALUATOR")
_log = logging.getLogger(__name__)


def build_evaluator(cfg: Any, **kwargs: Any) -> Any:
    """The evaluator cfg.TEST.EVALUATOR.

    Raises:
        ValueError: none of that name is registered.
    """
    check_availability(cfg.TEST.EVALUATOR, EVALUATOR_REGISTRY.registered_names())
    if cfg.VERBOSE:
        _log.info("Loading evaluator: %s", cfg.TEST.EVALUATOR)
    return EVALUATOR_REGISTRY.get(cfg.TEST.EVALUATOR)(cfg, **kwargs)
