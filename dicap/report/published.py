"""Published base-to-new accuracies (published_base2new.csv): what stands beside a run that is comparable with them.

Comparable: the same real dataset, ViT-B/16, 16 shots. Never a run on an embedded dataset or with the embedded CLIP.
"""
import csv
import functools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from dicap.report.table import Row

FILE = Path(__file__).with_name("published_base2new.csv")
BACKBONE, SHOTS, SEEDS = "ViT-B/16", 16, (1, 2, 3)


@dataclass(frozen=True)
class Published:
    """Accuracy on base and new classes and their harmonic mean, per cent."""

    base: float
    new: float
    h: float


@functools.cache
def published() -> dict[tuple[str, str], Published]:
    """(registered name of the dataset, method) -> what was published, in the file's order."""
    with open(FILE, encoding="utf-8", newline="") as file:
        rows = csv.DictReader(line for line in file if not line.startswith("#"))
        return {(row["dataset"], row["method"]): Published(*(float(row[key]) for key in ("base", "new", "h")))
                for row in rows}


def comparable(row: Row) -> bool:
    """Whether published numbers may stand beside a row."""
    return row.backbone == BACKBONE and row.shots == SHOTS and row.registered in {name for name, _ in published()}


def beside(rows: Sequence[Row]) -> Published | None:
    """What was published for a row's method and dataset; of several rows, the average over their datasets."""
    if not rows or not all(map(comparable, rows)):
        return None
    return average(published().get((row.registered, row.method)) for row in rows)


def average(values: Iterable[Published | None]) -> Published | None:
    """As published: the means over datasets of base and of new, and H of those two; None where one is missing."""
    found = list(values)
    if not found or None in found:
        return None
    if len(found) == 1:
        return found[0]
    base, new = (sum(getattr(one, key) for one in found) / len(found) for key in ("base", "new"))
    return Published(base, new, 2 * base * new / (base + new))
