"""Cells: many small comparisons side by side. What `dicap ablations` and `dicap select` share.

A cell is one method with one recipe and its settings on one dataset. Its units are its seeds: train a prompt, test it
on base and on new classes. Everything is planned and checked before anything runs; finished units are skipped,
interrupted ones go on; a failing unit is reported at the end and the others run all the same.
"""

import concurrent.futures
import dataclasses
import logging
import multiprocessing
import os
import re
import signal
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from dicap import results as store
from dicap.experiments.driver import NOT_FINISHED, RunError, finish, planned_digests, why_run
from dicap.experiments.estimate import duration
from dicap.experiments.protocols import Job, Protocol, Request, plan
from dicap.options import ConfigError
from dicap.report.paired import Draw, measures_of

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Unit:
    """One draw of one cell: its jobs in order, the first on base classes, the last on new ones."""

    cell: str
    draw: Draw
    name: str
    jobs: tuple[Job, ...]

    def planned(self) -> list[dict[str, str]]:
        """Digests of each job. Reads the data."""
        return [planned_digests(job) for job in self.jobs]

    def results(self) -> tuple[list[dict], str]:
        """Its jobs' results, or none and the reason why there are none."""
        found = []
        for job in self.jobs:
            why = why_run(job, {"config": store.config_digest(job.cfg)})
            if why:
                return [], f"{job.stage.split}: {why}"
            found.append(store.read_result(job.folder))
        return found, ""


@dataclass(frozen=True)
class Outcome:
    """How a unit ended: accuracies by stage, or the error."""

    name: str
    accuracies: tuple[tuple[str, float], ...] = ()
    seconds: float = 0.0
    why: str = ""
    error: str = ""


def plan_units(cell: str, protocol: Protocol, request: Request, fold: int | None = None) -> list[Unit]:
    """The units of a cell, by seed; the request names one method and one dataset.

    Raises:
        ConfigError: names the cell, the value and what is allowed.
    """
    try:
        jobs = plan(protocol, request)
    except ConfigError as error:
        raise ConfigError(f"cell {cell!r}: {error}") from None
    datasets = dict.fromkeys(job.dataset for job in jobs)
    if len(datasets) > 1:
        raise ConfigError(f"cell {cell!r}: datasets {', '.join(datasets)}; a cell has one")
    by_seed: dict[int, list[Job]] = {}
    for job in jobs:
        by_seed.setdefault(job.seed, []).append(job)
    ending = "" if fold is None else f", fold {fold}"
    return [
        Unit(cell, (seed,) if fold is None else (seed, fold), f"{cell}, seed {seed}{ending}", tuple(some))
        for seed, some in by_seed.items()
    ]


def gather(units: Iterable[Unit]) -> tuple[dict[Draw, dict[str, float]], tuple[str, ...], dict[Draw, str]]:
    """Measures by draw, problems (those that say the same as one), and digests of the data by draw."""
    values: dict[Draw, dict[str, float]] = {}
    data: dict[Draw, str] = {}
    missing: dict[str, list[Draw]] = {}
    for unit in units:
        found, problem = unit.results()
        if problem:
            missing.setdefault(problem, []).append(unit.draw)
        else:
            values[unit.draw], data[unit.draw] = measures_of(found[0], found[-1]), found[0]["digests"]["data"]
    return (
        values,
        tuple(
            f"{problem} (seed {', '.join(' fold '.join(map(str, draw)) for draw in draws)})"
            for problem, draws in missing.items()
        ),
        data,
    )


def own_settings(settings: dict[str, Any], method: str) -> tuple[str, ...]:
    """KEY VALUE pairs as on a command line; a key without a dot belongs to the method's own section.

    Raises:
        ConfigError: a key that is not in upper case.
    """
    pairs: list[str] = []
    for key, value in settings.items():
        if not re.fullmatch(r"[A-Z0-9_]+(\.[A-Z0-9_]+)*", str(key)):
            raise ConfigError(f"setting {key!r}: expected KEY or SECTION.KEY in upper case, such as W or OPTIM.LR")
        pairs += [key if "." in key else f"TRAINER.{method.upper()}.{key}", str(value)]
    return tuple(pairs)


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


# --- running -----------------------------------------------------------------------------------------------------


def run_units(
    units: Sequence[Unit], jobs: int = 1, *, verbose: bool = False, engine: str = "auto", plugins: Sequence[str] = ()
) -> list[Outcome]:
    """Run what is not finished, `jobs` units at a time; returns the failures.

    Units are taken draw by draw, so that an interrupted job has whole draws of all cells. With jobs > 1 each unit
    runs in a process of its own kind, on one thread.

    Args:
        verbose: show the runs' logs too; for jobs = 1 only.
        engine, plugins: what the processes have to load.
    """
    order = list(dict.fromkeys(unit.draw for unit in units))
    plans = {unit.name: unit.planned() for unit in units}  # the whole data is looked at before the first run
    waiting = [
        unit
        for unit in sorted(units, key=lambda unit: order.index(unit.draw))
        if any(why_run(job, planned) for job, planned in zip(unit.jobs, plans[unit.name]))
    ]
    log.info("%d of %d to run, %d finished before", len(waiting), len(units), len(units) - len(waiting))
    tasks = [(unit, plans[unit.name], verbose) for unit in waiting]
    failures, start = [], time.perf_counter()
    for number, outcome in enumerate(_outcomes(tasks, jobs, engine, plugins), 1):
        failures += [outcome] if outcome.error else []
        _tell(outcome, number, len(tasks), time.perf_counter() - start)
    return failures


