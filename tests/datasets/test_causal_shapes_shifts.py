"""CausalShapes' domain shifts: test sets of the same classes, paired with the source's test pictures."""

import importlib
import os

import numpy as np
import pytest
from PIL import Image

from dicap import world
from dicap.config import config_path
from dicap.data.split import DatasetError
from dicap.datasets.causal_shapes import CausalShapes

SHIFTS = [
    getattr(importlib.import_module(f"dicap.datasets.causal_shapes_{stem}"), f"CausalShapes{stem.title()}")
    for stem in ("scenes", "colours", "noise")
]
each_shift = pytest.mark.parametrize("cls", SHIFTS, ids=lambda cls: cls.stem())


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return tmp_path_factory.mktemp("data")


@each_shift
def test_it_is_registered_and_configured(cls):
    from dassl.data.datasets import DATASET_REGISTRY

    assert DATASET_REGISTRY.get(cls.__name__) is cls
    with open(config_path("datasets", cls.stem())) as file:
        assert f"NAME: {cls.__name__}\n" in file.read()


@each_shift
def test_a_test_set_of_all_classes(cls, make_cfg, root):
    dataset = cls(make_cfg(cls, root, 16, PER_CLASS_TEST=3))
    assert dataset.classnames == list(world.CLASSES)
    assert [datum.label for datum in dataset.test] == np.repeat(range(50), 3).tolist()
    assert [datum.impath for datum in dataset.train_x] == [datum.impath for datum in dataset.test]
    assert len(list(os.scandir(dataset.image_dir))) == 50
    assert not dataset.val
    assert cls.template == CausalShapes.template


@each_shift
def test_every_picture_has_its_partner_in_the_source(cls, make_cfg, root):
    small = {"PER_CLASS_TRAIN": 1, "PER_CLASS_VAL": 1, "PER_CLASS_TEST": 2}
    source, shifted = (
        CausalShapes(make_cfg(CausalShapes, root, -1, **small)),
        cls(make_cfg(cls, root, PER_CLASS_TEST=2)),
    )
    paths = [[os.path.relpath(d.impath, dataset.image_dir) for d in dataset.test] for dataset in (source, shifted)]
    assert paths[0] == paths[1]
    before, after = (world.latents_of(data.dataset_dir, paths[0]) for data in (source, shifted))
    moved = [name for name in world.LATENTS.names if not np.array_equal(before[name], after[name])]
    assert moved == {"scenes": ["scene"], "colours": ["colour"], "noise": []}[cls.stem().split("_")[-1]]
    different = [
        not np.array_equal(np.asarray(Image.open(one.impath)), np.asarray(Image.open(other.impath)))
        for one, other in zip(source.test, shifted.test)
    ]
    assert all(different)


@each_shift
def test_the_truth_stays_known(cls, make_cfg, root):
    dataset = cls(make_cfg(cls, root, PER_CLASS_TEST=1))
    paths, names = [d.impath for d in dataset.test], [d.classname for d in dataset.test]
    factual = dataset.counterfactual_images(paths, names)
    assert all(np.array_equal(np.asarray(Image.open(path)), picture) for path, picture in zip(paths, factual))
    changed = dataset.counterfactual_images(paths, names[1:] + names[:1])
    assert (changed != factual).any((1, 2, 3)).all()


@each_shift
def test_groups_are_those_of_known_scenes(cls, make_cfg, root):
    dataset = cls(make_cfg(cls, root, PER_CLASS_TEST=3))
    scenes = world.latents_of(dataset.dataset_dir, [d.impath for d in dataset.test])["scene"]
    tied = world.TIED_SCENE[[d.label for d in dataset.test]] == scenes
    expected = {d.impath: "aligned" if t else "conflicting" for d, t in zip(dataset.test, tied)}
    assert dataset.groups == ({} if cls.stem().endswith("scenes") else expected)


@each_shift
@pytest.mark.parametrize("classes", ["base", "new"])
def test_no_halves(cls, classes, make_cfg, root):
    with pytest.raises(DatasetError, match=f"SUBSAMPLE_CLASSES is '{classes}', but {cls.__name__} is a test set"):
        cls(make_cfg(cls, root, classes=classes, PER_CLASS_TEST=1))


@each_shift
def test_its_settings_are_its_own(cls, make_cfg, root):
    assert set(cls.OPTIONS) == {"CONTRAST", "NOISE", "PER_CLASS_TEST", "WORLD_SEED"}
    changed = [{}, {"CONTRAST": 1.0}, {"NOISE": 0.1}, {"WORLD_SEED": 3}]
    folders = {cls(make_cfg(cls, root, PER_CLASS_TEST=1, **knobs)).dataset_dir for knobs in changed}
    assert len(folders) == len(changed)
