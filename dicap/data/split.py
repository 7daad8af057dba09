"""Splits in CoOp's form: {"train" | "val" | "test": [[path below the image folder, label, class name], ...]}.

split = read_split("split_zhou_Caltech101.json")      # checked: parts, labels, names, paths
"""

import hashlib
import json
import os
import posixpath
import re
from pathlib import Path, PurePosixPath
from typing import Any

Item = tuple[str, int, str]  # path below the image folder, label, class name
Items = list[Item]
Split = dict[str, Items]  # by part
PARTS = ("train", "val", "test")


class DatasetError(ValueError):
    """Data that cannot be used; the message names the file, the class or item, and the way out."""


def read_json(path: str | os.PathLike) -> dict[str, Any]:
    """The mapping that a JSON file holds. Raises DatasetError."""
    try:
        tree = json.loads(Path(path).read_text(encoding="utf-8"))
        if not isinstance(tree, dict):
            raise ValueError(f"a {type(tree).__name__}, not a mapping")
        return tree
    except (OSError, ValueError, RecursionError) as error:
        raise DatasetError(f"{path} cannot be read as JSON ({error}); restore it from its source") from error


def read_split(path: str | os.PathLike, rename: dict[str, str] | None = None) -> Split:
    """Read CoOp's split JSON.

    Raises DatasetError: missing or broken file, unknown part, an item of another form, a label with two names, labels
        that are not 0..n-1, a path that leaves the image folder or stands twice.
    """
    tree = read_json(path)
    if set(tree) != set(PARTS):
        raise DatasetError(f"{path} must hold exactly train, val and test; it holds {sorted(tree)}")
    return check_split(path, tree, rename)


def check_split(where: str | os.PathLike, tree: Any, rename: dict[str, str] | None = None) -> Split:
    """The split in `tree` ({part: [[path, label, name], ...]}), checked as `read_split` says; `where` is for messages."""
    for part in PARTS:
        if not isinstance(tree[part], (list, tuple)):
            raise DatasetError(f"{where}: {part} is {tree[part]!r}; expected a list of [path, label, class name]")
    split = {part: [_item(where, part, entry, rename or {}) for entry in tree[part]] for part in PARTS}
    _check_labels(where, split)
    return split


def check_names(split: Split, duplicates: tuple[str, ...], where: str | os.PathLike) -> list[str]:
    """A line for each class name that two labels share and that is known to be (`duplicates`). Raises DatasetError for others."""
    labels: dict[str, list[int]] = {}
    for label, name in sorted({(label, name) for part in PARTS for _, label, name in split[part]}):
        labels.setdefault(name, []).append(label)
    shared = {name: some for name, some in labels.items() if len(some) > 1}
    wrong = next((name for name in shared if name not in duplicates), None)
    if wrong is not None:
        raise DatasetError(f"{where}: the classes {shared[wrong]} have one name, {wrong!r}; give each its own")
    return [f"classes {some} share the name {name!r}; kept, as published" for name, some in shared.items()]


def by_label(items: Items) -> dict[int, Items]:
    """Items of each label, labels in the order of their first item."""
    groups: dict[int, Items] = {}
    for item in items:
        groups.setdefault(item[1], []).append(item)
    return groups


def counts_of(split: Split) -> tuple[int, ...]:
    """Classes, train, val, test."""
    return (len({label for part in PARTS for _, label, _ in split[part]}), *(len(split[part]) for part in PARTS))


def leaves(path: str) -> bool:
    """Whether a path is not one below its folder, written with / between folders."""
    return path[:1] == "/" or "\\" in path or ":" in path[:2] or ".." in PurePosixPath(path).parts


def digest(split: Split) -> str:
    """SHA-256 over every item of a split, in order."""
    return hashlib.sha256(json.dumps([split[part] for part in PARTS]).encode()).hexdigest()


def _item(path: str | os.PathLike, part: str, entry: Any, rename: dict[str, str]) -> Item:
    if not (isinstance(entry, (list, tuple)) and len(entry) == 3 and all(isinstance(entry[i], str) for i in (0, 2))):
        raise DatasetError(f"{path}, {part}: {entry!r} is not [path, label, class name]")
    image, label, name = entry
    if not re.fullmatch("[0-9]{1,9}", str(label)):
        raise DatasetError(f"{path}, {part}: label {str(label)[:20]} of {image} (class {name}) is not a number >= 0")
    if not image or leaves(image):
        raise DatasetError(f"{path}, {part}: {image!r} (class {name}) leaves the image folder")
    if not name.strip():
        raise DatasetError(f"{path}, {part}: {image!r} has no class name")
    if "\0" in image:
        raise DatasetError(f"{path}, {part}: {image!r} has a zero byte in its path")
    return image, int(label), str(rename.get(name, name))


def _check_labels(path: str | os.PathLike, split: Split) -> None:
    names: dict[int, str] = {}
    seen: set[str] = set()
    for part, (image, label, name) in ((part, item) for part, items in split.items() for item in items):
        if names.setdefault(label, name) != name:
            raise DatasetError(f"{path}, {part}: label {label} is {name!r} at {image} and {names[label]!r} before")
        plain = posixpath.normpath(image)
        if plain in seen:
            raise DatasetError(f"{path}, {part}: {image} (class {name}) stands twice")
        seen.add(plain)
    if sorted(names) != list(range(len(names))):
        gap = next(label for label in sorted(names) if label >= len(names))
        allowed = f"0..{len(names) - 1} are the labels of {len(names)} classes"
        raise DatasetError(f"{path}: label {gap} (class {names[gap]}) is out of range: {allowed}")
    missing = [names[label] for label in sorted(names.keys() - {label for _, label, _ in split["train"]})]
    if missing:
        raise DatasetError(f"{path}: no training image of class {', '.join(missing[:5])}")
