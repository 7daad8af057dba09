"""Few-shot draws kept beside the data, in split_fewshot/.

    shot_16-seed_1.json   ours: items by part, with paths below the image folder and the digest of the split. Index files
                          as others publish them ({"train": {"data": [{"impath", "label", "classname"}]}, ...}) count, too
    shot_16-seed_1.pkl    CoOp's: pickled lists of Datum with absolute paths. Where it fits the split it is used, over our
                          JSON, which is then written from it: who has old draws gets the samples of the old runs

A draw counts where its items stand in this split with the same labels and names, in the number that a draw holds. Another
one is left as it is (a JSON of ours or one that cannot be read is replaced), with the reason in the log, and drawn anew.
"""

import json
import logging
import pickle
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from dicap.data.split import Items, digest
from dicap.files import write_text

log = logging.getLogger(__name__)

Draw = dict[str, Items]
LARGEST = 256 * 2**20  # bytes; 16 shots of ImageNet's 1,000 classes are 2 MB


def load_draw(file: Path, split: dict[str, Items], wanted: dict[str, int]) -> Draw | None:
    """The draw kept as `file` (.json) or beside it (.pkl), None where there is none that counts.

    Args:
        wanted: items a class by part, where a class has as many.
    """
    pickled = file.with_suffix(".pkl")
    kept, stamp = _read_json(file), _stamp(pickled)
    drawn = _checked(file, lambda: kept, split, wanted) if kept is not None else None
    if stamp and not (drawn and kept and kept.get("pickle") == stamp):
        old = _checked(pickled, lambda: _unpickle(pickled), split, wanted)
        if old:
            log.info("%s: these samples of an earlier CoOp run are used", pickled)
            save_draw(file, split, old, pickle=stamp)
            return old
    return drawn


def save_draw(file: Path, split: dict[str, Items], drawn: Draw, **notes: Any) -> None:
    """Write a draw as JSON, atomically, not over an index file of others; a data folder that cannot be written is no error."""
    kept = _read_json(file)
    if kept is not None and "split" not in kept:
        return
    try:
        write_text(file, json.dumps({"split": digest(split), **notes, **drawn}))
    except OSError as error:
        log.warning("the few-shot draw is not cached: %s", error)


def _checked(file: Path, read: Any, split: dict[str, Items], wanted: dict[str, int]) -> Draw | None:
    """The draw that `read` gives, if it is one from this split; else a warning with the reason."""
    try:
        tree = read()
        if "split" in tree and tree["split"] != digest(split):
            raise ValueError("it belongs to another split")
        drawn = {part: _items(tree.get(part, []), split[part], part) if split[part] else [] for part in wanted}
        for part, count in wanted.items():
            _check_size(drawn[part], split[part], part, count)
        return drawn
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        log.warning("%s is not used: %s", file, error or type(error).__name__)
        return None


def _items(entries: Any, items: Items, part: str) -> Items:
    """The items of a split that `entries` name, by the end of their paths. Raises ValueError."""
    by_path = {item[0]: item for item in items}
    rows = entries["data"] if isinstance(entries, dict) else entries
    drawn = []
    for row in rows:
        path, label, name = (row["impath"], row["label"], row["classname"]) if isinstance(row, dict) else row
        item = next((by_path[end] for end in _ends(path) if end in by_path), None)
        if item is None:
            raise ValueError(f"{path} is no image of the split's {part}")
        if item[1:] != (label, name):
            raise ValueError(f"{path} is class {label} {name!r} there and {item[1]} {item[2]!r} in the split")
        drawn.append(item)
    return drawn


def _ends(path: str) -> Iterable[str]:
    """a/b/c.jpg, b/c.jpg, c.jpg"""
    parts = path.replace("\\", "/").split("/")
    return ("/".join(parts[start:]) for start in range(len(parts)))


def _check_size(drawn: Items, items: Items, part: str, count: int) -> None:
    if len(set(drawn)) < len(drawn):
        raise ValueError(f"an image stands twice in {part}")
    sizes = Counter(label for _, label, _ in items)
    found = Counter(label for _, label, _ in drawn)
    wrong = next((label for label, size in sizes.items() if found[label] != min(count, size)), None)
    if wrong is not None:
        raise ValueError(f"{part} has {found[wrong]} images of class {wrong}, a draw has {min(count, sizes[wrong])}")


def _read_json(file: Path) -> dict | None:
    try:
        tree = json.loads(file.read_text(encoding="utf-8"))
        if isinstance(tree, dict):
            return tree
        raise ValueError("not a mapping")
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError) as error:
        log.warning("%s is not used: not a few-shot draw (%s)", file, error)
        return None


def _stamp(file: Path) -> list[int] | None:
    """Size in bytes and time in nanoseconds: whether a pickle is the one that was imported."""
    try:
        found = file.stat()
    except OSError:
        return None
    return [found.st_size, found.st_mtime_ns]


class _DrawUnpickler(pickle.Unpickler):
    """Plain values and Datum objects, these as bare objects without code; any other name in the pickle is refused."""

    def find_class(self, module: str, name: str) -> type:
        if name != "Datum":
            raise pickle.UnpicklingError(f"it names {module}.{name}, and a draw holds nothing but Datum")
        return type("Datum", (), {})  # a new one each time: a pickle may set attributes of what it gets


def _unpickle(file: Path) -> dict[str, list[tuple[str, int, str]]]:
    """CoOp's pickled draw as (path, label, class name) by part. Raises ValueError; runs nothing of the file."""
    if file.stat().st_size > LARGEST:
        raise ValueError(f"it is larger than a draw can be ({file.stat().st_size} bytes)")
    try:
        with open(file, "rb") as stream:
            tree = _DrawUnpickler(stream).load()
        return {
            part: [(d["_impath"], d["_label"], d["_classname"]) for d in map(vars, data)] for part, data in tree.items()
        }
    except Exception as error:  # a damaged pickle may fail in any way; nothing of it has run
        raise ValueError(f"no pickled draw of CoOp ({type(error).__name__}: {error})") from error
