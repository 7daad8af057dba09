"""What official archives hold, class folders and lists, and splits made anew from them by CoOp's rules.

`dicap data prepare --regenerate` writes such splits, runs never do. Class names, label order, the number of images of each
class in each part and the test part of `by_lists` are those of the published split. CoOp shuffled with an unknown state of
its generator, so which images train and which validate is NOT as published: results on such a split do not compare.
Class folders are listed sorted; CoOp takes them in the order of the file system, so its draws differ between machines.
"""

import os
import random
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from dicap.data.split import DatasetError, Items, Split, by_label, check_split

SEED = 1  # of the shuffles
RESTORE = "restore it from the archive"
DUPLICATES = ("missile", "sunglasses")  # class names of CLIP's list that two classes share: 657 and 744, 836 and 837
MAT_BYTES, MAT_UNPACKED = 8 * 2**20, 64 * 2**20  # the largest official .mat has 0.3 MB


def list_folders(root: str | os.PathLike) -> dict[str, list[str]]:
    """The files in each folder of `root`, both sorted; files beside the folders (README.txt) and hidden ones are left out.

    Raises DatasetError where there is no such folder.
    """
    if not os.path.isdir(root):
        raise DatasetError(f"folder of images not found: {root}")
    folders = {name: os.path.join(root, name) for name in _visible(root)}
    return {name: _visible(path) for name, path in folders.items() if os.path.isdir(path)}


def _visible(folder: str | os.PathLike) -> list[str]:
    return sorted(name for name in os.listdir(folder) if name[0] != ".")


def by_class_folders(images: str, rename: dict[str, str] | None = None, ignored: tuple[str, ...] = ()) -> Split:
    """Labels by the order of the folders' names ("Faces" before "accordion"). Raises DatasetError."""
    folders = [(name, files) for name, files in list_folders(images).items() if name not in ignored]
    groups = [[(f"{name}/{file}", y, name) for file in files] for y, (name, files) in enumerate(folders)]
    return by_groups(images, groups, rename)


def by_groups(where: str | os.PathLike, groups: Iterable[Items], rename: dict[str, str] | None = None) -> Split:
    """50 % train, 20 % val and the rest test of each group, which is a class, shuffled. Raises DatasetError."""
    rng = random.Random(SEED)
    split: Split = {"train": [], "val": [], "test": []}
    for group in groups:
        items = rng.sample(group, len(group))
        train, val = round(len(items) * 0.5), round(len(items) * 0.2)
        if not (train and val and train + val < len(items)):
            problem = f"a class has {len(items)} images, too few for train, val and test"
            raise DatasetError(f"{where}: {problem}: {', '.join(item[0] for item in items[:2])}; {RESTORE}")
        split["train"] += items[:train]
        split["val"] += items[train : train + val]
        split["test"] += items[train + val :]
    return check_split(where, split, rename)


def by_lists(where: str | os.PathLike, trainval: Items, test: Items) -> Split:
    """A fifth of each class of `trainval`, shuffled, validates and the rest trains. Raises DatasetError."""
    rng = random.Random(SEED)
    split: Split = {"train": [], "val": [], "test": test}
    for label, group in by_label(trainval).items():
        items, val = rng.sample(group, len(group)), round(len(group) * 0.2)
        if not val:
            name = group[0][2]
            raise DatasetError(f"{where}: class {label} ({name}) has {len(group)} images, too few for train and val")
        split["val"] += items[:val]
        split["train"] += items[val:]
    return check_split(where, split)


def read_rows(file: str | os.PathLike, columns: int) -> list[list[str]]:
    """Lines of an official list, split at spaces into `columns` (the last one may hold spaces). Raises DatasetError."""
    try:
        lines = Path(file).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        problem = f"official list {file} cannot be read ({type(error).__name__})"
        raise DatasetError(f"{problem}; {RESTORE}, or: dicap data download") from error
    rows = [line.strip().split(" ", columns - 1) for line in lines if line.strip()]
    bad = next((row for row in rows if len(row) != columns), None)
    if bad or not rows:
        line = " ".join(bad) if bad else "no line"
        raise DatasetError(f"{file}: {line!r}; {columns} columns are expected; {RESTORE}")
    return rows


def look_up(table: dict, key: Any, where: str | os.PathLike) -> Any:
    """table[key]. Raises DatasetError that names the list."""
    if key not in table:
        raise DatasetError(f"{where}: class {key!r} is not in the list of classes; {RESTORE}")
    return table[key]


def from_one(text: str, where: str | os.PathLike) -> int:
    """The label of a class that a list numbers from 1. Raises DatasetError."""
    if not (text.isdecimal() and int(text) > 0):
        raise DatasetError(f"{where}: {text!r} is no number of a class; {RESTORE}")
    return int(text) - 1


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
        problem = f"{file} cannot be read as a .mat file with {name} ({type(error).__name__}: {error})"
        raise DatasetError(f"{problem}; {RESTORE}") from error


def read_classnames(folder: str | os.PathLike) -> dict[str, str]:
    """Class names by WordNet id, in label order, from classnames.txt ("n01440764 tench") of a dataset's folder.

    A shift without a file of its own takes that of imagenet/ beside it. Raises DatasetError.
    """
    places = Path(folder) / "classnames.txt", Path(folder).parent / "imagenet/classnames.txt"
    file = next((place for place in places if place.is_file()), None)
    if file is None:
        where = " or ".join(map(str, places))
        raise DatasetError(f"class names not found: {where}; get them with: dicap data download imagenet")
    rows = read_rows(file, 2)
    names = {wnid: name.strip() for wnid, name in rows}
    if len(names) < len(rows):
        raise DatasetError(f"{file}: a WordNet id stands twice; lines must be like 'n01440764 tench'")
    return names


def labelled(images: str | os.PathLike, names: dict[str, str], below: str = "", numbered: bool = False) -> Items:
    """The items of images/<below>/<class folder>/, labels by the order of the folders, paths relative to `images`.

    Args:
        numbered: folders are labels ("0", "1" ...), named in the order of `names` (ImageNetV2); else WordNet ids.
    """
    where = os.path.join(images, below)
    listing = list_folders(where)
    if numbered:
        names = {str(label): name for label, name in enumerate(names.values())}
    prefix, items = f"{below}/" if below else "", []
    for label, folder in enumerate(sorted(listing, key=int if numbered and listing.keys() <= names.keys() else str)):
        if folder not in names:
            raise DatasetError(f"{where}: folder {folder!r} is not in classnames.txt; remove it or add its name")
        if not listing[folder]:
            raise DatasetError(f"{where}: no image of class {folder!r} ({names[folder]}); restore it")
        items += [(f"{prefix}{folder}/{file}", label, names[folder]) for file in listing[folder]]
    return items


def _unpacked(data: bytes) -> int:
    """Bytes of all elements of a format-5 file, no more of them unpacked than the bound."""
    total, at = 0, 128  # behind the header
    order: Any = "little" if data[126:128] == b"IM" else "big"
    while at + 8 <= len(data):
        kind, size = (int.from_bytes(data[start : start + 4], order) for start in (at, at + 4))
        body, compressed = data[at + 8 : at + 8 + size], kind == 15
        total += len(zlib.decompressobj().decompress(body, MAT_UNPACKED + 1) if compressed else body)
        at += 8 + size
    return total
