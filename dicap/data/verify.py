"""Whether a dataset that is on disk is what runs expect: its split, counts, class names and every image.

finding = verify(EuroSAT, cfg)         # cfg.DATASET.ROOT names the data folder
finding.problems                       # [] where all is well
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dicap.data.images import bad_images
from dicap.data.sources import lacking
from dicap.data.split import PARTS, DatasetError, Items, check_names, counts_of

SHOWN = 10  # bad images in the list of problems


@dataclass
class Finding:
    """What was found of a dataset: counts are classes, train, val, test."""

    name: str
    folder: str = ""
    counts: tuple[int, ...] = ()
    images: int = 0  # checked
    problems: list[str] = field(default_factory=list)


def verify(cls: Any, cfg: Any, name: str = "") -> Finding:
    """Read a dataset as runs do and check all of it; problems are collected, never raised."""
    finding = Finding(name or cls.stem())
    try:
        dataset = cls.unread(cfg)
        finding.folder = dataset.dataset_dir
        split = dataset.read(cfg)
    except (DatasetError, OSError) as error:
        finding.problems = [str(error), *_lacking(cls, finding.folder)]
        return finding
    finding.counts = counts_of(split)
    for check in (lambda: dataset.check_counts(split), lambda: check_names(split, cls.duplicates, finding.folder)):
        try:
            check()
        except DatasetError as error:
            finding.problems.append(str(error))
    finding.images = len({path for part in PARTS for path, _, _ in split[part]})
    finding.problems += _image_problems(split, dataset.image_dir)
    return finding


def _image_problems(split: dict[str, Items], folder: str) -> list[str]:
    bad = bad_images(split, folder)
    lines = [str(image) for image in bad[:SHOWN]]
    if len(bad) > SHOWN:
        lines.append(f"... {len(bad)} bad images in all, below {folder}")
    return lines


def _lacking(cls: Any, folder: str) -> list[str]:
    """Which files of its sources are not there."""
    missing = lacking(cls.sources, Path(folder)) if folder else []
    return [f"not in {folder}: {', '.join(missing)}"] if missing else []
