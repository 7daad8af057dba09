r"""Rows of text as LaTeX: table environments with booktabs, to be \input; a long table is several, none wider than the text."""

from collections.abc import Collection, Sequence

LIMIT = 56  # rows that a page holds
_CHARACTERS = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"\textquotedbl{}",
    "`": r"\textasciigrave{}",
    "±": r"$\pm$",
    "−": "$-$",
    "–": "--",
    "Δ": r"$\Delta$",
    "\n": " ",
    **{character: f"\\{character}" for character in "{}$&#_%"},
}


def escape(text: str) -> str:
    """Text that LaTeX sets as it is."""
    return "".join(_CHARACTERS.get(character, character) for character in text)


def latex(
    title: str, header: list[str], rows: Sequence[list[str]], spec: str, ends: Collection[int], notes: Sequence[str]
) -> str:
    """A table as LaTeX.

    Args:
        spec: a letter a column, l for words and r for figures. ends: rows that a rule follows. notes: comments.
    """
    body = [
        _line(row) + (r"\midrule" if i in ends and (i + 1) % LIMIT and i + 1 < len(rows) else "")
        for i, row in enumerate(rows)
    ]
    needs = r"Made by `dicap report`. Needs: \usepackage{booktabs}, \usepackage{graphicx}"
    lines = [f"% {' '.join(note.split())}" for note in (needs, *notes)]
    for start in range(0, len(body), LIMIT):
        caption = escape(title) + (" (continued)" if start else "")
        lines += _table(spec, caption, _line(header), body[start : start + LIMIT])
    return "\n".join(lines) + "\n"


def _table(spec: str, caption: str, header: str, body: list[str]) -> list[str]:
    """One table, shrunk where it would be wider than the text."""
    return [
        r"\begin{table}",
        r"\centering\footnotesize\setlength{\tabcolsep}{4pt}",
        rf"\caption{{{caption}}}",
        r"\sbox0{%",
        rf"\begin{{tabular}}{{{spec}}}",
        r"\toprule",
        header,
        r"\midrule",
        *body,
        r"\bottomrule",
        r"\end{tabular}}%",
        r"\ifdim\wd0>\linewidth\resizebox{\linewidth}{!}{\usebox0}\else\usebox0\fi",
        r"\end{table}",
    ]


def _line(cells: list[str]) -> str:
    return " & ".join(map(escape, cells)) + r" \\"
