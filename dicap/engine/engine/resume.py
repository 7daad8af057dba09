"""Resume files: everything that a run needs to go on after an epoch as if it had never stopped.

OUTPUT_DIR/resume/epoch-<n>.pt is written before the first epoch (n = 0) and after each, atomically; the newest two are
kept, so that there is always a whole one. They are apart from the checkpoints model.pth.tar-<n>, which other programs
read. Tensors, numbers and strings only: they load with weights_only=True.
"""

import logging
import os
import random
import re
import sys
from collections import defaultdict, deque
from collections.abc import Set
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils._pytree import tree_leaves, tree_map

from dicap.engine.utils.meters import read_numbers
from dicap.engine.utils.torchtools import load_checkpoint, write_tensors
from dicap.options import ConfigError

__all__ = ["Held", "epochs_done", "load_resume", "random_state", "save_resume", "set_random_state"]

_log = logging.getLogger(__name__)
_PARTS = {"epoch", "run", "best_result", "models", "extra", "held", "random"}
_PLAIN = (torch.Tensor, np.ndarray, np.generic, bool, int, float, complex, str, type(None))
_KIND = "kind of value"
_OF_MODULES = frozenset(vars(nn.Module()))  # attributes that every module has
# whose objects hold settings, data or what is computed again, unless they have a state to ask for
_INERT = {*sys.stdlib_module_names, *"clip dassl dicap numpy PIL torch torchvision yacs".split()} - {"collections"}


