"""A run's configuration and a small data folder in the true layout of the standard benchmark."""

import json
from pathlib import Path

import pytest
from dassl.config import get_cfg_default
from PIL import Image

from dicap.options import default_section


@pytest.fixture
def make_cfg():
    """make_cfg(dataset class, root, shots=16, seed=1, classes="all", **knobs of the dataset)"""

    def make(cls, root, shots=16, seed=1, classes="all", **knobs):
        cfg = get_cfg_default()
        cfg.SEED = seed
        cfg.DATASET.NAME, cfg.DATASET.ROOT = cls.__name__, str(root)
        cfg.DATASET.NUM_SHOTS, cfg.DATASET.SUBSAMPLE_CLASSES = shots, classes
        if hasattr(cls, "OPTIONS"):
            section = default_section(cls.OPTIONS)
            for key, value in knobs.items():
                section[key] = value
            cfg.DATASET[cls.__name__.upper()] = section
        return cfg

    return make


@pytest.fixture
def caltech(tmp_path):
    """caltech-101/ with five classes, 6/3/2 images each, label order as in the published split (upper case first)."""
    names = ["face", "leopard", "motorbike", "accordion", "airplane"]
    folders = ["Faces", "Leopards", "Motorbikes", "accordion", "airplanes"]
    folder = tmp_path / "caltech-101"
    split = {"train": [], "val": [], "test": []}
    for part, count in (("train", 6), ("val", 3), ("test", 2)):
        for number in range(count):
            for label in (3, 0, 4, 1, 2):  # first appearance is not label order
                path = f"{folders[label]}/image_{part}_{number:04d}.jpg"
                target = folder / "101_ObjectCategories" / path
                target.parent.mkdir(parents=True, exist_ok=True)
                Image.new("RGB", (20 + label, 30), (label * 40, 0, number * 20)).save(target)
                split[part].append([path, label, names[label]])
    (folder / "split_zhou_Caltech101.json").write_text(json.dumps(split))
    return tmp_path


@pytest.fixture
def edit_split(caltech):
    """edit_split(change) rewrites the split file of `caltech` by change(tree) and returns its path."""

    def edit(change) -> Path:
        file = caltech / "caltech-101" / "split_zhou_Caltech101.json"
        tree = json.loads(file.read_text())
        file.write_text(json.dumps(change(tree) or tree))
        return file

    return edit
