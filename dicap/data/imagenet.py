"""ImageNet and its test-only shifts on disk: classnames.txt and folders named by WordNet ids ("n01440764").

Files are listed sorted. CoOp takes them in the order of the file system, so its few-shot samples of ImageNet differ from
machine to machine; its pickled draws, where they are kept, give the same samples here (dicap/data/drawn.py). CoOp's
preprocessed.pkl, a listing of the files, is not read.
"""

import os
from pathlib import Path
from typing import Any

from dicap.data.class_folders import list_folders
from dicap.data.official import read_rows
from dicap.data.split import DatasetError, Items

DUPLICATES = ("missile", "sunglasses")  # class names of CLIP's list that two classes share: 657 and 744, 836 and 837


def read_classnames(folder: str | os.PathLike) -> dict[str, str]:
    """Class names by WordNet id, in label order, from classnames.txt ("n01440764 tench") of a dataset's folder.

    A shift without a file of its own takes that of imagenet/ beside it. Raises DatasetError.
    """
    places = Path(folder) / "classnames.txt", Path(folder).parent / "imagenet/classnames.txt"
    file = next((place for place in places if place.is_file()), None)
    if file is None:
        raise DatasetError(
            f"class names not found: {' or '.join(map(str, places))}; get them with: dicap data download imagenet"
        )
    rows = read_rows(file, 2)
    names = {wnid: name.strip() for wnid, name in rows}
    if len(names) < len(rows):
        raise DatasetError(f"{file}: a WordNet id stands twice; lines must be like 'n01440764 tench'")
    return names


def read_shift(dataset: Any, numbered: bool = False) -> dict[str, Items]:
    """The split of a shift: all of its images are for testing; `numbered` as for `labelled`."""
    names = read_classnames(dataset.dataset_dir)
    return {"train": [], "val": [], "test": labelled(dataset.image_dir, names, numbered=numbered)}


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
        raise DatasetError(
            f"{os.path.join(images, below)}: folder {unknown[0]!r} is not in classnames.txt; remove it or add its name"
        )
    empty = [folder for folder, files in listing.items() if not files]
    if empty:
        raise DatasetError(
            f"{os.path.join(images, below)}: no image of class {empty[0]!r} ({names[empty[0]]}); restore it"
        )
    folders = sorted(listing, key=int if numbered else str)
    prefix = f"{below}/" if below else ""
    return [
        (f"{prefix}{folder}/{file}", label, names[folder])
        for label, folder in enumerate(folders)
        for file in listing[folder]
    ]
