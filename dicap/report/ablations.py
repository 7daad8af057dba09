"""Tables of cells over the same draws: mean and spread of each, and paired differences to a reference.

    sheet = ablation_sheet("causal_shapes", lines)          # `dicap ablations`
    sheet = selection_sheet(lines, "dicap base2new ...")    # `dicap select`: and which grid point is the best one

A cell with a draw missing is incomplete: neither averaged nor compared. Cells are compared over the draws that both
have, where the data of these are equal.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from dicap.report import table
from dicap.report.sheet import INCOMPLETE, NOTHING, Column, Sheet, columns_that_vary, title_of
from dicap.report.stats import LEVEL, Difference, Stat, difference
from dicap.results import Measure

Draw = tuple[int, ...]  # what pairs: (seed,) or (seed, fold)
KEYS = ("base", "new", "combined", "worst_group")


@dataclass(frozen=True)
class Line:
    """One cell of an ablation, or one point of a grid.

    Args:
        group: section of the table. reference: name of the line that it is compared with, "" = none.
        facts: what it is: method, recipe, dataset, shots, settings (KEY -> VALUE).
        draws: those that it should have. values: those that it has -> its measures (see measures_of).
        measure: the primary one. data: draw -> digest of the data.
        problems: one for each draw that is missing.
    """

    name: str
    group: str
    reference: str
    facts: dict[str, Any]
    draws: tuple[Draw, ...]
    values: dict[Draw, dict[str, float]]
    data: dict[Draw, str]
    measure: Measure
    problems: tuple[str, ...] = ()

    @property
    def complete(self) -> bool:
        """Whether every draw is there."""
        return not self.problems and bool(self.values)

    def series(self, key: str) -> dict[Draw, float]:
        """One measure by draw; empty where a draw lacks it."""
        series = {draw: values[key] for draw, values in self.values.items() if key in values}
        return series if len(series) == len(self.values) else {}

    def stat(self, key: str) -> Stat | None:
        """Mean and standard deviation over the draws; None where the line is incomplete."""
        series = self.series(key)
        return Stat.of(series.values()) if self.complete and series else None

    def same_data(self, reference: "Line") -> bool:
        """Whether what both have is of equal data and the same measure."""
        shared = [draw for draw in self.data if draw in reference.data]
        return self.measure == reference.measure and all(self.data[draw] == reference.data[draw] for draw in shared)

    def behind(self, reference: "Line | None", key: str) -> Difference | None:
        """Reference minus line, over the draws that both have; None where one is incomplete or the data differ."""
        if reference is None or reference is self or not (reference.complete and self.complete):
            return None
        return difference(reference.series(key), self.series(key)) if self.same_data(reference) else None


def best(lines: Sequence[Line]) -> Line | None:
    """The line whose `combined` is the best on average, the first of equals; None where one is incomplete."""
    stats = {line.name: line.stat("combined") for line in lines}
    means = {name: stat.mean for name, stat in stats.items() if stat}
    if not lines or len(means) < len(stats):
        return None
    top = lines[0].measure.best(list(means.values()))
    return next(line for line in lines if means[line.name] == top)


# --- ablations ---------------------------------------------------------------------------------------------------


def ablation_sheet(name: str, lines: Sequence[Line], not_run: Sequence[str] = ()) -> Sheet:
    """The table of an ablation: a section a group, each cell compared with its reference.

    Args:
        not_run: names of cells that were never run.
    """
    keys = [key for key in KEYS if any(key in values for line in lines for values in line.values.values())]
    references = list(dict.fromkeys(line.reference for line in lines if line.reference))
    rows = [_row(line, lines, keys) for line in lines]
    shared = {"dataset": "{}", "shots": "{} shots", "recipe": "recipe {}", "ranges": "seeds {}"}
    title = title_of(f"Ablation {name}", rows, shared)
    if references:
        title += f"; Δ = {references[0] if len(references) == 1 else 'reference'} − cell"
    other_data = [
        line.name
        for line in lines
        if line.complete and (reference := _reference(line, lines)) and not line.same_data(reference)
    ]
    notes = [
        *dict.fromkeys(table.note_on_figures(line.measure) for line in lines),
        f"{_names(lines)['combined']} is that of each seed, then averaged.",
        f"Differences: reference minus cell over the same seeds, mean ± half the {100 * LEVEL:.0f} % t interval; "
        "* marks an interval that excludes zero. Each interval stands by itself: none is corrected for their number.",
        *([table.note_on_groups(lines[0].measure)] if "worst_group" in keys else []),
        *([f"Other data than the reference's, so not compared: {', '.join(other_data)}."] if other_data else []),
        *([f"Not run: {', '.join(not_run)}."] if not_run else []),
    ]
    return Sheet(
        name,
        title,
        tuple(_columns(rows, lines, keys, len(references))),
        tuple(rows),
        tuple(notes),
        _problems(lines),
        "group",
        sections=True,
        extra={**EXTRA, "not_run": list(not_run), "complete": all(line.complete for line in lines) and not not_run},
    )


EXTRA = {
    "std": "over draws, ddof = 1",
    "combined": "of each draw, then averaged",
    "gain": f"reference minus cell, paired, {100 * LEVEL:.0f} % t interval, uncorrected",
}


def _names(lines: Sequence[Line]) -> dict[str, str]:
    labels = {line.measure.combined_label for line in lines}
    combined = labels.pop() if len(labels) == 1 else "Combined"
    return {"base": "Base", "new": "New", "combined": combined, "worst_group": "Worst group"}


def _file_key(lines: Sequence[Line], key: str) -> str:
    """Key of a measure in files."""
    return "h" if key == "combined" and _names(lines)[key] == "H" else key


def _reference(line: Line, lines: Sequence[Line]) -> Line | None:
    return next((one for one in lines if one.name == line.reference), None)


def _row(line: Line, lines: Sequence[Line], keys: Sequence[str], marked: str = "base") -> dict[str, Any]:
    """Cells of a line. marked: the measure that says that it is incomplete, or the reference."""
    reference = _reference(line, lines)
    row: dict[str, Any] = {
        **line.facts,
        "group": line.group,
        "cell": line.name,
        "measure": line.measure.label,
        "higher_is_better": line.measure.higher_is_better,
        "seeds": " ".join("/".join(map(str, draw)) for draw in line.draws),
        "ranges": ranges([draw[0] for draw in line.draws]),
        "count": str(len(line.draws)) if line.complete else f"{len(line.values)}/{len(line.draws)}",
        "reference": line.reference,
        "complete": "yes" if line.complete else "no",
        "problems": "; ".join(line.problems),
        "values": [{"draw": list(draw), **values} for draw, values in line.values.items()],
    }
    for key in keys:
        name, behind = _file_key(lines, key), line.behind(reference, key)
        row[name] = line.stat(key) if line.complete or key != marked else INCOMPLETE
        row[f"{name}_gain"] = ("ref." if key == marked else "") if line is reference else behind
        row["pairs"] = row.get("pairs") or (behind.n if behind else None)
    return row


def _columns(rows: Sequence[dict], lines: Sequence[Line], keys: Sequence[str], references: int) -> list[Column]:
    names = {_file_key(lines, key): name for key, name in _names(lines).items()}
    shown = {_file_key(lines, key) for key in keys}
    digits = table.digits_of(lines[0].measure)
    return [
        Column("group", "Group", "words", where="files"),
        Column("cell", "Cell", "words"),
        *_facts(),
        Column("count", "Seeds", "number", where="shown"),
        *columns_that_vary(rows, {"measure": "Measure"}),
        *(Column(key, name, digits=digits, where="all" if key in shown else "files") for key, name in names.items()),
        Column("reference", "Reference", "words", where="all" if references > 1 else "files"),
        Column("pairs", "Pairs", "number", where="files"),
        *(
            Column(f"{key}_gain", f"Δ {name}", "gain", digits, where="all" if key in shown and references else "files")
            for key, name in names.items()
        ),
        *_endings(),
    ]


def _facts() -> list[Column]:
    names = ("method", "recipe", "dataset", "shots", "settings", "seeds")
    return [Column(name, name.capitalize(), "words", where="files") for name in names]


def _endings() -> list[Column]:
    files = [Column(name, name.capitalize(), "words", where="files") for name in ("complete", "problems")]
    return [*files, Column("values", "Values", "words", where="json")]


def _problems(lines: Sequence[Line]) -> tuple[str, ...]:
    """How many draws each incomplete line has, and why not all."""
    problems = []
    for line in lines:
        more = f" and {len(line.problems) - 3} more" if len(line.problems) > 3 else ""
        count = f"{line.name}: {len(line.values)} of {len(line.draws)} seeds"
        problems += [] if line.complete else [f"{count}; {'; '.join(line.problems[:3])}{more}"]
    return tuple(problems)


def ranges(numbers: Sequence[int]) -> str:
    """(1, 2, 3, 7) -> "1-3 7"."""
    runs: list[list[int]] = []
    for number in sorted(set(numbers)):
        if runs and runs[-1][-1] == number - 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return " ".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)


# --- selection ---------------------------------------------------------------------------------------------------


def selection_sheet(lines: Sequence[Line], command: str) -> Sheet:
    """The table of a grid: pseudo-base, pseudo-new and the one figure of each point, and how far it is from the best.

    Args:
        lines: the points, of one method on one dataset. command: how to use what is chosen.
    """
    winner, facts = best(lines), lines[0].facts
    lines = [replace(line, reference=winner.name if winner else "") for line in lines]
    combined, key, measure = _names(lines)["combined"], _file_key(lines, "combined"), lines[0].measure
    rows = [{**_row(line, lines, KEYS[:3], "combined"), **_verdict(line, lines)} for line in lines]
    settings = winner.facts["settings"] if winner else {}
    chosen = " ".join(f"{key} {value}" for key, value in settings.items()) or (winner.name if winner else "")
    digits = table.digits_of(measure)
    notes = (
        "On the training shots of base classes only. Pseudo-base: shots kept back from training. Pseudo-new: all shots "
        f"of the base classes that were left out; there are fewer of these classes, so their {table.name_of(measure)} is "
        "the better one and neither compares with a table of base and new classes. Mean ± standard deviation over folds x "
        "seeds.",
        f"Best {combined} − {combined}: paired over folds x seeds, ± its standard error; folds of one seed share "
        "training shots, so it is somewhat too small. `within noise`: not behind by more than it. The best mean is "
        "chosen all the same.",
        "Epochs are those of the run that the settings are for; here, where an epoch has fewer images, as many more are "
        "made as give the same number of optimiser steps.",
    )
    return Sheet(
        f"{facts['dataset']}_{facts['method']}_{facts['recipe']}_shots_{facts['shots']}",
        f"Class hold-out: {facts['method']} ({facts['recipe']}) on {facts['dataset']}, {facts['shots']} shots",
        (
            Column("cell", "Settings", "words"),
            *_facts(),
            Column("count", "Draws", "number", where="shown"),
            Column("base", "Pseudo-base", digits=digits),
            Column("new", "Pseudo-new", digits=digits),
            Column(key, combined, digits=digits),
            Column("behind", f"Best {combined} − {combined}", "number", where="shown"),
            Column("verdict", "", "words", where="shown"),
            Column("reference", "Reference", "words", where="files"),
            Column("pairs", "Pairs", "number", where="files"),
            *(Column(f"{name}_gain", name, "gain", where="files") for name in ("base", "new", key)),
            *_endings(),
        ),
        tuple(rows),
        notes,
        _problems(lines),
        extra={**EXTRA, "chosen": settings if winner else None, "command": command},
        conclusion=f"Chosen: {chosen}" if winner else "Nothing is chosen: not every point is complete.",
        command=command if winner else "",
    )


def _verdict(line: Line, lines: Sequence[Line]) -> dict[str, str]:
    """How far a point is behind the best one, which is the reference, and whether that is within noise."""
    behind = line.behind(_reference(line, lines), "combined")
    if behind is None:
        return {"behind": NOTHING, "verdict": "best" if line.name == line.reference else ""}
    digits = table.digits_of(line.measure) + 1
    return {
        "behind": f"{behind.mean:.{digits}f} ± {behind.error:.{digits}f}",
        "verdict": "within noise" if abs(behind.mean) <= behind.error else "",
    }
