"""Sets of results over seeds: which results belong together, what keeps a set from being averaged, averages over sets.

What all tables share: a set has one result a seed, all with equal settings; it is averaged over its seeds only if
none is missing; an average over datasets is made only if every dataset's set is whole.
"""

import collections
import statistics
from collections.abc import Callable, Collection, Hashable, Iterable, Sequence
from typing import Any, TypeVar

from dicap.report.table import Stat, differing, method_rank, unequal

T = TypeVar("T")
Series = dict[int, float]  # seed -> a measure
ACCURACY = (
    "Accuracy on all classes in per cent: mean ± standard deviation over seeds (ddof = 1); a single seed has none."
)
Cell = tuple[Series, list[str]]  # accuracy by seed, what keeps it from being averaged


def grouped(items: Iterable[T], key: Callable[[T], Hashable]) -> dict[Any, list[T]]:
    """Items by key, keys in the order of their first item."""
    found: dict[Any, list[T]] = {}
    for item in items:
        found.setdefault(key(item), []).append(item)
    return found


def of_protocol(results: Iterable[dict], *names: str) -> list[dict]:
    """Results of protocols on test images."""
    return [r for r in results if r["protocol"] in names and r.get("test_set", "test") != "val"]


def lines_of(items: Iterable[T], place: Callable[[T], Hashable]) -> dict[str, list[T]]:
    """Results or rows by line of a table, in reading order: one a method, named after it.

    Where a method has two recipes in one place (published recipes may differ by dataset or shots), a line a recipe.
    """
    found: dict[str, list[T]] = {}
    for method, of in sorted(
        grouped(items, lambda item: _get(item, "method")).items(), key=lambda one: method_rank(one[0])
    ):
        if all(len({_get(item, "recipe") for item in there}) == 1 for there in grouped(of, place).values()):
            found[method] = of
        else:
            found |= {
                f"{method} ({recipe})": some for recipe, some in grouped(of, lambda item: _get(item, "recipe")).items()
            }
    return found


def _get(item: Any, key: str) -> Any:
    return item[key] if isinstance(item, dict) else getattr(item, key)


def other_settings(name: str, items: Iterable[T]) -> list[str]:
    """A note where the datasets of an average were run with one recipe and unequal settings, those of datasets aside."""
    keys = [
        key
        for of in grouped(items, lambda item: _get(item, "recipe")).values()
        for key in differing([_get(item, "config") for item in of])
        if not key.startswith("DATASET.")
    ]
    return [f"{name}: not all datasets were run with the same {', '.join(sorted(set(keys)))}."] if keys else []


def recipes_of(results: Iterable[dict]) -> str:
    """The recipes of a line, each once."""
    return ", ".join(dict.fromkeys(r["recipe"] for r in results))


def drawn(rows: Sequence[dict[str, Any]], keys: Sequence[str]) -> dict[str, tuple[Any, ...]]:
    """Some cells of a table's rows by method, as a plot has them; with its recipe where a method has several rows."""
    count = collections.Counter(row["method"] for row in rows)
    return {
        f"{row['method']} ({row['recipe']})" if count[row["method"]] > 1 else row["method"]: tuple(
            row.get(key) for key in keys
        )
        for row in rows
    }


def series_of(results: Sequence[dict], seeds: Collection[int]) -> Cell:
    """Accuracy by seed, and what keeps it from being averaged; empty where anything does."""
    count = collections.Counter(r["seed"] for r in results)
    missing = [str(seed) for seed in sorted(seeds) if seed not in count]
    problems = [f"lacks seed {', '.join(missing)}"] if missing else []
    problems += [
        f"{n} results of seed {seed}; which one counts cannot be told: give the folder of one job"
        for seed, n in sorted(count.items())
        if n > 1
    ]
    settings = unequal(list(results))
    problems += [f"seeds were run with unequal settings: {', '.join(settings)}"] if settings else []
    return ({} if problems else {r["seed"]: float(r["accuracy"]) for r in results}), problems


def stat_of(series: Series) -> Stat | None:
    """Mean and spread over seeds; None of nothing."""
    return Stat.of(series.values()) if series else None


def mean_series(several: Sequence[Series]) -> Series:
    """The mean over datasets of each seed; empty where a dataset has none, or other seeds than the first."""
    if not several or any(not one or one.keys() != several[0].keys() for one in several):
        return {}
    return {seed: statistics.fmean(one[seed] for one in several) for seed in several[0]}


def average(several: Sequence[Series]) -> Stat | None:
    """Mean over datasets of their means over seeds, with the spread over seeds where all have the same seeds.

    None where a dataset has no series.
    """
    if not several or not all(several):
        return None
    together = mean_series(several)
    if together:
        return stat_of(together)
    return Stat(statistics.fmean(statistics.fmean(one.values()) for one in several), None, min(map(len, several)))


def single(results: Iterable[dict]) -> list[dict]:
    """The results behind a table, without their configurations."""
    return [{key: value for key, value in r.items() if key != "config"} for r in results]
