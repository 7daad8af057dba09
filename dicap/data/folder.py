"""Your own images as a dataset, from one path.

    PATH/CLASS/**/*.jpg                      the folders of the first level are the classes
    PATH/{train,val,test}/CLASS/**/*.jpg     the same, with a split of its own; val may be missing
    list.csv                                 path,label[,split] under a header; comma, semicolon or tab
    split.json                               CoOp's form, see split.py

    split = read_own("/pictures", "0.5 0.2 0.3", seed=1)     # what datasets/folder.py does
    dataset_of_path("/pictures")                             # what a command line does

Hidden files, and files that are no images by their ending, are ignored and counted. docs/your-data.md is the guide.
"""

import hashlib
import logging
import os
import re
from collections import Counter
from pathlib import Path

from dicap.config import dataset_files
from dicap.data.images import check_images
from dicap.data.lists import PART_NAMES, Row, check_inside, class_names, is_number, natural, read_table
from dicap.data.ratio import keep_split, kept_split, read_ratio, split_by_ratio
from dicap.data.split import PARTS, DatasetError, Split, leaves, read_split
from dicap.options import ConfigError

log = logging.getLogger(__name__)

ENDINGS = (".jpg", ".jpeg", ".jfif", ".png", ".bmp", ".gif", ".pgm", ".ppm", ".tif", ".tiff", ".webp")
TABLES = (".csv", ".tsv", ".txt")


def dataset_of_path(text: str) -> tuple[str, tuple[str, ...]] | None:
    """What a path means where a command takes the name of a dataset: (name for output folders, settings KEY VALUE ...).

    None where the text is a name: it has no separator, does not end in .csv, .tsv or .json, and is not "." or "..".

    Raises ConfigError: nothing is at the path.
    """
    is_path = text in (os.curdir, os.pardir) or "/" in text or os.sep in text
    if not is_path and not text.lower().endswith((".csv", ".tsv", ".json")):
        return None
    path = _absolute(text)
    image_folder(path)
    name = re.sub(r"[^\w.-]+", "_", path.name if path.is_dir() else path.stem) or "folder"
    if name == "all" or name in dataset_files():
        name = f"folder_{name}"  # a result must not pass for one of the benchmark's
    return name, ("DATASET.FOLDER.PATH", str(path))


def image_folder(path: Path, images: str = "") -> Path:
    """The folder that the images' paths are relative to. Raises ConfigError where there is nothing, or nothing that fits."""
    if path.is_dir():
        if images:
            raise ConfigError(f"DATASET.FOLDER.IMAGES is {images!r}, but {path} is a folder: paths are relative to it")
        return path
    if not path.is_file() or path.suffix.lower() not in (".json", *TABLES):
        what = "is a file of another kind" if path.exists() else "is not there"
        wanted = "a folder of class folders, a .csv with path,label[,split], or a split .json"
        raise ConfigError(f"DATASET.FOLDER.PATH: {path} {what}; give {wanted}")
    folder = _absolute(images) if images else path.parent
    if not folder.is_dir():
        raise ConfigError(f"DATASET.FOLDER.IMAGES is {images!r}: no such folder")
    return folder


def read_own(
    path: Path, ratio: str, seed: int, names: str = "", images: str = "", elsewhere: Path | None = None
) -> Split:
    """All items by part, with class names as they are prompted.

    Args:
        path: folder, CSV or JSON.
        ratio, seed: of the split, where the images come without one; it is made once and kept.
        names: file of class names, "" = the folders' or labels' own.
        images: folder that the paths in a CSV or JSON are relative to, "" = its own.
        elsewhere: folder for the split where none can be written beside the images.

    Raises DatasetError: data that cannot be used; ConfigError: a setting that cannot.
    """
    shares = read_ratio(ratio, "DATASET.FOLDER.SPLIT")
    folder = image_folder(path, images)
    if path.suffix.lower() == ".json" and path.is_file():
        return _read_json(path, folder, names)
    rows = _read_folder(path) if path.is_dir() else read_table(path, folder)
    keys = {row.path: row.key for row in rows}
    files = _split_files(path, elsewhere, shares, seed)
    own = {part: [row.path for row in rows if row.part == part] for part in PARTS}
    kept = own if rows[0].part else kept_split(keys, files)
    used = keys if kept is None else {image: keys[image] for part in PARTS for image in kept[part]}
    classes = _classes(used, names, path)
    parts = kept or split_by_ratio(keys, shares, seed)
    split = {part: [(image, *classes[keys[image]]) for image in parts[part]] for part in PARTS}
    _check_parts(split, [name for _, name in classes.values()], path)
    if kept is None:
        check_images(split, folder)  # a split is kept of whole images alone
        keep_split(parts, keys, files)
    return split


def _classes(keys: dict[str, str], names: str, path: Path) -> dict[str, tuple[int, str]]:
    """Label and name of each class, in the order of the labels."""
    own = sorted(set(keys.values()), key=natural)
    if len(own) == 1:
        way = f". If the folders in it are the classes, give {path / own[0]}" if path.is_dir() else ""
        raise DatasetError(f"{path} has one class only, {own[0]!r}; a dataset needs two{way}")
    numbered = not path.is_dir() and all(map(is_number, own))
    return {key: (label, name) for label, (key, name) in enumerate(zip(own, class_names(own, names, path, numbered)))}


