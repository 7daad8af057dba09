"""Folders of class folders: their files, sorted; a large tree is remembered.

list_folders("imagenet/images/train")       {"n01440764": ["n01440764_10026.JPEG", ...], ...}
"""

import json
import logging
import os
import time
from pathlib import Path

from dicap.data.split import DatasetError
from dicap.files import cache_folder, keep, write_text

log = logging.getLogger(__name__)

LARGE = 100_000  # files, from which on a listing is remembered
UNSURE = 2 * 10**9  # nanoseconds: a folder changed so shortly before may change again within its time stamp
Listing = dict[str, list]  # folder -> [time of its last change in nanoseconds, file names in order]


def list_folders(root: str | os.PathLike) -> dict[str, list[str]]:
    """The files in each folder of `root`, both sorted; files beside the folders (README.txt) and hidden ones are left out.

    A large tree (ImageNet: 1.28 million files) is remembered in DICAP_CACHE/listings: a folder is listed again where its
    time of change moved on, which adding, removing or renaming a file does. Raises DatasetError.
    """
    root = os.path.abspath(root)
    if not os.path.isdir(root):
        raise DatasetError(f"folder of images not found: {root}")
    place = cache_folder("listings")
    file = place / (root.strip("/").replace("/", "_")[-150:] + ".json") if place else None
    known, fresh, now = _read_listing(file, root), {}, time.time_ns()
    for name in sorted(entry.name for entry in os.scandir(root) if entry.is_dir() and entry.name[0] != "."):
        changed, old = os.stat(os.path.join(root, name)).st_mtime_ns, known.get(name)
        if old is None or old[0] != changed:
            old = [changed if now - changed > UNSURE else 0, sorted(_files(os.path.join(root, name)))]
        fresh[name] = old
    if fresh != known and sum(len(files) for _, files in fresh.values()) >= LARGE:
        keep(
            file, lambda path: write_text(path, json.dumps({"root": root, "folders": fresh})), f"the listing of {root}"
        )
    return {name: files for name, (_, files) in fresh.items()}


def _files(folder: str) -> list[str]:
    return [entry.name for entry in os.scandir(folder) if entry.name[0] != "."]


def _read_listing(file: Path | None, root: str) -> Listing:
    if file is None or not file.is_file():
        return {}
    try:
        tree = json.loads(file.read_text(encoding="utf-8"))
        listing: Listing = tree["folders"] if tree["root"] == root else {}
        if any("/" in name for folder, (_, files) in listing.items() for name in (folder, *files)):
            raise ValueError("a name is a path")
        return listing
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        log.warning("%s is damaged (%s); listing again", file, error)
        return {}
