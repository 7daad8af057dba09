"""What the datasets share: CoOp's data folders, read, checked, drawn for few shots and split into base and new classes.

A dataset file states facts (see caltech101.py); this file does the reading, once:

    split JSON      {"train" | "val" | "test": [[path below the image folder, label, class name], ...]}
    few-shot draw   classes in the order of their first item, random.sample(items, n) each with the run's seed; train
                    first, then val with min(n, 4); over all classes, before base and new are separated: CoOp's draw
    base and new    labels sorted, the first ceil(n / 2) are base, the rest new, relabelled from 0
    class hold-out  DATASET.HOLDOUT_FOLDS: base and new are parts of the base classes, from their training shots alone

The draw has its own generator, so a run does not depend on whether a draw was cached. The cache is JSON beside the
data (split_fewshot/shot_16-seed_1.json). It counts where it belongs to this split and holds the right number of items
of every class; another one is drawn again, with a warning. A negative seed draws anew each time and caches nothing.
"""

import functools
import hashlib
import json
import logging
import math
import os
import random
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from dassl.data.datasets import DatasetBase, Datum

from dicap.files import write_text

log = logging.getLogger(__name__)
Item = tuple[str, int, str]  # path below the image folder, label, class name
Items = list[Item]
PARTS = ("train", "val", "test")


class Drive(NamedTuple):
    """A file that can be fetched from Google Drive."""

    file: str
    id: str


class DatasetError(ValueError):
    """Data that cannot be used; the message names the file, the class or item, and the way out."""


class FewShotDataset(DatasetBase):
    """A dataset from a split file. Subclasses state facts; `locate` and `read` are there to be overridden.

    Args:
        cfg: reads DATASET.ROOT, DATASET.NUM_SHOTS (< 1: all), DATASET.SUBSAMPLE_CLASSES, DATASET.HOLDOUT_FOLDS,
            DATASET.HOLDOUT_FOLD and SEED.

    Raises:
        DatasetError: missing root, folder, split file or image; a split file that breaks the rules or the counts.
    """

    folder = ""  # below DATASET.ROOT
    images = "images"  # below the folder; "" where paths are relative to the folder
    split_file: str | Drive = ""
    counts: tuple[int, int, int, int] | None = None  # classes, train, val, test: checked on load
    template = "a photo of a {}."  # of the zero-shot method; learned prompts do not use it
    rename: dict[str, str] = {}  # class names as they are prompted, by the names on disk

    def __init__(self, cfg: Any):
        self.dataset_dir = str(self.locate(cfg))
        self.image_dir = os.path.join(self.dataset_dir, self.images) if self.images else self.dataset_dir
        split = self.read(cfg)
        self.check_counts(split)
        shots = cfg.DATASET.NUM_SHOTS
        if shots >= 1:
            split = few_shot(split, shots, cfg.SEED, Path(self.dataset_dir) / "split_fewshot")
        classes, folds = getattr(cfg.DATASET, "SUBSAMPLE_CLASSES", "all"), getattr(cfg.DATASET, "HOLDOUT_FOLDS", 0)
        split = hold_out(split, classes, folds, cfg.DATASET.HOLDOUT_FOLD, cfg.SEED) if folds else subsample(split, classes)
        check_images(split, self.image_dir)
        self.groups = {self.path(item): name for item, name in self.group(split["test"]).items()}
        train, val, test = ([Datum(self.path(item), item[1], 0, item[2]) for item in split[part]] for part in PARTS)
        super().__init__(train_x=train, val=val, test=test)

    def locate(self, cfg: Any) -> Path:
        """The dataset's folder."""
        if not cfg.DATASET.ROOT:
            raise DatasetError(
                f"{type(self).__name__} needs a data folder: give --root (DATASET.ROOT), the one with {self.folder}/"
            )
        folder = Path(cfg.DATASET.ROOT).expanduser().absolute() / self.folder
        if not folder.is_dir():
            raise DatasetError(f"{type(self).__name__}: folder not found: {folder}; is --root right?")
        return folder

    def read(self, cfg: Any) -> dict[str, Items]:
        """All items by part, with class names as they are prompted."""
        name = self.split_file.file if isinstance(self.split_file, Drive) else self.split_file
        path = Path(self.dataset_dir) / name
        if not path.is_file() and isinstance(self.split_file, Drive):
            raise DatasetError(f"split file not found: {path}; get it with: gdown {self.split_file.id} -O {path}")
        return read_split(path, self.rename)

    def group(self, test: Items) -> dict[Item, str]:
        """Test items by group, for accuracies by group; none here."""
        return {}

    def path(self, item: Item) -> str:
        """The absolute path of an item's image."""
        return os.path.join(self.image_dir, item[0])

    def check_counts(self, split: dict[str, Items]) -> None:
        """Compare with `counts`. Raises DatasetError."""
        found = (len({label for part in PARTS for _, label, _ in split[part]}), *(len(split[part]) for part in PARTS))
        if self.counts is not None and found != tuple(self.counts):
            raise DatasetError(f"{type(self).__name__} in {self.dataset_dir}: classes/train/val/test are {found},"
                               f" expected {tuple(self.counts)}; this is not the benchmark's split")  # fmt: skip


