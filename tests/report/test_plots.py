"""Pictures: a small difference does not look large, bars are where the figures are, and the same plot gives the same bytes."""

import re

import pytest
from matplotlib.figure import Figure

from dicap.report import plots
from dicap.report.sheet import Plot
from dicap.report.stats import Difference, Stat
from dicap.results import Measure

SHARE = Measure("accuracy", "Accuracy")
ERROR = Measure("error", "Count error", "", higher_is_better=False)


def limits(monkeypatch, plot):
    """The limits of the value axis of a picture."""
    seen = []
    real = plots._widen

    def widen(axes, name, measure):
        real(axes, name, measure)
        seen.append(getattr(axes, f"get_{name}lim")())

    monkeypatch.setattr(plots, "_widen", widen)
    plots.svg(plot)
    return seen[0]


def make(kind, *means, std=0.1, measure=SHARE):
    series = {"A": tuple(Stat(mean, std, 2) for mean in means)}
    return Plot(kind, "P", measure, tuple(f"m{i}" for i in range(2)), series)


@pytest.mark.parametrize("kind", ["dots", "curves"])
def test_an_axis_shows_at_least_five_points_and_all_figures(monkeypatch, kind):
    low, high = limits(monkeypatch, make(kind, 80.0, 80.1))
    assert high - low == pytest.approx(5) and low < 79.9 and high > 80.2
    low, high = limits(monkeypatch, make(kind, 20.0, 80.0))
    assert low < 19.9 and 80.1 < high < 90


@pytest.mark.parametrize("kind", ["dots", "curves"])
def test_of_another_unit_an_axis_shows_at_least_a_twentieth_of_its_figures(monkeypatch, kind):
    low, high = limits(monkeypatch, make(kind, 0.5, 0.5001, std=0.0, measure=ERROR))
    assert high - low == pytest.approx(0.05 * 0.5, rel=0.01)
    low, high = limits(monkeypatch, make(kind, 0.2, 0.9, std=0.0, measure=ERROR))
    assert 0.7 <= high - low < 0.8


def test_the_same_plot_gives_the_same_bytes_and_no_fixed_ink():
    one = plots.svg(make("dots", 20.0, 80.0))
    assert one == plots.svg(make("dots", 20.0, 80.0)) and plots.INK not in one and "currentColor" in one
    assert not re.search(r"https?://(?!www\.w3\.org)", one)


@pytest.mark.parametrize("lacks, drawn", [(None, "axhline"), ("incomplete", "errorbar")])
def test_only_what_is_the_same_at_any_number_of_shots_is_a_line_across(monkeypatch, lacks, drawn):
    """One complete point of a method that learns is a point."""
    seen = []
    for name in ("axhline", "errorbar"):
        monkeypatch.setattr(f"matplotlib.axes.Axes.{name}", lambda *args, name=name, **_: seen.append(name))
    plots._curves(
        Figure().add_subplot(), Plot("curves", "P", SHARE, ("1", "2", "4"), {"A": (Stat(60.0, 0.1, 2), lacks, lacks)})
    )
    assert seen == [drawn]


def test_a_curve_has_a_gap_where_a_figure_lacks():
    axes = Figure().add_subplot()
    plots._curves(axes, Plot("curves", "P", SHARE, ("1", "2", "4"), {"A": (Stat(60.0, 1.0, 2), "incomplete", 70.0)}))
    line = axes.get_lines()[0]
    assert list(line.get_xdata()) == [0, 1, 2] and [str(float(y)) for y in line.get_ydata()] == ["60.0", "nan", "70.0"]


def bars(axes):
    """Ends of the bars of a picture."""
    return [
        tuple(map(tuple, segment.round(6).tolist())) for lines in axes.collections for segment in lines.get_segments()
    ]


def test_bars_are_the_interval_or_the_spread_and_the_first_label_is_at_the_top():
    axes = Figure().add_subplot()
    gains = (Difference(1.0, 0.1, 0.5, 1.5, 3), Difference(-2.0, 0.1, -4.0, 0.0, 3), "incomplete")
    plots._forest(axes, Plot("forest", "P", SHARE, ("a", "b", "overall"), {"A − B": gains}))
    assert bars(axes) == [((0.5, 0.0), (1.5, 0.0)), ((-4.0, 1.0), (0.0, 1.0))] and axes.get_ylim() == (2.5, -0.5)
    axes = Figure().add_subplot()
    plots._dots(axes, Plot("dots", "P", SHARE, ("a",), {"A": (Stat(60.0, 2.0, 3),)}))
    assert bars(axes) == [((58.0, 0.0), (62.0, 0.0))]
