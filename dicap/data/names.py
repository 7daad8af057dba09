"""Class names as they are prompted: the folders' or labels' own, or those of a file.

accordion,squeeze box       folder,name (or number,name) on every line, or
squeeze box                 a name on every line, for the classes in order
"""

import difflib
import logging
import os
from pathlib import Path

from dicap.data.split import DatasetError
from dicap.data.table import is_number, read_lines
from dicap.options import ConfigError
from dicap.wording import readable

log = logging.getLogger(__name__)


def class_names(keys: list[str], file: str, path: Path, numbered: bool = False) -> list[str]:
    """Class names as they are prompted, in the order of the keys; no two alike to CLIP, which reads lower case."""
    if numbered and not file:
        raise DatasetError(
            f"{path}: labels are numbers; name the classes with DATASET.FOLDER.NAMES, a file with a name a line"
            " for 0, 1, 2 ... or number,name lines"
        )
    names = _read_names(keys, Path(os.path.expanduser(file)), numbered) if file else keys
    seen: dict[str, str] = {}
    for key, name in zip(keys, names):
        plain = " ".join(readable(name).lower().split())
        if not plain or not plain.isprintable():
            what = f"the name {name!r}, which cannot be printed" if plain else "no name to prompt with"
            raise DatasetError(f"{path}: class {key!r} has {what}; give one in DATASET.FOLDER.NAMES")
        if plain in seen:
            raise DatasetError(
                f"{path}: the classes {seen[plain]!r} and {key!r} have one name in prompts, {plain!r}; tell them"
                " apart in DATASET.FOLDER.NAMES, or merge them"
            )
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
            raise DatasetError(
                f"{file}, line {number}: {values}; expected a name on every line, or folder,name on every line;"
                ' a name with a comma stands in "quotes"'
            )
    if width == 1:
        return _listed_names(keys, [values[0] for _, values in lines], file, numbered)
    pairs: dict[str, str] = {}
    for number, (key, name) in lines:
        key = str(int(key)) if numbered and is_number(key) else key
        if key in pairs:
            raise DatasetError(f"{file}, line {number}: {key!r} stands twice")
        pairs[key] = name
    for key in keys:
        if key not in pairs:
            near = difflib.get_close_matches(key, pairs, n=1)
            raise DatasetError(
                f"{file}: no line for {'label' if numbered else 'class'} {key!r}"
                f"{f'; {near[0]!r} is near' if near else ''}. It must name every class"
            )
    if set(pairs) - set(keys):
        log.warning("%s names classes without images: %s", file, ", ".join(sorted(set(pairs) - set(keys))[:5]))
    return [pairs[key] for key in keys]


def _listed_names(keys: list[str], names: list[str], file: Path, numbered: bool) -> list[str]:
    """Names of a plain list: by number where labels are numbers, else one for each class in order."""
    if numbered:
        outside = [key for key in keys if not 0 <= int(key) < len(names)]
        if outside:
            raise DatasetError(
                f"label {outside[0]} is out of range: {file} has {len(names)} names, for 0..{len(names) - 1};"
                " number,name lines name any numbers"
            )
        unused = sorted(set(range(len(names))) - set(map(int, keys)))
        if unused:
            raise DatasetError(
                f"{file}: class {unused[0]} ({names[unused[0]]}) has no image; leave it out with number,name lines"
            )
    elif len(names) != len(keys):
        raise DatasetError(
            f"{file} has {len(names)} names for {len(keys)} classes, which are, in order: {', '.join(keys[:5])}"
            f"{' ...' if len(keys) > 5 else ''}; folder,name lines are safer than a list"
        )
    return names
