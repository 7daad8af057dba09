"""The images that a run reads, checked once: each is there, opens, decodes to its end and has pixels.

Good images are remembered by path, size and time (DICAP_CACHE/images, one file for each folder of images): decoding 50,000
photographs takes minutes, reading the record a third of a second. Processes may share that file: each adds to what it finds
there; what two write in the same moment may be lost for one, and is then checked once more.
"""

import hashlib
import json
import logging
import os
import stat
import time
from multiprocessing.pool import ThreadPool
from pathlib import Path
from typing import NamedTuple

from PIL import Image, UnidentifiedImageError

from dicap.data.split import PARTS, DatasetError, Split, read_json
from dicap.files import cache_folder, keep, write_text

log = logging.getLogger(__name__)

SHOWN = 5  # bad images in the message
EVERY = 10.0  # seconds between the lines that tell how far a long check is
CHUNK = 32  # images that a thread takes at a time
Stamps = dict[str, list[int]]  # path below the image folder -> size in bytes, time in nanoseconds

_known: dict[str, Stamps] = {}  # by image folder: what this process has found good, also where nothing is cached


class BadImage(NamedTuple):
    """An image that cannot be used: path below the image folder, class name, reason."""

    path: str
    name: str
    why: str

    def __str__(self) -> str:
        return f"{self.path} (class {self.name}): {self.why}"


class BadImagesError(DatasetError):
    """Images that cannot be used, `bad`; the message names the first of them."""

    def __init__(self, bad: list[BadImage], folder: str | os.PathLike):
        self.bad = bad
        shown = "; ".join(map(str, bad[:SHOWN])) + ("; `dicap data verify` lists all" if len(bad) > SHOWN else "")
        way = "Restore or remove them (embedded datasets are written again when their folder is deleted)"
        super().__init__(f"{len(bad)} images are missing or broken in {folder}: {shown}. {way}")


def check_images(split: Split, folder: str | os.PathLike) -> None:
    """Check every image of a split. Raises BadImagesError."""
    bad = bad_images(split, folder)
    if bad:
        raise BadImagesError(bad, folder)


def bad_images(split: Split, folder: str | os.PathLike) -> list[BadImage]:
    """The images of a split that cannot be used, in the order of the split; [] where all can.

    Args:
        split: items by part; each path counts once.
        folder: what the paths are relative to.
    """
    folder = os.path.abspath(folder)
    names = {path: name for part in PARTS for path, _, name in split[part]}
    known, stamps = _load(folder), {}
    for path in names:
        try:
            status = os.stat(os.path.join(folder, path))
            stamp = [status.st_size, status.st_mtime_ns]
        except (OSError, ValueError):  # ValueError: a zero byte in the path
            stamp = []
        if not stamp or known.get(path) != stamp:
            stamps[path] = stamp
    why = _decode(folder, stamps) if stamps else {}
    return [BadImage(path, name, why[path]) for path, name in names.items() if path in why]


def _decode(folder: str, stamps: Stamps) -> dict[str, str]:
    """Decode images, remember the good ones and return why the others are bad. Stopped half way, it goes on from there."""
    why: dict[str, str] = {}
    good: Stamps = {}
    shown = time.monotonic()
    try:
        with ThreadPool(min(8, os.cpu_count() or 1)) as pool:
            reasons = pool.imap(why_bad, [os.path.join(folder, path) for path in stamps], CHUNK)
            for path, reason in zip(stamps, reasons):
                if reason:
                    why[path] = reason
                else:
                    good[path] = stamps[path]
                if time.monotonic() - shown > EVERY:
                    counts = len(good) + len(why), len(stamps)
                    log.info("checked %d of %d images in %s, %d bad", *counts, folder, len(why))
                    shown = time.monotonic()
    finally:
        if good:
            _remember(folder, good)
    return why


def why_bad(path: str) -> str:
    """Why an image file cannot be used, "" where it can: it is read in full, as a run reads it; nothing of it is run."""
    try:
        status = os.stat(path)
        if not stat.S_ISREG(status.st_mode) or not status.st_size:
            return "an empty file" if stat.S_ISREG(status.st_mode) else "not a file"
        with Image.open(path) as image:
            if image.format == "EPS":  # Pillow would hand it to Ghostscript, which runs it
                return "a PostScript program, not a picture"
            if image.mode[0] in "IF":  # convert makes white of all above 255
                return "pixels of more than 8 bits, which would turn white: save it with 8"
            image.convert("RGB")
    except FileNotFoundError:
        return "missing"
    except UnidentifiedImageError:
        return "not an image that Pillow reads"
    except Exception as error:  # on a broken file Pillow's readers raise almost anything
        return getattr(error, "strerror", "") or str(error) or type(error).__name__
    return ""


def _record(folder: str) -> Path | None:
    cache = cache_folder("images")
    return cache and cache / f"{hashlib.sha256(os.fsencode(folder)).hexdigest()[:16]}.json"


def _load(folder: str) -> Stamps:
    """What is known of a folder's images: from this process, and from the cache."""
    known, record = _known.setdefault(folder, {}), _record(folder)
    try:
        if record is not None and record.exists():
            known.update(read_json(record)["good"])
    except (ValueError, KeyError, TypeError) as error:
        log.warning("%s is no record of checked images (%s: %s); checking again", record, type(error).__name__, error)
    return known


def _remember(folder: str, good: Stamps) -> None:
    known = _load(folder)  # again: other processes may have added to it
    known.update(good)
    text = json.dumps({"folder": folder, "good": known})
    keep(_record(folder), lambda path: write_text(path, text), "checks of images")
