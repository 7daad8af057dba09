"""Tables in text: the lines of a CSV, lists of images with their classes, and lists of class names.

path,label,split            images: a header; comma, semicolon or tab; UTF-8, with or without byte order mark
a/1.jpg,cat,train
accordion,squeeze box       names: folder,name (or number,name) on every line, or a name on every line, for the
                            classes in order
"""

import csv
import difflib
import logging
import os
import re
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from dicap.data.split import DatasetError, leaves
from dicap.options import ConfigError
from dicap.wording import readable

log = logging.getLogger(__name__)

PART_NAMES = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}


class Row(NamedTuple):
    """One image: path below the image folder, class (its folder, or its label in the file), part ("" = none given)."""

    path: str
    key: str
    part: str = ""


def read_table(file: Path, folder: Path) -> list[Row]:
    """The rows of a CSV, sorted by path. Raises DatasetError that names the line."""
    (_, header), *lines = read_lines(file)
    columns = [name.strip().lower() for name in header]
    if sorted(columns) not in (["label", "path"], ["label", "path", "split"]):
        wanted = "path,label or path,label,split, by comma, semicolon or tab"
        raise DatasetError(f"{file}, line 1: the header is {', '.join(columns)}; expected {wanted}")
    rows: dict[str, Row] = {}
    for number, values in lines:
        if len(values) != len(columns):
            raise DatasetError(f"{file}, line {number}: {len(values)} values under {len(columns)} columns: {values}")
        row = _row(dict(zip(columns, map(str.strip, values))), f"{file}, line {number}")
        if row.path in rows:
            raise DatasetError(f"{file}, line {number}: {row.path} stands twice")
        rows[row.path] = row
    if not rows:
        raise DatasetError(f"{file} lists no image")
    check_inside(rows, folder, file)
    numbers = all(is_number(row.key) for row in rows.values())
    return [row._replace(key=str(int(row.key))) if numbers else row for _, row in sorted(rows.items())]


def _row(values: dict[str, str], where: str) -> Row:
    path, label, part = values["path"], values["label"], values.get("split", "").lower()
    if not path or not label:
        raise DatasetError(f"{where}: path is {path!r} and label {label!r}; neither may be empty")
    if leaves(path) or "\0" in path:
        raise DatasetError(f"{where}: {path!r} is not a path below the image folder, written with / between folders")
    if "split" in values and part not in PART_NAMES:
        raise DatasetError(f"{where}: split is {values['split']!r}; allowed: {', '.join(PART_NAMES)}")
    return Row(str(PurePosixPath(path)), label, PART_NAMES.get(part, ""))


def read_lines(file: Path) -> list[tuple[int, list[str]]]:
    """(line number, values) of a table's lines that are not empty; the first line's separator is that of all."""
    try:
        with open(file, encoding="utf-8-sig", newline="") as text:
            first = text.readline()
            text.seek(0)
            reader = csv.reader(text, delimiter=max(",;\t", key=first.count), strict=True, skipinitialspace=True)
            lines = [(reader.line_num, values) for values in reader if any(map(str.strip, values))]
    except UnicodeDecodeError as error:
        raise DatasetError(f"{file} is not UTF-8 ({error.reason} at byte {error.start}); save it as UTF-8") from error
    except csv.Error as error:
        raise DatasetError(f"{file} is not a CSV: {error}") from error
    except OSError as error:
        raise DatasetError(f"{file} cannot be read: {error.strerror}") from error
    if not lines:
        raise DatasetError(f"{file} is empty")
    return lines


def check_inside(paths: Iterable[str], folder: Path, file: Path) -> None:
    """Refuse paths that leave the image folder by a link; a CSV or JSON may come from anyone."""
    root = os.path.realpath(folder)
    for path in paths:
        target = os.path.realpath(os.path.join(root, path))
        if not target.startswith(os.path.join(root, "")):
            raise DatasetError(f"{file}: {path} leaves the image folder {folder}: a link leads to {target}")


def natural(key: str) -> tuple[int, str]:
    """Numbers by size, other names by their letters; upper case first."""
    return (int(key), key) if is_number(key) else (0, key)


