"""Tables of cells over the same draws: mean and spread of each, and paired differences to a reference (`dicap ablations`).

    write_table(table, "output/ablations")          # NAME.md, NAME.csv, NAME.json, each written atomically
    print_table(table)

A cell with a draw missing is incomplete: neither averaged nor compared.
"""

import csv
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dicap import results as store
from dicap.report.paired import LEVEL, MEASURES, Difference, Draw, difference
from dicap.report.render import (
    NOTHING,
    csv_number,
    make_console,
    markdown_grid,
    mean_and_std,
    print_notes,
    rich_grid,
    write_forms,
)
from dicap.report.table import Stat


@dataclass(frozen=True)
class Line:
    """One cell.

    Args:
        reference: name of the line that it is compared with, "" = none.
        facts: what it is: method, recipe, settings ... JSON.
        draws: those that it should have. values: those that it has -> its measures, per cent.
        data: draw -> digest of the data; two lines are compared only where these are equal.
        problems: one for each draw that is missing.
    """

    name: str
    group: str
    reference: str
    facts: dict[str, Any]
    draws: tuple[Draw, ...]
    values: dict[Draw, dict[str, float]]
    data: dict[Draw, str]
    problems: tuple[str, ...] = ()

    @property
    def complete(self) -> bool:
        """Whether every draw is there."""
        return not self.problems and bool(self.values)

    def series(self, measure: str) -> dict[Draw, float]:
        """One measure by draw; empty where a draw lacks it."""
        found = {draw: values[measure] for draw, values in self.values.items() if measure in values}
        return found if len(found) == len(self.values) else {}

    def stat(self, measure: str) -> Stat | None:
        """Mean and standard deviation over the draws; None where the line is incomplete."""
        series = self.series(measure)
        return Stat.of(series.values()) if self.complete and series else None


@dataclass(frozen=True)
class CellTable:
    """A name, which is also that of its files, lines in reading order, and names of those that were never run."""

    name: str
    lines: tuple[Line, ...]
    not_run: tuple[str, ...] = ()

    def line(self, name: str) -> Line | None:
        """The line of that name."""
        return next((line for line in self.lines if line.name == name), None)

    def gain(self, line: Line, measure: str) -> Difference | None:
        """Reference minus line, over the draws that both have; None where one is incomplete or the data differ."""
        reference = self.line(line.reference)
        if reference is None or reference is line or not (reference.complete and line.complete):
            return None
        shared = [draw for draw in line.data if draw in reference.data]
        if any(line.data[draw] != reference.data[draw] for draw in shared):
            return None
        return difference(reference.series(measure), line.series(measure))

    @property
    def measures(self) -> list[str]:
        """Those that some line has."""
        return [key for key in MEASURES if any(key in values for line in self.lines for values in line.values.values())]


# --- words -------------------------------------------------------------------------------------------------------


def heading(table: CellTable) -> str:
    """What all lines share."""
    parts = [f"Ablation {table.name}"]
    for key, text in (("dataset", "{}"), ("shots", "{} shots"), ("recipe", "recipe {}")):
        values = {line.facts[key] for line in table.lines}
        parts += [text.format(values.pop())] if len(values) == 1 else []
    seeds = {tuple(draw[0] for draw in line.draws) for line in table.lines}
    return ", ".join(parts + ([f"seeds {ranges(seeds.pop())}"] if len(seeds) == 1 else []))


def ranges(numbers: Sequence[int]) -> str:
    """(1, 2, 3, 7) -> "1-3 7"."""
    found: list[list[int]] = []
    for number in sorted(numbers):
        if found and found[-1][-1] == number - 1:
            found[-1].append(number)
        else:
            found.append([number])
    return " ".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in found)


