"""The evaluator that a configuration names."""

from typing import Any

from dicap.engine.utils import Registry

EVALUATOR_REGISTRY = Registry("EVALUATOR")


def build_evaluator(cfg: Any, **kwargs: Any) -> Any:
    """The evaluator cfg.TEST.EVALUATOR; raises ValueError where none of that name is registered."""
    return EVALUATOR_REGISTRY.build(cfg.TEST.EVALUATOR, "Loading evaluator" if cfg.VERBOSE else "", cfg, **kwargs)
