"""Pictures of a report: a Plot as SVG (matplotlib, without a display), for light and dark pages."""

import io
import math
import re
from typing import Any

from dicap.report.sheet import Plot
from dicap.report.stats import Difference, Stat
from dicap.results import Measure

INK = "#010203"  # stands for the page's own colour of text until the SVG is written
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#8c6bb1")  # Okabe and Ito, for all eyes
MARKERS = "osD^vPX"
LABEL = 26  # characters
STYLE = (
    "<style>svg{color:#1b1f24}@media(prefers-color-scheme:dark){svg{color:#e4e7eb}}"
    "@media print{svg{color:#1b1f24}}</style>"
)
SETTINGS: Any = {
    "font.size": 9,
    **dict.fromkeys(("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"), INK),
    **dict.fromkeys(("axes.spines.top", "axes.spines.right"), False),
    "svg.hashsalt": "dicap",
    "svg.fonttype": "path",
    "text.parse_math": False,
}


def svg(plot: Plot) -> str:
    """The picture as an SVG document; the same plot gives the same bytes."""
    import matplotlib
    from matplotlib.figure import Figure

    draw, values = {"curves": (_curves, "y"), "dots": (_dots, "x"), "forest": (_forest, "x")}[plot.kind]
    line = 0.24 * (1 + 0.25 * len(plot.series)) if plot.kind == "dots" else 0.28  # inches a label
    height = 2.9 if plot.kind == "curves" else 1.1 + line * len(plot.labels)
    with matplotlib.rc_context(SETTINGS):
        figure = Figure(figsize=(4.2, height), layout="constrained")
        axes = figure.add_subplot()
        draw(axes, plot)
        _widen(axes, values, plot.measure)
        axes.grid(axis=values, color="#888888", alpha=0.25, linewidth=0.6)  # type: ignore[arg-type]
        if plot.kind != "forest":
            ncols = 2 if len(plot.series) in (2, 4) else 3
            figure.legend(loc="outside lower center", ncols=ncols, frameon=False, fontsize=8)
        out = io.StringIO()
        figure.savefig(out, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = re.sub(r"<!DOCTYPE[^>]*>|<\?xml[^>]*\?>|<metadata>.*?</metadata>", "", out.getvalue(), flags=re.S)
    return re.sub(r"(<svg[^>]*>)", rf"\1{STYLE}", text.replace(INK, "currentColor"), count=1).strip()


def alt(plot: Plot) -> str:
    """What a reader who does not see the picture must know."""
    kind = {"curves": "Curves", "dots": "A line of dots each", "forest": "Differences with intervals"}[plot.kind]
    return f"{plot.title}. {kind} for {', '.join(plot.labels)}; {', '.join(plot.series)}. The figures are in the table below."


def _numbers(value: Any) -> tuple[float, float] | None:
    """Height and half the length of the bar; None where there is nothing to draw."""
    if isinstance(value, (Stat, Difference)):
        return value.mean, value.half if isinstance(value, Difference) else value.std or 0.0
    return (float(value), 0.0) if isinstance(value, (int, float)) else None


def _looks(number: int) -> dict[str, Any]:
    looks = {"color": COLOURS[number % len(COLOURS)], "marker": MARKERS[number % len(MARKERS)]}
    return {**looks, "markersize": 4.5, "linewidth": 1.2, "elinewidth": 1, "capsize": 2}


def _curves(axes: Any, plot: Plot) -> None:
    for number, (name, values) in enumerate(plot.series.items()):
        points = [_numbers(value) or (math.nan, math.nan) for value in values]  # a curve has a gap where a figure lacks
        heights, spreads = zip(*points)
        there = [y for y in heights if not math.isnan(y)]
        if len(there) == 1 < len(values) and values.count(None) == len(values) - 1:  # learns nothing: the same at any
            axes.axhline(there[0], linestyle="--", linewidth=1.2, color=COLOURS[number % len(COLOURS)], label=name)
        elif there:
            axes.errorbar(range(len(points)), heights, yerr=spreads, label=name, **_looks(number))
    axes.set_xticks(range(len(plot.labels)), plot.labels)
    axes.set_xlabel("shots")
    axes.set_ylabel(plot.axis)


def _dots(axes: Any, plot: Plot) -> None:
    step = 0.7 / max(len(plot.series), 1)
    for number, (name, values) in enumerate(plot.series.items()):
        shift = step * (number - (len(plot.series) - 1) / 2)
        points = [(i + shift, *numbers) for i, value in enumerate(values) if (numbers := _numbers(value))]
        y, x, spread = zip(*points) if points else ((), (), ())
        axes.errorbar(x, y, xerr=spread, label=name, linestyle="none", **_looks(number))
    _lines(axes, plot)


def _forest(axes: Any, plot: Plot) -> None:
    for values in plot.series.values():
        for i, value in enumerate(values):
            if numbers := _numbers(value):
                axes.errorbar(numbers[0], i, xerr=numbers[1], **_looks(int(plot.labels[i] == "overall")))
    axes.axvline(0, color=INK, linewidth=0.8, linestyle=":")
    _lines(axes, plot)


def _widen(axes: Any, name: str, measure: Measure) -> None:
    """Show 5 points of per cent, or a twentieth of the largest figure, or more: a tenth of a point is no gulf."""
    low, high = getattr(axes, f"get_{name}lim")()
    least = 5.0 if measure.unit == "%" else 0.05 * max(abs(low), abs(high))
    extra = max(0.0, least - (high - low)) / 2
    getattr(axes, f"set_{name}lim")(low - extra, high + extra)


def _lines(axes: Any, plot: Plot) -> None:
    """A label a line, the first one at the top."""
    labels = [label if len(label) <= LABEL else f"{label[: LABEL - 1]}…" for label in plot.labels]
    axes.set_yticks(range(len(labels)), labels)
    axes.set_ylim(len(plot.labels) - 0.5, -0.5)
    axes.set_xlabel(plot.axis)
