"""A split by ratio, made once and kept: later runs, other seeds and other methods use the same one.

Kept in CoOp's form (split.py), with the classes as they were; ratio and seed are in the file's name. Each class is split by
itself, with a generator of its own: another class leaves it as it is.
"""

import json
import logging
import random
from pathlib import Path

from dicap.data.split import PARTS, DatasetError, read_split
from dicap.files import write_text
from dicap.options import ConfigError

log = logging.getLogger(__name__)

Ratio = tuple[float, float, float]
Paths = dict[str, list[str]]  # by part


def read_ratio(text: str, key: str) -> Ratio:
    """Shares of train, val and test from a text such as "0.5 0.2 0.3". Raises ConfigError that names the key."""
    try:
        train, val, test = (float(word) for word in text.replace(",", " ").split())
    except ValueError:
        train = val = test = -1.0
    if not (train > 0 and val >= 0 and test > 0 and abs(train + val + test - 1) < 1e-6):
        wanted = 'the shares of train, val and test, which sum to 1, such as "0.5 0.2 0.3"; val may be 0'
        raise ConfigError(f"{key} is {text!r}; expected {wanted}")
    return train, val, test


def split_by_ratio(classes: dict[str, str], ratio: Ratio, seed: int) -> Paths:
    """Paths by part: the shares of each class, to the nearest image, and at least one where the share is not 0.

    Args:
        classes: path -> class.
    Raises DatasetError: a class has fewer images than there are parts; names it and its count.
    """
    by_class: dict[str, list[str]] = {name: [] for name in sorted(set(classes.values()))}
    for path in sorted(classes):
        by_class[classes[path]].append(path)
    least = sum(share > 0 for share in ratio)
    small = [f"{name!r} has {len(paths)}" for name, paths in by_class.items() if len(paths) < least]
    if small:
        names = ", ".join(small[:5]) + (f" and {len(small) - 5} more classes" if len(small) > 5 else "")
        way = "add images, remove the class, or set val's share in DATASET.FOLDER.SPLIT to 0"
        raise DatasetError(f"too few images to split a class into {least} parts: {names}; {way}")
    split: Paths = {part: [] for part in PARTS}
    for name, paths in by_class.items():
        shuffled = random.Random(f"{seed} {name}").sample(paths, len(paths))
        for part, count in zip(PARTS, _sizes(len(paths), ratio)):
            split[part] += sorted(shuffled[:count])
            shuffled = shuffled[count:]
    return split


def kept_split(classes: dict[str, str], files: list[Path]) -> Paths | None:
    """The split in the first of `files` that is there, None where none is.

    Raises DatasetError: a file of another form, or images of the split are gone.
    """
    file = next((file for file in files if file.is_file()), None)
    if file is None:
        return None
    try:
        split = read_split(file)
    except DatasetError as error:
        raise DatasetError(f"{error}; or delete it for a new split") from None
    then = {path: name for part in PARTS for path, _, name in split[part]}
    gone, added = sorted(then.keys() - classes), sorted(classes.keys() - then)
    again = f"delete {file} to split all images anew: results before and after do not compare"
    if gone:
        raise DatasetError(f"{len(gone)} images of the split are gone: {', '.join(gone[:5])}; restore them, or {again}")
    if added:
        names = ", ".join(added[:5] + (["..."] if len(added) > 5 else []))
        log.warning("%d images are new since the split was made and are NOT used: %s; %s", len(added), names, again)
    elif then != classes:
        log.warning("images have another class than when the split was made; they stay in their part (or %s)", again)
    return {part: [path for path, _, _ in split[part]] for part in PARTS}


def keep_split(split: Paths, classes: dict[str, str], files: list[Path]) -> None:
    """Write a split to the first of `files` that can be written; none is a warning."""
    labels = {name: label for label, name in enumerate(sorted(set(classes.values())))}
    tree = {part: [(path, labels[classes[path]], classes[path]) for path in split[part]] for part in PARTS}
    for file in files:
        try:
            write_text(file, json.dumps(tree))
        except OSError:
            continue
        log.info("the split (train %d, val %d, test %d) is kept in %s", *(len(split[part]) for part in PARTS), file)
        return
    places = " or ".join(map(str, files))
    log.warning("the split cannot be kept in %s: where images are added, the next run makes another one", places)


def _sizes(count: int, ratio: Ratio) -> list[int]:
    """Images of each part: one each, then always the part that is furthest behind its share."""
    sizes = [int(share > 0) for share in ratio]
    for _ in range(count - sum(sizes)):
        behind = [share * count - size for share, size in zip(ratio, sizes)]
        sizes[behind.index(max(behind))] += 1
    return sizes