def notes(table: CellTable) -> list[str]:
    """What a reader must know, one sentence each."""
    lines = [
        "Accuracy in per cent: mean ± standard deviation over seeds (ddof = 1). H is the harmonic mean of base and new "
        "of each seed, then averaged.",
        f"Differences: reference minus cell over the same seeds, mean ± half the {100 * LEVEL:.0f} % t interval; "
        "* marks an interval that excludes zero. Each interval stands by itself: none is corrected for their number.",
    ]
    if "worst_group" in table.measures:
        lines.append(
            "Worst group: for each seed, the lower of the accuracies on base-class test images whose scene is "
            "the one tied to their class in training (aligned) and is not (conflicting)."
        )
    other = [line.name for line in table.lines if line.complete and _other_data(table, line)]
    if other:
        lines.append(f"Other data than the reference's, so not compared: {', '.join(other)}.")
    lines += [f"Not run: {', '.join(table.not_run)}."] if table.not_run else []
    return lines + [f"Incomplete: {line.name}: {incomplete(line)}." for line in table.lines if not line.complete]


def _other_data(table: CellTable, line: Line) -> bool:
    reference = table.line(line.reference)
    return reference is not None and any(
        line.data[draw] != reference.data[draw] for draw in line.data if draw in reference.data
    )


def incomplete(line: Line) -> str:
    """How many draws an incomplete line has, and why not all."""
    rest = f" and {len(line.problems) - 3} more" if len(line.problems) > 3 else ""
    return f"{len(line.values)} of {len(line.draws)} seeds; {'; '.join(line.problems[:3])}{rest}"


def columns(table: CellTable) -> list[tuple[str, Callable[[Line], str]]]:
    """Names of the columns, and what they say of a line."""
    references = {line.reference for line in table.lines if line.reference}
    several = len(references) > 1
    found: list[tuple[str, Callable[[Line], str]]] = [
        ("Cell", lambda line: line.name),
        ("Seeds", lambda line: str(len(line.draws)) if line.complete else f"{len(line.values)}/{len(line.draws)}"),
    ]
    for key in table.measures:
        found.append((MEASURES[key], lambda line, key=key: _stat_cell(line, key)))  # type: ignore[misc]
    if several:
        found.append(("Reference", lambda line: line.reference or NOTHING))
    for key in table.measures if references else []:
        found.append((f"Δ {MEASURES[key]}", lambda line, key=key: _gain_cell(table, line, key)))  # type: ignore[misc]
    return found


def _stat_cell(line: Line, measure: str) -> str:
    if not line.complete:
        return "incomplete" if measure == "base" else NOTHING
    stat = line.stat(measure)
    if stat is None:
        return NOTHING
    return f"{stat.mean:.1f} ±{stat.std:.1f}" if stat.std is not None else f"{stat.mean:.1f}"


def _gain_cell(table: CellTable, line: Line, measure: str) -> str:
    if line.reference == line.name:
        return "ref." if measure == table.measures[0] else ""
    gain = table.gain(line, measure)
    return NOTHING if gain is None else f"{gain.mean:+.1f} ±{gain.half:.1f}{'*' if gain.excludes_zero else ' '}"


def gain_heading(table: CellTable) -> str:
    """What the columns of differences are."""
    references = list(dict.fromkeys(line.reference for line in table.lines if line.reference))
    return f"Δ = {references[0] if len(references) == 1 else 'reference'} − cell"


# --- forms -------------------------------------------------------------------------------------------------------


def write_table(table: CellTable, folder: str | Path) -> list[Path]:
    """Write the table as Markdown, CSV and JSON into a folder; returns the paths."""
    return write_forms(folder, table.name, markdown(table), to_csv(table), as_json(table))


def markdown(table: CellTable) -> str:
    """The page: a section a group."""
    parts = [f"# {heading(table)}", f"{gain_heading(table)}." if any(line.reference for line in table.lines) else ""]
    shown = columns(table)
    for group in dict.fromkeys(line.group for line in table.lines):
        rows = [[cell(line).strip() for _, cell in shown] for line in table.lines if line.group == group]
        parts += [f"## {group}", markdown_grid(([name for name, _ in shown], rows), left=("Cell", "Reference"))]
    return "\n\n".join(filter(None, [*parts, "\n".join(f"- {note}" for note in notes(table))])) + "\n"


