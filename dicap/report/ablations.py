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
from dicap.report.sheet import INCOMPLETE, NOTHING, Column, Sheet, columns_that_vary, title_of, words
from dicap.report.stats import LEVEL, Difference, Stat, difference
from dicap.results import Measure

Draw = tuple[int, ...]  # what pairs: (seed,) or (seed, fold)
KEYS = ("base", "new", "combined", "worst_group")
SHARED = {"dataset": "{}", "shots": "{} shots", "recipe": "recipe {}", "ranges": "seeds {}"}


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
    groups = list(dict.fromkeys(line.group for line in lines))
    lines = sorted(lines, key=lambda line: groups.index(line.group))
    references = list(dict.fromkeys(line.reference for line in lines if line.reference))
    rows = [_row(line, lines) for line in lines]
    title = title_of(f"Ablation {name}", rows, SHARED)
    if references:
        title += f"; Δ = {references[0] if len(references) == 1 else 'reference'} − cell"
    return Sheet(
        name,
        title,
        tuple(_columns(rows, _names(lines, keys), len(references), table.digits_of(lines[0].measure) if lines else 1)),
        tuple(rows),
        tuple(_notes(lines, keys, not_run)),
        tuple(problem for line in lines for problem in _problems(line)),
        "group",
        sections=True,
        extra={
            "std": "over draws, ddof = 1",
            "combined": "of each draw, then averaged",
            "gain": f"reference minus cell, paired, {100 * LEVEL:.0f} % t interval, uncorrected",
            "not_run": list(not_run),
            "complete": all(line.complete for line in lines) and not not_run,
        },
    )


def _names(lines: Sequence[Line], keys: Sequence[str]) -> dict[str, str]:
    """Headings of measures by their key in files."""
    labels = {line.measure.combined_label for line in lines}
    combined = labels.pop() if len(labels) == 1 else "Combined"
    names = {"base": "Base", "new": "New", "combined": combined, "worst_group": "Worst group"}
    return {"h" if names[key] == "H" else key: names[key] for key in keys}


def _reference(line: Line, lines: Sequence[Line]) -> Line | None:
    return next((one for one in lines if one.name == line.reference), None)


def _row(line: Line, lines: Sequence[Line]) -> dict[str, Any]:
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
    reference = _reference(line, lines)
    for key, name in zip(KEYS, _names(lines, KEYS), strict=True):
        behind = line.behind(reference, key)
        row[name], row[f"{name}_gain"] = line.stat(key), "" if line is reference else behind
        row["pairs"] = row.get("pairs") or (behind.n if behind else None)
    row["base"] = row["base"] if line.complete else INCOMPLETE
    row["base_gain"] = "ref." if line is reference else row["base_gain"]
    return row


def _columns(rows: Sequence[dict], names: dict[str, str], references: int, digits: int) -> list[Column]:
    shown = "all" if references else "files"
    return [
        *words("group", where="files"),
        *words("cell"),
        *words("method", "recipe", "dataset", "shots", "settings", "seeds", where="files"),
        Column("count", "Seeds", "number", where="shown"),
        *columns_that_vary(rows, {"measure": "Measure"}),
        *(Column(key, name, digits=digits) for key, name in names.items()),
        *words("reference", where="all" if references > 1 else "files"),
        Column("pairs", "Pairs", "number", where="files"),
        *(Column(f"{key}_gain", f"Δ {name}", "gain", digits, where=shown) for key, name in names.items()),
        *words("complete", "problems", where="files"),
        *words("values", where="json"),
    ]


def _notes(lines: Sequence[Line], keys: Sequence[str], not_run: Sequence[str]) -> list[str]:
    other_data = [
        line.name
        for line in lines
        if line.complete and (reference := _reference(line, lines)) and not line.same_data(reference)
    ]
    return [
        *dict.fromkeys(table.note_on_figures(line.measure) for line in lines),
        *(f"{name} is that of each seed, then averaged." for name in _names(lines, KEYS[2:3]).values()),
        f"Differences: reference minus cell over the same seeds, mean ± half the {100 * LEVEL:.0f} % t interval; "
        "* marks an interval that excludes zero. Each interval stands by itself: none is corrected for their number.",
        *([table.note_on_groups(lines[0].measure)] if "worst_group" in keys else []),
        *([f"Other data than the reference's, so not compared: {', '.join(other_data)}."] if other_data else []),
        *([f"Not run: {', '.join(not_run)}."] if not_run else []),
    ]


def _problems(line: Line) -> list[str]:
    """How many draws an incomplete line has, and why not all."""
    more = f" and {len(line.problems) - 3} more" if len(line.problems) > 3 else ""
    count = f"{line.name}: {len(line.values)} of {len(line.draws)} seeds"
    return [] if line.complete else [f"{count}; {'; '.join(line.problems[:3])}{more}"]


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
    lines = [
        replace(
            line,
            group="",
            reference=winner.name if winner else "",
            values={draw: {key: values[key] for key in KEYS[:3]} for draw, values in line.values.items()},
        )
        for line in lines
    ]
    combined = lines[0].measure.combined_label
    sheet = ablation_sheet("{dataset}_{method}_{recipe}_shots_{shots}".format(**facts), lines)
    names = {"cell": "Settings", "count": "Draws", "base": "Pseudo-base", "new": "Pseudo-new"}
    columns = [
        replace(
            column, name=names.get(column.key, column.name), where="files" if column.kind == "gain" else column.where
        )
        for column in sheet.columns
    ]
    columns += [Column("behind", f"Best {combined} − {combined}", "number", where="shown")]
    columns += words(where="shown", verdict="")
    settings = winner.facts["settings"] if winner else {}
    chosen = " ".join(f"{key} {value}" for key, value in settings.items()) or (winner.name if winner else "")
    return replace(
        sheet,
        title="Class hold-out: {method} ({recipe}) on {dataset}, {shots} shots".format(**facts),
        columns=tuple(columns),
        rows=tuple({**row, **_verdict(line, lines)} for row, line in zip(sheet.rows, lines, strict=True)),
        notes=tuple(note.format(one=combined, name=table.name_of(lines[0].measure)) for note in SELECTION),
        sections=False,
        extra={**sheet.extra, "chosen": settings if winner else None, "command": command},
        conclusion=f"Chosen: {chosen}" if winner else "Nothing is chosen: not every point is complete.",
        command=command if winner else "",
    )


SELECTION = (
    "On the training shots of base classes only. Pseudo-base: shots kept back from training. Pseudo-new: all shots of "
    "the base classes that were left out; there are fewer of these classes, so their {name} is the better one and "
    "neither compares with a table of base and new classes. Mean ± standard deviation over folds x seeds.",
    "Best {one} − {one}: paired over folds x seeds, ± its standard error; folds of one seed share training shots, so it "
    "is somewhat too small. `within noise`: not behind by more than it. The best mean is chosen all the same.",
    "Epochs are those of the run that the settings are for; here, where an epoch has fewer images, as many more are "
    "made as give the same number of optimiser steps.",
)


def _verdict(line: Line, lines: Sequence[Line]) -> dict[str, str]:
    """How far a point is behind the best one, which is the reference, and whether that is within noise."""
    behind = line.behind(_reference(line, lines), "combined")
    if behind is None:
        return {"behind": NOTHING, "verdict": "best" if line.name == line.reference else ""}
    digits = table.digits_of(line.measure) + 1
    noise = "within noise" if abs(behind.mean) <= behind.error else ""
    return {"behind": f"{behind.mean:.{digits}f} ± {behind.error:.{digits}f}", "verdict": noise}
