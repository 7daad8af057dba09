r"""A sheet as LaTeX: a table environment with booktabs, to be \input; a long one is a longtable, which breaks over pages."""
from dicap.report.sheet import Sheet

LONG = 45  # rows that a page holds
_CHARACTERS = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "$": r"\$", "&": r"\&", "#": r"\#", "_": r"\_", "%": r"\%",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}",
    '"': r"\textquotedbl{}", "`": r"\textasciigrave{}", "±": r"$\pm$", "−": "$-$", "–": "--", "Δ": r"$\Delta$", "\n": " "}


def escape(text: str) -> str:
    """Text that LaTeX sets as it is."""
    return "".join(_CHARACTERS.get(character, character) for character in text)


def latex(sheet: Sheet) -> str:
    """NAME.tex."""
    header, rows = sheet.grid
    long = len(rows) > LONG
    spec = "".join("l" if column.kind == "words" else "r" for column in sheet.shown)
    head = [r"\toprule", _line(header), r"\midrule"]
    body = []
    for number, row in enumerate(rows):
        body.append(_line(row))
        if number in sheet.ends and number + 1 < len(rows):
            body.append(r"\midrule")
    caption = rf"\caption{{{escape(sheet.title)}}}"
    comments = [f"% {' '.join(note.split())}" for note in (
        "Made by `dicap report`. Needs: " + ", ".join(rf"\usepackage{{{name}}}" for name in _packages(long)), *sheet.all_notes)]
    return "\n".join([*comments, *(_long(spec, caption, head, body) if long else _short(spec, caption, head, body))]) + "\n"


def _packages(long: bool) -> list[str]:
    return ["booktabs", "longtable"] if long else ["booktabs", "graphicx"]


def _short(spec: str, caption: str, head: list[str], body: list[str]) -> list[str]:
    """No wider than the text: shrunk where it would be."""
    return [r"\begin{table}", r"\centering\footnotesize\setlength{\tabcolsep}{4pt}", caption,
            r"\sbox0{%", rf"\begin{{tabular}}{{{spec}}}", *head, *body, r"\bottomrule", r"\end{tabular}}%",
            r"\ifdim\wd0>\linewidth\resizebox{\linewidth}{!}{\usebox0}\else\usebox0\fi", r"\end{table}"]


def _long(spec: str, caption: str, head: list[str], body: list[str]) -> list[str]:
    return [r"{\scriptsize\setlength{\tabcolsep}{3pt}", rf"\begin{{longtable}}{{{spec}}}", caption + r"\\", *head, r"\endhead",
            r"\bottomrule", r"\endfoot", *body, r"\end{longtable}}"]


def _line(cells: list[str]) -> str:
    return " & ".join(map(escape, cells)) + r" \\"
