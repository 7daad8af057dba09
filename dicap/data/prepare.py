"""Makes a dataset's folder usable, and checks that it is: from the net, from archives that lie there, from the dataset beside it.

Nothing that is there is moved, overwritten or deleted, but for the archives that were downloaded here and unpacked.
"""

import json
import shutil
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from dicap.data.download import DownloadError, check_digests, fetch, record
from dicap.data.images import bad_images
from dicap.data.sources import Source, lacking
from dicap.data.split import PARTS, DatasetError, check_names, counts_of
from dicap.data.unpack import unpack
from dicap.files import replacing, write_text

NOT_PUBLISHED = "THIS IS NOT THE PUBLISHED SPLIT, which was shuffled: figures on it do not compare with published ones"


def obtain(source: Source, folder: Path, keep: bool = False) -> str:
    """Have what a source gives in the dataset's folder.

    Args:
        keep: the downloaded archive stays after it was unpacked.
    Returns:
        What was done, in words.
    Raises DatasetError: (DownloadError, UnpackError) see fetch and unpack; one line.
    """
    done = from_disk(source, folder)
    if done:
        return done
    digest = fetch(source, folder)
    checked = f"{source.digest.partition(':')[0]} as known" if source.digest else f"no digest is known; it has {digest}"
    if not source.unpack:
        return f"downloaded ({checked})"
    unpack(folder / source.file, folder, source)
    if not keep:
        (folder / source.file).unlink()
    return f"downloaded ({checked}), unpacked"


def from_disk(source: Source, folder: Path) -> str:
    """The same without the net: "" where what is needed is not on disk.

    Looks in the dataset's folder, in the data folder around it, and in that of the dataset which has the same file.
    """
    neighbour = source.neighbour(folder)
    if neighbour and not (folder / source.file).exists():
        return _copy(neighbour, folder / source.file)
    if not source.missing(folder):
        return "there"
    for place in (folder / source.file, folder.parent / source.file):
        if place.is_file() and place.stat().st_size:
            return _take(source, place, folder)
    for place in (folder / source.inner, folder.parent / source.inner) if source.inner else ():
        if place.is_file():
            unpack(place, folder, replace(source, inner=""))
            return f"unpacked from {place}"
    return ""


def regenerate(dataset: Any) -> str:
    """Write the split file made anew from the official lists or class folders (`dataset.official()`).

    Returns:
        What was done, in words.
    Raises DatasetError: there is a split file, or no rule, or no lists.
    """
    path = Path(dataset.dataset_dir) / dataset.split_file
    if dataset.split_file and path.exists():
        raise DatasetError(f"{path} is there: it is read as it is; move it away to make a split anew")
    split = dataset.official()
    write_text(path, json.dumps({part: split[part] for part in PARTS}))
    return f"{path} drawn anew. {NOT_PUBLISHED}"


@dataclass
class Finding:
    """What was found of a dataset: counts are classes, train, val, test."""

    name: str
    counts: tuple[int, ...] = ()
    images: int = 0  # checked
    problems: list[str] = field(default_factory=list)


def verify(cls: Any, cfg: Any, name: str = "") -> Finding:
    """Read a dataset as runs do and check all of it; problems are collected, never raised."""
    finding, folder = Finding(name or cls.stem()), ""
    try:
        dataset = cls.unread(cfg)
        folder = dataset.dataset_dir
        split = dataset.read(cfg)
    except (DatasetError, OSError) as error:
        missing = lacking(cls.sources, Path(folder)) if folder else []
        problems = map(str, getattr(error, "bad", [error]))
        finding.problems = [*problems, *([f"not in {folder}: {', '.join(missing)}"] if missing else [])]
        return finding
    finding.counts = counts_of(split)
    for check in (lambda: dataset.check_counts(split), lambda: check_names(split, cls.duplicates, folder)):
        try:
            check()
        except DatasetError as error:
            finding.problems.append(str(error))
    finding.images = len({path for part in PARTS for path, _, _ in split[part]})
    finding.problems += map(str, bad_images(split, dataset.image_dir))
    return finding


def _take(source: Source, place: Path, folder: Path) -> str:
    try:
        digest = check_digests(source, place)
    except DownloadError as error:
        raise DownloadError(f"{error}; delete it, or unpack it yourself if you trust it") from None
    if source.unpack:
        unpack(place, folder, source)
        done = f"unpacked from {place}"
    else:
        done = _copy(place, folder / source.file)
    record(source, folder, digest)
    return done


def _copy(file: Path, target: Path) -> str:
    with replacing(target) as temporary:
        shutil.copyfile(file, temporary)
    return f"copied from {file}"
