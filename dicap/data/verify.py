"""Whether a dataset that is on disk is what runs expect: its split, counts, class names and every image.

finding = verify(EuroSAT, cfg)         # cfg.DATASET.ROOT names the data folder
finding.problems                       # [] where all is well
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dicap.data.images import bad_images
from dicap.data.sources import lacking
from dicap.data.split import PARTS, DatasetError, check_names, counts_of

SHOWN = 10  # bad images in the list of problems


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
        finding.problems = [str(error), *([f"not in {folder}: {', '.join(missing)}"] if missing else [])]
        return finding
    finding.counts = counts_of(split)
    for check in (lambda: dataset.check_counts(split), lambda: check_names(split, cls.duplicates, folder)):
        try:
            check()
        except DatasetError as error:
            finding.problems.append(str(error))
    finding.images = len({path for part in PARTS for path, _, _ in split[part]})
    bad = bad_images(split, dataset.image_dir)
    finding.problems += map(str, bad[:SHOWN])
    if len(bad) > SHOWN:
        finding.problems.append(f"... {len(bad)} bad images in all, below {dataset.image_dir}")
    return finding