def random_state() -> dict[str, Any]:
    """States of the generators of random, numpy, torch and each GPU, as tensors and numbers."""
    version, words, gauss = random.getstate()
    name, keys, position, has_gauss, cached = np.random.get_state(legacy=True)
    numpy = {"name": name, "keys": torch.from_numpy(np.asarray(keys, dtype=np.int64)), "position": int(position)}
    return {
        "python": {"version": version, "words": torch.tensor(words, dtype=torch.int64), "gauss": gauss},
        "numpy": {**numpy, "has_gauss": int(has_gauss), "cached": float(cached)},
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def set_random_state(state: dict[str, Any]) -> None:
    """Puts the generators where random_state() found them. GPUs only where there are as many as then."""
    python, numpy = state["python"], state["numpy"]
    random.setstate((python["version"], tuple(python["words"].tolist()), python["gauss"]))
    keys = numpy["keys"].numpy().astype(np.uint32)
    np.random.set_state((numpy["name"], keys, numpy["position"], numpy["has_gauss"], numpy["cached"]))
    torch.set_rng_state(state["torch"])
    if torch.cuda.is_available() and len(state["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(state["cuda"])


def save_resume(folder: str | os.PathLike[str], state: dict[str, Any], epochs: int) -> None:
    """Writes the state after that many epochs; keeps it and the one before, and removes the rest and half-written files."""
    folder = Path(folder)
    write_tensors(state, _file(folder, epochs))
    before = [number for number in _epochs(folder) if number < epochs][:1]
    rest = [_file(folder, number) for number in _epochs(folder) if number not in (epochs, *before)]
    for path in [*rest, *folder.glob(".epoch-*.tmp")]:
        path.unlink(missing_ok=True)


def load_resume(folder: str | os.PathLike[str]) -> tuple[dict[str, Any], Path] | None:
    """The newest whole resume file of a folder and its path; None where there is none. Damaged ones are passed over."""
    for number in _epochs(folder):
        path = _file(folder, number)
        try:
            state = load_checkpoint(path)
            if state["epoch"] != number or state.keys() != _PARTS:
                raise ValueError("another version of dicap wrote it")
            return state, path
        except Exception as error:  # damage shows in many ways
            cause = next(iter(str(error).splitlines()), type(error).__name__)
            _log.warning("the resume file %s is damaged (%s): going back to the one before", path, cause)
    return None


def epochs_done(folder: str | os.PathLike[str]) -> int:
    """Epochs done according to the newest resume file's name; 0 where there is none."""
    return next(iter(_epochs(folder)), 0)


def _file(folder: str | os.PathLike[str], epochs: int) -> Path:
    return Path(folder, f"epoch-{epochs}.pt")


def _epochs(folder: str | os.PathLike[str]) -> list[int]:
    """Epochs of the resume files, the newest first."""
    matches = [re.fullmatch(r"epoch-(\d+)\.pt", path.name) for path in Path(folder).glob("epoch-*.pt")]
    return sorted((int(match[1]) for match in matches if match), reverse=True)


class Held:
    """What a trainer and the modules that it holds keep beside the registered models, each value by a path.

    Attributes that are tensors, arrays, numbers, strings, or lists, tuples and dicts of them; and those tensors of modules in
    no registered model that training changes.
    """

    def __init__(self, trainer: Any) -> None:
        holders = {"trainer": vars(trainer), "model": trainer._models}
        named = {f"{where} {name}": x for where, values in holders.items() for name, x in values.items()}
        modules = nn.ModuleDict({name: x for name, x in named.items() if isinstance(x, nn.Module)})
        self.places = {path: vars(module) for path, module in modules.named_modules()} | {"trainer": vars(trainer)}
        saved = [x for model in trainer._models.values() for x in model.state_dict(keep_vars=True).values()]
        others = [trainer, getattr(trainer, "scaler", None), *trainer._optims.values(), *trainer._scheds.values()]
        self.known = {id(x): x for x in (*saved, *others, *modules.modules()) if x is not None}
        self.tensors = {
            f"{path}.{name}": x
            for path, values in self.places.items()
            for kind in ("_parameters", "_buffers")
            for name, x in values.get(kind, {}).items()
            if x is not None and id(x) not in self.known
        }

    def sums(self) -> dict[str, float]:
        """Of the tensors of modules in no registered model: where they are others later, training changes them."""
        return dict(
            zip(self.tensors, read_numbers([x.detach().sum(dtype=torch.float64) for x in self.tensors.values()]))
        )

    def state(self, sums: dict[str, float], leave_out: Set[str]) -> tuple[dict[str, Any], list[str]]:
        """What a resume file keeps, and other objects that may hold state.

        Args:
            sums: those before training. leave_out: names of the trainer's attributes that are no state of the method.
        """
        kept = {where: _encoded(self.tensors[where]) for where, _ in self.sums().items() - sums.items()}
        lost = []
        for path, values in self.places.items():
            for name in values.keys() - (leave_out if path == "trainer" else _OF_MODULES):
                try:
                    if id(values[name]) not in self.known:
                        kept[f"{path}.{name}"] = _encoded(values[name])
                except TypeError as error:
                    if id(error.args[0]) not in self.known and _may_hold_state(error.args[0]):
                        lost.append(f"{path}.{name} ({type(error.args[0]).__name__})")
        return kept, lost

    def take(self, kept: dict[str, Any], device: Any) -> None:
        """Puts values back; tensors, lists and dicts that are there are filled, so that all who share them see it."""
        for where, encoded in kept.items():
            path, _, name = where.rpartition(".")
            if path not in self.places:
                raise ConfigError(f"{where}, of the resume file, is not in this run: start it in another OUTPUT_DIR")
            old, new = self.tensors.get(where, self.places[path].get(name)), _decoded(encoded, device)
            if isinstance(old, torch.Tensor) and isinstance(new, torch.Tensor) and old.shape == new.shape:
                if not torch.equal(old, new.to(old)):
                    old.data.copy_(new)
            elif type(old) is type(new) and isinstance(old, (dict, list)):
                old.clear()
                old.update(new) if isinstance(old, dict) else old.extend(new)
            else:
                self.places[path][name] = new


def _encoded(value: Any) -> Any:
    """A value in what a resume file can hold. Raises TypeError, with the object, where it holds one of another kind."""
    leaves = tree_leaves(value, is_leaf=lambda part: isinstance(part, (deque, defaultdict)))
    if other := [leaf for leaf in leaves if not isinstance(leaf, _PLAIN)]:
        raise TypeError(other[0])

    def pack(leaf: Any) -> Any:
        if isinstance(leaf, (np.ndarray, np.generic)):
            return {_KIND: "array", "value": torch.from_numpy(np.array(leaf))}
        return {_KIND: "cuda", "value": leaf} if isinstance(leaf, torch.Tensor) and leaf.is_cuda else leaf

    return tree_map(pack, value)


def _decoded(value: Any, device: Any) -> Any:
    def unpack(leaf: Any) -> Any:
        if not isinstance(leaf, dict):
            return leaf
        return leaf["value"].to(device) if leaf[_KIND] == "cuda" else leaf["value"].numpy()[()]

    return tree_map(unpack, value, is_leaf=lambda part: isinstance(part, dict) and _KIND in part)


def _may_hold_state(value: Any) -> bool:
    asked = any(hasattr(value, name) for name in ("state_dict", "get_state", "getstate"))
    return asked and not isinstance(value, type) or type(value).__module__.partition(".")[0] not in _INERT
