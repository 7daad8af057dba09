"""Means over seeds, and paired differences over the same draws: a draw is a seed, or a seed and a fold.

    Stat.of([61.2, 60.1, 62.4])                                              # mean 61.23, std 1.15, n 3
    difference({1: 61.2, 2: 60.1, 3: 62.4}, {1: 59.9, 2: 59.5, 3: 60.3})     # mean 1.33, low .., high .., n 3

What two methods share of a draw (which images, how hard they are) cancels, so a paired interval is much narrower than
two standard deviations side by side. It is Student's t over the differences, 95 %, for one comparison at a time.
"""

import math
import statistics
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

LEVEL = 0.95


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
class Difference:
    """Mean of n paired differences, their standard error, and the bounds of the 95 % t interval."""

    mean: float
    error: float
    low: float
    high: float
    n: int

    @property
    def half(self) -> float:
        """Half the interval's width."""
        return (self.high - self.low) / 2

    @property
    def excludes_zero(self) -> bool:
        """Whether the interval leaves zero out."""
        return self.low > 0 or self.high < 0


def difference(one: Mapping[Any, float], other: Mapping[Any, float]) -> Difference | None:
    """one - other over the draws that both have; None under two of them: one difference has no spread."""
    from scipy.stats import t

    values = [one[draw] - other[draw] for draw in one if draw in other]
    n = len(values)
    if n < 2:
        return None
    mean, error = statistics.fmean(values), statistics.stdev(values) / math.sqrt(n)
    half = float(t.ppf((1 + LEVEL) / 2, n - 1)) * error
    return Difference(mean, error, mean - half, mean + half, n)
