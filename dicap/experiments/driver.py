"""The driver: finds out what of a plan is finished, runs the rest, lists what failed, ends with the tables.

    dicap base2new                                              # the embedded default: four methods, two datasets
    dicap few_shot --data /path --datasets caltech101 --methods DiCap

All runs of a plan share one process. A finished run is skipped only if its result file is whole and settings, data,
backbone weights and tested prompt are the planned ones. A run that fails stops nothing but the runs that need its prompt.
"""

import contextlib
import dataclasses
import functools
import gc
import io
import logging
import os
import sys
import time
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dicap import results as store
from dicap.data.named import Data, missing
from dicap.experiments.protocols import Job, Protocol, Request, learns, many, plan
from dicap.files import locked
from dicap.options import ConfigError

log = logging.getLogger(__name__)

NOT_FINISHED = "not finished"
OTHER_WEIGHTS = "the backbone's weights changed"
STAMP = ".plan.json"  # in a run's folder: what the checkpoints there belong to
POLICIES = ("skip", "refuse")  # of datasets that are not there


class RunError(RuntimeError):
    """Runs of a plan failed; the message names each, its last error and its log. cause, log: those of a single run."""

    def __init__(self, message: str, cause: str = "", log_file: str = ""):
        super().__init__(message)
        self.cause, self.log_file = cause or message, log_file


@dataclass(frozen=True)
class Failure:
    """A run that failed, with the last error line and the path of its log; "" where it had not begun to write one."""

    job: Job
    cause: str
    log_file: str = ""


# --- what is finished --------------------------------------------------------------------------------------------


def planned_digests(job: Job) -> dict[str, str]:
    """Digests of settings and data. Reads the dataset; an embedded one is written where it is missing."""
    return {"config": store.config_digest(job.cfg), "data": _data_digest(job.cfg)}


def prompt_digest(job: Job) -> str | None:
    """Digest of the prompt that a run is to test, None where none is trained yet."""
    try:
        return store.read_result(job.depends_on.folder)["digests"]["model"] if job.depends_on else None
    except store.ResultError:
        return None


_DATA_DIGESTS: dict[str, str] = {}


def _data_digest(cfg: Any) -> str:
    """Digest of a configuration's dataset, remembered by its DATASET section and seed."""
    from dassl.data.datasets import build_dataset
    from dassl.utils import set_random_seed

    key = store.digest_of([store.plain(cfg.DATASET), cfg.SEED])
    if key not in _DATA_DIGESTS:
        with _data_told(), contextlib.redirect_stdout(io.StringIO()):
            set_random_seed(cfg.SEED)  # the few-shot draw uses Python's generator
            _DATA_DIGESTS[key] = store.data_digest(build_dataset(cfg))
    return _DATA_DIGESTS[key]


_TOLD: set[str] = set()


def _is_new(record: logging.LogRecord) -> bool:
    line, before = record.getMessage(), len(_TOLD)
    _TOLD.add(line)
    return len(_TOLD) > before


@contextlib.contextmanager
def _data_told() -> Iterator[None]:
    """Show on stderr what the reading of data says, each line once: how far a long check is, images that are not used."""
    handler, logger = logging.StreamHandler(), logging.getLogger("dicap.data")
    handler.addFilter(_is_new)
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)


def why_run(job: Job, planned: dict[str, str]) -> str:
    """Why a run has to be made, "" where it is finished: whole, with the planned digests and names.

    Args:
        planned: digests of the result that must be equal.
    """
    path = job.folder / store.FILE
    if not path.exists():
        return NOT_FINISHED
    try:
        result = store.read_result(path)
    except store.ResultError as error:
        return str(error)
    return _other_run(job, result) or _other_content(job, planned, result)


def _other_run(job: Job, result: dict) -> str:
    names = {
        "protocol": job.protocol.name,
        "dataset": job.dataset,
        "recipe": job.recipe,
        "split": job.stage.split,
        "trained_on": job.trained_on,
    }
    result = {"trained_on": result["dataset"], **result}  # which older results do not say
    return next(
        (
            f"its result says {key} {result[key]!r}, not {value!r}"
            for key, value in names.items()
            if result[key] != value
        ),
        "",
    )


