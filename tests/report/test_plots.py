"""Pictures: a small difference does not look large, bars are where the figures are, and the same plot gives the same bytes."""
import re

import pytest

from dicap.report import plots
from dicap.report.sheet import Plot
from dicap.report.table import Stat


def limits(monkeypatch, plot):
    """The limits of the value axis of a picture."""
    seen = []
    real = plots._widen

    def widen(axes, name):
        real(axes, name)
        seen.append(getattr(axes, f"get_{name}lim")())

    monkeypatch.setattr(plots, "_widen", widen)
    plots.svg(plot)
    return seen[0]


def make(kind, *means):
    return Plot(kind, "P", "per cent", tuple(f"m{i}" for i in range(2)), {"A": tuple(Stat(mean, 0.1, 2) for mean in means)})


@pytest.mark.parametrize("kind", ["dots", "curves"])
def test_an_axis_shows_at_least_five_points_and_all_figures(monkeypatch, kind):
    low, high = limits(monkeypatch, make(kind, 80.0, 80.1))
    assert high - low == pytest.approx(5) and low < 79.9 and high > 80.2
    low, high = limits(monkeypatch, make(kind, 20.0, 80.0))
    assert low < 19.9 and 80.1 < high < 90


def test_the_same_plot_gives_the_same_bytes_and_no_fixed_ink():
    one = plots.svg(make("dots", 20.0, 80.0))
    assert one == plots.svg(make("dots", 20.0, 80.0)) and plots.INK not in one and "currentColor" in one
    assert not re.search(r"https?://(?!www\.w3\.org)", one)
