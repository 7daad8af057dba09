"""Files, seeds, names: the small functions that datasets and trainers share."""

import difflib
import json
import os
import platform
import random
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import PIL
import torch
from PIL import Image

from dicap.files import write_text

__all__ = [
    "check_availability",
    "check_isfile",
    "collect_env_info",
    "listdir_nohidden",
    "mkdir_if_missing",
    "read_image",
    "read_json",
    "set_random_seed",
    "tolist_if_not",
    "write_json",
]


def mkdir_if_missing(dirname: str | os.PathLike[str]) -> None:
    """Creates the folder and those above it; an existing one is fine."""
    if dirname:
        os.makedirs(dirname, exist_ok=True)


def check_isfile(fpath: str) -> bool:
    """Whether fpath is a file; warns if it is not."""
    is_file = os.path.isfile(fpath)
    if not is_file:
        warnings.warn(f'No file found at "{fpath}"', stacklevel=2)
    return is_file


def read_json(fpath: str | os.PathLike[str]) -> Any:
    """The content of a JSON file; raises ValueError, with its name, where it is not JSON."""
    try:
        return json.loads(Path(fpath).read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{fpath} is not a JSON file ({error}): delete it or restore it") from error


def write_json(obj: Any, fpath: str | os.PathLike[str]) -> None:
    """Writes obj as indented JSON, atomically; creates the folder."""
    write_text(fpath, json.dumps(obj, indent=4, separators=(",", ": ")))


def set_random_seed(seed: int) -> None:
    """Seeds the generators of random, numpy, torch and every GPU; ValueError outside numpy's range, 0 .. 2^32 - 1."""
    if not 0 <= seed < 2**32:
        raise ValueError(
            f"seed {seed}: seeds go from 0 to 4294967295; a negative SEED in a configuration means unseeded"
        )
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
    torch.cuda.manual_seed_all(seed)


def read_image(path: str) -> Image.Image:
    """The image file as RGB; raises FileNotFoundError, or OSError for a damaged image, both with the file's name."""
    try:
        with Image.open(path) as image:
            if image.mode[0] in "IF":
                raise ValueError("pixels of more than 8 bits, which convert would turn white: save it with 8")
            return image.convert("RGB")
    except FileNotFoundError:
        raise FileNotFoundError(f"no image at {path}: is DATASET.ROOT right and the dataset complete?") from None
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise OSError(f"the image {path} cannot be read ({error}): fetch that file again") from error


def collect_env_info() -> str:
    """Versions and hardware of this run, one a line. Quick: asks no other program."""
    import torchvision

    lines = [
        f"Python: {platform.python_version()} ({sys.executable})",
        f"Platform: {platform.platform()}",
        f"PyTorch: {torch.__version__}",
        f"torchvision: {torchvision.__version__}",
        f"numpy: {np.__version__}",
        f"Pillow: {PIL.__version__}",
        f"CPU: {os.cpu_count()} cores, {torch.get_num_threads()} threads used",
    ]
    if not torch.cuda.is_available():
        return "\n".join([*lines, "CUDA: not available"])
    lines.append(f"CUDA: {torch.version.cuda}, cuDNN {torch.backends.cudnn.version()}")
    lines += [f"GPU {i}: {torch.cuda.get_device_name(i)}" for i in range(torch.cuda.device_count())]
    return "\n".join(lines)


def listdir_nohidden(path: str, sort: bool = False) -> list[str]:
    """Names in a folder that do not begin with a dot, on request sorted."""
    names = [name for name in os.listdir(path) if not name.startswith(".")]
    return sorted(names) if sort else names


def check_availability(requested: str, available: Sequence[str]) -> None:
    """Raises ValueError, with the nearest name, where the requested one does not exist."""
    if requested not in available:
        nearest = difflib.get_close_matches(requested, available, n=1, cutoff=0)
        hint = f" (do you mean [{nearest[0]}]?)" if nearest else ""
        raise ValueError(f"[{requested}] is none of {sorted(available)}{hint}")


def tolist_if_not(x: Any) -> list[Any]:
    """x itself if it is a list, else a list of x."""
    return x if isinstance(x, list) else [x]
