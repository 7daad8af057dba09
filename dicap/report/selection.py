"""Tables of `dicap select`: pseudo-base, pseudo-new and H of each grid point, and how far it is from the best one.

write_selection(table, "output/select")         # NAME.md, NAME.csv, NAME.json
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from dicap.report.cells import CellTable, Line, as_json, incomplete, to_csv
from dicap.report.render import (
    NOTHING,
    Grid,
    make_console,
    markdown_grid,
    print_notes,
    rich_grid,
    stat_text,
    write_forms,
)

LEFT = ("Settings", "")


def best(lines: Sequence[Line]) -> Line | None:
    """The line with the highest mean H, the first of equals; None where one is incomplete."""
    stats = [line.stat("h") for line in lines]
    if not lines or any(stat is None for stat in stats):
        return None
    return max(lines, key=lambda line: line.stat("h").mean)  # type: ignore[union-attr]


def heading(table: CellTable) -> str:
    """What is selected, on what."""
    facts = table.lines[0].facts
    return f"Class hold-out: {facts['method']} ({facts['recipe']}) on {facts['dataset']}, {facts['shots']} shots"


def columns(table: CellTable) -> list[tuple[str, Callable[[Line], str]]]:
    """Names of the columns, and what they say of a line."""
    winner = best(table.lines)
    return [
        ("Settings", lambda line: line.name),
        ("Draws", lambda line: f"{len(line.values)}/{len(line.draws)}" if not line.complete else str(len(line.draws))),
        ("Pseudo-base", lambda line: _stat(line, "base")),
        ("Pseudo-new", lambda line: _stat(line, "new")),
        ("H", lambda line: _stat(line, "h")),
        ("Best H − H", lambda line: _behind(table, line)),
        ("", lambda line: "best" if line is winner else "within noise" if _within_noise(table, line) else ""),
    ]


def grid_of(table: CellTable) -> Grid:
    """The table as text cells."""
    shown = columns(table)
    return [name for name, _ in shown], [[cell(line) for _, cell in shown] for line in table.lines]


def _stat(line: Line, measure: str) -> str:
    stat = line.stat(measure)
    return "incomplete" if stat is None and measure == "h" else stat_text(stat)


def _behind(table: CellTable, line: Line) -> str:
    gain = table.gain(line, "h")
    return NOTHING if gain is None else f"{gain.mean:.2f} ± {gain.error:.2f}"


def _within_noise(table: CellTable, line: Line) -> bool:
    gain = table.gain(line, "h")
    return gain is not None and gain.mean <= gain.error


def notes(table: CellTable) -> list[str]:
    """What a reader must know, one sentence each."""
    lines = [
        "On the training shots of base classes only. Pseudo-base: shots kept back from training. Pseudo-new: all shots "
        "of the base classes that were left out; there are fewer of these classes, so their accuracy is the higher one "
        "and neither compares with a table of base and new classes. Mean ± standard deviation over folds x seeds.",
        "Best H − H: paired over folds x seeds, ± its standard error; folds of one seed share training shots, so it is "
        "somewhat too small. `within noise`: not behind by more than it. The highest mean is chosen all the same.",
        "Epochs are those of the run that the settings are for; here, where an epoch has fewer images, as many more are "
        "made as give the same number of optimiser steps.",
    ]
    return lines + [f"Incomplete: {line.name}: {incomplete(line)}." for line in table.lines if not line.complete]


def conclusion(table: CellTable, command: str) -> str:
    """Which settings are chosen and how to use them."""
    winner = best(table.lines)
    if winner is None:
        return "Nothing is chosen: not every point is complete."
    chosen = " ".join(f"{key} {value}" for key, value in winner.facts["settings"].items())
    return f"Chosen: {chosen or winner.name}\nUse it: {command}"


def markdown(table: CellTable, command: str) -> str:
    """The page."""
    last = conclusion(table, command).replace("Use it: ", "\nUse it:\n\n    ")
    return (
        "\n\n".join(
            [
                f"# {heading(table)}",
                markdown_grid(grid_of(table), LEFT),
                last,
                "\n".join(f"- {note}" for note in notes(table)),
            ]
        )
        + "\n"
    )


def write_selection(table: CellTable, folder: str | Path, command: str) -> list[Path]:
    """Write the table as Markdown, CSV and JSON into a folder; returns the paths."""
    winner = best(table.lines)
    tree = {**as_json(table), "chosen": winner.facts["settings"] if winner else None, "command": command}
    return write_forms(folder, table.name, markdown(table, command), to_csv(table), tree)


def print_selection(table: CellTable, command: str, console: Any = None) -> None:
    """The table in the terminal, with its notes and the choice."""
    console = console or make_console(120)
    console.print(rich_grid(grid_of(table), heading(table), {len(table.lines) - 1}, LEFT))
    print_notes(console, notes(table))
    console.print(conclusion(table, command), style="bold", markup=False, soft_wrap=True)
