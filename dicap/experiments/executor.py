"""The executor of runs: skips what is finished, makes the rest, goes on after a failure, and lists what failed.

    failures = execute(jobs)               # one after the other, in this process
    failures = execute(jobs, parallel=2)   # two at a time, in processes that compute on one thread each

A failure stops only the runs that need its prompt. What was interrupted goes on where it stopped, by the same command.
"""

import contextlib
import functools
import gc
import io
import logging
import multiprocessing
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dicap import discover
from dicap import results as store
from dicap.experiments.finished import NOT_FINISHED, make_way, planned_digests, why_run
from dicap.experiments.protocols import Job, learns
from dicap.files import holder, locked
from dicap.options import ConfigError

log = logging.getLogger(__name__)


class RunError(RuntimeError):
    """Runs of a plan failed; the message names each, its last error and its log. log_file: of a single run."""

    def __init__(self, message: str, log_file: str = ""):
        super().__init__(message)
        self.log_file = log_file


@dataclass(frozen=True)
class Outcome:
    """How a run ended: what is said of it, or the last line of its error and its log, "" where it had not begun one."""

    job: Job
    line: str = ""
    cause: str = ""
    log_file: str = ""


Plan = dict[str, str] | Outcome  # of a run: the digests that its result must have, or why it cannot be made
FINISHED = "finished before"
DIED = "its process died (out of memory? killed?); run the same command again"


def execute(jobs: Sequence[Job], *, parallel: int = 1, verbose: bool = False) -> list[Outcome]:
    """Run what is not finished, in order as far as one does not need another; what fails is returned, the others go on.

    Args:
        parallel: runs at a time; more than one: each in a process on one thread.
        verbose: show each run's log in the terminal too; it is in its log.txt in any case. In this process only.
    Returns:
        the failures; a run whose training failed is one of them.
    """
    start, ended = time.perf_counter(), list[Outcome]()
    plans = {job.folder: _plan(job) for job in jobs}  # the whole data is looked at before the first run
    waiting = _unfinished(jobs, plans)
    log.info("%d of %d runs to make, %d finished before", len(waiting), len(jobs), len(jobs) - len(waiting))
    gc.freeze()  # what is there by now, torch above all, outlives the runs: the collection after each passes over it
    try:
        for outcome in _outcomes(waiting, plans, parallel, verbose):
            ended.append(outcome)
            left = (time.perf_counter() - start) / len(ended) * (len(waiting) - len(ended))
            count = f"[{len(ended):{len(str(len(waiting)))}}/{len(waiting)}]"
            line = f"FAILED: {outcome.cause.splitlines()[0]}" if outcome.cause else outcome.line
            log.info("%s %s: %s%s", count, outcome.job.name, line, f"; {duration(left)} left" if left > 60 else "")
    finally:
        gc.unfreeze()
    failures = [outcome for outcome in ended if outcome.cause]
    made = sum(outcome.line not in ("", FINISHED) for outcome in ended)
    before, seconds = len(jobs) - made - len(failures), time.perf_counter() - start
    log.info("%d runs in %.0f s, %d finished before, %d failed", made, seconds, before, len(failures))
    return failures


def duration(seconds: float) -> str:
    """0.2 -> "1 s", 42 -> "42 s", 4200 -> "70 min", 42000 -> "11.7 h"."""
    seconds = max(seconds, 1)
    minutes = round(seconds / 60)
    return f"{seconds:.0f} s" if seconds < 100 else f"{minutes} min" if minutes < 100 else f"{seconds / 3600:.1f} h"


def figure_of(result: dict) -> str:
    """The primary metric with its unit: "62.1 %", or "error 0.31"."""
    measure, value = store.measure_of(result), store.primary(result)
    return f"{value:.1f} %" if measure.unit == "%" else f"{measure.label.lower()} {value:.2f} {measure.unit}".rstrip()


