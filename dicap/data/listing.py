"""What `dicap data` prints: the table of datasets, a dataset's section (docs/datasets.md is made of them), what verify found."""

import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from rich.markdown import Markdown
from rich.markup import escape

from dicap.console import make_console, rich_grid
from dicap.data.prepare import Finding
from dicap.data.sources import Source, human
from dicap.data.split import DatasetError
from dicap.files import write_text

MARK = "<!-- made by: dicap data list --markdown docs/datasets.md -->\n\n"


def print_list(datasets: dict[str, Any], data: Path | None) -> None:
    """The table of datasets."""
    header = ["Dataset", "Needs", "Size", "From", "Licence and terms", *(["There"] if data else [])]
    rows = [_row(name, cls, data) for name, cls in datasets.items()]
    title = escape(f"Datasets in {data}") if data else "Datasets"
    make_console().print(rich_grid(header, rows, title, left=header, fold=header))
    print("`dicap data list NAME`: all of one. `dicap data download NAME --data DIR`: have it.")


def section(name: str, cls: Any, data: Path | None = None) -> str:
    """All facts of a dataset, as Markdown."""
    paragraphs = (sys.modules[cls.__module__].__doc__ or "").strip().split("\n\n", 1)
    facts = {
        "name": f"`{name}`; class `{cls.__name__}`",
        "folder": "" if cls.embedded else f"`DATA/{cls.folder}`, images in `{Path(cls.folder, cls.images).as_posix()}`",
        "classes and images": _counts(cls),
        "split": _split(cls),
        "hand template": f"`{cls.template}`",
        "renamed classes": ", ".join(f"{old} → {new}" for old, new in cls.rename.items()),
        "licence and terms": cls.licence,
        "home page": f"<{cls.homepage}>" if cls.homepage else "",
        "get it": f"`dicap data download {name} --data DATA`" if cls.sources else no_source(cls),
    }
    folder = data / cls.folder if data else None
    head = ["file", "gives", "size", "from", "checked by", *(["there"] if folder else [])]
    files = [_source_row(source, folder) for source in cls.sources]
    blocks = [
        f"## {cls.__name__}",
        *(" ".join(paragraph.split()) for paragraph in paragraphs),
        "| | |\n|---|---|\n" + _lines([key, value] for key, value in facts.items() if value),
        f"{_lines([head])}\n{'|---' * len(head)}|\n{_lines(files)}" if files else "",
        "\n".join(f"- `{source.file}`: {_note(source)}." for source in cls.sources if _note(source)),
    ]
    return "\n\n".join(filter(None, blocks)) + "\n"


def _lines(rows: Iterable[Sequence[str]]) -> str:
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def no_source(cls: Any, data: Path | str = "DATA") -> str:
    """What to say where no source of a dataset is stated."""
    hint = f"no source is stated: put its files into {data}/{cls.folder}"
    return "nothing to get: it is written when first used" if cls.embedded else hint


def print_sections(text: str, rendered: bool = True) -> None:
    """Print sections: laid out on a terminal if `rendered`, else as the Markdown they are."""
    if rendered and sys.stdout.isatty():
        make_console().print(Markdown(text))
        print("The addresses in full, where this terminal does not open links: --markdown")
    else:
        print(text, end="")


def renew(document: Path, sections: str) -> None:
    """Replace what stands below MARK in a document. Raises DatasetError where there is no MARK."""
    start, mark, _ = document.read_text(encoding="utf-8").partition(MARK)
    if not mark:
        raise DatasetError(f"{document} has no line {MARK.strip()!r}, below which the sections stand")
    write_text(document, start + mark + sections)


def print_findings(findings: Sequence[Finding], absent: Sequence[str]) -> None:
    """What verify found: a table, then the problems."""
    rows, problems = [], []
    for finding in findings:
        numbers = [f"{count:,}" for count in finding.counts] or ["-"] * 4
        result = f"problems: {len(finding.problems)}" if finding.problems else "ok"
        rows.append([finding.name, *numbers, f"{finding.images:,}", result])
        problems += [f"{finding.name}: {problem}" for problem in finding.problems]
    if rows:
        header = ["Dataset", "Classes", "Train", "Val", "Test", "Images checked", "Result"]
        make_console().print(rich_grid(header, rows, "Verified", left=header, fold=header))
    print(*problems, sep="\n", end="\n" if problems else "")
    if absent:
        print(f"Not there: {', '.join(absent)}")


def _row(name: str, cls: Any, data: Path | None) -> list[str]:
    needed = [source for source in cls.sources if not source.optional]
    rows = [(source.file, "" if source.manual else human(source.size), _host(source)) for source in needed]
    cells = map("\n".join, zip(*rows)) if rows else [no_source(cls), "", ""]
    there = ["\n".join(_there(source, data / cls.folder) for source in needed)] if data else []
    return [name, *cells, cls.licence, *there]


def _note(source: Source) -> str:
    return "; ".join(filter(None, (f"optional: {source.optional}" if source.optional else "", source.note)))


def _source_row(source: Source, folder: Path | None) -> list[str]:
    gives = ", ".join(f"`{name}`" for name in source.wanted)
    digests = " and ".join(name for name, digest in (("MD5", source.md5), ("SHA-256", source.sha256)) if digest)
    place = source.place if source.manual else f"[{_host(source)}]({source.place}), {source.recorded_by}"
    row = [f"`{source.file}`", gives, human(source.size), place, digests or "nothing known"]
    return [*row, _there(source, folder)] if folder else row


def _there(source: Source, folder: Path) -> str:
    missing = source.missing(folder)
    if len(missing) == len(source.wanted):
        return "missing"
    return f"missing {', '.join(missing)}" if missing else "yes"


def _host(source: Source) -> str:
    return "by hand" if source.manual else source.place.split("/")[2]


def _counts(cls: Any) -> str:
    if not cls.counts:
        return ""
    classes, train, val, test = (f"{count:,}" for count in cls.counts)
    if cls.test_only:
        return f"{classes} classes; test {test}"
    return f"{classes} classes; train {train}, validation {val if not cls.val_is_test else '- (the test images)'}, test {test}"


def _split(cls: Any) -> str:
    if cls.embedded:
        return ""
    if cls.test_only or not cls.split_file:
        return "test only" if cls.test_only else "the folders are the split"
    if not cls.split_file.endswith(".json"):
        return f"the official lists, `{cls.split_file}` first"
    owner = "CoOp's " if cls.split_file.startswith("split_zhou") else ""
    return f"{owner}`{cls.split_file}`" + ("; another one is told when it is read" if cls.published else "")
