"""Which items of a split a run sees: the few-shot draw, base and new classes, class hold-out.

few-shot draw   classes in the order of their first item, random.sample(items, n) each with the run's seed; train first,
                then val with min(n, 4); over all classes, before base and new are separated: CoOp's draw
base and new    labels sorted, the first ceil(n / 2) are base, the rest new, relabelled from 0

A draw has its own generator, so a run does not depend on whether one is kept beside the data, in split_fewshot/: as JSON of ours,
an index file of others ({"train": {"data": [{"impath", "label", "classname"}]}}), or CoOp's pickle, which is used over our JSON.
A kept draw counts where its items stand in this split with the same labels and names, in the number that a draw holds. Another
one is left as it is (a JSON of ours, or one that cannot be read, is replaced), with the reason in the log, and drawn anew.
A negative seed draws anew each time and keeps nothing.
"""

import contextlib
import io
import json
import logging
import math
import pickle
import random
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from dicap.data.split import PARTS, DatasetError, Items, Split, by_label, digest, read_json
from dicap.files import write_text
from dicap.inert import check_pickle

log = logging.getLogger(__name__)

LARGEST = 32 * 2**20  # bytes of a pickle; 16 shots of ImageNet's 1,000 classes are 2 MB
PATH = 4096  # characters of a path that are looked at, its last ones


def few_shot(split: Split, shots: int, seed: int, cache: Path | None = None) -> Split:
    """`shots` items a class of train and min(shots, 4) of val, as CoOp draws them; test stays.

    Args:
        cache: folder of the kept draws; None = none is read or written.
    """
    wanted = {"train": shots, "val": min(shots, 4)}
    file = cache / f"shot_{shots}-seed_{seed}.json" if cache and seed >= 0 else None
    drawn = _load_draw(file, split, wanted) if file else None
    if drawn is None:
        rng = random.Random(seed) if seed >= 0 else random.Random()
        drawn = {part: _draw(split[part], count, rng) for part, count in wanted.items()}
        if file:
            _save_draw(file, split, drawn, shots=shots, seed=seed)
    return {**drawn, "test": split["test"]}


def subsample(split: Split, classes: str) -> Split:
    """Keep the "base" or "new" half of the classes, relabelled from 0; "all" keeps everything. Raises DatasetError."""
    if classes == "all":
        return split
    if classes not in ("base", "new"):
        raise DatasetError(f"DATASET.SUBSAMPLE_CLASSES is {classes!r}; allowed: all, base, new")
    labels = sorted({label for _, label, _ in split["train"]})
    half = math.ceil(len(labels) / 2)
    number = {label: i for i, label in enumerate(labels[:half] if classes == "base" else labels[half:])}
    return {part: [(p, number[y], name) for p, y, name in split[part] if y in number] for part in PARTS}


