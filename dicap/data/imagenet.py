"""ImageNet and its test-only shifts on disk: classnames.txt and folders named by WordNet ids ("n01440764").

Files are listed sorted. CoOp takes them in the order of the file system, so its few-shot samples of ImageNet differ from
machine to machine; its pickled draws, where they are kept, give the same samples here (dicap/data/drawn.py).
"""
import json
import logging
import os
import time
from pathlib import Path

from dicap.cache import cache_folder, keep
from dicap.data.split import DatasetError, Items
from dicap.files import write_text

LARGE = 100_000  # files, from which on a listing is remembered
UNSURE = 2 * 10**9  # nanoseconds: a folder changed so shortly before may change again within its time stamp
log = logging.getLogger(__name__)

DUPLICATES = ("missile", "sunglasses")  # class names of CLIP's list that two classes share: 657 and 744, 836 and 837
Listing = dict[str, list]  # folder -> [time of its last change in nanoseconds, file names in order]


def read_classnames(folder: str | os.PathLike) -> dict[str, str]:
    """Class names by WordNet id, in label order, from classnames.txt ("n01440764 tench") of a dataset's folder.

    A shift without a file of its own takes that of imagenet/ beside it. Raises DatasetError.
    """
    places = Path(folder) / "classnames.txt", Path(folder).parent / "imagenet/classnames.txt"
    file = next((place for place in places if place.is_file()), None)
    if file is None:
        raise DatasetError(f"class names not found: {' or '.join(map(str, places))}; get them with: dicap data download imagenet")
    rows = [line.strip().partition(" ") for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
    names = {wnid: name.strip() for wnid, _, name in rows}
    bad = next((wnid for wnid, name in names.items() if not name), None)
    if bad or len(names) < len(rows):
        why = f"{bad!r} has no name" if bad else "a WordNet id stands twice"
        raise DatasetError(f"{file}: {why}; lines must be like 'n01440764 tench'")
    return names


def labelled(images: str | os.PathLike, names: dict[str, str], below: str = "", numbered: bool = False) -> Items:
    """The items of images/<below>/<class folder>/, labels by the order of the folders, paths relative to `images`.

    Args:
        numbered: folders are labels ("0", "1" ...), named in the order of `names` (ImageNetV2); else WordNet ids.
    """
    listing = list_folders(os.path.join(images, below))
    if numbered:
        names = {str(label): name for label, name in enumerate(names.values())}
    unknown = [folder for folder in listing if folder not in names]
    if unknown:
        raise DatasetError(f"{os.path.join(images, below)}: folder {unknown[0]!r} is not in classnames.txt; remove it or add its name")
    folders = sorted(listing, key=int if numbered else str)
    prefix = f"{below}/" if below else ""
    return [(f"{prefix}{folder}/{file}", label, names[folder])
            for label, folder in enumerate(folders) for file in listing[folder]]  # fmt: skip


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
        keep(file, lambda path: write_text(path, json.dumps({"root": root, "folders": fresh})), f"the listing of {root}")
    return {name: files for name, (_, files) in fresh.items()}


def _files(folder: str) -> list[str]:
    return [entry.name for entry in os.scandir(folder) if entry.name[0] != "."]


def _read_listing(file: Path | None, root: str) -> Listing:
    try:
        tree = json.loads(file.read_text(encoding="utf-8")) if file and file.is_file() else {"folders": {}, "root": root}
        if any("/" in name for folder, (_, files) in tree["folders"].items() for name in (folder, *files)):
            raise ValueError("a name is a path")
        return tree["folders"] if tree["root"] == root else {}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        log.warning("%s is damaged (%s); listing again", file, error)
        return {}