def _other_content(job: Job, planned: dict[str, str], result: dict) -> str:
    digests = result["digests"]
    if planned["config"] != digests["config"]:
        return "settings changed" + _changed(result["config"], store.plain(job.cfg))
    if planned.get("data", digests["data"]) != digests["data"]:
        return "the data changed"
    if digests["weights"] and digests["weights"] != (_weights_digest(job.cfg) or digests["weights"]):
        return OTHER_WEIGHTS
    prompt = prompt_digest(job)
    if job.depends_on and prompt != digests["model"]:
        return "the trained prompt changed" if prompt is not None else "waits for its training"
    return ""


@functools.cache
def _weights(name: str, device: str, precision: str) -> str:
    from dicap.backbones import load_clip, weights_digest

    return weights_digest(load_clip(name, device, precision))


def _weights_digest(cfg: Any) -> str:
    """Digest of weights that can change under one name: the embedded CLIP and files. "" for published downloads."""
    import torch

    name, section = cfg.MODEL.BACKBONE.NAME, cfg.TRAINER.get(cfg.TRAINER.NAME.upper(), {})
    if name != "tiny" and not Path(name).expanduser().is_file():
        return ""
    return _weights(name, "cuda" if torch.cuda.is_available() and cfg.USE_CUDA else "cpu", section.get("PREC", "fp32"))


def _changed(old: dict, new: dict) -> str:
    before, after = store.flatten(old), store.flatten(new)
    keys = [key for key in after if key not in store.PLACES and before.get(key) != after[key]]
    return "".join(f", {key} {before.get(key)!r} -> {after[key]!r}" for key in keys[:3])


# --- running -----------------------------------------------------------------------------------------------------


def execute(jobs: Sequence[Job], *, verbose: bool = False) -> list[Failure]:
    """Run what is not finished, in order; what fails is returned, the others go on.

    Args:
        verbose: show each run's log in the terminal too; it is in its log.txt in any case.
    Returns:
        the failures; a run whose training failed is one of them.
    """
    start, skipped, failures = time.perf_counter(), 0, dict[Path, Failure]()
    plans = {job.folder: _plan_or_failure(job) for job in jobs}  # the whole data is looked at before the first run
    with _settled():
        for number, job in enumerate(jobs, 1):
            head = f"[{number:{len(str(len(jobs)))}}/{len(jobs)}] {job.name}"
            outcome = _one(job, plans[job.folder], failures, verbose)
            if isinstance(outcome, Failure):
                failures[job.folder] = outcome
                log.info("%s: FAILED: %s", head, outcome.cause.splitlines()[0])
            else:
                skipped += outcome == FINISHED_BEFORE
                log.info("%s: %s", head, outcome)
    log.info(
        "%d runs in %.0f s, %d finished before, %d failed",
        len(jobs) - skipped - len(failures),
        time.perf_counter() - start,
        skipped,
        len(failures),
    )
    return list(failures.values())


@contextlib.contextmanager
def _settled() -> Iterator[None]:
    """What is there before the first run, torch above all, outlives them: the collection after each run passes over it."""
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


FINISHED_BEFORE = "finished before"


def _one(
    job: Job, planned: "dict[str, str] | Failure", failures: dict[Path, Failure], verbose: bool
) -> "str | Failure":
    """What came of a run: a line for the terminal, or its failure."""
    if isinstance(planned, Failure):
        return planned
    if job.depends_on and job.depends_on.folder in failures:
        return Failure(job, f"not run: its training failed ({job.depends_on.name})")
    began = time.perf_counter()
    try:
        result, why = finish(job, planned, verbose)
    except (RunError, ConfigError, store.ResultError, OSError) as error:
        from dicap.experiments.run import free_memory

        cause = getattr(error, "cause", f"{type(error).__name__}: {error}")
        failure = Failure(job, cause, getattr(error, "log_file", ""))
        error.__cause__ = error.__traceback__ = None  # they hold the run's tensors
        free_memory()
        return failure
    again = "" if why == NOT_FINISHED else f" (again: {why})"
    return f"{result['accuracy']:.1f} %, {time.perf_counter() - began:.0f} s{again}" if why else FINISHED_BEFORE


def _plan_or_failure(job: Job) -> "dict[str, str] | Failure":
    """The digests of a run; a failure where its data cannot be read."""
    try:
        return planned_digests(job)
    except Exception as error:
        if not type(error).__module__.startswith("dicap") and not isinstance(error, OSError):
            log.info("%s", traceback.format_exc())  # a bug, in a dataset file
        return Failure(job, f"{type(error).__name__}: {error}")


