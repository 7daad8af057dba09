"""The few-shot samples that others published are ours, in order: 150 files of ten datasets.

tests/golden/few_shot_published.py tells where they come from.
"""

import hashlib
import json
from pathlib import Path

import pytest

from dicap.data.draw import few_shot
from dicap.data.named import registered

GOLDEN = json.loads((Path(__file__).parents[1] / "golden/few_shot_published.json").read_text())["datasets"]
CLASSES = registered()


def split_of(sizes: dict, classes: int) -> dict:
    """A split with classes of these sizes, one after the other, the last label first; an item's path is its position."""
    split = {"test": []}
    for part, some in sizes.items():
        some = [some] * classes if isinstance(some, int) else some
        labels = [classes - 1 - k for k, size in enumerate(some) for _ in range(size)]
        split[part] = [(str(position), label, str(label)) for position, label in enumerate(labels)]
    return split


@pytest.mark.parametrize("name", GOLDEN)
def test_published_samples_are_ours(name):
    case = GOLDEN[name]
    split = split_of(case["sizes"], case["classes"])
    ours = {}
    for run in case["drawn"]:
        shots, seed = (int(word.rpartition("_")[2]) for word in run.split("-"))
        drawn = few_shot(split, shots, seed)
        text = ";".join(",".join(path for path, _, _ in drawn[part]) for part in ("train", "val"))
        ours[run] = hashlib.sha256(text.encode()).hexdigest()
    assert len(ours) == 15 and ours == case["drawn"]


@pytest.mark.parametrize("name", GOLDEN)
def test_facts_are_those_of_the_published_splits(name):
    """Counts of train and val, and the digest by which a published split file is known, where its text could be had."""
    facts, case = CLASSES[name], GOLDEN[name]
    sizes = {part: some if isinstance(some, list) else [some] * case["classes"] for part, some in case["sizes"].items()}
    assert facts.counts[:3] == (case["classes"], sum(sizes["train"]), sum(sizes["val"]))
    assert facts.published == (case["split_digest"] or "")


def test_class_names_of_eurosat_are_published_ones():
    """The published index file has these names: the folders of the archive in order, renamed."""
    folders = [
        "AnnualCrop",
        "Forest",
        "HerbaceousVegetation",
        "Highway",
        "Industrial",
        "Pasture",
        "PermanentCrop",
        "Residential",
        "River",
        "SeaLake",
    ]
    names = [CLASSES["eurosat"].rename.get(folder, folder) for folder in folders]
    assert hashlib.sha256("\n".join(names).encode()).hexdigest() == GOLDEN["eurosat"]["names_sha256"]
