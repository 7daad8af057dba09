"""Reading, counts, the few-shot draw, its cache, base and new classes, and data that must be refused."""

import json
import os
import random
from collections import defaultdict
from pathlib import Path

import pytest

import dicap  # noqa: F401  (puts the engine under dassl's names)
from dicap.data.draw import few_shot
from dicap.data.split import DatasetError, read_split
from dicap.datasets.caltech101 import Caltech101

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "few_shot.json").read_text())


@pytest.fixture
def small(monkeypatch):
    """Caltech101 with the fixture's counts."""
    monkeypatch.setattr(Caltech101, "counts", (5, 30, 15, 10))
    return Caltech101


def textbook_draw(split, shots, seed):
    """CoOp's rule again, on the module-level generator: seed, then train, then val with min(shots, 4)."""
    random.seed(seed)
    out = []
    for part, count in (("train", shots), ("val", min(shots, 4))):
        tracker = defaultdict(list)
        for item in split[part]:
            tracker[item[1]].append(item)
        for items in tracker.values():
            out.extend(random.sample(items, count) if len(items) >= count else items)
    return out


def items_of(dataset):
    return [
        (os.path.relpath(d.impath, dataset.image_dir), d.label, d.classname)
        for part in (dataset.train_x, dataset.val)
        for d in part
    ]


def test_reads_the_true_layout(caltech, small, make_cfg):
    dataset = small(make_cfg(small, caltech, shots=-1))
    assert (len(dataset.train_x), len(dataset.val), len(dataset.test)) == (30, 15, 10)
    assert dataset.classnames == ["face", "leopard", "motorbike", "accordion", "airplane"]
    assert dataset.num_classes == 5
    assert dataset.train_x[0].impath == str(caltech / "caltech-101/101_ObjectCategories/accordion/image_train_0000.jpg")
    assert dataset.groups == {}


def test_wrong_counts_are_refused(caltech, make_cfg):
    with pytest.raises(DatasetError, match=r"\(5, 30, 15, 10\), expected \(100, 4128, 1649, 2465\)"):
        Caltech101(make_cfg(Caltech101, caltech))


@pytest.mark.parametrize("shots", [1, 2, 4, 5, 16])
@pytest.mark.parametrize("seed", [0, 1, 3])
def test_draw_is_coops(caltech, small, make_cfg, shots, seed):
    file = caltech / "caltech-101" / "split_zhou_Caltech101.json"
    fresh = small(make_cfg(small, caltech, shots, seed))
    cached = small(make_cfg(small, caltech, shots, seed))
    expected = textbook_draw(read_split(file), shots, seed)
    assert items_of(fresh) == items_of(cached) == expected


@pytest.mark.parametrize("case", GOLDEN["cases"], ids=lambda case: f"shots{case['shots']}-seed{case['seed']}")
def test_draw_is_the_golden_one(case):
    split = {
        part: [(f"{part}/{i}.png", i * 7 % 3, "abc"[i * 7 % 3]) for i in range(size)]
        for part, size in GOLDEN["sizes"].items()
    }
    drawn = few_shot({**split, "test": []}, case["shots"], case["seed"])
    assert {part: [item[0] for item in drawn[part]] for part in ("train", "val")} == case["drawn"]


def test_a_cached_draw_leaves_the_same_random_state(caltech, small, make_cfg):
    states = []
    for _ in range(2):
        random.seed(5)
        small(make_cfg(small, caltech, 2, 5))
        states.append(random.random())
    assert states[0] == states[1]


def test_the_cache_is_portable(caltech, small, make_cfg, tmp_path):
    small(make_cfg(small, caltech, 2, 1))
    text = (caltech / "caltech-101/split_fewshot/shot_2-seed_1.json").read_text()
    assert str(tmp_path) not in text
    assert len(json.loads(text)["train"]) == 10


def swap_label(tree):
    tree["train"][0][1] = 4


def foreign_item(tree):
    tree["train"][0][0] = "Faces/image_test_0000.jpg"


def repeated_item(tree):
    tree["train"][1] = tree["train"][0]


def other_split(tree):
    tree["split"] = "0" * 64


@pytest.mark.parametrize("damage", [swap_label, foreign_item, repeated_item, other_split, "not json"])
def test_a_bad_cache_is_drawn_again(caltech, small, make_cfg, caplog, damage):
    expected = items_of(small(make_cfg(small, caltech, 2, 1)))
    file = caltech / "caltech-101/split_fewshot/shot_2-seed_1.json"
    good = file.read_text()
    if callable(damage):
        tree = json.loads(good)
        damage(tree)
        file.write_text(json.dumps(tree))
    else:
        file.write_text(damage)
    assert items_of(small(make_cfg(small, caltech, 2, 1))) == expected
    assert "is not used" in caplog.text
    assert file.read_text() == good


def test_a_valid_cache_from_elsewhere_counts(caltech, small, make_cfg):
    """The published samples of another group, put into the folder, are the ones that are used."""
    small(make_cfg(small, caltech, 1, 1))
    other = small(make_cfg(small, caltech, 1, 2))
    cache = caltech / "caltech-101/split_fewshot"
    (cache / "shot_1-seed_1.json").write_text((cache / "shot_1-seed_2.json").read_text())
    assert items_of(small(make_cfg(small, caltech, 1, 1))) == items_of(other)


