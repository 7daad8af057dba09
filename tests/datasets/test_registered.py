"""Every registered dataset: facts that hold for all of them. The embedded ones are also written and read in full."""

import json
import os
from collections import Counter

import numpy as np
import pytest
from PIL import Image

from dicap import world
from dicap.config import config_path
from dicap.data.named import OWN, registered
from dicap.data.split import DatasetError
from dicap.datasets.base import FewShotDataset
from dicap.tasks.classification import Classification
from dicap.tasks.task import evaluation

DATASETS = [cls for stem, cls in registered().items() if stem != OWN]
SMALL = {"PER_CLASS_TRAIN": 4, "PER_CLASS_VAL": 2, "PER_CLASS_TEST": 6}


def knobs_of(cls):
    return {key: value for key, value in SMALL.items() if key in getattr(cls, "OPTIONS", {})}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return tmp_path_factory.mktemp("data")


@pytest.mark.parametrize("cls", DATASETS, ids=lambda cls: cls.__name__)
def test_states_its_facts(cls):
    from dassl.data.datasets import DATASET_REGISTRY

    assert DATASET_REGISTRY.get(cls.__name__) is cls
    assert cls.template.count("{}") == 1
    assert cls.split_file or cls.read is not FewShotDataset.read
    assert cls.locate is not FewShotDataset.locate if cls.embedded else cls.folder and len(cls.counts) == 4
    assert f"NAME: {cls.__name__}\n" in open(config_path("datasets", cls.stem())).read()
    assert all(option.why for option in getattr(cls, "OPTIONS", {}).values())


@pytest.mark.parametrize("cls", [cls for cls in DATASETS if not cls.embedded], ids=lambda cls: cls.__name__)
def test_a_real_one_needs_a_root(cls, make_cfg):
    with pytest.raises(DatasetError, match=f"{cls.__name__} needs a data folder: give --root"):
        cls(make_cfg(cls, ""))


@pytest.mark.parametrize("cls", [cls for cls in DATASETS if cls.embedded], ids=lambda cls: cls.__name__)
def test_an_embedded_one_writes_itself(cls, make_cfg, root, monkeypatch):
    monkeypatch.setenv("DICAP_DATA", str(root))
    whole = cls(make_cfg(cls, "", 4, 1, "all", **knobs_of(cls)))
    paths = [d.impath for d in (*whole.train_x, *whole.test)]
    assert whole.test and all(path.startswith(str(root)) for path in paths)
    assert Image.open(paths[0]).mode == "RGB"
    assert set(whole.groups) <= set(paths)


@pytest.mark.parametrize(
    "cls", [cls for cls in DATASETS if cls.embedded and not cls.test_only], ids=lambda cls: cls.__name__
)
def test_an_embedded_one_has_halves(cls, make_cfg, root):
    halves = [cls(make_cfg(cls, root, 4, 1, part, **knobs_of(cls))) for part in ("base", "new")]
    whole = cls(make_cfg(cls, root, 4, 1, "all", **knobs_of(cls)))
    assert halves[0].classnames + halves[1].classnames == whole.classnames
    pool = Counter(d.label for d in cls(make_cfg(cls, root, -1, 1, "all", **knobs_of(cls))).train_x)
    assert Counter(d.label for d in whole.train_x) == {label: min(4, count) for label, count in pool.items()}
    assert len(halves[0].test) + len(halves[1].test) == len(whole.test)


def test_digits_are_the_real_ones(make_cfg, root):
    from sklearn.datasets import load_digits

    from dicap.datasets.digits import Digits

    dataset, real = Digits(make_cfg(Digits, root, -1)), load_digits()
    assert dataset.classnames == ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
    for datum in dataset.test[::50]:
        number = int(os.path.basename(datum.impath)[:4])
        assert real.target[number] == datum.label
        assert Image.open(datum.impath).size == (64, 64)
        picture = np.asarray(Image.open(datum.impath).convert("L"), float)
        coarse = picture.reshape(8, 8, 8, 8).mean((1, 3)) / 255 * 16
        assert np.corrcoef(coarse.ravel(), real.images[number].ravel())[0, 1] > 0.97


