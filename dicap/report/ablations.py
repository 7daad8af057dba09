"""Tables of cells over the same draws: mean and spread of each, and paired differences to a reference.

    sheet = ablation_sheet("causal_shapes", lines)          # `dicap ablations`
    sheet = selection_sheet(lines, "dicap base2new ...")    # `dicap select`: and which grid point is the best one

A cell with a draw missing is incomplete: neither averaged nor compared. Cells are compared over the draws that both
have, where the data of these are equal.
"""

import itertools
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
        """One measure by draw; empty where the line is incomplete or a draw lacks it."""
        whole = self.complete and all(key in values for values in self.values.values())
        return {draw: values[key] for draw, values in self.values.items()} if whole else {}

    def stat(self, key: str) -> Stat | None:
        """Mean and standard deviation over the draws; None where there is no series."""
        series = self.series(key)
        return Stat.of(series.values()) if series else None

    def same_data(self, reference: "Line") -> bool:
        """Whether what both have is of equal data and the same measure."""
        shared = self.data.keys() & reference.data.keys()
        return self.measure == reference.measure and all(self.data[draw] == reference.data[draw] for draw in shared)

    def behind(self, reference: "Line | None", key: str) -> Difference | None:
        """Reference minus line, over the draws that both have; None where one is incomplete or the data differ."""
        if reference is None or reference is self or not self.same_data(reference):
            return None
        return difference(reference.series(key), self.series(key))


def best(lines: Sequence[Line]) -> Line | None:
    """The line whose `combined` is the best on average, the first of equals; None where one is incomplete."""
    means = [stat.mean for line in lines if (stat := line.stat("combined"))]
    return lines[means.index(lines[0].measure.best(means))] if lines and len(means) == len(lines) else None


# --- ablations ---------------------------------------------------------------------------------------------------


def ablation_sheet(name: str, lines: Sequence[Line], not_run: Sequence[str] = ()) -> Sheet:
    """The table of an ablation: a section a group, each cell compared with its reference.

    Args:
        not_run: names of cells that were never run.
    """
    groups = list(dict.fromkeys(line.group for line in lines))
    lines = sorted(lines, key=lambda line: groups.index(line.group))
    references = list(dict.fromkeys(line.reference for line in lines if line.reference))
    by_name = {line.name: line for line in lines}
    pairs = [(line, by_name.get(line.reference)) for line in lines]
    names = _names(lines)
    measured = {key for line in lines for values in line.values.values() for key in values}
    rows = [_row(line, reference, names) for line, reference in pairs]
    title = title_of(f"Ablation {name}", rows, SHARED)
    if references:
        title += f"; Δ = {references[0] if len(references) == 1 else 'reference'} − cell"
    digits = table.digits_of(lines[0].measure) if lines else 1
    other_data = [line.name for line, one in pairs if line.complete and one and not line.same_data(one)]
    notes = [
        *dict.fromkeys(table.note_on_figures(line.measure) for line in lines),
        f"{names['combined'][1]} is that of each seed, then averaged.",
        f"Differences: reference minus cell over the same seeds, mean ± half the {100 * LEVEL:.0f} % t interval; "
        "* marks an interval that excludes zero. Each interval stands by itself: none is corrected for their number.",
        *([table.note_on_groups(lines[0].measure)] if "worst_group" in measured else []),
        *([f"Other data than the reference's, so not compared: {', '.join(other_data)}."] if other_data else []),
        *([f"Not run: {', '.join(not_run)}."] if not_run else []),
    ]
    problems = [
        f"{line.name}: {len(line.values)} of {len(line.draws)} seeds; {'; '.join(line.problems[:3])}"
        + (f" and {len(line.problems) - 3} more" if len(line.problems) > 3 else "")
        for line in lines
        if not line.complete
    ]
    return Sheet(
        name,
        title,
        _columns(rows, [names[key] for key in KEYS if key in measured], len(references), digits),
        tuple(rows),
        tuple(notes),
        tuple(problems),
        "group",
        sections=True,
        extra={
            "std": "over draws, ddof = 1",
            "combined": "of each draw, then averaged",
            "gain": f"reference minus cell, paired, {100 * LEVEL:.0f} % t interval, uncorrected",
            "not_run": list(not_run),
        },
    )


def _names(lines: Sequence[Line]) -> dict[str, tuple[str, str]]:
    """The key of each measure in files, and its heading."""
    labels = {line.measure.combined_label for line in lines}
    combined = labels.pop() if len(labels) == 1 else "Combined"
    headings = {"base": "Base", "new": "New", "combined": combined, "worst_group": "Worst group"}
    return {key: ("h" if heading == "H" else key, heading) for key, heading in headings.items()}


