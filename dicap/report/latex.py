r"""A sheet as LaTeX: a table environment with booktabs, to be \input; a long one is several, each no wider than the text."""

from dicap.report.sheet import Sheet

LIMIT = 56  # rows that a page holds
_CHARACTERS = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "$": r"\$",
    "&": r"\&",
    "#": r"\#",
    "_": r"\_",
    "%": r"\%",
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
}


def escape(text: str) -> str:
    """Text that LaTeX sets as it is."""
    return "".join(_CHARACTERS.get(character, character) for character in text)


def latex(sheet: Sheet) -> str:
    """NAME.tex."""
    header, rows = sheet.grid
    spec = "".join("l" if column.kind == "words" else "r" for column in sheet.shown)
    body = [
        _line(row) + (r"\midrule" if i in sheet.ends and (i + 1) % LIMIT and i + 1 < len(rows) else "")
        for i, row in enumerate(rows)
    ]
    comments = [
        f"% {' '.join(note.split())}"
        for note in (r"Made by `dicap report`. Needs: \usepackage{booktabs}, \usepackage{graphicx}", *sheet.all_notes)
    ]
    parts = [
        _table(
            spec, escape(sheet.title) + (" (continued)" if start else ""), _line(header), body[start : start + LIMIT]
        )
        for start in range(0, len(body), LIMIT)
    ]
    return "\n".join([*comments, *(line for part in parts for line in part)]) + "\n"


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
