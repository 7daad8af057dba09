"""Splits made anew from official lists or class folders, by CoOp's rules: `dicap data prepare` writes them, runs never do.

    by_class_folders(images)                 50 % train, 20 % val, the rest test of each class
    by_lists(trainval, test)                 a fifth of each class of trainval is val; test stays

Class names, label order, the number of images of each class in each part, and the test part of `by_lists` are those of the
published split. CoOp shuffled with an unknown state of its generator and files in the order of its file system, so which
images train and which validate is NOT as published: results on such a split do not compare with published ones.
"""

import json
import os
import random
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any, TypeVar

from dicap.data.class_folders import list_folders
from dicap.data.split import DatasetError, Items, by_label, check_split

Key = TypeVar("Key")
Value = TypeVar("Value")
SEED = 1  # of the shuffles
MAT_BYTES, MAT_UNPACKED = 8 * 2**20, 64 * 2**20  # the largest official .mat has 0.3 MB


def by_class_folders(
    images: str, rename: dict[str, str] | None = None, ignored: tuple[str, ...] = ()
) -> dict[str, Items]:
    """Labels by the order of the folders' names ("Faces" before "accordion"). Raises DatasetError."""
    folders = {name: files for name, files in list_folders(images).items() if name not in ignored}
    groups = [
        [(f"{name}/{file}", label, name) for file in files] for label, (name, files) in enumerate(folders.items())
    ]
    return by_groups(images, groups, rename)


def by_groups(
    where: str | os.PathLike, groups: Iterable[Items], rename: dict[str, str] | None = None
) -> dict[str, Items]:
    """50 % train, 20 % val and the rest test of each group, which is a class, shuffled. Raises DatasetError."""
    rng = random.Random(SEED)
    split: dict[str, Items] = {"train": [], "val": [], "test": []}
    for group in groups:
        items = rng.sample(group, len(group))
        train, val = round(len(items) * 0.5), round(len(items) * 0.2)
        if not (train and val and train + val < len(items)):
            raise DatasetError(
                f"{where}: a class has {len(items)} images ({', '.join(item[2] for item in items[:1])}), too few"
                " for train, val and test; restore the archive"
            )
        split["train"] += items[:train]
        split["val"] += items[train : train + val]
        split["test"] += items[train + val :]
    return check_split(where, split, rename)


def by_lists(where: str | os.PathLike, trainval: Items, test: Items) -> dict[str, Items]:
    """A fifth of each class of `trainval`, shuffled, validates and the rest trains. Raises DatasetError."""
    rng = random.Random(SEED)
    split: dict[str, Items] = {"train": [], "val": [], "test": test}
    for label, group in by_label(trainval).items():
        items, val = rng.sample(group, len(group)), round(len(group) * 0.2)
        if not val:
            raise DatasetError(
                f"{where}: class {label} ({group[0][2]}) has {len(group)} images, too few for train and val"
            )
        split["val"] += items[:val]
        split["train"] += items[val:]
    return check_split(where, split)


def read_rows(file: str | os.PathLike, columns: int) -> list[list[str]]:
    """Lines of an official list, split at spaces into `columns` (the last one may hold spaces). Raises DatasetError."""
    try:
        lines = Path(file).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DatasetError(
            f"official list {file} cannot be read ({type(error).__name__}); restore it from the archive,"
            " or: dicap data download"
        ) from error
    rows = [line.strip().split(" ", columns - 1) for line in lines if line.strip()]
    bad = next((row for row in rows if len(row) != columns), None)
    if bad or not rows:
        raise DatasetError(
            f"{file}: {' '.join(bad) if bad else 'no line'!r}; {columns} columns are expected; restore the archive"
        )
    return rows


def look_up(table: dict[Key, Value], key: Key, where: str | os.PathLike) -> Value:
    """table[key]. Raises DatasetError that names the list."""
    if key not in table:
        raise DatasetError(f"{where}: class {key!r} is not in the list of classes; restore both from the archive")
    return table[key]


def from_one(text: str, where: str | os.PathLike) -> int:
    """The label of a class that a list numbers from 1. Raises DatasetError."""
    if not (text.isdecimal() and int(text) > 0):
        raise DatasetError(f"{where}: {text!r} is no number of a class; restore it from the archive")
    return int(text) - 1


def read_json(file: str | os.PathLike) -> dict[str, str]:
    """A mapping of texts. Raises DatasetError."""
    try:
        tree = json.loads(Path(file).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise DatasetError(f"{file} cannot be read as JSON ({error}); restore it from its source") from error
    if not (isinstance(tree, dict) and all(isinstance(value, str) for value in tree.values())):
        raise DatasetError(f"{file}: not names by number; restore it from its source")
    return tree


def read_mat(file: str | os.PathLike, name: str) -> Any:
    """One variable of an official .mat file, the first row of it. Raises DatasetError.

    scipy reads MATLAB's format 5 as numbers, texts and structures (functions and objects of MATLAB stay opaque bytes); what
    it would unpack is bounded before. Its reader is compiled and not made for hostile files: random changes of
    bytes have crashed the process. So take a .mat from the archive with the known digest; only --regenerate reads any.
    """
    from scipy.io import loadmat

    try:
        if os.path.getsize(file) > MAT_BYTES or _unpacked(Path(file).read_bytes()) > MAT_UNPACKED:
            raise ValueError(f"larger than such a file can be ({MAT_BYTES} bytes, {MAT_UNPACKED} unpacked)")
        return loadmat(file, variable_names=[name])[name][0]
    except Exception as error:  # a damaged file may fail in any way
        raise DatasetError(
            f"{file} cannot be read as a .mat file with {name} ({type(error).__name__}: {error});"
            " restore it from the archive"
        ) from error


def _unpacked(data: bytes) -> int:
    """Bytes of all elements of a format-5 file, no more of them unpacked than the bound."""
    total, at = 0, 128  # behind the header
    while at + 8 <= len(data):
        order = "little" if data[126:128] == b"IM" else "big"
        kind, size = (int.from_bytes(data[start : start + 4], order) for start in (at, at + 4))  # type: ignore[arg-type]
        body = data[at + 8 : at + 8 + size]
        total += (
            len(zlib.decompressobj().decompress(body, MAT_UNPACKED + 1)) if kind == 15 else len(body)
        )  # 15: compressed
        at += 8 + size
    return total