def _tell(outcome: Outcome, number: int, total: int, seconds: float) -> None:
    head = f"[{number:{len(str(total))}}/{total}] {outcome.name}"
    left = duration(seconds / number * (total - number))
    if outcome.error:
        log.info("%s: FAILED: %s", head, outcome.error.splitlines()[0])
    else:
        log.info(
            "%s: %s; %.0f s%s%s",
            head,
            ", ".join(f"{split} {value:.1f}" for split, value in outcome.accuracies),
            outcome.seconds,
            outcome.why,
            f"; {left} left" if number < total else "",
        )


def _outcomes(tasks: list[tuple], jobs: int, engine: str, plugins: Sequence[str]) -> Iterator[Outcome]:
    """Outcomes in the order in which units end."""
    if jobs == 1 or len(tasks) < 2:
        yield from (_run_unit(*task) for task in tasks)
        return
    with (
        _one_thread(),
        concurrent.futures.ProcessPoolExecutor(
            min(jobs, len(tasks)), multiprocessing.get_context("spawn"), start_worker, (engine, tuple(plugins))
        ) as pool,
    ):
        names = {pool.submit(_run_unit, _bare(unit), *rest): unit.name for unit, *rest in tasks}
        try:
            for future in concurrent.futures.as_completed(names):
                yield _outcome_of(future, names[future])
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def _outcome_of(future: concurrent.futures.Future, name: str) -> Outcome:
    try:
        return future.result()
    except concurrent.futures.process.BrokenProcessPool:
        return Outcome(name, error="its process died (out of memory? killed?); run the same command again")


def _bare(unit: Unit) -> Unit:
    """Without the configurations that its jobs remember: a worker builds its own."""
    bare = {job.folder: dataclasses.replace(job) for job in unit.jobs}
    return dataclasses.replace(
        unit,
        jobs=tuple(
            dataclasses.replace(job, prompt=bare[job.prompt.folder] if job.prompt else None) for job in bare.values()
        ),
    )


@contextmanager
def _one_thread() -> Iterator[None]:
    """Processes that start here compute on one thread each."""
    before = os.environ.get("OMP_NUM_THREADS")
    os.environ["OMP_NUM_THREADS"] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ["OMP_NUM_THREADS"]
        else:
            os.environ["OMP_NUM_THREADS"] = before


def start_worker(engine: str, plugins: tuple[str, ...]) -> None:
    """Prepare a process: engine, plugins; it ends with the one that started it."""
    from dicap.choose_engine import choose_engine

    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C ends it at once and without a traceback of its own
    parent = multiprocessing.parent_process()
    threading.Thread(target=lambda: (parent.join(), os._exit(1)), daemon=True).start()  # type: ignore[union-attr]
    choose_engine(engine)
    from dicap import discover

    discover.load_all()
    logging.getLogger("dicap").setLevel(logging.INFO)  # of the runs' log.txt; the terminal belongs to the parent
    for path in plugins:
        discover.load_plugin(path)


def _run_unit(unit: Unit, plans: list[dict[str, str]], verbose: bool) -> Outcome:
    start, accuracies, why = time.perf_counter(), [], ""
    try:
        for job, planned in zip(unit.jobs, plans):
            result, again = finish(job, planned, verbose)
            accuracies.append((job.stage.split, result["accuracy"]))
            why = why or ("" if again in ("", NOT_FINISHED) else f" (again: {again})")
    except (RunError, ConfigError, OSError) as error:
        return Outcome(unit.name, error=str(error))
    return Outcome(unit.name, tuple(accuracies), time.perf_counter() - start, why)


def show_units(units: Sequence[Unit]) -> None:
    """Print each unit and whether it is finished; nothing is run, no data are read."""
    finished = 0
    for unit in units:
        _, why = unit.results()
        finished += not why
        log.info("%s: %s", unit.name, f"to run ({why})" if why else "finished")
    log.info("%d to run, %d finished", len(units) - finished, finished)


def raise_failures(failures: Sequence[Outcome], total: int) -> None:
    """One error that lists all that failed. Raises RunError."""
    if failures:
        lines = "\n".join(f"- {outcome.name}: {outcome.error}" for outcome in failures)
        raise RunError(
            f"{len(failures)} of {total} failed:\n{lines}\nThe others are finished; the same command runs these again."
        )
