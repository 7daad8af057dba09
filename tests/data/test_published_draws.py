"""The few-shot samples that others published are ours, in order: 150 files of ten datasets (tests/golden/few_shot_published.py)."""
import hashlib
import json
from pathlib import Path

import pytest

from dicap.data.draw import few_shot

GOLDEN = json.loads((Path(__file__).parents[1] / "golden/few_shot_published.json").read_text())["datasets"]


def split_of(sizes: dict, classes: int) -> dict:
    """A split with classes of these sizes, one after the other; the path of an item is its position."""
    split = {"test": []}
    for part, some in sizes.items():
        some = [some] * classes if isinstance(some, int) else some
        labels = [label for label, size in enumerate(some) for _ in range(size)]
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
