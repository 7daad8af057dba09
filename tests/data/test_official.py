"""The rules by which CoOp split, on counts of the published splits; official .mat files, read within bounds."""

import struct
import zlib
from collections import Counter

import numpy as np
import pytest
from scipy.io import savemat

from dicap.data import official
from dicap.data.official import by_groups, by_lists, from_one, look_up, read_mat, read_rows
from dicap.data.split import PARTS, DatasetError

GROUPS = [  # images of a class -> its train, val and test in the published splits
    ("EuroSAT: Forest", 3000, (1500, 600, 900)),
    ("DescribableTextures", 120, (60, 24, 36)),
    ("Food101", 1000, (500, 200, 300)),
    ("Caltech101: smallest", 31, (16, 6, 9)),
    ("OxfordFlowers: largest", 258, (129, 52, 77)),
]
LISTS = [
    ("SUN397", 50, (40, 10)),
    ("OxfordPets", 100, (80, 20)),
    ("OxfordPets: smallest", 93, (74, 19)),
    ("StanfordCars: smallest", 24, (19, 5)),
]


def items(size, label=0):
    return [(f"{label}/{i}.jpg", label, f"name {label}") for i in range(size)]


@pytest.mark.parametrize(("name", "size", "expected"), GROUPS, ids=[row[0] for row in GROUPS])
def test_sizes_of_groups(name, size, expected):
    split = by_groups("x", [items(size), items(10, 1)])
    assert tuple(sum(y == 0 for _, y, _ in split[part]) for part in PARTS) == expected
    assert sorted(item for part in PARTS for item in split[part]) == sorted(items(size) + items(10, 1))


@pytest.mark.parametrize(("name", "size", "expected"), LISTS, ids=[row[0] for row in LISTS])
def test_sizes_of_lists(name, size, expected):
    test = [(f"test/{label}.jpg", label, f"name {label}") for label in (1, 0)]
    split = by_lists("x", items(size) + items(10, 1), test)
    assert tuple(Counter(y for _, y, _ in split[part])[0] for part in ("train", "val")) == expected
    assert split["test"] == test
    assert split["val"][: expected[1]] != items(size)[: expected[1]]  # shuffled
    assert sorted(split["train"] + split["val"]) == sorted(items(size) + items(10, 1))


def test_shuffled_by_its_own_generator():
    import random

    random.seed(3)
    before = random.random()
    random.seed(3)
    one, two = (by_groups("x", [items(40)]) for _ in range(2))
    assert one == two and one["train"] != items(40)[:20]
    assert random.random() == before


@pytest.mark.parametrize("size", [0, 1, 2])
def test_too_small_classes_are_named(size):
    with pytest.raises(DatasetError, match=f"where: a class has {size} images"):
        by_groups("where", [items(40), items(size, 1)])
    if size:
        with pytest.raises(DatasetError, match=rf"where: class 1 \(name 1\) has {size} images"):
            by_lists("where", items(40) + items(size, 1), [])


@pytest.mark.parametrize(
    "bad",
    [
        ("../../x.jpg", 0, "name 0"),
        ("/x.jpg", 0, "name 0"),
        ("x.jpg", -1, "name 0"),
        ("x.jpg", 2, "name 2"),
        ("0/0.jpg", 0, "name 0"),
        ("x.jpg", 0, "other"),
    ],
)
def test_what_lists_say_is_checked_as_a_split_file(bad):
    with pytest.raises(DatasetError, match="annotations"):
        by_lists("annotations", items(40), [bad])


def test_rows_of_a_list(tmp_path):
    file = tmp_path / "list.txt"
    file.write_text("a 1 x y\n\n b 2 z\n")
    assert read_rows(file, 3) == [["a", "1", "x y"], ["b", "2", "z"]]
    with pytest.raises(DatasetError, match="list.txt: 'b 2 z'; 4 columns are expected"):
        read_rows(file, 4)


def test_numbers_and_names_of_lists():
    assert from_one("37", "list") == 36 and look_up({"a": 5}, "a", "list") == 5
    for wrong in ("0", "-1", "x", "1.5", ""):
        with pytest.raises(DatasetError, match=f"list: '{wrong}' is no number of a class"):
            from_one(wrong, "list")
    with pytest.raises(DatasetError, match="list: class 'b' is not in the list"):
        look_up({"a": 5}, "b", "list")


@pytest.mark.parametrize("compressed", [False, True])
def test_a_mat_file_is_read(tmp_path, compressed):
    savemat(tmp_path / "x.mat", {"labels": np.array([[3, 1, 2]]), "other": np.zeros(5)}, do_compression=compressed)
    assert read_mat(tmp_path / "x.mat", "labels").tolist() == [3, 1, 2]
    with pytest.raises(DatasetError, match="x.mat cannot be read as a .mat file with nothing"):
        read_mat(tmp_path / "x.mat", "nothing")


def test_a_mat_file_that_is_too_large(tmp_path, monkeypatch):
    savemat(tmp_path / "x.mat", {"labels": np.zeros((1, 4000))})
    monkeypatch.setattr(official, "MAT_BYTES", 30_000)
    with pytest.raises(DatasetError, match="larger than such a file can be"):
        read_mat(tmp_path / "x.mat", "labels")


@pytest.mark.parametrize("name", [b"labels", b"other"])
def test_a_mat_file_that_unpacks_to_too_much(tmp_path, monkeypatch, name):
    """A small file whose compressed element is large is refused before scipy unpacks it."""
    import scipy.io

    monkeypatch.setattr(official, "MAT_UNPACKED", 10**6)
    monkeypatch.setattr(scipy.io, "loadmat", lambda *args, **kwargs: pytest.fail("unpacked"))
    body = zlib.compress(bytes(10**7))
    header = b"MATLAB 5.0 MAT-file".ljust(124) + b"\x00\x01IM"
    (tmp_path / "x.mat").write_bytes(header + struct.pack("<II", 15, len(body)) + body)
    assert (tmp_path / "x.mat").stat().st_size < 20_000
    with pytest.raises(DatasetError, match="larger than such a file can be"):
        read_mat(tmp_path / "x.mat", name.decode())