def read_split(path: str | os.PathLike, rename: dict[str, str] | None = None) -> dict[str, Items]:
    """Read CoOp's split JSON.

    Raises:
        DatasetError: missing or broken file, unknown part, an item of another form, a label with two names, labels
            that are not 0..n-1, a path that leaves the image folder or stands twice.
    """
    try:
        found = os.stat(path)
    except OSError:
        raise DatasetError(f"split file not found: {path}") from None
    split = _read_split(os.fspath(path), tuple((rename or {}).items()), found.st_mtime_ns, found.st_size)
    return {part: list(items) for part, items in split.items()}


@functools.lru_cache(maxsize=4)  # the runs of one process read few files again and again
def _read_split(path: str, rename: tuple[tuple[str, str], ...], time: int, size: int) -> dict[str, Items]:
    try:
        with open(path, encoding="utf-8") as file:
            tree = json.load(file)
    except (OSError, ValueError) as error:
        raise DatasetError(f"{path} cannot be read as JSON ({error}); restore it from its source") from error
    if not isinstance(tree, dict) or set(tree) != set(PARTS):
        keys = sorted(tree) if isinstance(tree, dict) else type(tree).__name__
        raise DatasetError(f"{path} must hold exactly train, val and test; it holds {keys}")
    names = dict(rename)
    split = {part: [_item(path, part, entry, names) for entry in tree[part]] for part in PARTS}
    _check_labels(path, split)
    return split


def few_shot(split: dict[str, Items], shots: int, seed: int, cache: Path | None = None) -> dict[str, Items]:
    """`shots` items a class of train and min(shots, 4) of val, as CoOp draws them; test stays.

    Args:
        cache: folder of the cached draws; None = no cache.
    """
    wanted = {"train": shots, "val": min(shots, 4)}
    file = cache / f"shot_{shots}-seed_{seed}.json" if cache and seed >= 0 else None
    drawn = _read_cache(file, split, wanted) if file else None
    if drawn is None:
        rng = random.Random(seed) if seed >= 0 else random.Random()
        drawn = {part: _draw(split[part], count, rng) for part, count in wanted.items()}
        if file:
            _write_cache(file, split, drawn, shots, seed)
    return {**drawn, "test": split["test"]}


def subsample(split: dict[str, Items], classes: str) -> dict[str, Items]:
    """Keep the "base" or "new" half of the classes, relabelled from 0; "all" keeps everything. Raises DatasetError."""
    if classes == "all":
        return split
    if classes not in ("base", "new"):
        raise DatasetError(f"DATASET.SUBSAMPLE_CLASSES is {classes!r}; allowed: all, base, new")
    labels = sorted({label for _, label, _ in split["train"]})
    half = math.ceil(len(labels) / 2)
    number = {label: i for i, label in enumerate(labels[:half] if classes == "base" else labels[half:])}
    return {part: [(p, number[y], name) for p, y, name in split[part] if y in number] for part in PARTS}


