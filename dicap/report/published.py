"""Published base-to-new accuracies (published_base2new.csv): what stands beside a run that is comparable with them.

Comparable: the same real dataset, ViT-B/16, 16 shots, and the training settings of the method's published recipe (its
numerical precision aside). Never a run on an embedded dataset or with the embedded CLIP.
"""

import csv
import functools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dicap import results as store
from dicap.report.table import Row

FILE = Path(__file__).with_name("published_base2new.csv")
BACKBONE, SHOTS, SEEDS = "ViT-B/16", 16, (1, 2, 3)
TRAINING = (
    "OPTIM.",
    "INPUT.",
    "DATALOADER.TRAIN_X.",
    "TEST.FINAL_MODEL",
)  # settings that decide which prompt is learned


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
        return {
            (row["dataset"], row["method"]): Published(*(float(row[key]) for key in ("base", "new", "h")))
            for row in rows
        }


def comparable(row: Row) -> bool:
    """Whether published numbers are of a row's dataset, backbone and number of shots; see `departures` for its settings."""
    return row.backbone == BACKBONE and row.shots == SHOTS and row.registered in {name for name, _ in published()}


def departures(row: Row) -> list[str]:
    """Settings of a run that are not those of its method's published recipe; none where nothing was published of it."""
    if (row.registered, row.method) not in published():
        return []
    ran = store.flatten(row.config)
    return [
        f"{key} {ran[key]!r}, not {value!r}"
        for key, value in _settings(row.method, row.registered == "ImageNet").items()
        if ran.get(key, value) != value
    ]


@functools.cache
def _settings(method: str, imagenet: bool) -> dict[str, Any]:
    """The settings of a method's published recipe; none where it has no recipe here."""
    from dicap.choose_engine import choose_engine

    choose_engine()
    from dicap.config import CONFIGS, build_cfg
    from dicap.experiments.protocols import BASE2NEW, learns, published_recipes

    paths = [
        CONFIGS / "trainers" / method / f"{name}.yaml"
        for name in published_recipes(BASE2NEW, "imagenet" if imagenet else "", SHOTS)
    ]
    path = next((path for path in paths if path.is_file()), None)
    if path is None:
        return {}
    # any dataset: none of its settings is compared
    cfg = store.flatten(
        store.plain(build_cfg(trainer_file=str(path), trainer=method, opts=["DATASET.NAME", "ImageNet"]))
    )
    own = f"TRAINER.{method.upper()}."
    kept = (own, *TRAINING) if learns(method) else (own,)
    return {key: value for key, value in cfg.items() if key.startswith(kept) and key != f"{own}PREC"}


def beside(rows: Sequence[Row]) -> Published | None:
    """What was published for a row's method and dataset; of several rows, the average over their datasets.

    None where a row is not comparable, or was run with other settings than the published ones.
    """
    if not rows or not all(comparable(row) and not departures(row) for row in rows):
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
