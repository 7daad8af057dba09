"""Your own images from one path: what is a class, an image, a split; what is refused; what a path means on a command line."""

import json
import os
from pathlib import Path

import pytest
from PIL import Image

from dicap.data.folder import dataset_of_path, image_folder, read_own
from dicap.data.named import path_hint
from dicap.data.split import PARTS, DatasetError
from dicap.options import ConfigError

RATIO = "0.5 0.2 0.3"


def touch(path, size=(4, 4)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size).save(path)


@pytest.fixture
def pictures(tmp_path, monkeypatch):
    """A folder with two classes of ten images; the cache is beside it."""
    monkeypatch.setenv("DICAP_CACHE", str(tmp_path / "cache"))
    for name in ("dog", "Big_Cat"):
        for number in range(10):
            touch(tmp_path / "pictures" / name / f"{number}.jpg")
    return tmp_path / "pictures"


@pytest.fixture
def parted(pictures):
    """A folder with a split of its own: train and test of two classes."""
    folder = pictures.parent / "parted"
    for part, count in (("train", 3), ("test", 2)):
        for name in ("dog", "cat"):
            for number in range(count):
                touch(folder / part / name / f"{part}{number}.png")
    return folder


def table(folder, lines, name="list.csv"):
    file = folder / name
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return file


def paths_of(split, part=None):
    return sorted(path for p in PARTS if part in (None, p) for path, _, _ in split[p])


# --- class folders -----------------------------------------------------------------------------------------------


def test_folders_are_classes(pictures):
    split = read_own(pictures, RATIO, 1)
    assert [len(split[part]) for part in PARTS] == [10, 4, 6]
    assert {(label, name) for part in PARTS for _, label, name in split[part]} == {(0, "Big_Cat"), (1, "dog")}
    assert all(path.startswith(f"{name}/") for part in PARTS for path, _, name in split[part])
    assert read_own(pictures, RATIO, 1) == split != read_own(pictures, RATIO, 2)


def test_deeper_folders_belong_to_the_first(pictures):
    touch(pictures / "dog/old/er/x.PNG")
    assert ("dog/old/er/x.PNG", 1, "dog") in sum(read_own(pictures, RATIO, 1).values(), [])


def test_what_is_ignored_is_counted(pictures, caplog):
    touch(pictures / "dog/.hidden.jpg")
    touch(pictures / "dog/.folder/x.jpg")
    touch(pictures / ".git/x.jpg")
    touch(pictures / "__MACOSX/dog/._0.jpg")
    (pictures / "dog/Thumbs.db").write_text("")
    (pictures / "dog/README").write_text("")
    (pictures / "Big_Cat/link").symlink_to(pictures / "dog")
    touch(pictures / "loose.jpg")
    touch(pictures / ".loose.jpg")
    with caplog.at_level("INFO", "dicap"):
        split = read_own(pictures, RATIO, 1)
    assert len(paths_of(split)) == 20
    assert "20 images of 2 classes; ignored: 1 .db, 2 hidden, 1 linked folders, 1 no ending" in caplog.text
    assert "1 images lie in no class folder of" in caplog.text and "loose.jpg" in caplog.text


def test_links_to_class_folders_and_images_are_followed(pictures, tmp_path):
    (tmp_path / "linked").mkdir()
    for name in ("dog", "Big_Cat"):
        (tmp_path / "linked" / name).symlink_to(pictures / name)
    touch(tmp_path / "elsewhere.jpg")
    (pictures / "dog/linked.jpg").symlink_to(tmp_path / "elsewhere.jpg")
    assert len(paths_of(read_own(tmp_path / "linked", RATIO, 1))) == 21


def test_numbers_are_in_order(tmp_path, pictures, caplog):
    for name in ("10", "9", "1"):
        for number in range(3):
            touch(tmp_path / "numbers" / name / f"{number}.jpg")
    names = table(tmp_path, ["first", "ninth", "tenth"], "names.txt")
    split = read_own(tmp_path / "numbers", RATIO, 1, str(names))
    assert {path.split("/")[0]: name for path, _, name in split["train"]} == {"1": "first", "9": "ninth", "10": "tenth"}


