"""The dataset Folder: its options, and that draws, base and new classes and hold-out are those of every dataset."""

import json
import os
import shutil

import pytest
from PIL import Image

from dicap.cli import main
from dicap.config import build_cfg, config_path
from dicap.data.split import DatasetError
from dicap.datasets.folder import Folder
from dicap.options import ConfigError
from dicap.results import config_digest, data_digest
from dicap.wording import hand_template

CONFIG = (config_path("datasets", "folder"), config_path("trainers/ZeroshotCLIP", "tiny"), "ZeroshotCLIP")
NAMES = ["ant", "bee", "cow", "dog", "elk"]


@pytest.fixture
def pictures(tmp_path, monkeypatch):
    """A folder with five classes of twelve images; data and cache are beside it."""
    monkeypatch.setenv("DICAP_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("DICAP_DATA", str(tmp_path / "data"))
    for label, name in enumerate(NAMES):
        (tmp_path / "pictures" / name).mkdir(parents=True)
        for number in range(12):
            Image.new("RGB", (8, 8), (label * 50, number * 20, 0)).save(
                tmp_path / "pictures" / name / f"{number:02d}.png"
            )
    return tmp_path / "pictures"


@pytest.fixture
def build(pictures, make_cfg):
    """build(shots=..., seed=..., classes=..., OPTION=...) -> the dataset of the pictures."""
    return lambda *args, **options: Folder(make_cfg(Folder, "", *args, **{"PATH": str(pictures), **options}))


def items(dataset):
    return {
        part: [(d.impath, d.label, d.classname) for d in data]
        for part, data in (("train", dataset.train_x), ("val", dataset.val), ("test", dataset.test))
    }


def test_reads_class_folders(build, pictures):
    data = build(shots=-1)
    assert [len(part) for part in items(data).values()] == [30, 10, 20]
    assert data.classnames == NAMES and data.dataset_dir == data.image_dir == str(pictures)
    assert all(
        path == str(pictures / name / os.path.basename(path)) for part in items(data).values() for path, _, name in part
    )


def test_draws_are_of_the_split_and_by_the_seed(build, pictures):
    whole, drawn = items(build(shots=-1)), items(build(4, 1))
    assert [len(part) for part in drawn.values()] == [20, 10, 20]
    assert all(set(drawn[part]) <= set(whole[part]) for part in drawn)
    assert items(build(4, 1)) == drawn != items(build(4, 2))
    assert sorted(path.name for path in pictures.iterdir()) == [
        *NAMES[:3],
        "dicap_split_0.5-0.2-0.3_seed1.json",
        *NAMES[3:],
    ]


def test_base_and_new_and_hold_out(build, pictures, make_cfg):
    assert build(4, 1, "base").classnames + build(4, 1, "new").classnames == NAMES
    next(pictures.glob("dicap_split*")).unlink()
    for name in ("fox", "gnu", "hen"):  # eight classes: four are base, two folds
        (pictures / name).mkdir()
        for number in range(12):
            Image.new("RGB", (8, 8)).save(pictures / name / f"{number}.png")
    cfg = make_cfg(Folder, "", 4, 1, "new", PATH=str(pictures))
    cfg.DATASET.HOLDOUT_FOLDS, cfg.DATASET.HOLDOUT_FOLD = 2, 1
    assert set(Folder(cfg).classnames) < set(NAMES[:4])


@pytest.mark.parametrize(
    "count, text", [(2, "2 classes make 1 base and 1 new"), (3, "3 classes make 2 base and 1 new")]
)
@pytest.mark.parametrize("classes", ["base", "new"])
def test_a_half_of_one_class_is_refused(build, pictures, classes, count, text):
    """One class is right in every image, whatever was learned."""
    for name in NAMES[count:]:
        shutil.rmtree(pictures / name)
    with pytest.raises(DatasetError, match=f"Folder in {pictures}: its {text}"):
        build(4, 1, classes)
    assert build(4, 1).classnames == NAMES[:count]


@pytest.mark.parametrize("count", [0, 1])
def test_a_dataset_of_one_class_is_refused_and_verify_says_the_same(build, tmp_path, count, capsys):
    items = {part: [[f"{part}.png", 0, "cat"]] * count for part in ("train", "test")}
    (tmp_path / "split.json").write_text(json.dumps({**items, "val": []}))
    text = f"Folder in {tmp_path}: {count} classes, but a dataset needs two"
    with pytest.raises(DatasetError, match=text):
        build(PATH=str(tmp_path / "split.json"))
    assert main(["data", "verify", str(tmp_path / "split.json")]) == 1
    assert text in " ".join(capsys.readouterr().out.split())


def test_the_options_decide(build, pictures, tmp_path):
    names = tmp_path / "names.csv"
    names.write_text("".join(f"{name},big_{name}\n" for name in reversed(NAMES)))
    data = build(shots=-1, NAMES=str(names), TEMPLATE="a drawing of a {}.", SPLIT="0.25 0 0.75", SPLIT_SEED=7)
    assert data.classnames == [f"big_{name}" for name in NAMES]
    assert hand_template(data) == "a drawing of a {}." and hand_template(build()) == "a photo of a {}."
    assert [len(part) for part in items(data).values()] == [15, 0, 45]
    assert (pictures / "dicap_split_0.25-0-0.75_seed7.json").is_file()


def test_a_csv_elsewhere_with_its_images(build, pictures, tmp_path):
    lists = tmp_path / "lists"
    lists.mkdir()
    rows = [f"{name}/{number:02d}.png\t{name}" for name in NAMES for number in range(12)]
    (lists / "own.csv").write_text("\n".join(["path\tlabel", *rows]))
    assert items(build(PATH=str(lists / "own.csv"), IMAGES=str(pictures))) == items(build())


def test_a_split_that_was_made_by_another_tool(build, pictures, tmp_path):
    tree = {
        part: [[f"{name}/{number:02d}.png", label, name] for label, name in enumerate(NAMES)]
        for number, part in enumerate(("train", "val", "test"))
    }
    (pictures / "split.json").write_text(json.dumps(tree))
    found = items(build(shots=-1, PATH=str(pictures / "split.json")))
    assert {
        part: [[os.path.relpath(path, pictures), *rest] for path, *rest in rows] for part, rows in found.items()
    } == tree


def test_from_the_command_line(pictures):
    cfg = build_cfg(*CONFIG, opts=["DATASET.FOLDER.PATH", str(pictures), "DATASET.FOLDER.SPLIT", "0.4 0.3 0.3"])
    assert [len(part) for part in items(Folder(cfg)).values()] == [25, 20, 15]


def test_moved_images_are_the_same_data(pictures, tmp_path):
    def digests(*opts):
        cfg = build_cfg(*CONFIG, seed=1, opts=opts)
        return config_digest(cfg), data_digest(Folder(cfg))

    before = digests("DATASET.FOLDER.PATH", str(pictures))
    pictures.rename(tmp_path / "moved")
    assert digests("DATASET.FOLDER.PATH", str(tmp_path / "moved")) == before
    assert digests("DATASET.FOLDER.PATH", str(tmp_path / "moved"), "DATASET.FOLDER.SPLIT_SEED", "2")[0] != before[0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"PATH": ""}, "DATASET.FOLDER.PATH is empty; give a folder"),
        ({"PATH": "/none"}, "DATASET.FOLDER.PATH: /none is not there"),
        ({"TEMPLATE": "a photo"}, "template 'a photo' needs exactly one {}"),
        ({"TEMPLATE": "{} {}"}, "needs exactly one"),
        ({"TEMPLATE": "{0} {}"}, "needs exactly one"),
        ({"SPLIT": "1 1 1"}, "DATASET.FOLDER.SPLIT is '1 1 1'"),
        ({"SPLIT_SEED": -1}, "DATASET.FOLDER.SPLIT_SEED is -1"),
        ({"NAMES": "/none"}, "DATASET.FOLDER.NAMES: no file /none"),
    ],
)
def test_settings_that_are_refused(build, options, message):
    with pytest.raises(ConfigError, match=message):
        build(**options)


def test_images_of_a_split_of_its_own_are_checked_as_they_are_drawn(build, pictures, tmp_path):
    for part in ("train", "test"):
        (tmp_path / "parted" / part).mkdir(parents=True)
        for name in NAMES:
            (tmp_path / "parted" / part / name).symlink_to(pictures / name)
    (pictures / "ant/00.png").write_bytes(b"no image")
    with pytest.raises(DatasetError, match=r"missing or broken in .*parted: .*ant/00.png \(class ant\)"):
        build(PATH=str(tmp_path / "parted"))
    assert build(4, 1, "new", PATH=str(tmp_path / "parted")).classnames == NAMES[3:]
