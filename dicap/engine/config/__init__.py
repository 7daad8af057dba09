"""Configuration with Dassl's keys and defaults (a yacs CfgNode, unknown keys are refused)."""

from ast import literal_eval
from pathlib import Path
from typing import Any

import yaml
from yacs.config import CfgNode

__all__ = ["clean_cfg", "get_cfg_default"]

_DEFAULTS = yaml.safe_load(Path(__file__).with_name("defaults.yaml").read_text(encoding="utf-8"))


def get_cfg_default() -> CfgNode:
    """A fresh configuration that holds every key of Dassl 0.6.3 with its default."""
    return _node(_DEFAULTS)


def _node(values: dict[str, Any]) -> CfgNode:
    node = CfgNode()
    for key, value in values.items():
        is_tuple = isinstance(value, str) and value.startswith("(")
        node[key] = _node(value) if isinstance(value, dict) else literal_eval(value) if is_tuple else value
    return node.clone()  # lists are copied


def clean_cfg(cfg: CfgNode, trainer: str) -> None:
    """Drops from cfg.TRAINER the sections of all trainers but one: a printed configuration then shows what matters."""
    for key in cfg.TRAINER.keys() - {"NAME", trainer.upper()}:
        del cfg.TRAINER[key]
