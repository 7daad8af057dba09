"""ImageNet and its test-only shifts on disk: classnames.txt and folders named by WordNet ids ("n01440764").

Files are listed sorted. CoOp takes them in the order of the file system, so its few-shot samples of ImageNet differ from
machine to machine; its pickled draws, where they are kept, give the same samples here (dicap/data/draw.py). CoOp's
preprocessed.pkl, a listing of the files, is not read.
"""

import os
from pathlib import Path

from dicap.data.official import list_folders, read_rows
from dicap.data.split import DatasetError, Items

DUPLICATES = ("missile", "sunglasses")  # class names of CLIP's list that two classes share: 657 and 744, 836 and 837


def read_classnames(folder: str | os.PathLike) -> dict[str, str]:
    """Class names by WordNet id, in label order, from classnames.txt ("n01440764 tench") of a dataset's folder.

    A shift without a file of its own takes that of imagenet/ beside it. Raises DatasetError.
    """
    places = Path(folder) / "classnames.txt", Path(folder).parent / "imagenet/classnames.txt"
    file = next((place for place in places if place.is_file()), None)
    if file is None:
        where = " or ".join(map(str, places))
        raise DatasetError(f"class names not found: {where}; get them with: dicap data download imagenet")
    rows = read_rows(file, 2)
    names = {wnid: name.strip() for wnid, name in rows}
    if len(names) < len(rows):
        raise DatasetError(f"{file}: a WordNet id stands twice; lines must be like 'n01440764 tench'")
    return names


def labelled(images: str | os.PathLike, names: dict[str, str], below: str = "", numbered: bool = False) -> Items:
    """The items of images/<below>/<class folder>/, labels by the order of the folders, paths relative to `images`.

    Args:
        numbered: folders are labels ("0", "1" ...), named in the order of `names` (ImageNetV2); else WordNet ids.
    """
    where = os.path.join(images, below)
    listing = list_folders(where)
    if numbered:
        names = {str(label): name for label, name in enumerate(names.values())}
    prefix, items = f"{below}/" if below else "", []
    for label, folder in enumerate(sorted(listing, key=int if numbered and listing.keys() <= names.keys() else str)):
        if folder not in names:
            raise DatasetError(f"{where}: folder {folder!r} is not in classnames.txt; remove it or add its name")
        if not listing[folder]:
            raise DatasetError(f"{where}: no image of class {folder!r} ({names[folder]}); restore it")
        items += [(f"{prefix}{folder}/{file}", label, names[folder]) for file in listing[folder]]
    return items
