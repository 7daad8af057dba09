"""Class folders and ImageNet's readers: order and names."""

import pytest

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


def test_folders_and_files_are_sorted(tree):
    listing = list_folders(tree)
    assert list(listing.items()) == [("a", ["B.jpg", "x.jpg"]), ("b", ["1.jpg", "2.jpg"])]


def test_a_missing_folder_is_named(tree):
    with pytest.raises(DatasetError, match=f"folder of images not found: {tree}/train"):
        list_folders(tree / "train")


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