def _read_json(path: Path, folder: Path, names: str) -> Split:
    split = read_split(path)
    check_inside((item[0] for part in PARTS for item in split[part]), folder, path)
    own = dict(sorted({label: name for part in PARTS for _, label, name in split[part]}.items()))
    called = class_names(list(own.values()), names, path)
    _check_parts(split, called, path)
    return {part: [(image, label, called[label]) for image, label, _ in split[part]] for part in PARTS}


def _read_folder(folder: Path) -> list[Row]:
    """The images of class folders, sorted by class and path."""
    ignored: Counter[str] = Counter()
    parts, rows = _part_folders(folder), []
    for part, top in parts:
        for name in _folders(top):
            images = [Row(path, name, part) for path in _images_below(top / name, folder, ignored)]
            if not images and part in ("", "train"):
                endings = f"images end in {' '.join(ENDINGS)}"
                raise DatasetError(f"class {name!r}: no image in {top / name}; {endings}. Add some, or remove it")
            rows += images
    loose = [path.name for _, top in parts for path in sorted(top.iterdir()) if _is_image(path.name) and path.is_file()]
    counts = ", ".join(f"{count} {kind}" for kind, count in sorted(ignored.items()) if count) or "nothing"
    if not rows:
        there = f"{len(loose)} images lie in no class folder, ignored: {counts}"
        raise DatasetError(f"no images in class folders below {folder}: {there}; expected PATH/CLASS/*.jpg")
    if loose:
        first = ", ".join(loose[:5])
        log.warning("%d images lie in no class folder of %s and are not used: %s", len(loose), folder, first)
    log.info("%s: %d images of %d classes; ignored: %s", folder, len(rows), len({row.key for row in rows}), counts)
    return rows


def _part_folders(folder: Path) -> list[tuple[str, Path]]:
    """[("train", folder/train), ...] where the folder holds a split of its own, else [("", folder)]."""
    names = _folders(folder)
    known = {name: PART_NAMES[name.lower()] for name in names if name.lower() in PART_NAMES}
    parts = set(known.values())
    if not {"train", "test"} <= parts and (len(known) < 2 or len(known) < len(names)):
        return [("", folder)]
    if not {"train", "test"} <= parts or len(known) < len(names) or len(parts) < len(known):
        wanted = "train/ and test/, val/ if you have it, and no other folder; class folders are not called so"
        raise DatasetError(f"{folder} holds {', '.join(names)}: a split has {wanted}")
    return [(part, folder / name) for name, part in known.items()]


def _folders(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.is_dir() and not _is_hidden(path.name))


def _images_below(top: Path, folder: Path, ignored: Counter[str]) -> list[str]:
    """Paths, relative to `folder`, of the images anywhere below `top`; what is ignored is counted by its kind."""

    def refuse(error: OSError) -> None:
        raise error

    images = []
    for directory, folders, files in os.walk(top, onerror=refuse):
        ignored["hidden"] += sum(map(_is_hidden, folders + files))
        folders[:] = [name for name in folders if not _is_hidden(name)]
        ignored["linked folders"] += sum(os.path.islink(os.path.join(directory, name)) for name in folders)
        shown = [name for name in files if not _is_hidden(name)]
        images += [Path(directory, name).relative_to(folder).as_posix() for name in shown if _is_image(name)]
        ignored.update(os.path.splitext(name)[1].lower() or "no ending" for name in shown if not _is_image(name))
    broken = next((path for path in images if leaves(path) or not path.isprintable()), None)
    if broken is not None:
        problem = "has a backslash, a drive letter or characters that cannot be printed, or is not UTF-8"
        raise DatasetError(f"{folder}: {broken!r} {problem}; rename it")
    return sorted(images)


def _split_files(path: Path, elsewhere: Path | None, shares: tuple, seed: int) -> list[Path]:
    """Where the split may be kept: beside the images, else in a folder of its own elsewhere."""
    name = f"dicap_split_{'-'.join(f'{share:g}' for share in shares)}_seed{seed}.json"
    beside = path / name if path.is_dir() else path.with_name(f"{path.stem}.{name}")
    digest = hashlib.sha256(os.fsencode(path)).hexdigest()[:12]
    return [beside, *([elsewhere / f"{path.name}-{digest}" / name] if elsewhere else [])]


def _check_parts(split: Split, names: list[str], path: Path) -> None:
    """Refuse classes that are not trained, and a split without a test; say which classes are not tested."""
    for part in ("train", "test"):
        missing = sorted(set(range(len(names))) - {label for _, label, _ in split[part]})
        first = ", ".join(names[label] for label in missing[:5])
        if missing and (part == "train" or len(missing) == len(names)):
            raise DatasetError(f"{path}: no {part} image of {len(missing)} classes: {first}; train needs all, test one")
        if missing:
            log.warning("%s: %d classes have no test image: %s", path, len(missing), first)


def _absolute(path: str) -> Path:
    return Path(os.path.abspath(os.path.expanduser(path)))


def _is_image(name: str) -> bool:
    return not _is_hidden(name) and name.lower().endswith(ENDINGS)


def _is_hidden(name: str) -> bool:
    return name.startswith(".") or name == "__MACOSX"
