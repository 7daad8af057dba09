"""Configuration with Dassl's keys and defaults (a yacs CfgNode, unknown keys are refused)."""

from yacs.config import CfgNode

from dicap.engine.config.defaults import DEFAULTS

__all__ = ["clean_cfg", "get_cfg_default"]


def get_cfg_default() -> CfgNode:
    """A fresh configuration that holds every key of Dassl 0.6.3 with its default."""
    return CfgNode(DEFAULTS).clone()


def clean_cfg(cfg: CfgNode, trainer: str) -> None:
    """Drops from cfg.TRAINER the sections of all trainers but one: a printed configuration then shows what matters."""
    for key in cfg.TRAINER.keys() - {"NAME", trainer.upper()}:
        del cfg.TRAINER[key]