def test_causal_shapes_knows_its_latents(make_cfg, root):
    from dicap.datasets.causal_shapes import CausalShapes

    dataset = CausalShapes(make_cfg(CausalShapes, root, 4, 1, "new", **SMALL))
    assert dataset.classnames == list(world.CLASSES[25:])
    paths = [datum.impath for datum in dataset.test]
    latents = world.latents_of(dataset.dataset_dir, paths)
    assert [world.CLASSES[label] for label in latents["label"]] == [datum.classname for datum in dataset.test]
    again = world.render(latents, world.DOWNSTREAM)
    assert all(np.array_equal(np.asarray(Image.open(path)), picture) for path, picture in zip(paths, again))
    tied = world.TIED_SCENE[latents["label"]] == latents["scene"]
    assert [dataset.groups[path] for path in paths] == ["aligned" if t else "conflicting" for t in tied]
    assert Image.open(paths[0]).size == (64, 64)
    trained = world.latents_of(dataset.dataset_dir, [datum.impath for datum in dataset.train_x])
    assert (world.TIED_SCENE[trained["label"]] == trained["scene"]).all()


@pytest.mark.parametrize("rho", [1.0, 0.5])
def test_causal_shapes_knows_the_groups_of_training_pictures_too(make_cfg, root, rho):
    from dicap.datasets.causal_shapes import CausalShapes

    dataset = CausalShapes(make_cfg(CausalShapes, root, 4, 1, "base", RHO=rho, **SMALL))
    paths = [datum.impath for datum in (*dataset.train_x, *dataset.test)]
    manifest = {row["path"]: row["aligned"] for row in world.read_manifest(dataset.dataset_dir)}
    aligned = {path: manifest[os.path.relpath(path, dataset.image_dir)] for path in paths}
    assert dataset.groups == {path: "aligned" if shown else "conflicting" for path, shown in aligned.items()}
    trained = {dataset.groups[datum.impath] for datum in dataset.train_x}
    assert trained == ({"aligned"} if rho == 1 else {"aligned", "conflicting"})


def test_groups_of_training_pictures_change_no_measure(make_cfg, root):
    """Measures by group are taken over the tested pictures alone, by path."""
    from dicap.datasets.causal_shapes import CausalShapes

    dataset = CausalShapes(make_cfg(CausalShapes, root, 4, 1, "base", **SMALL))
    paths, labels = [datum.impath for datum in dataset.test], [datum.label for datum in dataset.test]
    of_tests = {path: dataset.groups[path] for path in paths}
    assert len(of_tests) < len(dataset.groups)
    outcomes = [(label, label % 7) for label in labels]

    def measured(groups):
        return evaluation(Classification(), outcomes, [groups.get(path) for path in paths])

    assert measured(dataset.groups) == measured(of_tests)
    assert sum(group["n"] for group in measured(dataset.groups)["groups"].values()) == len(paths)


def test_every_knob_has_its_own_pictures(make_cfg, root):
    from dicap.datasets.causal_shapes import CausalShapes

    tiny = {"PER_CLASS_TRAIN": 1, "PER_CLASS_VAL": 1, "PER_CLASS_TEST": 1}
    changed = [{}, {"RHO": 0.5}, {"CONTRAST": 1.0}, {"NOISE": 0.0}, {"WORLD_SEED": 3}, {"PER_CLASS_TEST": 2}]
    folders = {
        CausalShapes(make_cfg(CausalShapes, root, 1, 1, "all", **{**tiny, **knobs})).dataset_dir for knobs in changed
    }
    assert len(folders) == len(changed)


def test_a_knob_out_of_range(make_cfg, tmp_path):
    from dicap.datasets.causal_shapes import CausalShapes

    with pytest.raises(ValueError, match="rho must be in"):
        CausalShapes(make_cfg(CausalShapes, tmp_path, RHO=1.5))
    with pytest.raises(ValueError, match="DATASET.CAUSALSHAPES.PER_CLASS_TEST is 0; the least allowed is 1"):
        CausalShapes(make_cfg(CausalShapes, tmp_path, PER_CLASS_TEST=0))
    assert not list(tmp_path.rglob("*.png"))


def test_damaged_embedded_data_is_named(make_cfg, tmp_path):
    from dicap.datasets.causal_shapes import CausalShapes

    tiny = {"PER_CLASS_TRAIN": 1, "PER_CLASS_VAL": 1, "PER_CLASS_TEST": 1}
    folder = CausalShapes(make_cfg(CausalShapes, tmp_path, 1, **tiny)).dataset_dir
    file = os.path.join(folder, "split.json")
    tree = json.load(open(file))
    os.remove(os.path.join(folder, "images", tree["test"][0][0]))
    with pytest.raises(DatasetError, match="1 images are missing"):
        CausalShapes(make_cfg(CausalShapes, tmp_path, 1, **tiny))
    tree["test"].pop()
    json.dump(tree, open(file, "w"))
    with pytest.raises(DatasetError, match="expected .50, 50, 50, 50."):
        CausalShapes(make_cfg(CausalShapes, tmp_path, 1, **tiny))