def finish(job: Job, planned: dict[str, str], verbose: bool = False) -> tuple[dict, str]:
    """A run's result and why it was made now, "" where it was finished before.

    Raises:
        RunError: it failed, or another process is at work on it.
    """
    if not why_run(job, planned):
        return store.read_result(job.folder), ""
    lock = job.folder.parent / f".{job.folder.name}.lock"
    with locked(lock) as mine:
        if not mine:
            raise RunError(
                f"another process is at work on it (it holds {lock}); wait for that one, then run the same command again"
            )
        why = why_run(job, planned)  # another process may have finished it meanwhile
        if not why:
            return store.read_result(job.folder), ""
        _make_way(job, planned, why)
        return _run(job, verbose), why


def _make_way(job: Job, planned: dict[str, str], why: str) -> None:
    """Keep a folder whose checkpoints belong to this run (training resumes there), put any other aside, stamp it."""
    stamp, weights = job.folder / STAMP, {"weights": _weights_digest(job.cfg)}
    with contextlib.suppress(OSError, ValueError):
        if (
            why != OTHER_WEIGHTS and {**weights, **store.read_json(stamp)} == planned | weights
        ):  # older stamps say nothing of weights
            return
    if job.folder.exists() and any(job.folder.iterdir()):
        aside = job.folder.parent / ".old" / f"{job.folder.name}-{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}"
        aside.parent.mkdir(exist_ok=True)
        os.replace(job.folder, aside)
        log.info("%s: what was in its folder belongs to another run and is now in %s", job.name, aside)
    store.write_json(stamp, planned | weights)


def _run(job: Job, verbose: bool) -> dict:
    from dicap.experiments.run import run

    trains = job.prompt is None and learns(job.method)
    source = str(job.depends_on.folder) if job.depends_on else ""
    try:
        with contextlib.nullcontext() if verbose else _quiet():
            result = run(
                job.cfg,
                eval_only=not trains,
                model_dir=source,
                protocol=job.protocol.name,
                dataset=job.dataset,
                recipe=job.recipe,
                trained_on=job.trained_on,
            )
    except Exception as error:
        cause, log_file = f"{type(error).__name__}: {error}", str(job.folder / "log.txt")
        raise RunError(f"{job.name} failed: {cause}\nlog: {log_file}", cause, log_file) from error
    if result is None:
        raise RunError(f"{job.name} tested nothing: TEST.NO_TEST is set; a protocol needs the test")
    return result


class _Sink(io.TextIOBase):
    """A console that shows nothing and is no terminal."""

    def write(self, text: str) -> int:
        return len(text)


class _ToStdout(io.TextIOBase):
    """sys.stderr while a run is quiet: its warnings go where its output goes, into log.txt."""

    def write(self, text: str) -> int:
        return sys.stdout.write(text) or len(text)

    def flush(self) -> None:
        sys.stdout.flush()


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    with contextlib.redirect_stdout(_Sink()), contextlib.redirect_stderr(_ToStdout()):
        yield


# --- the command -------------------------------------------------------------------------------------------------


def run_protocol(
    protocol: Protocol,
    request: Request,
    *,
    shots: Sequence[int] = (),
    policy: str = "",
    dry_run: bool = False,
    measure: bool = False,
    verbose: bool = False,
) -> None:
    """Plan, skip, run, tabulate.

    Args:
        shots: training images a class, one comparison each; empty = the protocol's.
        policy: of datasets that are not there: skip or refuse; "" = skip those of `all`, refuse those that are named.
        dry_run: only say what would be run, and what it costs.
        measure: in a dry run, make short trials of what has not run.
    Raises:
        ConfigError: before any work.
        RunError: at the end, if a run failed; lists all that did.
    """
    shots = tuple(dict.fromkeys(shots or protocol.shots))
    jobs = [job for number in shots for job in plan(protocol, dataclasses.replace(request, shots=number))]
    log.info(
        "%s: %d runs (%s; %s; seeds %s; %s shots) in %s",
        protocol.name,
        len(jobs),
        ", ".join(dict.fromkeys(job.dataset for job in jobs)),
        ", ".join(f"{method} ({recipe})" for method, recipe in dict.fromkeys((j.method, j.recipe) for j in jobs)),
        " ".join(map(str, request.seeds)),
        " ".join(map(str, shots)),
        Path(request.out, protocol.name),
    )
    absent = absent_datasets(jobs, request, policy, dry_run)
    if dry_run:
        _show_costs(show_plan(jobs, absent), absent, request, measure)
        return
    there = [job for job in jobs if job.data not in absent]
    failures = execute(there, verbose=verbose)
    _report(protocol, request)
    if absent:
        log.info("Not run, the data are not there: %s", ", ".join(data.name for data in absent))
    raise_failures(failures, len(there))