def _plan(job: Job) -> Plan:
    try:
        return planned_digests(job)
    except Exception as error:
        if not type(error).__module__.startswith("dicap") and not isinstance(error, OSError):
            log.info("%s", traceback.format_exc())  # a bug, in a dataset file
        return Outcome(job, cause=f"{type(error).__name__}: {error}")


def _unfinished(jobs: Sequence[Job], plans: dict[Path, Plan]) -> list[Job]:
    """Those to make, and those to look at again once the training that they need is made."""
    found: dict[Path, Job] = {}
    for job in jobs:
        planned, needed = plans[job.folder], job.depends_on
        if isinstance(planned, Outcome) or (needed and needed.folder in found) or why_run(job, planned):
            found[job.folder] = job
    return list(found.values())


def _outcomes(jobs: Sequence[Job], plans: dict[Path, Plan], parallel: int, verbose: bool) -> Iterator[Outcome]:
    """The outcome of each run, as they end."""
    needs = {job.folder: job.depends_on for job in jobs}
    waiting, not_ended, failed = list(jobs), set(needs), set[Path]()
    running: dict[Future, Job] = {}
    parallel = max(1, min(parallel, len(jobs)))
    with ThisProcess() if parallel == 1 else Processes(parallel) as pool:
        while not_ended:
            ready = (job for job in waiting if not ((needed := needs[job.folder]) and needed.folder in not_ended))
            job = next(ready, None)
            if job is not None and len(running) < parallel:
                waiting.remove(job)
                planned, needed = plans[job.folder], needs[job.folder]
                if needed and needed.folder in failed:
                    planned = Outcome(job, cause=f"not run: its training failed ({needed.name})")
                running[pool.submit(_attempt, job, planned, verbose)] = job
                continue
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                job = running.pop(future)
                died = isinstance(future.exception(), BrokenProcessPool)
                outcome = Outcome(job, cause=DIED) if died else future.result()
                not_ended.remove(job.folder)
                failed |= {job.folder} if outcome.cause else set()
                yield outcome


def _attempt(job: Job, planned: Plan, verbose: bool) -> Outcome:
    if isinstance(planned, Outcome):
        return planned
    start = time.perf_counter()
    try:
        result, why = finish(job, planned, verbose)
    except (RunError, ConfigError, store.ResultError, OSError) as error:
        from dicap.experiments.run import free_memory

        cause = str(error) if isinstance(error, RunError) else f"{type(error).__name__}: {error}"
        error.__cause__ = error.__traceback__ = None  # they hold the run's tensors
        free_memory()
        return Outcome(job, cause=cause, log_file=getattr(error, "log_file", ""))
    again = "" if why == NOT_FINISHED else f" (again: {why})"
    return Outcome(job, f"{figure_of(result)}, {time.perf_counter() - start:.0f} s{again}" if why else FINISHED)


def finish(job: Job, planned: dict[str, str], verbose: bool = False) -> tuple[dict, str]:
    """A run's result and why it was made now, "" where it was finished before.

    Raises RunError: it failed, or another process is at work on it.
    """
    if not why_run(job, planned):
        return store.read_result(job.folder), ""
    with at_work(job.folder):
        why = why_run(job, planned)  # another process may have finished it meanwhile
        if not why:
            return store.read_result(job.folder), ""
        make_way(job, planned, why)
        return _run(job, verbose), why


@contextlib.contextmanager
def at_work(folder: str | os.PathLike) -> Iterator[None]:
    """Hold the lock of a run's folder, beside it. Raises RunError where another process is at work on that run."""
    path = Path(os.path.realpath(folder))
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.parent if os.access(path.parent, os.W_OK) else path  # a folder that is mounted alone
    lock = beside / f".{path.name}.lock"
    with locked(lock) as mine:
        if not mine:
            held = f"another process is at work on it ({holder(lock)[0]})"
            raise RunError(f"{held}; wait for that one, then run the same command again")
        yield


