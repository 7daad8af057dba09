"""Cells: many small comparisons in one table. What `dicap ablations` and `dicap select` share.

A cell is one method with one recipe and its settings on one dataset. For each draw (a seed, or a seed and a fold) it trains a
prompt and tests it on base and on new classes. Everything is planned and checked before anything runs.
"""

import re
from collections.abc import Sequence
from typing import Any

from dicap import discover
from dicap import results as store
from dicap.experiments.executor import Outcome, execute
from dicap.experiments.finished import why_run
from dicap.experiments.protocols import BASE2NEW, Job, Protocol, Request, plan
from dicap.options import ConfigError
from dicap.report.ablations import Draw, Line
from dicap.report.table import measures_of
from dicap.tasks.classification import Classification


def plan_cell(cell: str, folder: str, request: Request) -> list[Job]:
    """The runs of a cell, by seed; the request names one method and one dataset.

    Args:
        folder: where they write, below the output folder.
    Raises:
        ConfigError: names the cell, the value and what is allowed.
    """
    try:
        jobs = plan(Protocol(folder, BASE2NEW.stages, cell=cell), request)
    except ConfigError as error:
        raise ConfigError(f"cell {cell!r}: {error}") from None
    datasets = dict.fromkeys(job.dataset for job in jobs)
    if len(datasets) > 1:
        raise ConfigError(f"cell {cell!r}: datasets {', '.join(datasets)}; a cell has one")
    return jobs


def draw_of(job: Job) -> Draw:
    """What pairs runs of cells: (seed,), or (seed, fold) where classes are held out."""
    data = job.cfg.DATASET
    return (job.seed, data.HOLDOUT_FOLD) if data.HOLDOUT_FOLDS else (job.seed,)


def by_draw(jobs: Sequence[Job]) -> dict[Draw, list[Job]]:
    """The runs of each draw, in order: those of base classes first."""
    draws: dict[Draw, list[Job]] = {}
    for job in jobs:
        draws.setdefault(draw_of(job), []).append(job)
    return draws


def run_cells(jobs: Sequence[Job], parallel: int, verbose: bool) -> list[Outcome]:
    """Run what is not finished draw by draw, so that what is interrupted has whole draws of all cells; the failures."""
    ordered = [job for some in by_draw(jobs).values() for job in some]
    return execute(ordered, parallel=parallel, verbose=verbose)


def line_of(name: str, jobs: Sequence[Job], settings: dict[str, str], group: str = "", reference: str = "") -> Line:
    """A cell's line in a table: the measures of each draw that is there, and problems (those that say the same as one)."""
    draws = by_draw(jobs)
    values: dict[Draw, dict[str, float]] = {}
    data: dict[Draw, str] = {}
    missing: dict[str, list[str]] = {}
    measure = (getattr(jobs[0].data.cls, "task", None) or Classification()).primary
    for draw, some in draws.items():
        whys = ((job, why_run(job, {"config": store.config_digest(job.cfg)})) for job in some)
        problem = next((f"{job.stage.split}: {why}" for job, why in whys if why), "")
        if problem:
            missing.setdefault(problem, []).append(" fold ".join(map(str, draw)))
            continue
        base, new = store.read_result(some[0].folder), store.read_result(some[-1].folder)
        values[draw], data[draw] = measures_of(base, new), base["digests"]["data"]
        measure = store.measure_of(base)
    facts = {"method": jobs[0].method, "recipe": jobs[0].recipe, "dataset": jobs[0].dataset}
    return Line(
        name=name,
        group=group,
        reference=reference,
        facts={**facts, "shots": jobs[0].request.shots, "settings": settings},
        draws=tuple(draws),
        values=values,
        data=data,
        measure=measure,
        problems=tuple(f"{problem} (seed {', '.join(seeds)})" for problem, seeds in missing.items()),
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