def test_a_split_of_its_own_is_used_as_it_is(parted):
    split = read_own(parted, RATIO, 1)
    assert [len(split[part]) for part in PARTS] == [6, 0, 4]
    assert paths_of(split, "test") == [
        f"test/{name}/test{number}.png" for name in ("cat", "dog") for number in range(2)
    ]
    assert split["train"][0] == ("train/cat/train0.png", 0, "cat")
    assert not list(parted.glob("dicap_split*"))
    (parted / "test").rename(parted / "Test")
    touch(parted / "valid/cat/x.png")
    assert paths_of(read_own(parted, RATIO, 1), "val") == ["valid/cat/x.png"]


def test_a_class_may_be_called_train(pictures):
    for number in range(3):
        touch(pictures / "train" / f"{number}.jpg")
    assert {name for _, _, name in read_own(pictures, RATIO, 1)["train"]} == {"Big_Cat", "dog", "train"}


def test_a_class_without_a_test_is_said(parted, caplog):
    (parted / "test/dog/test0.png").unlink()
    (parted / "test/dog/test1.png").unlink()
    assert paths_of(read_own(parted, RATIO, 1), "test") == ["test/cat/test0.png", "test/cat/test1.png"]
    assert "1 classes have no test image: dog" in caplog.text


def extra_folder(folder):
    touch(folder / "bird/x.png")


def no_test(folder):
    (folder / "test").rename(folder / "val")


def two_vals(folder):
    touch(folder / "val/cat/x.png")
    touch(folder / "valid/cat/x.png")


def untrained(folder):
    touch(folder / "test/owl/x.png")


def empty_train(folder):
    (folder / "train/owl").mkdir()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (extra_folder, "holds bird, test, train: a split has train/ and test/"),
        (no_test, "holds train, val: a split has"),
        (two_vals, "holds test, train, val, valid: a split has"),
        (untrained, "no train image of 1 classes: owl"),
        (empty_train, "class 'owl': no image in .*/train/owl; images end in .jpg"),
    ],
)
def test_splits_that_are_refused(parted, change, message):
    change(parted)
    with pytest.raises(DatasetError, match=message):
        read_own(parted, RATIO, 1)


def test_folders_that_are_refused(pictures, tmp_path):
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(DatasetError, match="no images in class folders below .*empty: 0 images lie in no class folder"):
        read_own(empty, RATIO, 1)
    touch(empty / "x.jpg")
    with pytest.raises(DatasetError, match="1 images lie in no class folder.*expected PATH/CLASS"):
        read_own(empty, RATIO, 1)
    with pytest.raises(DatasetError, match=f"one class only, 'pictures'.* give {tmp_path}/up/pictures"):
        (tmp_path / "up").mkdir()
        (tmp_path / "up/pictures").symlink_to(pictures)
        read_own(tmp_path / "up", RATIO, 1)
    (pictures / "owl").mkdir()
    (pictures / "owl/x.txt").write_text("")
    with pytest.raises(DatasetError, match="class 'owl': no image in"):
        read_own(pictures, RATIO, 1)
    touch(pictures / "owl/x.jpg")
    with pytest.raises(DatasetError, match="too few images to split a class into 3 parts: 'owl' has 1"):
        read_own(pictures, RATIO, 1)
    assert not list(pictures.glob("dicap_split*"))


def test_two_classes_with_one_name(pictures, tmp_path):
    names = table(tmp_path, ["dog,a pet", "Big_Cat,A_Pet"], "names.csv")
    with pytest.raises(DatasetError, match="'Big_Cat' and 'dog' have one name in prompts, 'a pet'"):
        read_own(pictures, RATIO, 1, str(names))


@pytest.mark.skipif(os.name == "nt", reason="any bytes name a file")
@pytest.mark.parametrize("name", [b"dog/caf\xe9.jpg", b"dog/a\\b.jpg", b"C:/a.jpg"])
def test_names_that_cannot_be_shown_or_split(pictures, name):
    path = Path(os.fsdecode(bytes(pictures) + b"/" + name))
    path.parent.mkdir(exist_ok=True)
    path.write_bytes((pictures / "dog/0.jpg").read_bytes())
    with pytest.raises(DatasetError, match="(caf|dog/a|C:).*is not UTF-8; rename it"):
        read_own(pictures, RATIO, 1)


