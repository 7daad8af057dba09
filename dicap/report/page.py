"""The page report.html: all tables, plots and notes in one file that needs nothing else, no network and no script."""

import base64
import collections
import datetime
import re
from collections.abc import Sequence
from typing import Any

from dicap.report.plots import alt, svg
from dicap.report.sheet import Plot, Sheet, render

LONG = ("dataset", "recipe", "device", "peak_memory_source", "comparison")  # columns whose words may be broken


def page(
    sheets: Sequence[Sheet], results: Sequence[dict], unreadable: Sequence[str], left_out: Sequence[str], title: str
) -> str:
    """The page as HTML; everything that comes from files is escaped.

    Args:
        results: those behind the tables. unreadable: a line a file. left_out: what else was found.
    """
    return render(
        "page.html.j2",
        title=title,
        date=datetime.datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z"),
        sheets=sheets,
        picture=_picture,
        alt=alt,
        long=LONG,
        breakable=_breakable,
        words=_words,
        unreadable=unreadable,
        left_out=left_out,
        counts=collections.Counter(r["protocol"] for r in results),
        versions=collections.Counter(map(_versions, results)).most_common(),
    )


def _breakable(text: str) -> Any:
    """A cell's text, escaped, that may be broken after an underscore or before a number, not between ± and its figure."""
    from markupsafe import Markup, escape

    parts = re.split(r"(?<=_)|(?<=[a-z])(?=\d)", text)
    return Markup("<wbr>".join(str(escape(part)) for part in parts).replace("± ", "±&nbsp;"))


def _words(text: str) -> Any:
    """A note, escaped, with `code` as code."""
    from markupsafe import Markup, escape

    return Markup(re.sub(r"`([^`]+)`", r"<code>\1</code>", str(escape(text))))


def _picture(plot: Plot) -> str:
    return "data:image/svg+xml;base64," + base64.b64encode(svg(plot).encode()).decode()


def _versions(result: dict) -> str:
    """What made a result."""
    return ", ".join(f"{key} {value}" for key, value in result["versions"].items() if value != "") or "not recorded"