def _run(job: Job, verbose: bool) -> dict:
    from dicap.experiments.run import run

    try:
        with contextlib.nullcontext() if verbose else quiet():
            result = run(
                job.cfg,
                eval_only=job.prompt is not None or not learns(job),
                model_dir=str(job.depends_on.folder) if job.depends_on else "",
                **job.names,
            )
    except Exception as error:
        raise RunError(f"{type(error).__name__}: {error}", str(job.folder / "log.txt")) from error
    if result is None:
        raise RunError("it tested nothing: TEST.NO_TEST is set; a protocol needs the test")
    return result


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Show nothing of what a run prints; its warnings go where its output goes, into log.txt."""

    class ToStdout(io.TextIOBase):
        def write(self, text: str) -> int:
            return sys.stdout.write(text) or len(text)

    with open(os.devnull, "w", encoding="utf-8") as sink, contextlib.redirect_stdout(sink):
        with contextlib.redirect_stderr(ToStdout()):
            yield


def raise_failures(failures: Sequence[Outcome], total: int) -> None:
    """One error that lists all that failed, those with one cause together. Raises RunError."""
    if not failures:
        return
    by_cause: dict[str, list[Outcome]] = {}
    for failure in failures:
        by_cause.setdefault(failure.cause, []).append(failure)
    lines = [f"{len(failures)} of {total} runs failed:"]
    for cause, some in by_cause.items():
        names = [failure.job.name for failure in some[:3]] + ([f"and {len(some) - 3} more"] if some[3:] else [])
        lines.append(f"- {'; '.join(names)}: {cause}")
        lines += [f"  log: {failure.log_file}" for failure in some if failure.log_file][:3]
    raise RunError("\n".join([*lines, "The others are finished; the same command runs these again."]))


class ThisProcess(Executor):
    """Makes each task at once, here; its errors come through as they are."""

    def submit(self, task: Callable, /, *args: Any, **kwargs: Any) -> Future:
        future: Future = Future()
        future.set_result(task(*args, **kwargs))
        return future


class Processes(Executor):
    """Spawned processes; where one dies, what they were at fails with BrokenProcessPool, and new ones do the rest."""

    def __init__(self, number: int) -> None:
        arguments = (os.environ.get("DICAP_ENGINE") or "auto", tuple(discover.PLUGINS), number > 1)
        context = multiprocessing.get_context("spawn")
        self._start = functools.partial(ProcessPoolExecutor, number, context, _start_worker, arguments)
        self._pool = self._start()

    def submit(self, task: Callable, /, *args: Any, **kwargs: Any) -> Future:
        try:
            return self._pool.submit(task, *args, **kwargs)
        except BrokenProcessPool:
            self.shutdown()
            self._pool = self._start()
            return self._pool.submit(task, *args, **kwargs)

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        if isinstance(error, KeyboardInterrupt):  # its signal may have come to this process alone
            for child in multiprocessing.active_children():
                child.terminate()
        super().__exit__(kind, error, trace)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = True) -> None:
        self._pool.shutdown(wait, cancel_futures=cancel_futures)


def _start_worker(engine: str, plugins: tuple[str, ...], one_thread: bool) -> None:
    """Prepare a process: engine, plugins; it ends with the one that started it."""
    from dicap.choose_engine import choose_engine

    if one_thread:
        os.environ["OMP_NUM_THREADS"] = "1"  # of what is imported from here on
        import torch

        torch.set_num_threads(1)  # where the main module has imported it
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C ends it at once and without a traceback of its own

    def end_with_parent() -> None:
        if parent := multiprocessing.parent_process():
            parent.join()
            os._exit(1)

    threading.Thread(target=end_with_parent, daemon=True).start()
    choose_engine(engine)
    discover.load_all()
    logging.getLogger("dicap").setLevel(logging.INFO)  # of the runs' log.txt; the terminal belongs to the parent
    for path in plugins:
        discover.load_plugin(path)
