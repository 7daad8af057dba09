"""Which items of a split a run sees: the few-shot draw, base and new classes, class hold-out.

    few-shot draw   classes in the order of their first item, random.sample(items, n) each with the run's seed; train
                    first, then val with min(n, 4); over all classes, before base and new are separated: CoOp's draw
    base and new    labels sorted, the first ceil(n / 2) are base, the rest new, relabelled from 0
    class hold-out  DATASET.HOLDOUT_FOLDS: base and new are parts of the base classes, from their training shots alone

The draw has its own generator, so a run does not depend on whether a draw was kept beside the data (dicap/data/drawn.py).
A negative seed draws anew each time and keeps nothing.
"""

import math
import random
from pathlib import Path

from dicap.data.drawn import load_draw, save_draw
from dicap.data.split import PARTS, DatasetError, Items, by_label


def few_shot(split: dict[str, Items], shots: int, seed: int, cache: Path | None = None) -> dict[str, Items]:
    """`shots` items a class of train and min(shots, 4) of val, as CoOp draws them; test stays.

    Args:
        cache: folder of the kept draws; None = none is read or written.
    """
    wanted = {"train": shots, "val": min(shots, 4)}
    file = cache / f"shot_{shots}-seed_{seed}.json" if cache and seed >= 0 else None
    drawn = load_draw(file, split, wanted) if file else None
    if drawn is None:
        rng = random.Random(seed) if seed >= 0 else random.Random()
        drawn = {part: _draw(split[part], count, rng) for part, count in wanted.items()}
        if file:
            save_draw(file, split, drawn, shots=shots, seed=seed)
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
    shots = by_label(subsample(split, "base")["train"])
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
        raise DatasetError(
            f"DATASET.HOLDOUT_FOLDS is {folds}; with {len(shots)} base classes 2 to {most} are allowed: "
            "each fold needs two classes"
        )
    if not 1 <= fold <= folds:
        raise DatasetError(f"DATASET.HOLDOUT_FOLD is {fold}; allowed: 1 to {folds} (DATASET.HOLDOUT_FOLDS)")
    if classes not in ("base", "new"):
        raise DatasetError(
            f"DATASET.SUBSAMPLE_CLASSES is {classes!r}; with DATASET.HOLDOUT_FOLDS base or new is allowed"
        )
    if seed < 0:
        raise DatasetError(
            f"SEED is {seed}; DATASET.HOLDOUT_FOLDS needs one from 0: every run must draw the same folds"
        )
    single = [items[0][2] for items in shots.values() if len(items) < 2]
    if single:
        raise DatasetError(
            f"DATASET.HOLDOUT_FOLDS keeps one shot of each class back, but {single[0]!r} has a single one:"
            " DATASET.NUM_SHOTS must be 2 or more"
        )


def _draw(items: Items, count: int, rng: random.Random) -> Items:
    drawn = [rng.sample(group, count) if len(group) >= count else group for group in by_label(items).values()]
    return [item for group in drawn for item in group]
