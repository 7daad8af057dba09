"""Frozen image features, encoded once: of test images always, of training images where INPUT.VIEWS is K > 0.

Features are kept on disk by content: weights, transform, precision, the files with their sizes and times, views and seed.
So all methods, seeds and protocols share them. DICAP_CACHE names the folder (default: the user's cache), "off" keeps none.
"""
import hashlib
import json
import logging
import os
import random
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from dassl.utils import read_image
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from dicap.cache import cache_folder, keep
from dicap.files import replacing

log = logging.getLogger(__name__)


class Views(Dataset):
    """K augmented views of each of N images; view (n, v) depends on (seed, n, v) alone, not on workers or order.

    Args:
        items: N Dassl `Datum`s.
        transform: from PIL image to tensor (3, H, W), with Python's or torch's randomness.
        views: K.
        seed: of the augmentation.
        images: N uint8 arrays (H, W, 3) that are seen in place of the items' files.
    """

    def __init__(self, items: list, transform: Callable, views: int, seed: int, images: Sequence | None = None):
        self.items, self.transform, self.views, self.seed, self.images = items, transform, views, seed, images

    def __len__(self) -> int:
        return len(self.items) * self.views

    def __getitem__(self, index: int) -> dict:
        number = index // self.views
        image = read_image(self.items[number].impath) if self.images is None else Image.fromarray(self.images[number])
        state = random.getstate()
        try:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed((self.seed + 1) * 1_000_003 + index)
                random.seed((self.seed + 1) * 1_000_003 + index)
                return {"img": self.transform(image)}
        finally:
            random.setstate(state)


class Features(Dataset):
    """Cached features in place of images, with the keys of a Dassl batch: img (e,), label, domain, impath, index.

    In training, one of the K views is drawn anew each time (torch's global generator, which a resumed run restores).

    Args:
        features: (N, K, e).
        items: N Dassl `Datum`s.
    """

    def __init__(self, features: Tensor, items: list):
        self.features, self.items = features, items

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> dict:
        item, views = self.items[index], self.features.shape[1]
        view = int(torch.randint(views, ())) if views > 1 else 0
        return {"img": self.features[index, view], "label": item.label, "domain": item.domain, "impath": item.impath,
                "index": index, "view": view}


def encode(model: torch.nn.Module, loader: DataLoader, device: torch.device, views: int, facts: dict) -> Tensor:
    """Features (N, K, e), fp32 on the CPU, of what the loader yields in order; from the disk where they are there.

    Args:
        model: has encode_image: (B, 3, H, W) -> (B, e).
        loader: yields {"img": (B, 3, H, W)}; N K images, the K views of one image next to each other.
        views: K.
        facts: all that decides the features; JSON. `describe` collects what concerns the files.
    """
    path = _path({**facts, "views": views})
    if path is not None and path.is_file():
        try:
            return load_file(path)["features"]
        except (SafetensorError, KeyError, OSError) as error:
            log.warning("cached features %s cannot be read (%s): encoding again", path, error)
    with torch.no_grad(), torch.random.fork_rng(devices=[]):  # a loader draws a seed: no run may depend on the cache
        rows = [model.encode_image(batch["img"].to(device)).float().cpu() for batch in loader]
    features = torch.cat(rows).unflatten(0, (-1, views))
    keep(path, lambda file: _save(features, file), "features")
    return features


def _save(features: Tensor, path: Path) -> None:
    with replacing(path) as temporary:
        save_file({"features": features.contiguous()}, temporary)


def describe(items: list, transform: Callable) -> dict:
    """Which images, and how they are transformed: paths, sizes, times and the transform in words."""
    files = [(item.impath, *_size_and_time(item.impath)) for item in items]
    return {"files": hashlib.sha256(json.dumps(files).encode()).hexdigest(), "transform": repr(transform)}


def _path(facts: dict) -> Path | None:
    folder = cache_folder("features")
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
    return folder and folder / f"{digest}.safetensors"


def _size_and_time(path: str) -> tuple[int, int]:
    found = os.stat(path)
    return found.st_size, found.st_mtime_ns