def hold_out(split: dict[str, Items], classes: str, folds: int, fold: int, seed: int) -> dict[str, Items]:
    """Base and new classes for the choice of settings, made of the training shots of the base classes alone.

    By the seed, the base classes are dealt into `folds` parts and a quarter of each class's shots (at least one) is kept
    back. The part `fold` plays the new classes, the others the base classes. No test or validation image and no new
    class takes part: the validation shots show the same ties of scene to class as the training shots.

    Args:
        split: after the few-shot draw, all classes.
        classes: "base": train on what is not kept back, test on what is; "new": test on every shot (train, the same
            without what is kept back, names the classes).
        folds, fold: 1 <= fold <= folds <= half the number of base classes.

    Raises:
        DatasetError: a value outside of these, no seed, or a class with a single shot.
    """
    shots: dict[int, Items] = {}
    for item in subsample(split, "base")["train"]:
        shots.setdefault(item[1], []).append(item)
    _check_hold_out(shots, classes, folds, fold, seed)
    rng = random.Random(seed)
    order = rng.sample(sorted(shots), len(shots))
    kept_back = {item for label in sorted(shots) for item in rng.sample(shots[label], max(1, len(shots[label]) // 4))}
    new = set(order[fold - 1 :: folds])
    chosen = sorted(new if classes == "new" else set(shots) - new)
    number = {label: i for i, label in enumerate(chosen)}
    train: Items = []
    test: Items = []
    for item in (item for label in chosen for item in shots[label]):
        relabelled = (item[0], number[item[1]], item[2])
        if item not in kept_back:
            train.append(relabelled)
        if item in kept_back or classes == "new":
            test.append(relabelled)
    return {"train": train, "val": [], "test": test}


def _check_hold_out(shots: dict[int, Items], classes: str, folds: int, fold: int, seed: int) -> None:
    most = len(shots) // 2
    if not 2 <= folds <= most:
        raise DatasetError(f"DATASET.HOLDOUT_FOLDS is {folds}; with {len(shots)} base classes 2 to {most} are allowed: "
                           "each fold needs two classes")  # fmt: skip
    if not 1 <= fold <= folds:
        raise DatasetError(f"DATASET.HOLDOUT_FOLD is {fold}; allowed: 1 to {folds} (DATASET.HOLDOUT_FOLDS)")
    if classes not in ("base", "new"):
        raise DatasetError(f"DATASET.SUBSAMPLE_CLASSES is {classes!r}; with DATASET.HOLDOUT_FOLDS base or new is allowed")
    if seed < 0:
        raise DatasetError(f"SEED is {seed}; DATASET.HOLDOUT_FOLDS needs one from 0: every run must draw the same folds")
    single = [items[0][2] for items in shots.values() if len(items) < 2]
    if single:
        raise DatasetError(f"DATASET.HOLDOUT_FOLDS keeps one shot of each class back, but {single[0]!r} has a single one:"
                           " DATASET.NUM_SHOTS must be 2 or more")  # fmt: skip


def check_images(split: dict[str, Items], folder: str) -> None:
    """Raises DatasetError naming the first missing images and their classes."""
    missing = [item for part in PARTS for item in split[part] if not os.path.isfile(os.path.join(folder, item[0]))]
    if missing:
        names = "; ".join(f"{path} (class {name})" for path, _, name in missing[:5])
        more = " ..." if len(missing) > 5 else ""
        raise DatasetError(
            f"{len(missing)} images are missing in {folder}: {names}{more}; restore them (CausalShapes and Digits are"
            " written again when their folder is deleted)"
        )


def digest(split: dict[str, Items]) -> str:
    """SHA-256 over every item of a split, in order."""
    return hashlib.sha256(json.dumps([split[part] for part in PARTS]).encode()).hexdigest()


def _item(path: str | os.PathLike, part: str, entry: Any, rename: dict[str, str]) -> Item:
    if not (isinstance(entry, (list, tuple)) and [type(value) for value in entry[::2]] == [str, str]):
        raise DatasetError(f"{path}, {part}: {entry!r} is not [path, label, class name]")
    image, label, name = entry
    if isinstance(label, bool) or not str(label).isdecimal():
        raise DatasetError(f"{path}, {part}: label {label!r} of {image} (class {name}) is not a number >= 0")
    if not image or image[0] == "/" or "\\" in image or ":" in image[:2] or ".." in PurePosixPath(image).parts:
        raise DatasetError(f"{path}, {part}: {image!r} (class {name}) leaves the image folder")
    return str(image), int(label), str(rename.get(name, name))


def _check_labels(path: str | os.PathLike, split: dict[str, Items]) -> None:
    names: dict[int, str] = {}
    seen: set[str] = set()
    for part in PARTS:
        for image, label, name in split[part]:
            if names.setdefault(label, name) != name:
                raise DatasetError(f"{path}, {part}: label {label} is {name!r} at {image} and {names[label]!r} before")
            if image in seen:
                raise DatasetError(f"{path}, {part}: {image} (class {name}) stands twice")
            seen.add(image)
    if sorted(names) != list(range(len(names))):
        gap = next(label for label in sorted(names) if label >= len(names))
        allowed = f"{len(names)} classes have labels 0..{len(names) - 1}"
        raise DatasetError(f"{path}: label {gap} (class {names[gap]}) is out of range: {allowed}")
    trained = {label for _, label, _ in split["train"]}
    if len(trained) < len(names):
        missing = [name for label, name in sorted(names.items()) if label not in trained]
        raise DatasetError(f"{path}: no training image of class {', '.join(missing[:5])}")


def _draw(items: Items, count: int, rng: random.Random) -> Items:
    by_label: dict[int, Items] = {}
    for item in items:
        by_label.setdefault(item[1], []).append(item)
    drawn = [rng.sample(group, count) if len(group) >= count else group for group in by_label.values()]
    return [item for group in drawn for item in group]


def _read_cache(file: Path, split: dict[str, Items], wanted: dict[str, int]) -> dict[str, Items] | None:
    """The cached draw, or None where there is none that counts."""
    if not file.exists():
        return None
    try:
        tree = json.loads(file.read_text(encoding="utf-8"))
        drawn = {part: [(str(p), int(y), str(name)) for p, y, name in tree[part]] for part in wanted}
        stale = tree["split"] != digest(split)
    except (OSError, ValueError, KeyError, TypeError) as error:
        log.warning("%s is not a few-shot draw (%s: %s); drawing again", file, type(error).__name__, error)
        return None
    if stale or not all(_fits(drawn[part], split[part], count) for part, count in wanted.items()):
        log.warning("%s belongs to another split, or its items are not a draw from this one; drawing again", file)
        return None
    return drawn


def _fits(drawn: Items, items: Items, count: int) -> bool:
    """Different items of the split, as many of every class as a draw holds."""

    def sizes(some: Items) -> dict[int, int]:
        out: dict[int, int] = {}
        for _, label, _ in some:
            out[label] = out.get(label, 0) + 1
        return out

    wanted = {label: min(count, size) for label, size in sizes(items).items()}
    return len(set(drawn)) == len(drawn) and set(drawn) <= set(items) and sizes(drawn) == wanted


def _write_cache(file: Path, split: dict[str, Items], drawn: dict[str, Items], shots: int, seed: int) -> None:
    """Atomic; a data folder that cannot be written is no error."""
    tree = {"split": digest(split), "shots": shots, "seed": seed, **drawn}
    try:
        write_text(file, json.dumps(tree))
    except OSError as error:
        log.warning("the few-shot draw is not cached: %s", error)
