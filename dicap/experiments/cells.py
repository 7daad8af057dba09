"""Cells: many small comparisons in one table. What `dicap ablations` and `dicap select` share.

A cell is one method with one recipe and its settings on one dataset. Its units are its draws: train a prompt, test it on
base and on new classes. Everything is planned and checked before anything runs.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from dicap import discover
from dicap import results as store
from dicap.experiments.executor import Failure, execute
from dicap.experiments.finished import why_run
from dicap.experiments.protocols import BASE2NEW, Job, Protocol, Request, plan
from dicap.options import ConfigError
from dicap.report.ablations import Draw, Line
from dicap.report.table import measures_of
from dicap.tasks.classification import Classification


@dataclass(frozen=True)
class Unit:
    """One draw of a cell: its jobs in order, the first on base classes, the last on new ones."""

    draw: Draw
    jobs: tuple[Job, ...]

    def results(self) -> tuple[list[dict], str]:
        """Its jobs' results, or none and the reason why there are none."""
        found = []
        for job in self.jobs:
            why = why_run(job, {"config": store.config_digest(job.cfg)})
            if why:
                return [], f"{job.stage.split}: {why}"
            found.append(store.read_result(job.folder))
        return found, ""


def plan_units(cell: str, folder: str, request: Request, fold: int | None = None) -> list[Unit]:
    """The units of a cell, by seed; the request names one method and one dataset.

    Args:
        folder: where they write, below the output folder.
    Raises:
        ConfigError: names the cell, the value and what is allowed.
    """
    ending = "" if fold is None else f", fold {fold}"
    try:
        jobs = plan(Protocol(folder, BASE2NEW.stages, cell=f"{cell}{ending}"), request)
    except ConfigError as error:
        raise ConfigError(f"cell {cell!r}: {error}") from None
    datasets = dict.fromkeys(job.dataset for job in jobs)
    if len(datasets) > 1:
        raise ConfigError(f"cell {cell!r}: datasets {', '.join(datasets)}; a cell has one")
    by_seed: dict[int, list[Job]] = {}
    for job in jobs:
        by_seed.setdefault(job.seed, []).append(job)
    return [Unit((seed,) if fold is None else (seed, fold), tuple(some)) for seed, some in by_seed.items()]


def jobs_of(units: Sequence[Unit]) -> list[Job]:
    """Their jobs draw by draw, so that what is interrupted has whole draws of all cells."""
    order = list(dict.fromkeys(unit.draw for unit in units))
    return [job for unit in sorted(units, key=lambda unit: order.index(unit.draw)) for job in unit.jobs]


def run_units(units: Sequence[Unit], parallel: int, verbose: bool) -> list[Failure]:
    """Run what is not finished; returns the failures."""
    return execute(jobs_of(units), parallel=parallel, verbose=verbose)


def line_of(name: str, units: Sequence[Unit], settings: dict[str, str], group: str = "", reference: str = "") -> Line:
    """A cell's line in a table: the measures of each draw that is there, and problems (those that say the same as one)."""
    job = units[0].jobs[0]
    values: dict[Draw, dict[str, float]] = {}
    data: dict[Draw, str] = {}
    missing: dict[str, list[str]] = {}
    task = getattr(job.data.cls, "task", None) or Classification()
    measure = task.primary
    for unit in units:
        results, problem = unit.results()
        if problem:
            missing.setdefault(problem, []).append(" fold ".join(map(str, unit.draw)))
            continue
        values[unit.draw], data[unit.draw] = measures_of(results[0], results[-1]), results[0]["digests"]["data"]
        measure = store.measure_of(results[0])
    facts = {"method": job.method, "recipe": job.recipe, "dataset": job.dataset, "shots": job.request.shots}
    return Line(
        name=name,
        group=group,
        reference=reference,
        facts={**facts, "settings": settings},
        draws=tuple(unit.draw for unit in units),
        values=values,
        data=data,
        measure=measure,
        problems=tuple(f"{problem} (seed {', '.join(draws)})" for problem, draws in missing.items()),
    )


def own_settings(settings: dict[str, Any], method: str) -> tuple[str, ...]:
    """KEY VALUE pairs as on a command line; a key without a dot belongs to the trainer's section, else to the learner's.

    Raises:
        ConfigError: a key that is not in upper case, or in neither section.
    """
    pairs: list[str] = []
    for key, value in settings.items():
        if not re.fullmatch(r"[A-Z0-9_]+(\.[A-Z0-9_]+)*", str(key)):
            raise ConfigError(f"setting {key!r}: expected KEY or SECTION.KEY in upper case, such as W or OPTIM.LR")
        pairs += [key if "." in key else f"{_section_of(key, method)}.{key}", str(value)]
    return tuple(pairs)


def _section_of(key: str, method: str) -> str:
    """The section of the trainer or of the learner that has a key. Raises ConfigError with the keys of both."""
    options = {section: cls.OPTIONS for section, cls in discover.classes_with_options().items()}  # type: ignore[attr-defined]
    sections = [f"TRAINER.{part.upper()}" for part in method.replace(":", "+").split("+")]
    for section in sections:
        if key in options.get(section, (key,)):  # of a trainer without a table of settings planning finds what it lacks
            return section
    there = "; ".join(f"{section}: {', '.join(options[section])}" for section in sections)
    raise ConfigError(f"{method} has no setting {key}; there are {there}")


def by_key(settings: Sequence[str]) -> dict[str, str]:
    """KEY VALUE pairs of a command line as a dictionary."""
    return dict(zip(settings[::2], settings[1::2]))


def slug(name: str) -> str:
    """A name as a folder: letters, digits and - _ . = , stay, all else becomes one "-". Raises ConfigError: empty."""
    folder = re.sub(r"[^A-Za-z0-9_.=,]+", "-", name).strip("-.")
    if not folder:
        raise ConfigError(f"name {name!r} has no letter or digit to name a folder with")
    return folder


def numbers(values: Any, what: str = "seeds") -> tuple[int, ...]:
    """Whole numbers and ranges, in one text or one by one: [1, "4-6"] or "1 4-6" -> (1, 4, 5, 6). Raises ConfigError."""
    found: list[int] = []
    for text in " ".join(map(str, values if isinstance(values, (list, tuple)) else [values])).split():
        match = re.fullmatch(r"(\d+)(?:-(\d+))?", text)
        if not match or int(match[2] or match[1]) < int(match[1]):
            raise ConfigError(f"{what} {text!r}: expected whole numbers from 0 or ranges, such as 1 2 3 or 101-120")
        found += range(int(match[1]), int(match[2] or match[1]) + 1)
    return tuple(dict.fromkeys(found))
