"""The check of images: what is bad, what is remembered, and that processes may share the record."""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from PIL import EpsImagePlugin, Image

from dicap.data import images
from dicap.data.images import bad_images, check_images
from dicap.data.split import DatasetError


def split_of(paths, part="train"):
    return {"train": [], "val": [], "test": [], part: [(path, 0, f"class of {path}") for path in paths]}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An empty image folder; the cache beside it."""
    monkeypatch.setenv("DICAP_CACHE", str(tmp_path / "cache"))
    (tmp_path / "images").mkdir()
    return tmp_path / "images"


@pytest.fixture
def three(folder):
    """The folder with three good images, and their split."""
    for name in "abc":
        Image.linear_gradient("L").convert("RGB").save(folder / f"{name}.png")
    return split_of(["a.png", "b.png", "c.png"])


@pytest.fixture
def decoded(monkeypatch):
    """Names of the files that are decoded, in any order."""
    seen: list[str] = []
    real = images.why_bad

    def counting(path):
        seen.append(os.path.basename(path))
        return real(path)

    monkeypatch.setattr(images, "why_bad", counting)
    return seen


def another_process():
    images._known.clear()


@pytest.mark.parametrize(
    ("mode", "ending"),
    [
        ("RGB", "jpg"),
        ("L", "jpg"),
        ("CMYK", "jpg"),
        ("RGBA", "png"),
        ("P", "png"),
        ("LA", "png"),
        ("1", "png"),
        ("P", "gif"),
        ("RGB", "webp"),
        ("RGB", "bmp"),
        ("L", "pgm"),
    ],
)
def test_what_pillow_reads_is_good(folder, mode, ending):
    Image.new(mode, (5, 3)).save(folder / f"x.{ending}")
    assert bad_images(split_of([f"x.{ending}"]), folder) == []


@pytest.mark.parametrize(
    ("mode", "ending"),
    [("I;16", "png"), ("I;16", "tiff"), ("I;16B", "tiff"), ("I", "tiff"), ("I", "pgm"), ("F", "tiff")],
)
def test_pixels_of_more_than_8_bits_are_refused(folder, mode, ending):
    """Pillow's convert("RGB") makes 255 of all that is above."""
    Image.new(mode, (5, 3), 30_000).save(folder / f"x.{ending}")
    (bad,) = bad_images(split_of([f"x.{ending}"]), folder)
    assert bad.why.startswith("pixels of more than 8 bits")


def whole(ending):
    with tempfile.TemporaryFile() as file:
        Image.effect_noise((64, 64), 50).convert("RGB").save(file, ending)
        file.seek(0)
        return file.read()


def damaged(data):
    """The same length, other bytes in the middle."""
    half = len(data) // 2
    return data[:half] + bytes(255 - byte for byte in data[half : half + 64]) + data[half + 64 :]


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "an empty file"),
        (b"<html>not found</html>", "not an image that Pillow reads"),
        (whole("jpeg")[:-400], "truncated"),
        (whole("png")[:-400], "truncated"),
        (whole("bmp")[:-400], "truncated"),
        (b"P5\n0 5\n255\n", "not an image that Pillow reads"),  # no pixels
        (damaged(whole("png")), "broken|CRC|checksum|stream"),
        (whole("png")[:30], "truncated|not an image|Truncated"),
    ],
)
def test_what_cannot_be_read(folder, content, why):
    (folder / "x.png").write_bytes(content)
    (bad,) = bad_images(split_of(["x.png"]), folder)
    assert (bad.path, bad.name) == ("x.png", "class of x.png")
    with pytest.raises(
        DatasetError, match=rf"1 images are missing or broken in {folder}: x.png \(class .*\): .*({why})"
    ):
        check_images(split_of(["x.png"]), folder)


