"""The split by ratio: shares, the least of one, what it depends on; kept, and what happens when the images change."""

import random

import pytest

from dicap.data.ratio import keep_split, kept_split, read_ratio, split_by_ratio
from dicap.data.split import PARTS, DatasetError, read_split
from dicap.options import ConfigError

RATIO = (0.5, 0.2, 0.3)


def classes_of(**sizes):
    return {f"{name}/{number:03d}.jpg": name for name, size in sizes.items() for number in range(size)}


def sizes_of(split, name):
    return tuple(sum(path.startswith(f"{name}/") for path in split[part]) for part in PARTS)


@pytest.mark.parametrize(
    ("text", "ratio"),
    [
        ("0.5 0.2 0.3", RATIO),
        ("0.5, 0.2, 0.3", RATIO),
        ("0.7 0 0.3", (0.7, 0.0, 0.3)),
        ("1e-3 0 0.999", (0.001, 0.0, 0.999)),
    ],
)
def test_ratios(text, ratio):
    assert read_ratio(text, "KEY") == ratio


@pytest.mark.parametrize(
    "text",
    [
        "",
        "0.5 0.5",
        "0.5 0.2 0.2",
        "0 0.5 0.5",
        "0.5 0.5 0",
        "1.2 -0.4 0.2",
        "a b c",
        "50 20 30",
        "0.25 0.25 0.25 0.25",
        "nan nan nan",
    ],
)
def test_ratios_that_are_none(text):
    with pytest.raises(ConfigError, match="KEY is .*; expected the shares of train, val and test"):
        read_ratio(text, "KEY")


@pytest.mark.parametrize(
    ("count", "ratio", "sizes"),
    [
        (10, RATIO, (5, 2, 3)),
        (100, RATIO, (50, 20, 30)),
        (3, RATIO, (1, 1, 1)),
        (4, RATIO, (2, 1, 1)),
        (7, RATIO, (4, 1, 2)),
        (3, (0.01, 0.495, 0.495), (1, 1, 1)),
        (2, (0.9, 0, 0.1), (1, 0, 1)),
        (10, (0.9, 0, 0.1), (9, 0, 1)),
        (5, (0.98, 0.01, 0.01), (3, 1, 1)),
    ],
)
def test_each_class_is_split_by_the_shares_and_no_part_is_empty(count, ratio, sizes):
    classes = classes_of(a=count, b=50)
    split = split_by_ratio(classes, ratio, 1)
    assert sizes_of(split, "a") == sizes
    assert sorted(path for part in PARTS for path in split[part]) == sorted(classes)  # each once


def test_the_seed_decides_and_nothing_else():
    classes = classes_of(a=20, b=20)
    shuffled = dict(random.Random(3).sample(list(classes.items()), len(classes)))
    split = split_by_ratio(classes, RATIO, 1)
    random.seed(8)
    assert split_by_ratio(shuffled, RATIO, 1) == split != split_by_ratio(classes, RATIO, 2)
    assert split["train"][:10] != sorted(classes)[:10]  # not simply the first of each class
    assert [path[2:] for path in split["train"][:10]] != [
        path[2:] for path in split["train"][10:]
    ]  # nor the same of each
    more = split_by_ratio(classes | classes_of(c=9), RATIO, 1)
    assert {part: [path for path in more[part] if path[0] != "c"] for part in PARTS} == split


def test_classes_with_too_few_images():
    with pytest.raises(DatasetError, match="3 parts: 'b' has 2, 'c' has 1; add images"):
        split_by_ratio(classes_of(a=3, b=2, c=1), RATIO, 1)
    with pytest.raises(DatasetError, match="2 parts: 'c0' has 1, .*'c4' has 1 and 3 more classes"):
        split_by_ratio(classes_of(**{f"c{number}": 1 for number in range(8)}), (0.7, 0.0, 0.3), 1)


@pytest.fixture
def kept(tmp_path):
    """(classes, split, its file), kept."""
    classes, file = classes_of(a=10, b=10), tmp_path / "split.json"
    split = split_by_ratio(classes, RATIO, 1)
    keep_split(split, classes, [file])
    return classes, split, file


def test_a_kept_split_is_used_whatever_is_added(kept, caplog):
    classes, split, file = kept
    assert kept_split(classes, [file]) == split and not caplog.records
    assert kept_split(classes | classes_of(a=12, c=1), [file]) == split
    assert "3 images are new since the split was made and are NOT used: a/010.jpg, a/011.jpg, c/000.jpg;" in caplog.text
    assert f"delete {file} to split all images anew" in caplog.text


def test_images_of_the_split_that_are_gone(kept):
    classes, split, file = kept
    del classes["b/003.jpg"]
    with pytest.raises(
        DatasetError, match=rf"1 images of the split are gone: b/003.jpg; restore them, or delete {file}"
    ):
        kept_split(classes, [file])


def test_another_class_of_an_image_is_said(kept, caplog):
    classes, split, file = kept
    assert kept_split({**classes, "a/000.jpg": "b"}, [file]) == split
    assert "another class than when the split was made" in caplog.text


def test_what_is_kept(kept, tmp_path):
    """A split of CoOp's form, so that it may be given as DATASET.FOLDER.PATH, too."""
    classes, split, file = kept
    assert read_split(file) == {
        part: [(path, "ab".index(classes[path]), classes[path]) for path in split[part]] for part in PARTS
    }
    assert str(tmp_path) not in file.read_text()


def test_the_first_place_that_can_be_written(tmp_path, caplog):
    classes = classes_of(a=3, b=3)
    split = split_by_ratio(classes, RATIO, 1)
    (tmp_path / "no").write_text("a file where a folder should be")
    beside, elsewhere = tmp_path / "no/split.json", tmp_path / "yes/split.json"
    assert kept_split(classes, [beside, elsewhere]) is None
    keep_split(split, classes, [beside, elsewhere])
    assert kept_split(classes, [beside, elsewhere]) == split and elsewhere.is_file()
    assert not [record for record in caplog.records if record.levelname != "INFO"]
    keep_split(split, classes, [beside])
    assert f"the split cannot be kept in {beside}" in caplog.text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[" * 100_000,
        "[]",
        "3",
        '{"train": []}',
        '{"train": 1, "val": 2, "test": 3}',
        '{"train": [["a/000.jpg", 0, "a"], ["a/000.jpg", 0, "a"]], "val": [], "test": []}',
        '{"train": [["a/000.jpg", "a"]], "val": [], "test": []}',
    ],
)
def test_a_file_of_another_form(kept, text):
    classes, _, file = kept
    file.write_text(text)
    with pytest.raises(DatasetError, match=rf"{file}.*; or delete it for a new split"):
        kept_split(classes, [file])
