"""Base-to-new tables from result files: `dicap report OUTPUT`, and the end of every base-to-new job.

A row is one method with one recipe on one dataset. Base and new are means over seeds, with the sample standard
deviation (ddof = 1); H = 2 base new / (base + new) of those means, as published tables have it. The worst group is,
for each seed, the lower of the groups' accuracies (aligned and conflicting scenes on CausalShapes) on the base classes.
A set with a seed missing, or made with unequal settings, is named as such and not averaged.
"""

import collections
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dicap import results as store
from dicap.data.named import PUBLISHED, SHIFTS

PROTOCOL = "base2new"
ORDER = ("ZeroshotCLIP", "CoOp", "CoCoOp", "DiCap")  # of methods in a table; others follow by name


@dataclass(frozen=True)
class Stat:
    """Mean and standard deviation (ddof = 1, None for a single value) over n seeds."""

    mean: float
    std: float | None
    n: int

    @classmethod
    def of(cls, values: Iterable[float]) -> "Stat":
        """Of at least one value."""
        values = list(values)
        return cls(statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None, len(values))


@dataclass(frozen=True)
class Row:
    """One method on one dataset. Accuracies in per cent; None where there is none, or where the set is incomplete.

    config: that of one of its runs; what differs between them is among the problems.
    """

    dataset: str
    method: str
    recipe: str
    backbone: str
    shots: int
    seeds: tuple[int, ...]
    base: Stat | None
    new: Stat | None
    h: float | None
    worst_group: Stat | None
    train_seconds: Stat | None
    problems: tuple[str, ...] = ()
    record: dict[str, Stat] = field(default_factory=dict)
    registered: str = ""
    config: dict[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """As messages name it."""
        return f"{self.method} ({self.recipe}) on {self.dataset}"


@dataclass(frozen=True)
class Table:
    """Rows in reading order, the single results behind them, and files that could not be read."""

    rows: tuple[Row, ...]
    results: tuple[dict, ...]
    unreadable: tuple[str, ...]

    @property
    def complete(self) -> bool:
        """Whether every row has every seed, and every file could be read."""
        return not self.unreadable and not any(row.problems for row in self.rows)


def base2new_table(root: str | Path, seeds: Iterable[int] = ()) -> Table:
    """Gather all base-to-new results below a folder.

    Args:
        root: an output folder.
        seeds: seeds that each row should have; empty = every seed that any method has there, with the same backbone and shots.
    Raises:
        ResultError: no folder, or no base-to-new result in it.
    """
    results, unreadable = gather(root)
    table = base2new_of(results, unreadable, seeds)
    if not table.results and not unreadable:
        raise store.ResultError(
            f"{root}: no {store.FILE} of the protocol {PROTOCOL} below this folder; "
            "run scripts/dicap/base2new.sh first, or give the folder that was its output"
        )
    return table


def base2new_of(results: Iterable[dict], unreadable: Iterable[str] = (), seeds: Iterable[int] = ()) -> Table:
    """The table of those results that are of this protocol; `seeds` as for base2new_table."""
    found = [r for r in results if r["protocol"] == PROTOCOL and r["split"] != "all" and r.get("test_set") != "val"]
    return Table(tuple(_rows(found, tuple(seeds))), tuple(found), tuple(unreadable))


def gather(root: str | Path) -> tuple[list[dict], list[str]]:
    """Every result below a folder, and one line for each file that cannot be read. Raises ResultError: no folder."""
    results, unreadable = [], []
    for path in store.find_results(root):
        try:
            results.append(store.read_result(path))
        except store.ResultError as error:
            unreadable.append(str(error))
    return results, unreadable


def _rows(results: list[dict], seeds: tuple[int, ...]) -> list[Row]:
    cells: dict[tuple, list[dict]] = {}
    for r in results:
        cells.setdefault((r["dataset"], r["shots"], r["backbone"], r["method"], r["recipe"]), []).append(r)
    wanted: dict[tuple, set[int]] = {}
    for cell, found in cells.items():
        wanted.setdefault(cell[:3], set(seeds)).update(r["seed"] for r in found if not seeds)
    rows = [_row(cell, found, sorted(wanted[cell[:3]])) for cell, found in cells.items()]
    return sorted(
        rows, key=lambda row: (dataset_rank(row.dataset), row.shots, row.backbone, *method_rank(row.method), row.recipe)
    )


def dataset_rank(dataset: str) -> tuple[int, str]:
    """Reading order of datasets: that of the published tables, then ImageNet's shifts, then others by name."""
    order = (*PUBLISHED, *SHIFTS)
    return order.index(dataset) if dataset in order else len(order), dataset


def method_rank(method: str) -> tuple[int, str]:
    """Reading order of methods."""
    return ORDER.index(method) if method in ORDER else len(ORDER), method


def _row(cell: tuple, found: list[dict], seeds: list[int]) -> Row:
    dataset, shots, backbone, method, recipe = cell
    halves = {
        split: {r["seed"]: r for r in found if r["split"] == split and r["seed"] in seeds} for split in ("base", "new")
    }
    problems, usable = _problems(halves, seeds)
    twice = _twice(found)
    if twice:
        problems, usable = [*problems, *twice], dict.fromkeys(usable, False)
    accuracy = {
        split: Stat.of(r["accuracy"] for r in half.values()) if usable[split] else None
        for split, half in halves.items()
    }
    base = list(halves["base"].values()) if usable["base"] else []
    seconds = [float(r["seconds"]["train"]) for r in base]  # 0 where nothing is trained
    return Row(
        dataset,
        method,
        recipe,
        backbone,
        shots,
        tuple(seeds),
        accuracy["base"],
        accuracy["new"],
        harmonic_mean(accuracy["base"], accuracy["new"]),
        Stat.of(worst_group(r) for r in base) if base and all(r["groups"] for r in base) else None,
        Stat.of(seconds) if seconds and all(seconds) and not any(map(was_resumed, base)) else None,
        tuple(problems),
        _record(base),
        registered_name(found[0]),
        found[0]["config"],
    )


def registered_name(result: dict) -> str:
    """The name that a result's dataset is registered with, such as DescribableTextures; "" where it does not say."""
    dataset = result["config"].get("DATASET", {})
    return str(dataset.get("NAME", "")) if isinstance(dataset, dict) else ""


def harmonic_mean(base: Stat | None, new: Stat | None) -> float | None:
    """H of the two mean accuracies; 0 where both are 0, None where one is missing."""
    if base is None or new is None:
        return None
    total = base.mean + new.mean
    return 2 * base.mean * new.mean / total if total else 0.0


def worst_group(result: dict) -> float:
    """The lowest accuracy among the groups of one result, per cent."""
    return min(group["accuracy"] for group in result["groups"].values())


def was_resumed(result: dict) -> bool:
    """Whether a run's training seconds are those of a part of it."""
    return bool(result.get("resumed_from_epoch"))  # its clock saw only the last part of the training


def _problems(halves: dict[str, dict[int, dict]], seeds: list[int]) -> tuple[list[str], dict[str, bool]]:
    """What keeps this set from being averaged, and which half is whole all the same."""
    problems, usable = [], {}
    for split, half in halves.items():
        missing = [str(seed) for seed in seeds if seed not in half]
        settings = unequal(list(half.values()))
        if missing:
            problems.append(f"{split} lacks seed {', '.join(missing)}")
        if settings:
            problems.append(f"{split}: seeds were run with unequal settings: {', '.join(settings)}")
        usable[split] = not missing and not settings
    stale = [
        str(seed)
        for seed, r in halves["new"].items()
        if seed in halves["base"] and r["digests"]["model"] != halves["base"][seed]["digests"]["model"]
    ]
    if stale:
        problems.append(f"new was tested with another prompt than the present one of seed {', '.join(stale)}")
        usable["new"] = False
    return problems, usable


def _twice(results: list[dict]) -> list[str]:
    """Seeds with two results, such as from two output folders below the one that is looked at."""
    seen = collections.Counter((r["split"], r["seed"]) for r in results)
    return [
        f"{split} has {count} results of seed {seed}; which one counts cannot be told: give the folder of one job"
        for (split, seed), count in sorted(seen.items())
        if count > 1
    ]


def unequal(results: list[dict]) -> list[str]:
    """Settings, or the backbone's weights, that differ between the seeds of a set."""
    return differing([{**r["config"], "backbone weights": r["digests"]["weights"]} for r in results])


def differing(configs: Sequence[dict[str, Any]]) -> list[str]:
    """Keys that all have and that are not equal in all; seeds and places aside."""
    flat = list(map(store.flatten, configs))
    common = set.intersection(*map(set, flat)) - {"SEED", *store.PLACES} if flat else set()
    return sorted(key for key in common if any(one[key] != flat[0][key] for one in flat))


def _record(results: list[dict]) -> dict[str, Stat]:
    """Numbers that every seed of a method recorded (DiCap's valid fraction and the like), over the seeds."""
    flat = [
        {
            key: value
            for key, value in store.flatten(r["method_record"]).items()
            if isinstance(value, (int, float)) and not isinstance(value, bool)
        }
        for r in results
    ]
    common = [key for key in flat[0] if all(key in one for one in flat)] if flat else []
    return {key: Stat.of(one[key] for one in flat) for key in common}