def _row(line: Line, reference: Line | None, names: dict[str, tuple[str, str]]) -> dict[str, Any]:
    gains = {key: line.behind(reference, key) for key in KEYS}
    row = {
        **line.facts,
        "group": line.group,
        "cell": line.name,
        "measure": line.measure.label,
        "higher_is_better": line.measure.higher_is_better,
        "seeds": " ".join("/".join(map(str, draw)) for draw in line.draws),
        "ranges": ranges([draw[0] for draw in line.draws]),
        "count": str(len(line.draws)) if line.complete else f"{len(line.values)}/{len(line.draws)}",
        "reference": line.reference,
        "pairs": next((gain.n for gain in gains.values() if gain), None),
        "complete": "yes" if line.complete else "no",
        "problems": "; ".join(line.problems),
        "values": [{"draw": list(draw), **values} for draw, values in line.values.items()],
        **{names[key][0]: line.stat(key) for key in KEYS},
        **{f"{names[key][0]}_gain": gain for key, gain in gains.items()},
    }
    row |= {} if line.complete else {"base": INCOMPLETE}
    return row | (
        {f"{name}_gain": "" for name, _ in names.values()} | {"base_gain": "ref."} if line is reference else {}
    )


def _columns(
    rows: Sequence[dict], names: Sequence[tuple[str, str]], references: int, digits: int
) -> tuple[Column, ...]:
    shown = "all" if references else "files"
    return (
        *words("group", where="files"),
        *words("cell"),
        *words("method", "recipe", "dataset", "shots", "settings", "seeds", where="files"),
        Column("count", "Seeds", "number", where="shown"),
        *columns_that_vary(rows, {"measure": "Measure"}),
        *(Column(key, name, digits=digits) for key, name in names),
        *words("reference", where="all" if references > 1 else "files"),
        Column("pairs", "Pairs", "number", where="files"),
        *(Column(f"{key}_gain", f"Δ {name}", "gain", digits, where=shown) for key, name in names),
        *words("complete", "problems", where="files"),
        *words("values", where="json"),
    )


def ranges(numbers: Sequence[int]) -> str:
    """(1, 2, 3, 7) -> "1-3 7"."""
    apart = itertools.groupby(enumerate(sorted(set(numbers))), lambda pair: pair[1] - pair[0])
    runs = [[number for _, number in run] for _, run in apart]
    return " ".join(f"{run[0]}-{run[-1]}" if run[1:] else str(run[0]) for run in runs)


# --- selection ---------------------------------------------------------------------------------------------------


def selection_sheet(lines: Sequence[Line], command: str) -> Sheet:
    """The table of a grid: pseudo-base, pseudo-new and the one figure of each point, and how far it is from the best.

    Args:
        lines: the points, of one method on one dataset. command: how to use what is chosen.
    """
    winner, facts, measure = best(lines), lines[0].facts, lines[0].measure
    taken = [{draw: {key: of[key] for key in KEYS[:3]} for draw, of in line.values.items()} for line in lines]
    reference = winner.name if winner else ""
    lines = [replace(line, reference=reference, values=values) for line, values in zip(lines, taken)]
    sheet = ablation_sheet("{dataset}_{method}_{recipe}_shots_{shots}".format(**facts), lines)
    names = {"cell": "Settings", "count": "Draws", "base": "Pseudo-base", "new": "Pseudo-new"}
    columns = [
        replace(one, name=names.get(one.key, one.name), where="files" if one.kind == "gain" else one.where)
        for one in sheet.columns
    ]
    columns += [Column("behind", f"Best {measure.combined_label} − {measure.combined_label}", "number", where="shown")]
    settings = winner.facts["settings"] if winner else {}
    chosen = " ".join(f"{key} {value}" for key, value in settings.items()) or reference
    top = next((line for line in lines if line.name == reference), None)
    return replace(
        sheet,
        title="Class hold-out: {method} ({recipe}) on {dataset}, {shots} shots".format(**facts),
        columns=(*columns, *words(where="shown", verdict="")),
        rows=tuple({**row, **_verdict(line, top)} for row, line in zip(sheet.rows, lines)),
        notes=tuple(note.format(one=measure.combined_label, name=table.name_of(measure)) for note in SELECTION),
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


def _verdict(line: Line, top: Line | None) -> dict[str, str]:
    """How far a point is behind the best one, and whether that is within noise."""
    behind = line.behind(top, "combined")
    if behind is None:
        return {"behind": NOTHING, "verdict": "best" if line is top else ""}
    digits = table.digits_of(line.measure) + 1
    noise = "within noise" if abs(behind.mean) <= behind.error else ""
    return {"behind": f"{behind.mean:.{digits}f} ± {behind.error:.{digits}f}", "verdict": noise}
