"""Frozen image features, encoded once: of test images always, of training images where INPUT.VIEWS is K > 0.

Features are kept on disk by content: weights, transform, precision, the list of files, views and seed, and what computed
them. So all methods, seeds and protocols share them, and several processes at once the pages of one mapped file. A row's
last bits depend on the batch that it was encoded in, so each list of files (base, new, all) has features of its own.
DICAP_CACHE names the folder (default: the user's cache), "off" keeps none. Where views are fresh ones each epoch
(INPUT.VIEWS 0), nothing is encoded here, and `seeded_loader` makes their numbers independent of workers.
"""

import contextlib
import hashlib
import json
import logging
import os
import random
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from dassl.utils import read_image
from PIL import Image
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from dicap.console import progress_bar
from dicap.files import cache_folder, keep, one_at_a_time, replacing

log = logging.getLogger(__name__)

SAMPLE = 16  # files of a list that are read to tell it from another of the same names, sizes and times


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
        self._last: tuple[int, Any] = (-1, None)  # number and picture: views of one image follow each other

    def __len__(self) -> int:
        return len(self.items) * self.views

    def __getitem__(self, index: int) -> dict:
        image = self._image(index // self.views)
        with _drawing_from((self.seed + 1) * 1_000_003 + index):
            return {"img": self.transform(image)}

    def _image(self, number: int) -> Any:
        if self._last[0] != number:
            images = self.images
            image = read_image(self.items[number].impath) if images is None else Image.fromarray(images[number])
            self._last = number, image
        return self._last[1]


class _SeededItems(Dataset):
    """The items of a dataset, asked for with the seed that each is augmented from."""

    def __init__(self, dataset: Dataset):
        self.dataset = dataset

    def __getitem__(self, indexed: tuple[int, int]) -> Any:
        with _drawing_from(indexed[1]):
            return self.dataset[indexed[0]]


class _SeededOrder(Sampler):
    """A sampler's indices, each with a seed that follows from torch's generator, which a resumed run restores."""

    def __init__(self, sampler: Sampler):
        self.sampler = sampler

    def __len__(self) -> int:
        return len(self.sampler)  # type: ignore[arg-type]

    def __iter__(self) -> Iterator[tuple[int, int]]:
        first = int(torch.randint(2**62, ()))
        return ((index, first + place) for place, index in enumerate(self.sampler))


def seeded_loader(loader: DataLoader) -> DataLoader:
    """A loader like the given one that yields the same for any number of workers; they stay from epoch to epoch.

    Starting them costs a second, on a GPU as much as an epoch of few shots. One epoch at a time: a second iteration begins
    the same workers anew.
    """
    return DataLoader(
        _SeededItems(loader.dataset),
        loader.batch_size,
        sampler=_SeededOrder(loader.sampler),
        drop_last=loader.drop_last,
        num_workers=loader.num_workers,
        pin_memory=loader.pin_memory,
        collate_fn=loader.collate_fn,
        persistent_workers=loader.num_workers > 0,
        generator=torch.Generator(),  # its own: how often it draws depends on the workers
    )


@contextlib.contextmanager
def _drawing_from(seed: int) -> Iterator[None]:
    """The generators of random, numpy and torch (the CPU's) start from a seed, and go on afterwards as if nothing was drawn."""
    python, of_numpy = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            random.seed(seed)
            np.random.seed(seed % 2**32)
            yield
    finally:
        random.setstate(python)
        np.random.set_state(of_numpy)


class Features(Dataset):
    """Cached features in place of images, with the keys of a Dassl batch: img (B, e), label, domain, impath, index; and view.

    A DataLoader with `as_batch` takes whole batches from it, without a step of Python for each item. In training, one of
    the K views is drawn anew each time (torch's global generator, which a resumed run restores).

    Args:
        features: (N, K, e).
        items: N Dassl `Datum`s.
    """

    def __init__(self, features: Tensor, items: list):
        self.features, self.items = features, items
        self.label = torch.tensor([item.label for item in items])  # (N,)
        self.domain = torch.tensor([item.domain for item in items])  # (N,)

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> dict:
        return {key: value[0] for key, value in self.__getitems__([index]).items()}

    def __getitems__(self, indices: list[int]) -> dict:
        """The batch of these items: tensors of B rows, and impath as a list."""
        index, views = torch.tensor(indices), self.features.shape[1]  # (B,)
        view = torch.randint(views, index.shape) if views > 1 else torch.zeros_like(index)
        return {
            "img": self.features.flatten(0, 1).index_select(0, index * views + view),
            "label": self.label[index],
            "domain": self.domain[index],
            "impath": [self.items[i].impath for i in indices],
            "index": index,
            "view": view,
        }


def as_batch(batch: dict) -> dict:
    """collate_fn for `Features`, which yields whole batches."""
    return batch


def encode(
    encode_image: Callable[[Tensor], Tensor], loader: DataLoader, device: torch.device, views: int, facts: dict
) -> Tensor:
    """Features (N, K, e), fp32 on the CPU, of what the loader yields in order; from the disk where they are there.

    What comes from the disk is mapped, not copied. Processes that want the same features wait for the one that encodes.

    Raises FloatingPointError: features that are not finite, or all zero.

    Args:
        encode_image: images (B, 3, H, W) on the device -> features (B, e).
        loader: yields {"img": (B, 3, H, W)}; N K images, the K views of one image next to each other.
        views: K.
        facts: all that decides the features; JSON. `describe` collects what concerns the files, `machine` what computes.
    """
    folder = cache_folder("features")
    key = hashlib.sha256(json.dumps({**facts, "views": views}, sort_keys=True).encode()).hexdigest()
    path = folder and folder / f"{key}.safetensors"
    features = _read(path)
    if features is None:
        with one_at_a_time(path, "features"):
            features = _read(path)  # another process may have encoded them meanwhile
            if features is None:
                features = _encode(encode_image, loader, device).unflatten(0, (-1, views))
                keep(path, lambda file: _save(features, file), "features")
    return features


def describe(items: list, transform: Callable) -> dict:
    """Which images, and how they are transformed: names, sizes, times, the content of a few, and the transform in words.

    Names are cut by what all have in common, so that a data folder may move, or be copied with its times.
    """
    paths = [item.impath for item in items]
    start = len(os.path.commonprefix(paths))
    files = [(path[start:], stat.st_size, stat.st_mtime_ns) for path, stat in zip(paths, map(os.stat, paths))]
    sample = [hashlib.sha256(Path(path).read_bytes()).hexdigest() for path in paths[:: len(paths) // SAMPLE + 1]]
    return {"files": hashlib.sha256(json.dumps([files, sample]).encode()).hexdigest(), "transform": repr(transform)}


def machine(device: torch.device) -> dict:
    """What the last bits of features depend on beside weights and images."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else torch.backends.cpu.get_cpu_capability()
    return {"torch": torch.__version__, "device": device.type, "processor": name}


@torch.no_grad()
def _encode(encode_image: Callable[[Tensor], Tensor], loader: DataLoader, device: torch.device) -> Tensor:
    log.info("encoding the features of %d images", len(loader.dataset))  # type: ignore[arg-type]
    batches = progress_bar(loader, "encoding images", delay=1)
    with torch.random.fork_rng(devices=[]):  # a loader draws a seed: no run may depend on the cache
        parts = [encode_image(batch["img"].to(device, non_blocking=True)).float().cpu() for batch in batches]
    features = torch.cat(parts)
    length = features.norm(dim=-1)  # (N K,)
    broken = (~(length.isfinite() & (length > 0))).nonzero()
    if len(broken):
        raise FloatingPointError(
            f"the features of {len(broken)} of {len(length)} images, the first being number {int(broken[0])}, are NaN, Inf or all"
            " zero: the weights of the backbone are damaged, or PREC fp16 is too small for them (use fp32)"
        )
    return features


def _read(path: Path | None) -> Tensor | None:
    """Features (N, K, e), mapped; None where there are none or, with a warning, none that are whole: those are removed."""
    if path is None or not path.is_file():
        return None
    try:
        with safe_open(path, "pt") as file:
            features, digest = file.get_tensor("features"), (file.metadata() or {}).get("sha256")
        if digest == _digest(features, path):
            return features
        error: Exception | str = "its content is not what was written"
    except (SafetensorError, OSError) as broken:
        error = broken
    log.warning("cached features %s cannot be read (%s): encoding again", path, error)
    with contextlib.suppress(OSError):
        path.unlink(missing_ok=True)
    return None


def _save(features: Tensor, path: Path) -> None:
    with replacing(path, lasting=False) as temporary:
        save_file({"features": features.contiguous()}, temporary, {"sha256": _digest(features, path)})


def _digest(features: Tensor, path: Path) -> str:
    """SHA-256 of the name of a file of features (its key), and of their type, shape and bytes."""
    digest = hashlib.sha256(f"{path.stem} {features.dtype} {tuple(features.shape)}".encode())
    digest.update(features.contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()
