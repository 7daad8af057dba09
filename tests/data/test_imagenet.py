"""Class folders and ImageNet's readers: order, names, and a remembered listing that notices every change."""

import json
import os
import time
from pathlib import Path

import pytest

from dicap.data import official
from dicap.data.official import labelled, list_folders, read_classnames
from dicap.data.split import DatasetError


@pytest.fixture
def tree(tmp_path):
    """images/ with two folders of two files each, a README.txt and hidden things."""
    for path in ("b/2.jpg", "b/1.jpg", "a/x.jpg", "a/.DS_Store", ".hidden/y.jpg", "a/B.jpg"):
        (tmp_path / "images" / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "images" / path).touch()
    (tmp_path / "images/README.txt").touch()
    return tmp_path / "images"


@pytest.fixture
def remembered(tree, tmp_path, monkeypatch):
    """`tree` as a large one: listed once, changed long ago; calls tells which folders are listed again."""
    monkeypatch.setenv("DICAP_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(official, "LARGE", 1)
    for folder in ("a", "b"):
        os.utime(tree / folder, ns=(1, time.time_ns() - 10**10))
    list_folders(tree)
    calls = []
    files = official._files
    monkeypatch.setattr(official, "_files", lambda folder: calls.append(Path(folder).name) or files(folder))
    return calls


def test_folders_and_files_are_sorted(tree):
    listing = list_folders(tree)
    assert list(listing.items()) == [("a", ["B.jpg", "x.jpg"]), ("b", ["1.jpg", "2.jpg"])]


def test_a_missing_folder_is_named(tree):
    with pytest.raises(DatasetError, match=f"folder of images not found: {tree}/train"):
        list_folders(tree / "train")


def test_a_small_tree_is_not_remembered(tree, tmp_path, monkeypatch):
    monkeypatch.setenv("DICAP_CACHE", str(tmp_path / "cache"))
    list_folders(tree)
    assert not (tmp_path / "cache").exists()


def test_a_listing_is_remembered(tree, remembered):
    assert list_folders(tree) == {"a": ["B.jpg", "x.jpg"], "b": ["1.jpg", "2.jpg"]} and remembered == []


def add(folder):
    (folder / "b/3.jpg").touch()


def remove(folder):
    (folder / "b/2.jpg").unlink()


def rename(folder):
    (folder / "b/2.jpg").rename(folder / "b/3.jpg")


@pytest.mark.parametrize("change", [add, remove, rename])
def test_every_change_is_noticed(tree, remembered, change):
    change(tree)
    assert list_folders(tree)["b"] == sorted(file.name for file in (tree / "b").iterdir())
    assert remembered == ["b"]
    list_folders(tree)
    assert remembered == ["b", "b"]  # changed a moment ago: its time stamp does not tell a further change yet
    os.utime(tree / "b", ns=(1, time.time_ns() - 10**10))
    list_folders(tree), list_folders(tree)
    assert remembered == ["b", "b", "b"]


def test_new_and_removed_folders_are_noticed(tree, remembered):
    (tree / "c").mkdir()
    (tree / "c/1.jpg").touch()
    assert list_folders(tree)["c"] == ["1.jpg"]
    (tree / "c/1.jpg").unlink()
    (tree / "c").rmdir()
    assert list(list_folders(tree)) == ["a", "b"]


def test_another_tree_of_one_cache(tree, remembered, tmp_path):
    (tmp_path / "other/a").mkdir(parents=True)
    assert list_folders(tmp_path / "other") == {"a": []}


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{}",
        "[]",
        '{"root": ROOT, "folders": {"b": [1]}}',
        '{"root": ROOT, "folders": 3}',
        '{"root": ROOT, "folders": {"b": [TIME, ["../../secret.jpg"]]}}',
    ],
)
def test_a_damaged_listing_is_listed_again(tree, remembered, tmp_path, caplog, text):
    (file,) = (tmp_path / "cache/listings").iterdir()
    file.write_text(text.replace("ROOT", json.dumps(str(tree))).replace("TIME", str((tree / "b").stat().st_mtime_ns)))
    assert list_folders(tree) == {"a": ["B.jpg", "x.jpg"], "b": ["1.jpg", "2.jpg"]} and remembered == ["a", "b"]
    assert f"{file} is damaged" in caplog.text


def test_class_names_keep_their_order(tmp_path):
    (tmp_path / "classnames.txt").write_text("n2 great white shark\n\nn1 tench \nn3 missile\n")
    assert list(read_classnames(tmp_path).items()) == [("n2", "great white shark"), ("n1", "tench"), ("n3", "missile")]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("n1 tench\nn2\n", ": 'n2'; 2 columns are expected"),
        ("n1 tench\nn1 shark\n", ": a WordNet id stands twice"),
        ("n1 caf\xe9\n", " cannot be read .UnicodeDecodeError"),
        ("", ": 'no line'"),
    ],
)
def test_wrong_class_names(tmp_path, text, message):
    (tmp_path / "classnames.txt").write_bytes(text.encode("latin-1"))
    with pytest.raises(DatasetError, match=f"{tmp_path}/classnames.txt{message}"):
        read_classnames(tmp_path)


def test_labels_by_the_order_of_folders(tree):
    items = labelled(tree, {"b": "bee", "a": "ant", "c": "no folder"})
    assert items == [("a/B.jpg", 0, "ant"), ("a/x.jpg", 0, "ant"), ("b/1.jpg", 1, "bee"), ("b/2.jpg", 1, "bee")]
    with pytest.raises(DatasetError, match=f"{tree}/: folder 'b' is not in classnames.txt"):
        labelled(tree, {"a": "ant"})
    (tree / "c").mkdir()
    with pytest.raises(DatasetError, match=r"no image of class 'c' \(cat\)"):
        labelled(tree, {"a": "ant", "b": "bee", "c": "cat"})


def test_numbered_folders_are_numbers(tmp_path):
    """ImageNetV2: "10" comes behind "9", not behind "1"; the names are those of the lines of classnames.txt."""
    for label in range(12):
        (tmp_path / str(label)).mkdir()
        (tmp_path / str(label) / "x.jpeg").touch()
    names = {f"n{30 - label}": f"name {label}" for label in range(12)}
    assert labelled(tmp_path, names, numbered=True) == [(f"{y}/x.jpeg", y, f"name {y}") for y in range(12)]
