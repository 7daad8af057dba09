"""Class names as they are prompted: of the folders, of a list, of pairs; two alike, and lines that must be refused."""

import pytest

from dicap.data.lists import class_names
from dicap.data.split import DatasetError
from dicap.options import ConfigError

KEYS = ["n01", "n02", "n10"]


@pytest.fixture
def named(tmp_path):
    """named(text, keys) -> names by a file with that text."""

    def named(text, keys=KEYS, numbered=False):
        file = tmp_path / "names.txt"
        file.write_text(text)
        return class_names(list(keys), str(file), tmp_path, numbered)

    return named


@pytest.mark.parametrize(
    "text",
    [
        "a cat\na dog\nan owl\n",
        "\ufeffa cat\n\na dog\nan owl",
        "n10,an owl\nn01,a cat\nn02,a dog\n",
        "n10;an owl\nn01;a cat\nn02;a dog\n",
        'n01,"a cat"\nn02, a dog \nn10,an owl\n',
    ],
)
def test_the_same_names(named, text):
    assert named(text) == ["a cat", "a dog", "an owl"]


def test_numbers(named):
    assert named("zero\none\ntwo\n", ["0", "1", "2"], True) == ["zero", "one", "two"]
    assert named("2,two\n07,seven\n", ["2", "7"], True) == ["two", "seven"]
    assert named('"cat, big"\ndog\n', ["0", "1"], True) == ["cat, big", "dog"]


def test_own_names(tmp_path, caplog):
    assert class_names(["Big_Cat", "dog"], "", tmp_path) == ["Big_Cat", "dog"] and not caplog.records
    assert class_names(["1", "2"], "", tmp_path) == ["1", "2"]
    assert "the class names are numbers; DATASET.FOLDER.NAMES gives names" in caplog.text


def test_names_without_images_are_said(named, caplog):
    assert named("n01,a\nn02,b\nn10,c\nn11,d\n") == ["a", "b", "c"]
    assert "names classes without images: n11" in caplog.text


@pytest.mark.parametrize(
    ("keys", "pair"),
    [
        (["Big_Cat", "big cat"], "'Big_Cat' and 'big cat' have one name in prompts, 'big cat'"),
        (["a", "A"], "'a' and 'A'"),
        (["a_ b", "a  b"], "'a_ b' and 'a  b'"),
        (["a", "b", "a"], "'a' and 'a'"),
    ],
)
def test_two_classes_with_one_name(tmp_path, keys, pair):
    with pytest.raises(DatasetError, match=pair):
        class_names(keys, "", tmp_path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x,y\n", r"names.txt: no line for class 'n01'"),
        ("n01,a\nn2,b\nn10,c\n", r"no line for class 'n02'; 'n\d+' is near"),
        ("n01,a\nn01,b\n", "line 2: 'n01' stands twice"),
        ("a\nb\n", "has 2 names for 3 classes, which are, in order: n01, n02, n10"),
        ("a\nb\nc\nd\n", "has 4 names for 3 classes"),
        ("a\nb,c\n", r"line 2: \['b', 'c'\]; expected a name on every line, or folder,name"),
        ("n01,a,b\n", "line 1"),
        ("n01,\n", "line 1"),
        ("", "is empty"),
        ("cat\ncat\ndog\n", "'n01' and 'n02' have one name in prompts, 'cat'"),
        ("n01,cat\nn02,CAT\nn10,x\n", "'n01' and 'n02' have one name"),
        ("a\nb\n_\n", "class 'n10' has no name to prompt with"),
        ("a\nb\n\x1b[31mred\n", "class 'n10' has the name .*, which cannot be printed"),
    ],
)
def test_what_is_refused(named, text, message):
    with pytest.raises(DatasetError, match=message):
        named(text)


@pytest.mark.parametrize(
    ("text", "keys", "message"),
    [
        ("a\nb\n", ["0", "2"], r"label 2 is out of range: .*names.txt has 2 names, for 0\.\.1"),
        ("a\nb\n", ["-1", "0"], "label -1 is out of range"),
        ("a\nb\nc\n", ["0", "2"], r"class 1 \(b\) has no image"),
        ("0,a\n", ["0", "1"], "no line for label '1'"),
        ("0,a\n00,b\n", ["0", "1"], "'0' stands twice"),
    ],
)
def test_numbers_that_are_refused(named, text, keys, message):
    with pytest.raises(DatasetError, match=message):
        named(text, keys, True)


def test_numbers_need_names_and_files_must_be_there(tmp_path):
    with pytest.raises(DatasetError, match="labels are numbers; name the classes with DATASET.FOLDER.NAMES"):
        class_names(["0", "1"], "", tmp_path, numbered=True)
    with pytest.raises(ConfigError, match=f"DATASET.FOLDER.NAMES: no file {tmp_path}/none"):
        class_names(["a"], f"{tmp_path}/none", tmp_path)
