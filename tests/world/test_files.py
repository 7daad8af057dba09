"""The embedded datasets on disk: layout, manifest, two writers at once, a writer that fails."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dicap import world
from dicap.world import files
from dicap.world.causal import SCENES

SMALL = world.Knobs(per_class_train=2, per_class_val=1, per_class_test=3)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return world.write_causal_shapes(tmp_path_factory.mktemp("root"), SMALL)


def test_layout(folder):
    split = json.loads((folder / "split.json").read_text())
    assert {part: len(items) for part, items in split.items()} == {"train": 100, "val": 50, "test": 150}
    listed = {path for items in split.values() for path, _, _ in items}
    assert listed == {p.relative_to(folder / "images").as_posix() for p in folder.rglob("*.png")}
    assert all(path.startswith(name.replace(" ", "_") + "/") for items in split.values() for path, _, name in items)
    assert [name for _, _, name in split["test"][::3]] == list(world.CLASSES)


def test_manifest_agrees_with_the_pictures(folder):
    records = world.read_manifest(folder)
    assert len(records) == 300
    chosen = records[::7]
    latents = world.latents_of(folder, [record["path"] for record in chosen])
    pictures = world.render(latents, world.DOWNSTREAM)
    for record, row, picture in zip(chosen, latents, pictures):
        assert np.array_equal(np.asarray(Image.open(folder / "images" / record["path"])), picture)
        assert (record["class"], record["scene"]) == (world.CLASSES[row["label"]], SCENES[row["scene"]])
        assert record["aligned"] == (world.TIED_SCENE[row["label"]] == row["scene"])
    with pytest.raises(KeyError):
        world.latents_of(folder, ["nowhere.png"])


def test_rendered_truth(folder):
    records = world.read_manifest(folder)[::30]
    paths = [str(folder / "images" / record["path"]) for record in records]
    assert world.read_knobs(folder) == SMALL
    unchanged = world.rendered_truth(folder, paths, world.do({"class": [record["class"] for record in records]}))
    assert all(np.array_equal(np.asarray(Image.open(path)), picture) for path, picture in zip(paths, unchanged))
    changed = world.rendered_truth(folder, paths, world.do({"class": "striped star"}))
    assert (changed != unchanged).any((1, 2, 3)).sum() >= len(paths) - 1


def test_splits_show_different_pictures_and_tie_only_training():
    parts = {part: files.split_latents(part, SMALL) for part in ("train", "val", "test")}
    drawn = np.concatenate([latents["noise_index"] for latents in parts.values()])
    assert len(set(drawn.tolist())) == len(drawn)
    tied = {part: (world.TIED_SCENE[latents["label"]] == latents["scene"]).mean() for part, latents in parts.items()}
    assert tied["train"] == tied["val"] == 1
    assert tied["test"] < 0.3


def test_more_pictures_keep_the_ones_there():
    few, many = (files.split_latents("test", world.Knobs(per_class_test=n)) for n in (2, 5))
    assert np.array_equal(few, many.reshape(50, 5)[:, :2].ravel())


def test_a_second_call_writes_nothing(folder, monkeypatch):
    monkeypatch.setattr(files, "_write_shapes", lambda *a: pytest.fail("written again"))
    assert world.write_causal_shapes(folder.parents[1], SMALL) == folder


def test_two_processes_at_once(tmp_path):
    code = """import sys; from dicap import world
from dicap.world.causal import SCENES
knobs = world.Knobs(per_class_train=2, per_class_val=1, per_class_test=2)
print(world.write_causal_shapes(sys.argv[1], knobs))"""
    runs = [
        subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    printed = {run.communicate(timeout=120)[0].strip() for run in runs}
    assert [run.returncode for run in runs] == [0, 0]
    assert len(printed) == 1
    left = [p.name for p in (tmp_path / "causal_shapes").iterdir()]
    assert left == [Path(printed.pop()).name]  # no temporary folder stays
    assert len(list(tmp_path.rglob("*.png"))) == 250


def test_the_second_writer_uses_the_firsts(tmp_path, monkeypatch):
    write = files._write_shapes

    def slow(temporary, knobs):
        write(temporary, knobs)
        final = temporary.parents[1] / temporary.parent.name.split(".")[1]
        write(final, knobs) if not final.exists() and not final.mkdir() else None

    monkeypatch.setattr(files, "_write_shapes", slow)
    folder = world.write_causal_shapes(tmp_path, world.Knobs(per_class_train=1, per_class_val=1, per_class_test=1))
    assert len(list(tmp_path.rglob("*.png"))) == len(list(folder.rglob("*.png"))) == 150


def test_a_failed_writer_leaves_nothing(tmp_path, monkeypatch):
    def fail(*arguments):
        raise OSError("disk full")

    monkeypatch.setattr(files, "_save_pictures", fail)
    with pytest.raises(OSError, match="disk full"):
        world.write_causal_shapes(tmp_path, SMALL)
    assert list((tmp_path / "causal_shapes").iterdir()) == []


def test_data_root(monkeypatch, tmp_path):
    monkeypatch.setenv("DICAP_DATA", str(tmp_path / "x"))
    assert world.data_root() == tmp_path / "x"
    monkeypatch.delenv("DICAP_DATA")
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    assert world.data_root() == tmp_path / "dicap"


def test_the_pictures_of_the_page_are_drawn_anew(tmp_path):
    """By the command that the page names; fonts may differ from machine to machine, sizes do not."""
    root = Path(__file__).parents[2]
    subprocess.run([sys.executable, "-m", "benchmarks.world_pictures", str(tmp_path)], cwd=root, check=True)
    for name in ("world_grid.png", "world_shifts.png"):
        assert Image.open(tmp_path / name).size == Image.open(root / "docs" / name).size