def _show_costs(jobs: Sequence[Job], absent: Sequence[Data], request: Request, measure: bool) -> None:
    from dicap.experiments.estimate import show_costs

    if not measure:
        show_costs(jobs, absent, request)
        return
    from dicap.experiments.preflight import Preflight

    log.info("Measuring, a short trial for each method, dataset and set of classes:")
    with Preflight() as trials:
        show_costs(jobs, absent, request, trials)


def absent_datasets(jobs: Sequence[Job], request: Request, policy: str = "", dry_run: bool = False) -> list[Data]:
    """The datasets of a plan that are not there, each named with the command that gets it.

    Raises:
        ConfigError: they are refused, or nothing is left to run; in a dry run this is only said.
    """
    why = {data: missing(data, request.data) for data in dict.fromkeys(job.data for job in jobs)}
    absent = [data for data, reason in why.items() if reason]
    sources = {job.depends_on.data for job in jobs if job.depends_on and job.depends_on.data != job.data}
    refused = [
        data
        for data in absent
        if data in sources or policy == "refuse" or (not policy and data.name in request.datasets)
    ]
    for data in absent:
        log.info(
            "%s is missing (%s): %s; get it with: dicap data download %s --data %s",
            data.name,
            why[data],
            "refused" if data in refused else "skipped",
            data.name,
            request.data,
        )
    if refused and not dry_run:
        raise ConfigError(
            f"missing below {request.data}: {', '.join(data.name for data in refused)}; "
            + (
                "prompts are trained on it"
                if set(refused) & sources
                else "MISSING=skip (--missing skip) leaves them out"
            )
        )
    if len(absent) == len(why) and not dry_run:
        raise ConfigError(f"no dataset of this comparison is in {request.data}; `dicap data list` tells what there is")
    return absent


def _report(protocol: Protocol, request: Request) -> None:
    """Print the protocol's table and write all files; a folder without any result has none."""
    from dicap.report.report import write_report

    try:
        paths = write_report(request.out, [protocol.name])
    except store.ResultError:
        log.info("No table: nothing below %s is finished", request.out)
        return
    log.info("Written: %s", ", ".join(map(str, paths)))


def raise_failures(failures: Sequence[Failure], total: int) -> None:
    """One error that lists all that failed, those with one cause together. Raises RunError."""
    if not failures:
        return
    by_cause: dict[str, list[Failure]] = {}
    for failure in failures:
        by_cause.setdefault(failure.cause, []).append(failure)
    lines = []
    for cause, some in by_cause.items():
        names = "; ".join(failure.job.name for failure in some[:3]) + (
            f"; and {len(some) - 3} more" if some[3:] else ""
        )
        logs = [f"\n  log: {failure.log_file}" for failure in some if failure.log_file]
        lines.append(f"- {names}: {cause}{''.join(logs[:3])}")
    listed = "\n".join(lines)
    raise RunError(
        f"{len(failures)} of {total} runs failed:\n{listed}\nThe others are finished; the same command runs these"
        " again."
    )


def show_plan(jobs: Sequence[Job], absent: Sequence[Data] = ()) -> list[Job]:
    """Print each run and whether it is finished; nothing is run. Returns those to run whose data are there.

    Data are read only where a result is there.
    """
    remade: dict[Path, Job] = {}
    waiting = [job for job in jobs if job.data in absent]
    for data in absent:
        log.info("%s: %s without data", data.name, many(sum(job.data == data for job in waiting), "run"))
    for job in (job for job in jobs if job.data not in absent):
        why = _why_planned(job, set(remade))
        if why:
            remade[job.folder] = job
        log.info("%s: %s", job.name, f"to run ({why})" if why else "finished")
    log.info(
        "%d to run, %d finished%s",
        len(remade),
        len(jobs) - len(remade) - len(waiting),
        f", {len(waiting)} without data" if waiting else "",
    )
    return list(remade.values())


def _why_planned(job: Job, remade: set[Path]) -> str:
    try:
        planned = (
            planned_digests(job) if (job.folder / store.FILE).exists() else {"config": store.config_digest(job.cfg)}
        )
    except (ValueError, OSError) as error:
        return f"its data cannot be read: {error}"
    why = why_run(job, planned)
    if not why and job.depends_on and job.depends_on.folder in remade:
        return "its prompt will be trained again"
    return why
