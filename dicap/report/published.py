"""Published base-to-new numbers (published_base2new.csv): what stands beside a run that is comparable with them.

Comparable: the same real dataset and measure, ViT-B/16, 16 shots, and the training settings of the method's published
recipe (its numerical precision aside). Never a run on an embedded dataset or with the embedded CLIP.
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
BACKBONE, SHOTS, SEEDS = "ViT-B/16", 16, "1 2 3"
# settings that decide which prompt is learned
TRAINING = ("OPTIM.", "INPUT.", "DATALOADER.TRAIN_X.", "TEST.FINAL_MODEL")


@dataclass(frozen=True)
class Published:
    """A measure on base and new classes and their harmonic mean, per cent."""

    base: float
    new: float
    h: float


@functools.cache
def published() -> dict[tuple[str, str, str], Published]:
    """(registered name of the dataset, method, measure) -> what was published, in the file's order."""
    with open(FILE, encoding="utf-8", newline="") as file:
        rows = csv.DictReader(line for line in file if not line.startswith("#"))
        return {
            (row["dataset"], row["method"], row["measure"]): Published(
                *(float(row[key]) for key in ("base", "new", "h"))
            )
            for row in rows
        }


def registered_name(row: Row) -> str:
    """The name that a row's dataset is registered with, such as DescribableTextures; "" where it does not say."""
    dataset = row.results[0]["config"].get("DATASET", {})
    return str(dataset.get("NAME", "")) if isinstance(dataset, dict) else ""


def _key(row: Row) -> tuple[str, str, str]:
    return registered_name(row), row.facts["method"], row.results[0]["primary"]


def comparable(row: Row) -> bool:
    """Whether published numbers are of a row's dataset, measure, backbone and shots; see `departures` for its settings."""
    name, _, measure = _key(row)
    there = {(dataset, of) for dataset, _, of in published()}
    return (name, measure) in there and row.results[0]["backbone"] == BACKBONE and row.results[0]["shots"] == SHOTS


def departures(row: Row) -> list[str]:
    """Settings of a run that are not those of its method's published recipe; none where nothing was published of it."""
    if _key(row) not in published():
        return []
    ran = store.flatten(row.results[0]["config"])
    learns = any(r["digests"]["model"] for r in row.results)
    recipe = _settings(row.facts["method"], registered_name(row) == "ImageNet", learns)
    return [f"{key} {ran[key]!r}, not {value!r}" for key, value in recipe.items() if ran.get(key, value) != value]


@functools.cache
def _settings(method: str, imagenet: bool, learns: bool) -> dict[str, Any]:
    """The settings of a method's published recipe; none where it has no recipe here."""
    from dicap.choose_engine import choose_engine

    choose_engine()
    from dicap.config import IMAGENET, build_cfg, published_recipes, recipes

    there = recipes(method)
    names = published_recipes("base2new", IMAGENET if imagenet else "", SHOTS)
    path = next((there[name] for name in names if name in there), None)
    if path is None:
        return {}
    # any dataset: none of its settings is compared
    cfg = store.flatten(store.plain(build_cfg(trainer_file=path, trainer=method, opts=["DATASET.NAME", "ImageNet"])))
    own = f"TRAINER.{method.upper()}."
    kept = (own, *TRAINING) if learns else (own,)
    return {key: value for key, value in cfg.items() if key.startswith(kept) and key != f"{own}PREC"}


def beside(row: Row) -> Published | None:
    """What was published for a row's method and dataset; of an average row, the average over its datasets.

    None where a dataset is missing, not comparable, or was run with other settings than the published ones.
    """
    rows = row.of or (row,)
    incomplete = row.of and row.problems  # an average that lacks a dataset has none
    if incomplete or not all(comparable(one) and not departures(one) for one in rows):
        return None
    return average(published().get(_key(one)) for one in rows)


def average(values: Iterable[Published | None]) -> Published | None:
    """As published: the means over datasets of base and of new, and H of those two; None where one is missing."""
    numbers = list(values)
    if not numbers or None in numbers:
        return None
    if len(numbers) == 1:
        return numbers[0]
    base, new = (sum(getattr(one, key) for one in numbers) / len(numbers) for key in ("base", "new"))
    return Published(base, new, 2 * base * new / (base + new))


def notes(rows: Sequence[Row]) -> list[str]:
    """What a reader must know of the published numbers beside these rows, which are comparable."""
    if not rows:
        return []
    lines = [
        "Publ. = published: ViT-B/16, 16 shots, mean of seeds 1 2 3, from the methods' papers; Δ is this run minus the "
        "published number. The published average is over the same datasets as this table's."
    ]
    lines += [
        f"Not beside its published numbers, since its settings are others: {row.name}: {'; '.join(departed)}."
        for row in rows
        if (departed := departures(row))
    ]
    other = [row.name for row in rows if row.facts["seeds"] != SEEDS and _key(row) in published()]
    return lines + ([f"Other seeds than the published 1 2 3: {', '.join(other)}."] if other else [])


def others(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Published numbers on the datasets of these rows of methods that are not among them, and their averages."""
    places = {registered_name(row): row.place for row in rows}
    ran, measures = {row.facts["method"] for row in rows}, {row.results[0]["primary"] for row in rows}
    there = {key: one for key, one in published().items() if key[0] in places and key[2] in measures}
    methods = [method for method in dict.fromkeys(method for _, method, _ in there) if method not in ran]
    by_method = {method: {name: one for (name, of, _), one in there.items() if of == method} for method in methods}
    lines = [
        {"dataset": place, "method": method, **vars(by_method[method][name])}
        for name, place in places.items()
        for method in methods
    ]
    if len(places) > 1:
        means = {method: average(by_method[method].values()) for method in methods}
        lines += [{"dataset": f"average of {len(places)}", "method": key, **vars(one)} for key, one in means.items()]
    return lines