def hold_out(split: Split, classes: str, folds: int, fold: int, seed: int) -> Split:
    """Base and new classes for the choice of settings, made of the training shots of the base classes alone.

    By the seed, the base classes are dealt into `folds` parts and a quarter of each class's shots (at least one) is kept
    back. The part `fold` plays the new classes, the others the base classes. No test or validation image and no new
    class takes part: the validation shots show the same ties of scene to class as the training shots.

    Args:
        split: after the few-shot draw, all classes.
        classes: "base": train on what is not kept back, test on what is; "new": test on every shot (train, the same
            without what is kept back, names the classes).
        folds, fold: 1 <= fold <= folds <= half the number of base classes.

    Raises DatasetError: a value outside of these, no seed, or a class with a single shot.
    """
    shots = by_label(subsample(split, "base")["train"])
    _check_hold_out(shots, classes, folds, fold, seed)
    rng = random.Random(seed)
    order = rng.sample(sorted(shots), len(shots))
    kept_back = {item for label in sorted(shots) for item in rng.sample(shots[label], max(1, len(shots[label]) // 4))}
    new = set(order[fold - 1 :: folds])
    chosen = sorted(new if classes == "new" else set(shots) - new)
    items = {item: (item[0], i, item[2]) for i, label in enumerate(chosen) for item in shots[label]}
    train = [relabelled for item, relabelled in items.items() if item not in kept_back]
    test = [relabelled for item, relabelled in items.items() if item in kept_back or classes == "new"]
    return {"train": train, "val": [], "test": test}


def _check_hold_out(shots: dict[int, Items], classes: str, folds: int, fold: int, seed: int) -> None:
    most, key = len(shots) // 2, "DATASET.HOLDOUT_FOLDS"
    if not 2 <= folds <= most:
        raise DatasetError(f"{key} is {folds}; with {len(shots)} base classes 2 to {most}: a fold needs two classes")
    if not 1 <= fold <= folds:
        raise DatasetError(f"DATASET.HOLDOUT_FOLD is {fold}; allowed: 1 to {folds} ({key})")
    if classes not in ("base", "new"):
        raise DatasetError(f"DATASET.SUBSAMPLE_CLASSES is {classes!r}; with {key} base or new is allowed")
    if seed < 0:
        raise DatasetError(f"SEED is {seed}; {key} needs one from 0: every run must draw the same folds")
    single = next((items[0][2] for items in shots.values() if len(items) < 2), None)
    if single is not None:
        problem = f"{key} keeps one shot of each class back, but {single!r} has a single one"
        raise DatasetError(f"{problem}: DATASET.NUM_SHOTS must be 2 or more")


def _draw(items: Items, count: int, rng: random.Random) -> Items:
    drawn = [rng.sample(group, count) if len(group) >= count else group for group in by_label(items).values()]
    return [item for group in drawn for item in group]


def _load_draw(file: Path, split: Split, wanted: dict[str, int]) -> Split | None:
    """The draw kept as `file` (.json) or beside it (.pkl), None where there is none that counts."""
    pickled = file.with_suffix(".pkl")
    drawn, old = _checked(file, read_json, split, wanted), _checked(pickled, _unpickle, split, wanted)
    if old and old != drawn:
        log.info("%s: these samples of an earlier CoOp run are used", pickled)
        _save_draw(file, split, old)
    return old or drawn


def _save_draw(file: Path, split: Split, drawn: Split, **notes: Any) -> None:
    """Write a draw as JSON, not over an index file of others; a data folder that cannot be written is no error."""
    with contextlib.suppress(DatasetError):
        if "split" not in read_json(file):
            return
    try:
        write_text(file, json.dumps({"split": digest(split), **notes, **drawn}))
    except OSError as error:
        log.warning("the few-shot draw is not cached: %s", error)


def _checked(file: Path, read: Callable[[Path], Any], split: Split, wanted: dict[str, int]) -> Split | None:
    """The draw that `read` gives, if it is one from this split; else, where there is a file, a warning with the reason.

    Args:
        wanted: items a class by part, where a class has as many.
    """
    if not file.exists():
        return None
    try:
        tree = read(file)
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
    drawn = []
    for row in entries["data"] if isinstance(entries, dict) else entries:
        path, label, name = (row["impath"], row["label"], row["classname"]) if isinstance(row, dict) else row
        if not (isinstance(path, str) and isinstance(label, int) and isinstance(name, str)):
            raise ValueError(f"an entry of {part} is not path, label, class name")
        path = path[-PATH:]
        folders = path.replace("\\", "/").split("/")
        ends = ("/".join(folders[start:]) for start in range(len(folders)))  # a/b/c.jpg, b/c.jpg, c.jpg
        item = next((by_path[end] for end in ends if end in by_path), None)
        if item is None:
            raise ValueError(f"{path} is no image of the split's {part}")
        if item[1:] != (label, name):
            raise ValueError(f"{path} is class {label} {name!r:.99} there and {item[1]} {item[2]!r} in the split")
        drawn.append(item)
    return drawn


def _check_size(drawn: Items, items: Items, part: str, count: int) -> None:
    if len(set(drawn)) < len(drawn):
        raise ValueError(f"an image stands twice in {part}")
    there = Counter(label for _, label, _ in drawn)
    for label, size in Counter(label for _, label, _ in items).items():
        if there[label] != min(count, size):
            raise ValueError(f"{part} has {there[label]} images of class {label}, a draw has {min(count, size)}")


class _DrawUnpickler(pickle.Unpickler):
    """Plain values and Datum objects, these as bare objects without code; any other name in the pickle is refused."""

    def find_class(self, module: str, name: str) -> type:
        if name != "Datum":
            raise pickle.UnpicklingError(f"it names {module}.{name}, and a draw holds nothing but Datum")
        return type("Datum", (), {})  # a new one each time: a pickle may set attributes of what it gets


def _unpickle(file: Path) -> dict[str, list[tuple]]:
    """CoOp's pickled draw as (path, label, class name) by part. Raises ValueError; runs nothing of the file."""
    if file.stat().st_size > LARGEST:
        raise ValueError(f"it is larger than a draw can be ({file.stat().st_size} bytes)")
    try:
        stream = io.BytesIO(file.read_bytes())
        check_pickle(stream)
        tree = _DrawUnpickler(stream).load()
        keys = ("_impath", "_label", "_classname")
        return {part: [tuple(vars(datum)[key] for key in keys) for datum in data] for part, data in tree.items()}
    except Exception as error:  # a damaged pickle may fail in any way; nothing of it has run
        raise ValueError(f"no pickled draw of CoOp ({type(error).__name__}: {error})") from error
