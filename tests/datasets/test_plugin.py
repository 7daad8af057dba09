"""Datasets of others: a Python file and a YAML file of one name, in any folder, loaded with --plugin. Nothing else is edited."""

import json

import pytest
from layouts import has_layout, names_of, write_layout

from dicap import discover
from dicap.cli import main
from dicap.config import build_cfg, config_path, dataset_files
from dicap.data.named import find_dataset, missing, registered
from dicap.experiments.protocols import BASE2NEW, DOMAIN_GENERALIZATION, Request, find_datasets, find_recipe
from dicap.options import ConfigError

HEAD = """
from pathlib import Path
from dassl.data.datasets import DATASET_REGISTRY
from dicap.datasets.base import FewShotDataset, Source
from dicap.datasets.imagenet import ImageNetShift
"""
SPLIT = """
@DATASET_REGISTRY.register()
class Minerals(FewShotDataset):
    folder, split_file = "minerals", "split.json"
    counts = 6, 30, 12, 18
    template = "a photo of a {}, a mineral."
    rename = {"quartz_sio2": "quartz"}
"""
EMBEDDED = """
@DATASET_REGISTRY.register()
class Stripes(FewShotDataset):
    split_file, embedded = "split.json", True

    def locate(self, cfg):
        import json
        import os
        from PIL import Image

        folder = Path(os.environ["DICAP_DATA"]) / "stripes"
        split = {part: [] for part in ("train", "val", "test")}
        for label, name in enumerate(("across", "along")):
            for number, part in enumerate(("train", "train", "val", "test")):
                file = folder / "images" / f"{name}_{number}.png"
                file.parent.mkdir(parents=True, exist_ok=True)
                Image.new("RGB", (64, 64), (99 * label, 50 * number, 0)).save(file)
                split[part].append([file.name, label, name])
        (folder / "split.json").write_text(json.dumps(split))
        return folder
"""
ELSEWHERE = """
@DATASET_REGISTRY.register()
class Archive(FewShotDataset):
    split_file = "split.json"

    def locate(self, cfg):
        return Path(cfg.DATASET.ROOT) / "archive" / "2024"
"""
SHIFT = """
@DATASET_REGISTRY.register()
class ImageNetFog(ImageNetShift):
    folder, images = "imagenet-fog", "fog"
    counts = 1000, 0, 0, 5000
"""


@pytest.fixture
def plugin(tmp_path, monkeypatch):
    """plugin(stem, code) writes stem.py and stem.yaml, loads them, and returns the class; all is undone at the end."""
    from dassl.data.datasets import DATASET_REGISTRY

    monkeypatch.setattr(discover, "PLUGINS", {})
    monkeypatch.setenv("DICAP_DATA", str(tmp_path / "written"))
    discover.load_all()
    before = set(DATASET_REGISTRY.registered_names())

    def load(stem, code):
        name = code.partition("class ")[2].partition("(")[0]
        file = tmp_path / "mine" / f"{stem}.py"
        file.parent.mkdir(exist_ok=True)
        file.write_text(HEAD + code)
        file.with_suffix(".yaml").write_text(f"DATASET:\n  NAME: {name}\n")
        discover.load_plugin(str(file))
        return DATASET_REGISTRY.get(name)

    yield load
    for name in set(DATASET_REGISTRY.registered_names()) - before:
        del DATASET_REGISTRY._obj_map[name]


def data_of(cls, stem, root=""):
    return cls(build_cfg(config_path("datasets", stem), root=str(root), trainer="ZeroshotCLIP", seed=1))


def test_one_with_a_split_file(plugin, tmp_path, monkeypatch, capsys):
    cls = plugin("minerals", SPLIT)
    assert registered()["minerals"] is cls and cls.stem() == "minerals"
    with pytest.raises(ConfigError, match="'minerals' needs a data folder"):
        find_dataset("minerals")
    data = find_dataset("minerals", str(tmp_path))
    assert missing(data, str(tmp_path)) == f"no folder {tmp_path / 'minerals'}" and not data.embedded
    assert has_layout(cls) and write_layout(cls, tmp_path, shots=5) == cls.counts
    dataset = data_of(cls, "minerals", tmp_path)
    assert dataset.classnames == names_of(cls) and "quartz" in dataset.classnames and missing(data, str(tmp_path)) == ""
    assert find_recipe("DiCap", data, Request(data=str(tmp_path)))[1] != "tiny"
    assert find_datasets(BASE2NEW, Request(datasets=("minerals",), data=str(tmp_path))) == [data]
    file = str(tmp_path / "mine/minerals.py")
    assert main(["data", "verify", "minerals", "--plugin", file, "--data", str(tmp_path)]) == 0
    assert " ok" in capsys.readouterr().out
    assert main(["data", "list", "minerals", "--plugin", file]) == 0
    assert "no source is stated: put its files into DATA/minerals" in capsys.readouterr().out
    assert main(["data", "download", "minerals", "--plugin", file, "--data", str(tmp_path)]) == 0
    assert "no source is stated: put its files into" in capsys.readouterr().out


def test_one_that_writes_itself(plugin):
    cls = plugin("stripes", EMBEDDED)
    data = find_dataset("stripes")
    assert data.embedded and not data.needs_root
    assert find_recipe("DiCap", data, Request())[1] == "tiny"
    assert data_of(cls, "stripes").classnames == ["across", "along"]


def test_one_that_only_looks_elsewhere_is_not_embedded(plugin, tmp_path):
    """Overriding `locate` says where a dataset is, not that it needs no data folder and the recipe of small pictures."""
    plugin("archive", ELSEWHERE)
    with pytest.raises(ConfigError, match="'archive' needs a data folder"):
        find_dataset("archive")
    data = find_dataset("archive", str(tmp_path))
    assert not data.embedded and data.needs_root
    for method in ("CoOp", "DiCap"):
        assert find_recipe(method, data, Request(data=str(tmp_path)))[1] != "tiny"


def test_a_shift_of_imagenet(plugin, tmp_path):
    cls = plugin("imagenet_fog", SHIFT)
    data = find_dataset("imagenet_fog", str(tmp_path))
    assert data.is_shift and has_layout(cls)
    assert find_datasets(DOMAIN_GENERALIZATION, Request(datasets=("imagenet_fog",), data=str(tmp_path))) == [data]
    cls.counts = write_layout(cls, tmp_path)
    assert data_of(cls, "imagenet_fog", tmp_path).classnames == names_of(cls)


def test_a_plan_of_one(plugin, tmp_path, caplog):
    plugin("stripes", EMBEDDED)
    out = str(tmp_path / "out")
    words = ["base2new", "--datasets", "stripes", "--methods", "ZeroshotCLIP", "--seeds", "1", "--shots", "1"]
    assert main([*words, "--plugin", str(tmp_path / "mine/stripes.py"), "--out", out, "--dry-run"]) == 0
    assert "stripes, ZeroshotCLIP (tiny), seed 1, base classes: to run" in caplog.text


def test_a_name_of_ours_is_refused(plugin):
    with pytest.raises(ConfigError, match="digits.yaml: .*digits.yaml has this name already; rename"):
        plugin("digits", EMBEDDED)
        dataset_files()


def test_a_yaml_beside_a_plugin_that_is_no_dataset(plugin, tmp_path):
    plugin("stripes", EMBEDDED)
    (tmp_path / "mine/stripes.yaml").write_text(json.dumps({"OPTIM": {"LR": 0.1}}))
    assert "stripes" not in registered()