# --- the split that is made --------------------------------------------------------------------------------------


def test_the_split_is_made_once_and_images_added_later_are_said(pictures, caplog):
    split = read_own(pictures, RATIO, 1)
    (file,) = pictures.glob("dicap_split*")
    assert file.name == "dicap_split_0.5-0.2-0.3_seed1.json"
    touch(pictures / "dog/new.jpg")
    touch(pictures / "owl/new.jpg")
    assert read_own(pictures, RATIO, 1) == split
    assert "2 images are new since the split was made and are NOT used: dog/new.jpg, owl/new.jpg" in caplog.text
    (pictures / "owl/new.jpg").unlink()
    (pictures / "owl").rmdir()
    file.unlink()
    assert "dog/new.jpg" in paths_of(read_own(pictures, RATIO, 1))


def test_an_image_that_is_gone(pictures):
    read_own(pictures, RATIO, 1)
    (pictures / "dog/4.jpg").unlink()
    with pytest.raises(DatasetError, match="1 images of the split are gone: dog/4.jpg; restore"):
        read_own(pictures, RATIO, 1)


def test_a_bad_image_is_found_before_a_split_is_made(pictures):
    (pictures / "dog/4.jpg").write_bytes(b"no image")
    with pytest.raises(DatasetError, match=r"1 images are missing or broken in .*dog/4.jpg \(class dog\)"):
        read_own(pictures, RATIO, 1)
    assert not list(pictures.glob("dicap_split*"))
    (pictures / "dog/4.jpg").unlink()
    assert len(paths_of(read_own(pictures, RATIO, 1))) == 19


def test_where_nothing_can_be_written_beside_the_images(pictures, tmp_path, monkeypatch):
    from dicap.data import ratio

    def refuse(path, text):
        if Path(path).parent == pictures:
            raise PermissionError("read-only")
        real(path, text)

    real = ratio.write_text
    monkeypatch.setattr(ratio, "write_text", refuse)
    split = read_own(pictures, RATIO, 1, elsewhere=tmp_path / "data")
    (file,) = (tmp_path / "data").rglob("*.json")
    assert file.parent.name.startswith("pictures-")
    touch(pictures / "dog/new.jpg")
    assert read_own(pictures, RATIO, 1, elsewhere=tmp_path / "data") == split


# --- CSV and JSON ------------------------------------------------------------------------------------------------


def test_a_csv_without_a_split(pictures):
    lines = ["path,label", *(f"{name}/{number}.jpg,{name}" for name in ("dog", "Big_Cat") for number in range(10))]
    file = table(pictures, lines)
    split = read_own(file, RATIO, 1)
    assert split == read_own(pictures, RATIO, 1)  # the same images, classes, ratio and seed
    assert (pictures / "list.dicap_split_0.5-0.2-0.3_seed1.json").is_file()


def test_a_csv_with_a_split_and_numbers(pictures, tmp_path):
    lines = ["path;label;split", "dog/0.jpg;1;train", "dog/1.jpg;1;test", "Big_Cat/0.jpg;0;train"]
    names = table(tmp_path, ["a cat", "a dog"], "names.txt")
    split = read_own(table(tmp_path, lines), RATIO, 1, str(names), str(pictures))
    assert split == {
        "train": [("Big_Cat/0.jpg", 0, "a cat"), ("dog/0.jpg", 1, "a dog")],
        "val": [],
        "test": [("dog/1.jpg", 1, "a dog")],
    }


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["path,label", "dog/0.jpg,dog"], "has one class only, 'dog'"),
        (["path,label,split", "dog/0.jpg,dog,train", "Big_Cat/0.jpg,cat,test"], "no train image of 1 classes: cat"),
        (["path,label,split", "dog/0.jpg,dog,train", "Big_Cat/0.jpg,cat,train"], "no test image of 2 classes"),
        (
            ["path,label", "dog/0.jpg,dog", "Big_Cat/0.jpg,cat"],
            "too few images to split a class into 3 parts: 'cat' has 1, 'dog' has 1",
        ),
        (
            ["path,label", *(f"dog/{n}.jpg,dog" for n in range(9)), *(f"x/{n}.jpg,cat" for n in range(3))],
            "3 images are missing or broken",
        ),
        (["path,label", "dog/0.jpg,0", "Big_Cat/0.jpg,1"], "labels are numbers; name the classes"),
    ],
)
def test_csvs_that_are_refused(pictures, lines, message):
    with pytest.raises(DatasetError, match=message):
        read_own(table(pictures, lines), RATIO, 1)


