"""Class hold-out: what plays base and new, and that no test image, no validation image and no new class takes part."""

from collections import Counter

import pytest

from dicap.data.draw import few_shot, hold_out, subsample
from dicap.data.split import DatasetError
from dicap.datasets.causal_shapes import CausalShapes
from dicap.datasets.digits import Digits
from dicap.world import CLASSES, write_causal_shapes
from dicap.world.files import Knobs

FOLDS, SEED, SHOTS = 3, 5, 8
NAMES = [f"class {label}" for label in range(14)]  # 7 base, 7 new


@pytest.fixture(scope="module")
def split():
    full = {
        part: [(f"{part}/{label}/{i}.png", label, name) for label, name in enumerate(NAMES) for i in range(20)]
        for part in ("train", "val", "test")
    }
    return few_shot(full, SHOTS, SEED)


def paths(items):
    return {path for path, _, _ in items}


def classes(items):
    return {name for _, _, name in items}


def parts(split, fold, seed=SEED):
    return [hold_out(split, half, FOLDS, fold, seed) for half in ("base", "new")]


def test_folds_partition_the_base_classes(split):
    base = classes(subsample(split, "base")["train"])
    new_of = [classes(parts(split, fold)[1]["test"]) for fold in range(1, FOLDS + 1)]
    assert Counter(name for some in new_of for name in some) == Counter(base)  # each plays new exactly once
    assert all(len(some) >= 2 for some in new_of)
    for fold, new in enumerate(new_of, 1):
        pseudo_base = parts(split, fold)[0]
        assert classes(pseudo_base["train"]) == classes(pseudo_base["test"]) == base - new


def test_held_out_images_are_not_trained_on(split):
    drawn = {name: {path for path, _, n in split["train"] if n == name} for name in NAMES}
    for fold in range(1, FOLDS + 1):
        base, new = parts(split, fold)
        assert not paths(base["train"]) & paths(base["test"]) and not paths(base["train"]) & paths(new["test"])
        for name in classes(base["train"]):
            kept = {path for path, _, n in base["test"] if n == name}
            assert len(kept) == SHOTS // 4 and kept | {p for p, _, n in base["train"] if n == name} == drawn[name]
        for name in classes(new["test"]):
            assert {path for path, _, n in new["test"] if n == name} == drawn[name]


def test_only_training_shots_of_base_classes_take_part(split):
    shots = paths(subsample(split, "base")["train"])
    for fold in range(1, FOLDS + 1):
        for half in parts(split, fold):
            assert paths(half["train"]) | paths(half["test"]) <= shots and half["val"] == []


def test_the_same_images_are_kept_back_in_every_fold(split):
    """So that folds differ by their classes alone."""
    kept = [paths(parts(split, fold)[0]["test"]) for fold in range(1, FOLDS + 1)]
    for one in kept:
        for other in kept:
            shared = {path.split("/")[1] for path in one} & {path.split("/")[1] for path in other}
            assert {p for p in one if p.split("/")[1] in shared} == {p for p in other if p.split("/")[1] in shared}


def test_the_seed_decides(split):
    assert parts(split, 1) == parts(split, 1)
    assert len({frozenset(classes(parts(split, 1, seed)[1]["test"])) for seed in range(8)}) > 3


@pytest.mark.parametrize("half", [0, 1])
def test_labels_run_from_zero(split, half):
    found = parts(split, 2)[half]
    labels = {name: label for _, label, name in found["train"]}
    assert sorted(labels.values()) == list(range(len(labels)))
    assert {name: label for _, label, name in found["test"]} == labels


def test_two_shots_are_enough(split):
    two = few_shot({**split, "val": []}, 2, 1)
    base = hold_out(two, "base", 2, 1, 1)
    assert len(base["train"]) == len(base["test"]) == len(classes(base["train"]))


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"folds": 1}, "HOLDOUT_FOLDS is 1; with 7 base classes 2 to 3"),
        ({"folds": 4}, "HOLDOUT_FOLDS is 4"),
        ({"fold": 0}, "HOLDOUT_FOLD is 0; allowed: 1 to 3"),
        ({"fold": 4}, "HOLDOUT_FOLD is 4"),
        ({"classes": "all"}, "SUBSAMPLE_CLASSES is 'all'"),
        ({"seed": -1}, "SEED is -1"),
    ],
)
def test_what_cannot_be(split, changes, message):
    with pytest.raises(DatasetError, match=message):
        hold_out(**{"split": split, "classes": "base", "folds": FOLDS, "fold": 1, "seed": 1, **changes})


def test_a_single_shot_cannot_be_kept_back(split):
    with pytest.raises(DatasetError, match="'class 0' has a single one: DATASET.NUM_SHOTS must be 2 or more"):
        hold_out(few_shot({**split, "val": []}, 1, 1), "base", FOLDS, 1, 1)


def hold_out_cfg(cfg, fold):
    cfg.DATASET.HOLDOUT_FOLDS, cfg.DATASET.HOLDOUT_FOLD = 2, fold
    return cfg


def test_digits(make_cfg, tmp_path):
    data = [Digits(hold_out_cfg(make_cfg(Digits, tmp_path, classes=half), 1)) for half in ("base", "new")]
    base, new = data
    assert [len(base.train_x), len(base.test), len(new.test)] == [
        12 * base.num_classes,
        4 * base.num_classes,
        16 * new.num_classes,
    ]
    assert base.num_classes + new.num_classes == 5 and not base.val
    assert set(base.classnames + new.classnames) == {"zero", "one", "two", "three", "four"}


def test_pictures_of_tests_and_of_new_classes_need_not_exist(make_cfg, tmp_path):
    """They are never read: the data work without them, and not without those that they do read."""
    sizes = {"per_class_train": 4, "per_class_val": 1, "per_class_test": 2}
    folder = write_causal_shapes(tmp_path, Knobs(**sizes))
    knobs = {key.upper(): value for key, value in sizes.items()}
    base = {name.replace(" ", "_") for name in CLASSES[:25]}
    for file in (folder / "images").rglob("*.png"):
        if not file.name.startswith("train") or file.parent.name not in base:
            file.unlink()
    for fold in (1, 2):
        for half in ("base", "new"):
            found = CausalShapes(hold_out_cfg(make_cfg(CausalShapes, tmp_path, shots=4, classes=half, **knobs), fold))
            assert len(found.test) == (found.num_classes if half == "base" else 4 * found.num_classes)
    with pytest.raises(DatasetError, match="images are missing"):
        CausalShapes(make_cfg(CausalShapes, tmp_path, shots=4, classes="base", **knobs))
