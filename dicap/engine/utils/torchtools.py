"""Checkpoints in the family's format, without code in them, and small functions over models.

A checkpoint is OUTPUT_DIR/<model>/model.pth.tar-<epoch> with the keys state_dict, epoch (counted from 1), optimizer,
scheduler and val_result; the text file `checkpoint` beside it names the last one. All are read by dicap.inert, which runs
nothing; ours hold plain values alone, so that torch.load(weights_only=True) reads them too.
"""

import logging
import os
import shutil
import warnings
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from dicap.files import replacing, write_text
from dicap.inert import Placeholder, check_finite, named_tensors, read_checkpoint
from dicap.options import ConfigError

__all__ = ["count_num_param", "load_checkpoint", "load_pretrained_weights", "resume_from_checkpoint", "save_checkpoint"]

_log = logging.getLogger(__name__)
_LEFT_OUT = object()


def save_checkpoint(
    state: dict[str, Any],
    save_dir: str,
    is_best: bool = False,
    remove_module_from_keys: bool = True,
    model_name: str = "",
) -> None:
    """Writes a checkpoint, atomically, and notes its name in the text file `checkpoint`.

    Args:
        state: state_dict, epoch (counted from 1), optimizer, scheduler, val_result: tensors and plain values only.
        save_dir: folder of the model.
        is_best: also write it as model-best.pth.tar.
        remove_module_from_keys: drop the prefix that DataParallel puts before each name.
        model_name: file name; empty: model.pth.tar-<epoch>.
    """
    if remove_module_from_keys:
        state = {**state, "state_dict": {k.removeprefix("module."): v for k, v in state["state_dict"].items()}}
    path = Path(save_dir, model_name or f"model.pth.tar-{state['epoch']}")
    write_tensors(state, path)
    print(f"Checkpoint saved to {path}")
    write_text(path.with_name("checkpoint"), f"{path.name}\n")
    if is_best:
        best = path.with_name("model-best.pth.tar")
        with replacing(best) as temporary:
            shutil.copyfile(path, temporary)
        print(f'Best checkpoint saved to "{best}"')


def write_tensors(state: Any, path: str | os.PathLike[str]) -> None:
    """torch.save of what is plain in state, atomically: the file loads with weights_only=True."""
    with replacing(path) as temporary, open(temporary, "wb") as file:
        torch.save(_plain(state, str(path)), file)


def _plain(value: Any, where: str) -> Any:
    """value with only tensors, numbers, strings and containers of them; another object is left out, with a warning."""
    if isinstance(value, torch.Tensor):
        return value.detach()
    if isinstance(value, (str, bool, int, float, complex, type(None), torch.dtype, torch.Size)):
        return value
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray) and value.dtype != object:
        return torch.from_numpy(value)
    if isinstance(value, Mapping):
        items = {key: _plain(item, f"{where}: {key}") for key, item in value.items()}
        items = {key: item for key, item in items.items() if item is not _LEFT_OUT}
        return Counter(items) if isinstance(value, Counter) else items  # a MultiStepLR counts its milestones
    if isinstance(value, (list, tuple, set, frozenset)):
        members = [item for item in (_plain(item, where) for item in value) if item is not _LEFT_OUT]
        return tuple(members) if isinstance(value, tuple) else members
    _log.warning(
        "%s holds a %s, which is not saved: what depends on it starts anew after a resume", where, type(value).__name__
    )
    return _LEFT_OUT


def load_checkpoint(fpath: str | os.PathLike[str]) -> Any:
    """The content of a checkpoint, on the CPU. Never runs anything that is in the file.

    Objects that are neither tensors nor plain values (optimisers and schedulers in published CoOp files) come as inert
    placeholders. Raises FileNotFoundError, or ConfigError for what is truncated or no checkpoint; both name the file.
    """
    if fpath is None:
        raise ValueError("no path of a checkpoint was given")
    return read_checkpoint(fpath)


def resume_from_checkpoint(
    fdir: str, model: nn.Module, optimizer: torch.optim.Optimizer | None = None, scheduler: Any = None
) -> int:
    """Loads the checkpoint that the text file `checkpoint` names into model, optimizer and scheduler.

    Returns the epochs done. Raises FileNotFoundError where one of the two files is missing, ConfigError where the
    checkpoint is damaged or does not fit the model.
    """
    path = last_checkpoint(fdir)
    print(f'Loading checkpoint from "{path}"')
    checkpoint = load_checkpoint(path)
    load_state(model, named_tensors(checkpoint, path), path)
    print("Loaded model weights")
    if optimizer is not None and checkpoint.get("optimizer"):
        optimizer.load_state_dict(checkpoint["optimizer"])
        print("Loaded optimizer")
    if scheduler is not None and checkpoint.get("scheduler"):
        scheduler.load_state_dict({key: _unwrapped(value) for key, value in checkpoint["scheduler"].items()})
        print("Loaded scheduler")
    print(f"Previous epoch: {checkpoint['epoch']}")
    return int(checkpoint["epoch"])


def last_checkpoint(folder: str | os.PathLike[str]) -> Path:
    """The file that a model folder's text file `checkpoint` names."""
    return Path(folder, Path(folder, "checkpoint").read_text(encoding="utf-8").splitlines()[0])


def _unwrapped(value: Any) -> Any:
    """Of a pickled inner scheduler that one's own state; any other value as it is."""
    if not isinstance(value, Placeholder):
        return value
    return {key: item for key, item in value.state.items() if not isinstance(item, Placeholder)}


def load_state(model: nn.Module, state_dict: dict[str, Any], path: str | os.PathLike[str]) -> None:
    """model.load_state_dict; errors name the file: ConfigError for other names or shapes, FloatingPointError for NaN."""
    try:
        model.load_state_dict(state_dict)
    except RuntimeError as error:
        raise ConfigError(
            f"{path} does not fit the model ({error}): it was written with another configuration "
            "(backbone, number of context tokens, classes); use that one, or another folder"
        ) from error
    check_finite(dict(model.named_parameters()), f"{path} (restore it, or train again)")


def load_pretrained_weights(model: nn.Module, weight_path: str) -> None:
    """Loads what fits, by name and shape, of a checkpoint or state dict; the rest is left as it is and listed."""
    checkpoint = load_checkpoint(weight_path)
    weights = {k.removeprefix("module."): v for k, v in named_tensors(checkpoint, weight_path).items()}
    own = model.state_dict()
    fit = {k: v for k, v in weights.items() if k in own and own[k].shape == v.shape}
    if not fit:
        warnings.warn(
            f"nothing in {weight_path} fits the model: it has {sorted(weights)[:5]} ..., the model {sorted(own)[:5]} ...",
            stacklevel=2,
        )
        return
    model.load_state_dict(fit, strict=False)
    print(f"Successfully loaded pretrained weights from {weight_path}")
    if left := sorted(weights.keys() - fit.keys()):
        print(f"Layers discarded due to unmatched keys or size: {left}")


def count_num_param(model: nn.Module | None = None, params: Iterable[Any] | None = None) -> int:
    """Number of values in a model's parameters, or in the given ones (tensors, or groups as optimisers take them)."""
    if model is not None:
        return sum(p.numel() for p in model.parameters())
    if params is None:
        raise ValueError("count_num_param needs a model or parameters")
    flat = [p["params"] if isinstance(p, dict) else p for p in params]
    return sum(p.numel() if isinstance(p, torch.Tensor) else count_num_param(params=p) for p in flat)
