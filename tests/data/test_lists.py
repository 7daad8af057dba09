"""Lists of images in text: separators, encodings, and lines that must be refused."""

import pytest

from dicap.data.lists import Row, natural, read_table
from dicap.data.split import DatasetError

GOOD = "path,label,split\nb/2.jpg,dog,train\na/1.jpg,cat,test\n"
ROWS = [Row("a/1.jpg", "cat", "test"), Row("b/2.jpg", "dog", "train")]


@pytest.fixture
def read(tmp_path):
    """read(content) -> rows of a CSV with that content, str or bytes."""

    def read(content):
        file = tmp_path / "list.csv"
        file.write_bytes(content.encode() if isinstance(content, str) else content)
        return read_table(file, tmp_path)

    return read


@pytest.mark.parametrize(
    "content",
    [
        GOOD,
        GOOD.replace(",", ";"),
        GOOD.replace(",", "\t"),
        "\ufeff" + GOOD,
        GOOD.replace("\n", "\r\n"),
        GOOD.rstrip(),
        GOOD.replace("\n", "\n\n"),
        GOOD.replace("path,label,split", ' Path , "Label",SPLIT'),
        GOOD.replace("test", "TEST"),
        "split,label,path\ntrain,dog,b/2.jpg\ntest,cat,./a//1.jpg\n",
        GOOD.replace(",", ", "),
    ],
)
def test_the_same_rows(read, content):
    assert read(content) == ROWS


def test_a_path_may_have_separators_in_quotes(read):
    assert read('path,label\n"a, b; c.jpg","x, y"\nd.jpg,é\n') == [Row("a, b; c.jpg", "x, y"), Row("d.jpg", "é")]


def test_parts_and_their_other_names(read):
    found = read("path,label,split\n1,a,train\n2,a,val\n3,a,valid\n4,a,validation\n5,a,test\n")
    assert [row.part for row in found] == ["train", "val", "val", "val", "test"]


def test_numbers_are_numbers_where_all_labels_are(read):
    assert [row.key for row in read("path,label\na,07\nb,7\nc,10\n")] == ["7", "7", "10"]
    assert [row.key for row in read("path,label\na,07\nb,7\nc,x\n")] == ["07", "7", "x"]
    assert sorted(["10", "9", "b", "A"], key=natural) == ["A", "b", "9", "10"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "is empty"),
        ("path,label\n", "lists no image"),
        ("a.jpg,cat\n", "line 1: the header is a.jpg, cat; expected path,label"),
        ("path,label,spilt\na,b,train\n", "the header is path, label, spilt"),
        ("path\na\n", "the header is path;"),
        ("path,path\na,b\n", "the header is path, path"),
        ("path,label\na,b\na,b,c\n", "line 3: 3 values under 2 columns"),
        ("path,label\na,b\n\n./a,c\n", "line 4: a stands twice"),
        ("path,label\na, \n", "line 2: path is 'a' and label ''"),
        ("path,label\n,b\n", "line 2: path is '' and"),
        ("path,label,split\na,b,dev\n", "line 2: split is 'dev'; allowed: train, val"),
        ("path,label,split\na,b,\n", "line 2: split is ''"),
        ("path,label\n../a,b\n", "line 2: '../a' is not a path below"),
        ("path,label\nx/../../a,b\n", "is not a path below"),
        ("path,label\n/etc/passwd,b\n", "'/etc/passwd' is not a path below"),
        ("path,label\nC:/a,b\n", "is not a path below"),
        ("path,label\nx\\a,b\n", "is not a path below"),
        ("path,label\nx\0,b\n", "is not a path below|line contains NUL"),
        ('path,label\n"a,b\n', "is not a CSV"),
        ("path,label\ncaf\xe9,b\n".encode("latin-1"), "is not UTF-8 .* at byte 14"),
        (b"\xff\xfea\0", "is not UTF-8"),
    ],
)
def test_what_is_refused(read, content, message, tmp_path):
    with pytest.raises(DatasetError, match=message) as caught:
        read(content)
    assert str(tmp_path / "list.csv") in str(caught.value)


def test_links_out_of_the_folder(read, tmp_path):
    inside, outside = tmp_path, tmp_path.parent / f"{tmp_path.name}-outside"
    outside.mkdir()
    (outside / "a.jpg").write_bytes(b"")
    (inside / "a.jpg").write_bytes(b"")
    (inside / "here.jpg").symlink_to("a.jpg")
    assert len(read("path,label\nhere.jpg,x\na.jpg,y\nnot-there/a.jpg,y\n")) == 3
    (inside / "there.jpg").symlink_to(outside / "a.jpg")
    (inside / "folder").symlink_to(outside)
    (inside / "twice").symlink_to("folder")
    for path in ("there.jpg", "folder/a.jpg", "twice/a.jpg", "folder/not-there.jpg"):
        with pytest.raises(DatasetError, match=rf"{path} leaves the image folder .*: a link leads to {outside}"):
            read(f"path,label\n{path},x\n")


def test_an_image_folder_that_is_a_link_itself(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    (tmp_path / "real/a.jpg").write_bytes(b"")
    (tmp_path / "list.csv").write_text("path,label\na.jpg,x\n")
    assert read_table(tmp_path / "list.csv", tmp_path / "link") == [Row("a.jpg", "x")]


def test_a_file_that_cannot_be_read(tmp_path):
    with pytest.raises(DatasetError, match=f"{tmp_path} cannot be read: Is a directory"):
        read_table(tmp_path, tmp_path)