def is_number(text: str) -> bool:
    return re.fullmatch(r"-?[0-9]+", text) is not None


def class_names(keys: list[str], file: str, path: Path, numbered: bool = False) -> list[str]:
    """Class names as they are prompted, in the order of the keys; no two alike to CLIP, which reads lower case.

    Args:
        keys: folders or labels; numbered: all are numbers.
        file: of names, "" = the keys themselves.
        path: of the data, for messages.
    """
    if numbered and not file:
        hint = "with DATASET.FOLDER.NAMES, a file with a name a line for 0, 1, 2 ... or number,name lines"
        raise DatasetError(f"{path}: labels are numbers; name the classes {hint}")
    names = _read_names(keys, Path(os.path.expanduser(file)), numbered) if file else keys
    seen: dict[str, str] = {}
    for key, name in zip(keys, names):
        plain = " ".join(readable(name).lower().split())
        if not plain or not plain.isprintable():
            what = f"the name {name!r}, which cannot be printed" if plain else "no name to prompt with"
            raise DatasetError(f"{path}: class {key!r} has {what}; give one in DATASET.FOLDER.NAMES")
        if plain in seen:
            both = f"the classes {seen[plain]!r} and {key!r} have one name in prompts, {plain!r}"
            raise DatasetError(f"{path}: {both}; tell them apart in DATASET.FOLDER.NAMES, or merge them")
        seen[plain] = key
    if not file and all(map(is_number, keys)):
        log.warning("%s: the class names are numbers; DATASET.FOLDER.NAMES gives names that CLIP knows", path)
    return list(names)


def _read_names(keys: list[str], file: Path, numbered: bool) -> list[str]:
    if not file.is_file():
        raise ConfigError(f"DATASET.FOLDER.NAMES: no file {file}")
    lines = [(number, [value.strip() for value in values]) for number, values in read_lines(file)]
    width = len(lines[0][1])
    for number, values in lines:
        if len(values) != width or width > 2 or not all(values):
            wanted = 'a name on every line, or folder,name on every line; a name with a comma stands in "quotes"'
            raise DatasetError(f"{file}, line {number}: {values}; expected {wanted}")
    if width == 1:
        return _listed_names(keys, [name for _, (name,) in lines], file, numbered)
    pairs: dict[str, str] = {}
    for number, (key, name) in lines:
        key = str(int(key)) if numbered and is_number(key) else key
        if key in pairs:
            raise DatasetError(f"{file}, line {number}: {key!r} stands twice")
        pairs[key] = name
    for key in keys:
        if key not in pairs:
            near = "".join(f"; {name!r} is near" for name in difflib.get_close_matches(key, pairs, n=1))
            what = "label" if numbered else "class"
            raise DatasetError(f"{file}: no line for {what} {key!r}{near}. It must name every class")
    if set(pairs) - set(keys):
        log.warning("%s names classes without images: %s", file, ", ".join(sorted(set(pairs) - set(keys))[:5]))
    return [pairs[key] for key in keys]


def _listed_names(keys: list[str], names: list[str], file: Path, numbered: bool) -> list[str]:
    """Names of a plain list: by number where labels are numbers, else one for each class in order."""
    if numbered:
        numbers, labels = range(len(names)), set(map(int, keys))
        for label in sorted(labels.difference(numbers)):
            there = f"{file} has {len(names)} names, for 0..{len(names) - 1}"
            raise DatasetError(f"label {label} is out of range: {there}; number,name lines name any numbers")
        for label in sorted(set(numbers) - labels):
            way = "number,name lines may leave it out"
            raise DatasetError(f"{file}: class {label} ({names[label]}) has no image; {way}")
    elif len(names) != len(keys):
        first = f"{', '.join(keys[:5])}{' ...' if len(keys) > 5 else ''}"
        problem = f"{file} has {len(names)} names for {len(keys)} classes, which are, in order: {first}"
        raise DatasetError(f"{problem}; folder,name lines are safer than a list")
    return names