def test_postscript_is_not_run(folder, tmp_path, monkeypatch):
    """Pillow decodes EPS, under whatever ending, by Ghostscript."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/gs").write_text(f"#!/bin/sh\ntouch {tmp_path}/ran\nexit 1\n")
    (tmp_path / "bin/gs").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}/bin", prepend=os.pathsep)
    monkeypatch.setattr(EpsImagePlugin, "gs_binary", None)  # it is looked for again
    Image.new("RGB", (5, 3)).save(folder / "x.jpg", "EPS")
    (bad,) = bad_images(split_of(["x.jpg"]), folder)
    assert bad.why == "a PostScript program, not a picture" and not (tmp_path / "ran").exists()
    with pytest.raises(Exception, match="gs"), Image.open(folder / "x.jpg") as image:  # what it would have done
        image.load()
    assert (tmp_path / "ran").exists()


def test_what_is_no_file(folder):
    (folder / "folder.png").mkdir()
    os.mkfifo(folder / "pipe.png")  # must not be opened: it would wait for ever
    (folder / "loop.png").symlink_to("loop.png")
    bad = bad_images(
        split_of(["none.png", "folder.png", "pipe.png", "loop.png", "folder.png/x.png", "nul\0.png"]), folder
    )
    why = {row.path: row.why for row in bad}
    assert (why["none.png"], why["folder.png"], why["pipe.png"]) == ("missing", "not a file", "not a file")
    assert "symbolic links" in why["loop.png"] and "null" in why["nul\0.png"] and len(why) == 6


def test_decompression_bombs_are_refused(folder, three, monkeypatch):
    monkeypatch.setattr(
        Image, "MAX_IMAGE_PIXELS", 256 * 256 // 2 - 1
    )  # Pillow refuses from twice that number of pixels
    assert [row.path for row in bad_images(three, folder)] == ["a.png", "b.png", "c.png"]
    assert "bomb" in bad_images(three, folder)[0].why


def test_every_part_is_checked_and_each_path_once(folder, decoded):
    Image.new("RGB", (4, 4)).save(folder / "a.png")
    split = {part: [("a.png", 0, "a"), (f"{part}.png", 1, "b")] for part in ("train", "val", "test")}
    assert [row.path for row in bad_images(split, folder)] == ["train.png", "val.png", "test.png"]
    assert sorted(decoded) == ["a.png", "test.png", "train.png", "val.png"]


def test_good_images_are_decoded_once(folder, three, decoded, tmp_path):
    check_images(three, folder)
    assert sorted(decoded) == ["a.png", "b.png", "c.png"]
    check_images(three, str(folder) + "/")
    another_process()
    check_images(three, folder)
    assert len(decoded) == 3
    (record,) = (tmp_path / "cache/images").iterdir()  # and nothing temporary
    found = os.stat(folder / "a.png")
    assert json.loads(record.read_text())["good"]["a.png"] == [found.st_size, found.st_mtime_ns]


@pytest.mark.parametrize("change", ["size", "time"])
def test_a_changed_image_is_decoded_again(folder, three, decoded, change):
    check_images(three, folder)
    found = os.stat(folder / "b.png")
    if change == "size":
        (folder / "b.png").write_bytes((folder / "b.png").read_bytes()[:-200])
        os.utime(folder / "b.png", ns=(found.st_atime_ns, found.st_mtime_ns))
    else:
        os.utime(folder / "b.png", ns=(found.st_atime_ns, found.st_mtime_ns + 1))
    another_process()
    assert [row.path for row in bad_images(three, folder)] == (["b.png"] if change == "size" else [])
    assert sorted(decoded) == ["a.png", "b.png", "b.png", "c.png"]


def test_what_an_earlier_version_found_good_is_decoded_again(folder, decoded, tmp_path):
    """It took pixels of 16 bits."""
    Image.new("I;16", (5, 3), 30_000).save(folder / "a.png")
    found = os.stat(folder / "a.png")
    stamps = {"a.png": [found.st_size, found.st_mtime_ns]}
    record = images._record(str(folder))
    record.parent.mkdir(parents=True)
    record.write_text(json.dumps({"folder": str(folder), "images": stamps}))
    assert [row.path for row in bad_images(split_of(["a.png"]), folder)] == ["a.png"] == decoded


def test_a_bad_image_is_never_remembered(folder, three, decoded):
    (folder / "b.png").write_bytes(b"no image")
    for _ in range(2):
        assert [row.path for row in bad_images(three, folder)] == ["b.png"]
    assert sorted(decoded) == ["a.png", "b.png", "b.png", "c.png"]


def test_without_a_cache_a_process_remembers(folder, three, decoded, monkeypatch, tmp_path):
    monkeypatch.setenv("DICAP_CACHE", "off")
    check_images(three, folder)
    check_images(three, folder)
    assert len(decoded) == 3 and not (tmp_path / "cache").exists()
    another_process()
    check_images(three, folder)
    assert len(decoded) == 6


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"good": 3}', '{"good": {"a.png": "x"}}'])
def test_a_broken_record_costs_a_check(folder, three, decoded, content, tmp_path):
    check_images(three, folder)
    (record,) = (tmp_path / "cache/images").iterdir()
    good = record.read_text()
    record.write_text(content)
    another_process()
    check_images(three, folder)
    assert len(decoded) == 6 and record.read_text() == good


def test_a_cache_that_cannot_be_written_is_a_warning(folder, three, tmp_path, caplog):
    (tmp_path / "cache").write_text("a file where a folder should be")
    check_images(three, folder)
    assert "checks of images are not cached" in caplog.text


def test_the_first_bad_images_are_named_and_verify_lists_all(folder):
    paths = [f"{number}.png" for number in range(7)]
    with pytest.raises(DatasetError, match="7 images are missing .*; `dicap data verify` lists all") as caught:
        check_images(split_of(paths), folder)
    text = str(caught.value)
    assert all(f"{path} (class class of {path}): missing" in text for path in paths[:5]) and "5.png" not in text
    with pytest.raises(DatasetError) as caught:
        check_images(split_of(paths[:5]), folder)
    assert "verify" not in str(caught.value)


def test_a_check_that_is_stopped_goes_on(folder, three, decoded, monkeypatch):
    monkeypatch.setattr(images, "CHUNK", 1)
    counting = images.why_bad

    def stopped(path):
        if path.endswith("b.png"):
            raise SystemError
        return counting(path)

    with monkeypatch.context() as patch:
        patch.setattr(images, "why_bad", stopped)
        with pytest.raises(SystemError):
            check_images(three, folder)
    another_process()
    decoded.clear()
    check_images(three, folder)
    assert "b.png" in decoded and "a.png" not in decoded


def test_long_checks_tell_how_far_they_are(folder, three, monkeypatch, caplog):
    (folder / "a.png").write_bytes(b"no image")
    monkeypatch.setattr(images, "EVERY", -1.0)
    with caplog.at_level("INFO", "dicap"):
        bad_images(three, folder)
    assert [record.getMessage() for record in caplog.records] == [
        f"checked {number} of 3 images in {folder}, 1 bad" for number in (1, 2, 3)
    ]


def test_processes_share_the_record(folder, tmp_path, decoded):
    """Each checks its own images, and the record that remains is whole and holds only what was found."""
    paths = [f"{number:02d}.png" for number in range(40)]
    for path in paths:
        Image.new("RGB", (2, 2)).save(folder / path)
    code = (
        "import sys; from dicap.data.images import check_images\n"
        "for path in sys.argv[2:]: check_images({'train': [(path, 0, 'x')], 'val': [], 'test': []}, sys.argv[1])"
    )
    running = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(folder), *paths[part::4]], cwd=Path(images.__file__).parents[2]
        )
        for part in range(4)
    ]
    assert [process.wait(60) for process in running] == [0, 0, 0, 0]
    (record,) = (tmp_path / "cache/images").iterdir()
    known = json.loads(record.read_text())["good"]
    assert set(known) <= set(paths) and len(known) >= 10  # the last to write knows at least its own
    check_images(split_of(paths), folder)
    assert sorted(decoded) == sorted(set(paths) - set(known))
    assert set(json.loads(record.read_text())["good"]) == set(paths)
