"""Resume files: everything that a run needs to go on after an epoch as if it had never stopped.

OUTPUT_DIR/resume/epoch-<n>.pt is written before the first epoch (n = 0) and after each, atomically; the newest two are
kept, so that there is always a whole one. They are apart from the checkpoints model.pth.tar-<n>, which other programs
read. Tensors, numbers and strings only: they load with weights_only=True.
"""

import logging
import os
import random
import re
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dicap.engine.utils.torchtools import load_checkpoint, write_tensors

__all__ = ["epochs_done", "load_resume", "random_state", "save_resume", "set_random_state"]

_log = logging.getLogger(__name__)
_PARTS = {"epoch", "run", "best_result", "models", "extra", "random"}


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
    """Writes the state after that many epochs; keeps it and the one before, and removes the rest."""
    folder = Path(folder)
    write_tensors(state, _file(folder, epochs))
    before = [number for number in _epochs(folder) if number < epochs][:1]
    for number in _epochs(folder):
        if number not in (epochs, *before):
            _file(folder, number).unlink(missing_ok=True)


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
