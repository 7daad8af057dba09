"""Published base-to-new numbers (published_base2new.csv): what stands beside a run that is comparable with them.

Comparable: the same real dataset and measure, ViT-B/16, 16 shots, and the training settings of the method's published
recipe (its numerical precision aside). Never a run on an embedded dataset or with the embedded CLIP.
"""

import csv
import functools
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from dicap import results as store
from dicap.report.sheet import Column, Sheet, words
from dicap.report.table import Row

FILE = Path(__file__).with_name("published_base2new.csv")
BACKBONE, SHOTS, SEEDS = "ViT-B/16", 16, "1 2 3"
# settings that decide which prompt is learned
TRAINING = ("OPTIM.", "INPUT.", "DATALOADER.TRAIN_X.", "TEST.FINAL_MODEL")
NOTE = (
    "Publ. = published: ViT-B/16, 16 shots, mean of seeds 1 2 3, from the methods' papers; Δ is this run minus the "
    "published number. The published average is over the same datasets as this table's."
)

CONTEXT = (
    "ViT-B/16, 16 shots, mean of seeds 1 2 3, as published by the methods' papers: for context, not measured here. The "
    "average is over the datasets of this report."
)


class Published(NamedTuple):
    """A measure on base and new classes and their harmonic mean, per cent."""

    base: float
    new: float
    h: float


@functools.cache
def published() -> dict[tuple[str, str, str], Published]:
    """(registered name of the dataset, measure, method) -> what was published, in the file's order."""
    with open(FILE, encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(line for line in file if not line.startswith("#")))
    figures = [Published(*(float(row[key]) for key in Published._fields)) for row in rows]
    return {(row["dataset"], row["measure"], row["method"]): one for row, one in zip(rows, figures)}


def _key(row: Row) -> tuple[str, str, str]:
    """What a row is of, as `published` has it; the dataset's registered name is "" where the result does not say."""
    first = row.results[0]
    return str(store.flatten(first["config"]).get("DATASET.NAME", "")), first["primary"], row.facts["method"]


def comparable(row: Row) -> bool:
    """Whether published numbers are of a row's dataset, measure, backbone and shots; see `departures` for its settings."""
    known = (row.facts["backbone"], row.facts["shots"]) == (BACKBONE, SHOTS)
    return known and _key(row)[:2] in {key[:2] for key in published()}


def departures(row: Row) -> list[str]:
    """Settings of a run that are not those of its method's published recipe; none where nothing was published of it."""
    ran, (dataset, _, method) = store.flatten(row.results[0]["config"]), _key(row)
    learns = any(r["digests"]["model"] for r in row.results)
    recipe = _settings(method, dataset == "ImageNet", learns) if _key(row) in published() else {}
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
    whole = not (row.of and row.problems)  # an average that lacks a dataset has none
    there = whole and all(_key(one) in published() and comparable(one) and not departures(one) for one in rows)
    return average(published()[_key(one)] for one in rows) if there else None


def average(numbers: Iterable[Published]) -> Published:
    """As published: the means over datasets of base and of new, and H of those two."""
    numbers = list(numbers)
    if len(numbers) == 1:
        return numbers[0]
    base, new = (sum(one[key] for one in numbers) / len(numbers) for key in (0, 1))
    return Published(base, new, 2 * base * new / (base + new))


def notes(rows: Sequence[Row]) -> list[str]:
    """What a reader must know of the published numbers beside these rows, which are comparable."""
    text = "Not beside its published numbers, since its settings are others: {}: {}."
    departed = [text.format(row.name, "; ".join(settings)) for row in rows if (settings := departures(row))]
    other = [row.name for row in rows if row.facts["seeds"] != SEEDS and _key(row) in published()]
    seeds = [f"Other seeds than the published {SEEDS}: {', '.join(other)}."] if other else []
    return [NOTE, *departed, *seeds] if rows else []


def others(rows: Sequence[Row], task: str) -> list[Sheet]:
    """The table of published numbers, on the datasets of these rows, of methods that are not among them."""
    places, ran = {_key(row)[:2]: row.place for row in rows}, {row.facts["method"] for row in rows}
    methods = [method for method in dict.fromkeys(key[2] for key in published()) if method not in ran]
    lines = [(place, name, published()[key + (name,)]) for key, place in places.items() for name in methods]
    if len(places) > 1:
        means = {name: average(published()[key + (name,)] for key in places) for name in methods}
        lines += [(f"average of {len(places)}", name, mean) for name, mean in means.items()]
    sheet = Sheet(
        "base2new_published",
        "Published base-to-new numbers of methods that were not run here",
        (*words("dataset", "method"), *(Column(key, key.capitalize(), "number", 2) for key in Published._fields)),
        tuple({"dataset": place, "method": name, **numbers._asdict()} for place, name, numbers in lines),
        (CONTEXT,),
        group="dataset",
        task=task,
    )
    return [sheet] if lines else []
