"""Unpacking: the layouts of real archives, and archives that mean harm."""

import contextlib
import gzip
import io
import os
import stat
import tarfile
import tracemalloc
import zipfile
from types import SimpleNamespace

import pytest

from dicap.data import unpack as unpack_module
from dicap.data.sources import Source
from dicap.data.split import DatasetError
from dicap.data.unpack import UnpackError
from dicap.files import locked


def unpack(archive, folder, names, **rest):
    """What a source that takes `names` out of the archive gives."""
    return unpack_module.unpack(archive, folder, Source(archive.name, unpack=tuple(names), **rest))


def make_tar(path, members, mode="w:gz"):
    """members: (name, bytes) files, or TarInfo."""
    with tarfile.open(path, mode) as tar:
        for member in members:
            if isinstance(member, tarfile.TarInfo):
                tar.addfile(member)
            else:
                info = tarfile.TarInfo(member[0])
                info.size, info.mode = len(member[1]), 0o6777  # setuid, setgid, writable to all
                tar.addfile(info, io.BytesIO(member[1]))
    return path


def make_zip(path, members):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as zipped:
        for name, data in members:
            zipped.writestr(name, data)
    return path


def special(name, kind, link=""):
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, link
    return info


def below(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize("make", [make_tar, make_zip, lambda path, members: make_tar(path, members, "w")])
def test_the_wanted_names_come_out_and_nothing_else(tmp_path, make):
    archive = make(
        tmp_path / "fgvc",
        [
            ("fgvc-2013b/data/images/1.jpg", b"1"),
            ("fgvc-2013b/data/variants.txt", b"v"),
            ("fgvc-2013b/evaluation.m", b"m"),
        ],
    )
    assert unpack(archive, tmp_path / "out", ["images", "variants.txt"]) == ["images", "variants.txt"]
    assert below(tmp_path / "out") == ["images/1.jpg", "variants.txt"]


def test_an_archive_in_an_archive(tmp_path):
    inner = make_tar(tmp_path / "inner", [("101_ObjectCategories/ant/1.jpg", b"ant")])
    archive = make_zip(
        tmp_path / "caltech-101.zip",
        [
            ("caltech-101/101_ObjectCategories.tar.gz", inner.read_bytes()),
            ("__MACOSX/caltech-101/._101_ObjectCategories.tar.gz", b"x"),
        ],
    )
    unpack(archive, tmp_path / "out", ["101_ObjectCategories"], inner="101_ObjectCategories.tar.gz")
    assert below(tmp_path / "out") == ["101_ObjectCategories/ant/1.jpg"]


def test_a_name_that_is_another_on_disk(tmp_path):
    archive = make_zip(tmp_path / "a", [("sketch/n01440764/1.JPEG", b"1")])
    unpack(archive, tmp_path / "out", ["images"], rename={"sketch": "images"})
    assert below(tmp_path / "out") == ["images/n01440764/1.JPEG"]


def test_what_is_there_stays(tmp_path):
    archive = make_zip(tmp_path / "a", [("images/1.jpg", b"new"), ("meta/x", b"x")])
    (tmp_path / "out/images").mkdir(parents=True)
    (tmp_path / "out/images/1.jpg").write_bytes(b"old")
    assert unpack(archive, tmp_path / "out", ["images", "meta"]) == ["meta"]
    assert (tmp_path / "out/images/1.jpg").read_bytes() == b"old"


def test_an_empty_folder_is_filled(tmp_path):
    archive = make_zip(tmp_path / "a", [("images/1.jpg", b"new"), ("meta.txt", b"x")])
    (tmp_path / "out/images").mkdir(parents=True)
    (tmp_path / "out/meta.txt").touch()
    assert unpack(archive, tmp_path / "out", ["images", "meta.txt"]) == ["images", "meta.txt"]
    assert below(tmp_path / "out") == ["images/1.jpg", "meta.txt"]


def test_no_permission_is_taken_over(tmp_path):
    unpack(make_tar(tmp_path / "a", [("images/1.jpg", b"1")]), tmp_path / "out", ["images"])
    for path in (tmp_path / "out").rglob("*"):
        assert not path.stat().st_mode & (stat.S_ISUID | stat.S_ISGID | stat.S_IWOTH)


def test_a_link_within_a_tar_becomes_a_copy(tmp_path):
    archive = make_tar(
        tmp_path / "a",
        [
            ("images/1.jpg", b"1"),
            special("images/2.jpg", tarfile.SYMTYPE, "1.jpg"),
            special("images/3.jpg", tarfile.LNKTYPE, "images/1.jpg"),
        ],
    )
    unpack(archive, tmp_path / "out", ["images"])
    for number in (1, 2, 3):
        path = tmp_path / f"out/images/{number}.jpg"
        assert path.read_bytes() == b"1" and not path.is_symlink() and path.stat().st_nlink == 1


HOSTILE_TARS = {
    "absolute": ("leaves", [("/tmp/evil", b"x")]),
    "parent": ("leaves", [("images/../../evil", b"x")]),
    "backslash": ("leaves", [("images\\..\\..\\evil", b"x")]),
    "drive": ("leaves", [("C:/evil", b"x")]),
    "symlink out": (
        "outside of the folder",
        [special("images/a", tarfile.SYMTYPE, "../../outside"), ("images/a/evil", b"x")],
    ),
    "symlink absolute": ("outside of the folder", [special("images/a", tarfile.SYMTYPE, "/etc/passwd")]),
    "symlink to a folder": (
        "not a file",
        [special("images/d", tarfile.DIRTYPE), special("images/a", tarfile.SYMTYPE, "d")],
    ),
    "hard link out": ("outside of the folder", [special("images/a", tarfile.LNKTYPE, "../outside/secret")]),
    "hard link absolute": ("outside of the folder", [special("images/a", tarfile.LNKTYPE, "/etc/passwd")]),
    "link to nothing": ("not in the archive", [special("images/a", tarfile.SYMTYPE, "b")]),
    "device": ("device or pipe", [special("images/a", tarfile.CHRTYPE)]),
    "block device": ("device or pipe", [special("images/a", tarfile.BLKTYPE)]),
    "pipe": ("device or pipe", [special("images/a", tarfile.FIFOTYPE)]),
    "twice": ("stands twice", [("images/a", b"x"), ("images/a", b"y")]),
    "file and folder": ("cannot be unpacked", [("images/a", b"x"), ("images/a/b", b"y")]),
}


@pytest.mark.parametrize("name", HOSTILE_TARS)
def test_hostile_tars_are_refused_and_leave_nothing(tmp_path, name):
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside/secret").write_text("secret")
    text, members = HOSTILE_TARS[name]
    archive = make_tar(tmp_path / "evil.tar.gz", [("images/1.jpg", b"1"), *members])
    before = below(tmp_path)
    with pytest.raises(UnpackError, match=f"evil.tar.gz .*{text}"):
        unpack(archive, tmp_path / "out", ["images"])
    assert below(tmp_path) == before and list((tmp_path / "out").iterdir()) == [] and not os.path.exists("/tmp/evil")


def zip_info(name, mode):
    info = zipfile.ZipInfo(name)
    info.external_attr = mode << 16
    return info


HOSTILE_ZIPS = {
    "absolute": [("/tmp/evil", b"x")],
    "parent": [("images/../../evil", b"x")],
    "symlink": [(zip_info("images/a", stat.S_IFLNK | 0o777), b"/etc/passwd")],
    "device": [(zip_info("images/a", stat.S_IFCHR | 0o666), b"")],
    "twice": [("images/a", b"x"), ("images/a", b"y")],
}


@pytest.mark.parametrize("name", HOSTILE_ZIPS)
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_hostile_zips_are_refused_and_leave_nothing(tmp_path, name):
    archive = make_zip(tmp_path / "evil.zip", [("images/1.jpg", b"1"), *HOSTILE_ZIPS[name]])
    with pytest.raises(UnpackError, match="evil.zip was not unpacked.*do not use it"):
        unpack(archive, tmp_path / "out", ["images"])
    assert below(tmp_path) == ["evil.zip"]


@pytest.mark.parametrize("make", [make_tar, make_zip])
def test_a_bomb_is_stopped(tmp_path, make, monkeypatch):
    monkeypatch.setattr(unpack_module, "SLACK", 1 << 20)
    archive = make(tmp_path / "bomb", [(f"images/{number}", bytes(1 << 20)) for number in range(8)])
    written = []
    bar = contextlib.nullcontext(SimpleNamespace(update=written.append))
    monkeypatch.setattr(unpack_module, "progress", lambda what: bar)
    with pytest.raises(UnpackError, match="come out of"):
        unpack(archive, tmp_path / "out", ["images"])
    assert (
        written
        and sum(written) <= unpack_module.RATIO * archive.stat().st_size + (1 << 20)
        and below(tmp_path) == ["bomb"]
    )


def raw(kind, body=b"", name="images/1.jpg", link=""):
    """The blocks of a member, as tarfile would not write them."""
    info = tarfile.TarInfo(name)
    info.type, info.size, info.linkname = kind, len(body), link
    return info.tobuf(tarfile.USTAR_FORMAT) + body + bytes(-len(body) % 512)


def pax(**values):
    rows = [f" {key.replace('_', '.')}={value}\n" for key, value in values.items()]
    return "".join(f"{next(n for n in (1, 2, 3, 4, 5) if len(str(n + len(row))) == n) + len(row)}{row}" for row in rows)


def sparse(blocks):
    """A member whose list of pieces goes on for that many blocks."""
    head = bytearray(raw(tarfile.GNUTYPE_SPARSE))
    head[482] = 1  # it goes on
    head[148:156] = b" " * 8
    head[148:156] = b"%06o\0 " % sum(head)
    return bytes(head) + (b"%011o\0" % 1 * 42 + b"\1" + bytes(7)) * blocks


MUCH, MANY = 1 << 24, 20_000
FILES = b"".join(raw(b"0", b"1", f"images/{number}") for number in range(300))
HUNGRY_TARS = {
    "long name": ("asks for more", raw(tarfile.GNUTYPE_LONGNAME, b"a" * MUCH)),
    "long link": ("asks for more", raw(tarfile.GNUTYPE_LONGLINK, b"a" * MUCH)),
    "extended header": ("asks for more", raw(tarfile.XHDTYPE, pax(comment="a" * 90).encode() * (MUCH // 100))),
    "many headers": (
        "asks for more",
        raw(tarfile.SYMTYPE, link="none")
        + b"".join(
            raw(tarfile.XHDTYPE, pax(path=f"{n}/{'a' * 60_000}").encode()) + raw(b"0", b"1") for n in range(300)
        ),
    ),
    "many files behind a link": ("asks for more", raw(tarfile.SYMTYPE, link="none") + raw(b"0") * MANY),
    "sparse file": ("sparse", sparse(MUCH // 512)),
    "sparse file of today": (
        "sparse",
        raw(tarfile.XHDTYPE, pax(GNU_sparse_major="1", GNU_sparse_minor="0").encode())
        + raw(b"0", b"999999999\n" + b"1\n" * (MUCH // 4)),
    ),
    "header for all": ("", raw(tarfile.XGLTYPE, pax(**{f"key{n}": "" for n in range(2000)}).encode()) + FILES),
}


@pytest.mark.parametrize("name", HUNGRY_TARS)
def test_a_small_tar_takes_little_memory(tmp_path, monkeypatch, name):
    """A few kilobytes of an archive may be a name of gigabytes."""
    monkeypatch.setattr(unpack_module, "EXTRAS", 1 << 20)
    monkeypatch.setattr(unpack_module, "ENTRIES", 1000)
    text, blocks = HUNGRY_TARS[name]
    archive = tmp_path / "hungry"
    archive.write_bytes(gzip.compress(blocks + raw(b"0", b"1", "images/last") + bytes(1024), 1))
    tracemalloc.start()
    try:
        with (
            pytest.raises(UnpackError, match=f"hungry was not unpacked: .*{text}") if text else contextlib.nullcontext()
        ):
            unpack(archive, tmp_path / "out", ["images"])
        assert tracemalloc.get_traced_memory()[1] < 8 << 20
    finally:
        tracemalloc.stop()


def test_a_long_list_of_files_in_a_zip_is_not_read(tmp_path, monkeypatch):
    monkeypatch.setattr(unpack_module, "LIST", 1000)
    archive = make_zip(tmp_path / "long.zip", [(f"images/{number}", b"") for number in range(100)])
    with pytest.raises(UnpackError, match="long.zip was not unpacked: its list of files has .* bytes"):
        unpack(archive, tmp_path / "out", ["images"])


@pytest.mark.parametrize("make", [make_tar, make_zip])
def test_more_than_there_is_room_for_is_said_before_the_disk_is_full(tmp_path, make, monkeypatch):
    archive = make(tmp_path / "large", [(f"images/{number}", bytes(1000)) for number in range(3)])
    monkeypatch.setattr(unpack_module.shutil, "disk_usage", lambda folder: SimpleNamespace(free=2500))
    with pytest.raises(UnpackError, match="large cannot be unpacked: .*No space left.* make room and try again"):
        unpack(archive, tmp_path / "out", ["images"])
    assert below(tmp_path) == ["large"]


@pytest.mark.parametrize("said", [50, 6000])
def test_a_zip_that_lies_about_a_size_is_stopped(tmp_path, said):
    archive = make_zip(tmp_path / "lie.zip", [("images/1", bytes(5000))])
    data = archive.read_bytes()
    size = (5000).to_bytes(4, "little")
    assert data.count(size) == 2  # in the file's own header and in the list at the end
    archive.write_bytes(data.replace(size, said.to_bytes(4, "little")))
    with pytest.raises(UnpackError, match="lie.zip"):
        unpack(archive, tmp_path / "out", ["images"])
    assert below(tmp_path) == ["lie.zip"]


def test_too_many_files_are_stopped(tmp_path, monkeypatch):
    monkeypatch.setattr(unpack_module, "ENTRIES", 3)
    archive = make_zip(tmp_path / "many", [(f"images/{number}", b"") for number in range(5)])
    with pytest.raises(UnpackError, match="3 files"):
        unpack(archive, tmp_path / "out", ["images"])


@pytest.mark.parametrize("make", [make_tar, make_zip])
@pytest.mark.parametrize("cut", [0.3, 0.9])
def test_half_an_archive_is_refused(tmp_path, make, cut):
    archive = make(tmp_path / "half", [(f"images/{number}.jpg", os.urandom(5000)) for number in range(20)])
    data = archive.read_bytes()
    archive.write_bytes(data[: int(cut * len(data))])
    with pytest.raises(UnpackError, match="half cannot be unpacked.*get it again"):
        unpack(archive, tmp_path / "out", ["images"])
    assert below(tmp_path) == ["half"]


def test_flipped_bytes_in_a_zip_are_found(tmp_path):
    archive = make_zip(tmp_path / "flipped.zip", [("images/1.jpg", os.urandom(5000))])
    data = bytearray(archive.read_bytes())
    data[2500] ^= 255
    archive.write_bytes(data)
    with pytest.raises(UnpackError, match="flipped.zip cannot be unpacked"):
        unpack(archive, tmp_path / "out", ["images"])


@pytest.mark.parametrize("data", [b"", b"<html>not here</html>", b"PK\3\4nonsense"])
def test_what_is_no_archive_is_refused(tmp_path, data):
    (tmp_path / "page.zip").write_bytes(data)
    with pytest.raises(UnpackError, match="page.zip cannot be unpacked") as caught:
        unpack(tmp_path / "page.zip", tmp_path / "out", ["images"])
    assert "\n" not in str(caught.value)


def test_another_archive_is_told_apart(tmp_path):
    archive = make_zip(tmp_path / "other.zip", [("pictures/1.jpg", b"1")])
    with pytest.raises(UnpackError, match="other.zip holds no folder with images, meta; is it the right file"):
        unpack(archive, tmp_path / "out", ["images", "meta"])
    assert list((tmp_path / "out").iterdir()) == []


def test_two_processes_do_not_unpack_one_archive(tmp_path):
    pytest.importorskip("fcntl")
    archive = make_zip(tmp_path / "a.zip", [("images/1.jpg", b"1")])
    with (
        locked(tmp_path / "out/.a.zip.lock"),
        pytest.raises(DatasetError, match="another process is at work on .*a.zip"),
    ):
        unpack(archive, tmp_path / "out", ["images"])
    assert unpack(archive, tmp_path / "out", ["images"]) == ["images"]


def test_what_a_killed_run_left_is_cleared(tmp_path):
    archive = make_zip(tmp_path / "a.zip", [("images/1.jpg", b"1")])
    (tmp_path / "out/.a.zip.unpack/top/images").mkdir(parents=True)
    unpack(archive, tmp_path / "out", ["images"])
    assert below(tmp_path / "out") == ["images/1.jpg"] and not (tmp_path / "out/.a.zip.unpack").exists()