def test_a_split_json(pictures, tmp_path):
    tree = {
        "train": [["dog/0.jpg", 1, "dog"], ["Big_Cat/0.jpg", 0, "cat"]],
        "val": [],
        "test": [["dog/1.jpg", 1, "dog"]],
    }
    file = tmp_path / "split.json"
    file.write_text(json.dumps(tree))
    assert read_own(file, RATIO, 1, images=str(pictures)) == {
        part: [tuple(item) for item in tree[part]] for part in PARTS
    }
    names = table(tmp_path, ["dog,a pup", "cat,a kitten"], "names.csv")
    assert [item[2] for item in read_own(file, RATIO, 1, str(names))["train"]] == ["a pup", "a kitten"]
    tree["test"] = []
    file.write_text(json.dumps(tree))
    with pytest.raises(DatasetError, match="no test image"):
        read_own(file, RATIO, 1)
    (pictures / "out").symlink_to(tmp_path)
    tree["test"] = [["out/x.jpg", 0, "cat"]]
    file.write_text(json.dumps(tree))
    with pytest.raises(DatasetError, match="out/x.jpg leaves the image folder"):
        read_own(file, RATIO, 1, images=str(pictures))


# --- paths on a command line -------------------------------------------------------------------------------------


def test_a_path_in_place_of_a_name(pictures, monkeypatch):
    file = table(pictures, ["path,label"], "my list.csv")
    assert dataset_of_path(str(pictures)) == ("pictures", ("DATASET.FOLDER.PATH", str(pictures)))
    assert dataset_of_path(f"{pictures}/") == dataset_of_path(f"{pictures}/dog/..") == dataset_of_path(str(pictures))
    assert dataset_of_path(str(file)) == ("my_list", ("DATASET.FOLDER.PATH", str(file)))
    monkeypatch.chdir(pictures)
    monkeypatch.setenv("HOME", str(pictures.parent))
    assert dataset_of_path("my list.csv") == dataset_of_path(str(file))
    assert dataset_of_path(".") == dataset_of_path(str(pictures)) == dataset_of_path("../pictures")
    assert dataset_of_path("./dog") == ("dog", ("DATASET.FOLDER.PATH", str(pictures / "dog")))
    assert dataset_of_path("~/pictures") == dataset_of_path(str(pictures))
    assert path_hint("dog") == "; for the folder that is here: ./dog" and path_hint("digits") == ""
    assert dataset_of_path("dog") is None and dataset_of_path("digits") is None and dataset_of_path("all") is None


@pytest.mark.parametrize("name", ["eurosat", "digits", "folder", "all"])
def test_the_name_is_none_of_the_benchmark(tmp_path, name):
    (tmp_path / name).mkdir()
    assert dataset_of_path(f"{tmp_path}/{name}")[0] == f"folder_{name}"


def test_paths_that_are_refused(pictures, tmp_path):
    for text in (f"{tmp_path}/none", "none.csv", "none.json"):
        with pytest.raises(ConfigError, match="none.* is not there; give a folder"):
            dataset_of_path(text)
    with pytest.raises(ConfigError, match="0.jpg is a file of another kind; give a folder"):
        dataset_of_path(f"{pictures}/dog/0.jpg")
    with pytest.raises(ConfigError, match="IMAGES is 'x', but .* is a folder"):
        image_folder(pictures, "x")
    with pytest.raises(ConfigError, match="IMAGES is '/none': no such folder"):
        image_folder(table(pictures, ["path,label"]), "/none")
    with pytest.raises(ConfigError, match="DATASET.FOLDER.SPLIT is '1 2'"):
        read_own(pictures, "1 2", 1)