def to_csv(table: CellTable) -> str:
    """One row a cell with full precision; empty where there is no figure."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    stats = [f"{key}_{part}" for key in MEASURES for part in ("mean", "std")]
    gains = [f"{key}_gain_{part}" for key in MEASURES for part in ("mean", "low", "high")]
    writer.writerow(
        [
            "group",
            "cell",
            "method",
            "recipe",
            "dataset",
            "shots",
            "settings",
            "seeds",
            *stats,
            "reference",
            "pairs",
            *gains,
            "complete",
            "problems",
        ]
    )
    for line in table.lines:
        facts = line.facts
        gain = [table.gain(line, key) for key in MEASURES]
        figures = [value for key in MEASURES for value in mean_and_std(line.stat(key))]
        bounds = [value for one in gain for value in ((one.mean, one.low, one.high) if one else (None,) * 3)]
        writer.writerow(
            [
                line.group,
                line.name,
                facts["method"],
                facts["recipe"],
                facts["dataset"],
                facts["shots"],
                " ".join(f"{key} {value}" for key, value in facts["settings"].items()),
                " ".join("/".join(map(str, draw)) for draw in line.draws),
                *map(csv_number, figures),
                line.reference,
                next((one.n for one in gain if one), ""),
                *map(csv_number, bounds),
                "yes" if line.complete else "no",
                "; ".join(line.problems),
            ]
        )
    return out.getvalue()


def as_json(table: CellTable) -> dict[str, Any]:
    """The table and the measures of every draw behind it, as JSON values."""
    return {
        "schema": store.SCHEMA,
        "name": table.name,
        "std": "over draws, ddof = 1",
        "h": "of each draw, then averaged",
        "gain": f"reference minus cell, paired, {100 * LEVEL:.0f} % t interval, uncorrected",
        "complete": all(line.complete for line in table.lines) and not table.not_run,
        "not_run": list(table.not_run),
        "cells": [_line_json(table, line) for line in table.lines],
    }


def _line_json(table: CellTable, line: Line) -> dict[str, Any]:
    stats = {key: line.stat(key) for key in MEASURES}
    gains = {key: table.gain(line, key) for key in MEASURES}
    return {
        "group": line.group,
        "name": line.name,
        **line.facts,
        "reference": line.reference,
        "complete": line.complete,
        "problems": list(line.problems),
        "draws": [list(draw) for draw in line.draws],
        "values": [{"draw": list(draw), **values} for draw, values in line.values.items()],
        **{key: vars(stat) if stat else None for key, stat in stats.items()},
        "gain": {
            key: {**vars(gain), "excludes_zero": gain.excludes_zero} if gain else None for key, gain in gains.items()
        },
    }


def _style(cell: str) -> str:
    """Differences whose interval excludes zero stand out: green where the reference is better."""
    return "" if not cell.endswith("*") else "green" if cell.startswith("+") else "red"


def print_table(table: CellTable, console: Any = None) -> None:
    """The table in the terminal, with its notes."""
    console = console or make_console(140)
    shown = columns(table)
    rows: list[list[str]] = []
    ends: set[int] = set()
    for group in dict.fromkeys(line.group for line in table.lines):
        rows.append([group, *[""] * (len(shown) - 1)])
        rows += [
            [cell(line) if i else f"  {cell(line)}" for i, (_, cell) in enumerate(shown)]
            for line in table.lines
            if line.group == group
        ]
        ends.add(len(rows) - 1)
    title = heading(table)
    if any(line.reference for line in table.lines):
        title += f"; {gain_heading(table)}"
    console.print(rich_grid(([name for name, _ in shown], rows), title, ends, ("Cell", "Reference"), _style))
    print_notes(console, notes(table))