def test_a_folder_that_cannot_be_written_is_no_error(caltech, small, make_cfg, monkeypatch, caplog):
    def refuse(*args, **kwargs):
        raise PermissionError("read-only")

    monkeypatch.setattr("os.replace", refuse)
    small(make_cfg(small, caltech, 2, 1))
    assert "not cached" in caplog.text


def test_base_and_new(caltech, small, make_cfg):
    halves = [small(make_cfg(small, caltech, 2, 1, part)) for part in ("base", "new")]
    everything = items_of(small(make_cfg(small, caltech, 2, 1)))
    assert [h.classnames for h in halves] == [["face", "leopard", "motorbike"], ["accordion", "airplane"]]
    assert [sorted({d.label for d in h.test}) for h in halves] == [[0, 1, 2], [0, 1]]
    shown = {path for h in halves for path, _, _ in items_of(h)}
    assert shown == {path for path, _, _ in everything}  # drawn before the halves are separated
    with pytest.raises(DatasetError, match="'old'; allowed: all, base, new"):
        small(make_cfg(small, caltech, 2, 1, "old"))


def drop_part(tree):
    del tree["val"]


def extra_part(tree):
    tree["dev"] = []


def out_of_range(tree):
    tree["test"][0][1] = 7
    tree["test"][0][2] = "ghost"


def negative(tree):
    tree["train"][0][1] = -1


def huge(tree):
    tree["train"][0][1] = "9" * 5000  # more digits than Python turns into a number


def called(path):
    def change(tree):
        tree["train"][0][0] = path

    return change


def two_names(tree):
    tree["test"][0][2] = "faces"


def leaves(tree):
    tree["train"][0][0] = "../../secret.jpg"


def absolute(tree):
    tree["train"][0][0] = "/etc/passwd"


def twice(tree):
    tree["test"][0] = tree["train"][0]


def short(tree):
    tree["train"][0] = ["a.jpg", 0]


def four(tree):
    tree["train"][0] = ["a.jpg", 0, "face", 5]


def no_list(tree):
    tree["val"] = 5


def nameless(tree):
    tree["train"][0][2] = " "


def zero_byte(tree):
    tree["train"][0][0] = "a\0.jpg"


def twice_otherwise(tree):
    tree["test"][0] = ["./" + tree["train"][0][0], *tree["train"][0][1:]]


def untrained(tree):
    tree["train"] = [item for item in tree["train"] if item[2] != "airplane"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (drop_part, "must hold exactly train, val and test"),
        (extra_part, "must hold exactly"),
        (out_of_range, r"label 7 \(class ghost\) is out of range"),
        (negative, "label -1 of accordion/.* is not a number"),
        (huge, "label 9+ of accordion/.* is not a number"),
        (two_names, "label 3 is 'faces' at accordion/image_test_0000.jpg and 'accordion' before"),
        (leaves, r"'../../secret.jpg' \(class accordion\) leaves the image folder"),
        (absolute, "'/etc/passwd'.*leaves"),
        *((called(path), "leaves the image folder") for path in ("", "C:/x.jpg", "..\\x.jpg", "a/../../x.jpg")),
        (twice, r"image_train_0000.jpg \(class accordion\) stands twice"),
        (short, "is not .path, label, class name"),
        (untrained, "no training image of class airplane"),
        (four, "5. is not .path, label, class name"),
        (no_list, "val is 5; expected a list"),
        (nameless, "has no class name"),
        (zero_byte, "a zero byte in its path"),
        (twice_otherwise, r"./accordion/image_train_0000.jpg \(class accordion\) stands twice"),
    ],
)
def test_a_split_that_breaks_the_rules(edit_split, change, message):
    file = edit_split(change)
    with pytest.raises(DatasetError, match=message) as caught:
        read_split(file)
    assert str(file) in str(caught.value)


def test_a_split_of_the_same_size_is_read_again(edit_split):
    file = edit_split(lambda tree: None)
    text, time = file.read_text(), file.stat().st_mtime_ns
    name = read_split(file)["train"][0][2]
    file.write_text(text.replace(f'"{name}"', f'"{name[::-1]}"'))
    os.utime(file, ns=(time + 10**9, time + 10**9))
    assert read_split(file)["train"][0][2] == name[::-1] != name


def test_corrupt_and_missing_files(caltech, small, make_cfg):
    folder = caltech / "caltech-101"
    image = folder / "101_ObjectCategories/Faces/image_test_0001.jpg"
    image.unlink()
    with pytest.raises(DatasetError, match=r"1 images are missing .*image_test_0001.jpg \(class face\)"):
        small(make_cfg(small, caltech))
    split = folder / "split_zhou_Caltech101.json"
    split.write_text('{"train": [')
    with pytest.raises(DatasetError, match="cannot be read as JSON"):
        small(make_cfg(small, caltech))
    split.unlink()
    with pytest.raises(DatasetError, match="dicap data download caltech101"):
        small(make_cfg(small, caltech))


def test_missing_root(tmp_path, make_cfg):
    with pytest.raises(DatasetError, match="give --root"):
        Caltech101(make_cfg(Caltech101, ""))
    with pytest.raises(DatasetError, match="folder not found: .*caltech-101; is the data folder"):
        Caltech101(make_cfg(Caltech101, tmp_path))
