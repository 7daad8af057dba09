"""Tables in text: the lines of a CSV, and lists of images with their classes.

path,label,split            a header; comma, semicolon or tab; UTF-8, with or without byte order mark
a/1.jpg,cat,train
"""

import csv
import os
import re
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from dicap.data.split import DatasetError, leaves

PART_NAMES = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}


class Row(NamedTuple):
    """One image: path below the image folder, class (its folder, or its label in the file), part ("" = none given)."""

    path: str
    key: str
    part: str = ""


def read_table(file: Path, folder: Path) -> list[Row]:
    """The rows of a CSV, sorted by path."""
    (_, header), *lines = read_lines(file)
    columns = [name.strip().lower() for name in header]
    if sorted(columns) not in (["label", "path"], ["label", "path", "split"]):
        raise DatasetError(
            f"{file}, line 1: the header is {', '.join(columns)}; expected path,label or path,label,split, by comma,"
            " semicolon or tab"
        )
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
    path, label, part = values["path"], values["label"], values.get("split")
    if not path or not label:
        raise DatasetError(f"{where}: path is {path!r} and label {label!r}; neither may be empty")
    if leaves(path) or "\0" in path:
        raise DatasetError(f"{where}: {path!r} is not a path below the image folder, written with / between folders")
    if part is not None and part.lower() not in PART_NAMES:
        raise DatasetError(f"{where}: split is {part!r}; allowed: {', '.join(PART_NAMES)}")
    return Row(str(PurePosixPath(path)), label, PART_NAMES[part.lower()] if part is not None else "")


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
    inside = os.path.join(root, "")
    parents: dict[str, str] = {}
    for path in paths:
        parent, name = os.path.split(os.path.join(root, path))
        if parent not in parents:
            parents[parent] = os.path.realpath(parent)
        target = os.path.join(parents[parent], name)
        if os.path.islink(target):
            target = os.path.realpath(target)
        if not f"{target}{os.sep}".startswith(inside):
            raise DatasetError(f"{file}: {path} leaves the image folder {folder}: a link leads to {target}")


def natural(key: str) -> tuple[int, str]:
    """Numbers by size, other names by their letters; upper case first."""
    return (int(key), key) if is_number(key) else (0, key)


def is_number(text: str) -> bool:
    return re.fullmatch(r"-?[0-9]+", text) is not None
