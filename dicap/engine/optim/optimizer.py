"""Optimisers by name."""

import warnings
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from dicap.engine.optim.radam import RAdam

__all__ = ["AVAI_OPTIMS", "build_optimizer"]

AVAI_OPTIMS = ["adam", "amsgrad", "sgd", "rmsprop", "radam", "adamw"]


def build_optimizer(
    model: nn.Module | Iterable[Any], optim_cfg: Any, param_groups: Any = None
) -> torch.optim.Optimizer:
    """The optimiser optim_cfg.NAME of a module or its parameters, or of param_groups where these are given.

    Raises ValueError on an unknown name, TypeError on STAGED_LR without a module.
    """
    name, momentum = optim_cfg.NAME, optim_cfg.MOMENTUM
    if name not in AVAI_OPTIMS:
        raise ValueError(f"OPTIM.NAME {name}: there are {', '.join(AVAI_OPTIMS)}")
    if param_groups is not None and optim_cfg.STAGED_LR:
        warnings.warn("OPTIM.STAGED_LR is ignored: param_groups is given and has rates of its own", stacklevel=2)
    if param_groups is None:
        parameters = model.parameters() if isinstance(model, nn.Module) else model
        param_groups = _staged_groups(model, optim_cfg) if optim_cfg.STAGED_LR else parameters
    common = {"lr": optim_cfg.LR, "weight_decay": optim_cfg.WEIGHT_DECAY}
    if name == "sgd":
        more = {"dampening": optim_cfg.SGD_DAMPNING, "nesterov": optim_cfg.SGD_NESTEROV}
        return torch.optim.SGD(param_groups, momentum=momentum, **more, **common)
    if name == "rmsprop":
        return torch.optim.RMSprop(param_groups, momentum=momentum, alpha=optim_cfg.RMSPROP_ALPHA, **common)
    common["betas"] = optim_cfg.ADAM_BETA1, optim_cfg.ADAM_BETA2
    if name == "radam":
        return RAdam(param_groups, **common)
    if name == "adamw":
        return torch.optim.AdamW(param_groups, **common)
    return torch.optim.Adam(param_groups, amsgrad=name == "amsgrad", **common)


def _staged_groups(model: Any, optim_cfg: Any) -> list[dict[str, Any]]:
    """The children in NEW_LAYERS at the full rate, the others at LR * BASE_LR_MULT."""
    if not isinstance(model, nn.Module):
        raise TypeError(f"OPTIM.STAGED_LR needs the module itself, to know its layers, not a {type(model).__name__}")
    model = model.module if isinstance(model, nn.DataParallel) else model
    new_layers = [optim_cfg.NEW_LAYERS] if isinstance(optim_cfg.NEW_LAYERS, str) else optim_cfg.NEW_LAYERS
    if not new_layers:
        warnings.warn("OPTIM.NEW_LAYERS is empty: OPTIM.STAGED_LR lowers the rate of every layer", stacklevel=3)
    new: list[nn.Parameter] = []
    base: list[nn.Parameter] = []
    for name, child in model.named_children():
        (new if name in new_layers else base).extend(child.parameters())
    return [{"params": base, "lr": optim_cfg.LR * optim_cfg.BASE_LR_MULT}, {"params": new}]
