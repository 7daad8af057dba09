"""Short trials: what a planned run will take, measured before it is started (`dicap PROTOCOL --dry-run --measure`).

    with Preflight() as measure:
        trial = measure(job)              # dicap.experiments.estimate.Trial: seconds of a step, an epoch, a test image ..., peak memory

A trial is the run itself, cut short. In a process of its own the trainer is built of the job's configuration and trains
until there is enough to go by: whole epochs for 3 seconds, of a longer epoch at least 3 steps behind the warm-up; then it
tests a batch or more. Images are encoded for 3 seconds, at least a batch; features of the others are made of those, so that
all tensors have their true sizes. What a method does before its first epoch is done whole. Features in the cache are
read. Nothing is written in OUT or in the cache: the trial has a folder of its own, and a cache of links.
"""

import concurrent.futures
import contextlib
import dataclasses
import io
import multiprocessing
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from dicap import discover
from dicap.experiments.estimate import Trial, TrialError, work_of
from dicap.experiments.protocols import Job, learns
from dicap.experiments.trial import Evaluation, Training, clock, some_encoded
from dicap.files import cache_folder


class Preflight:
    """Makes trials, one for what is alike, in one process; call it with a job. Close it, or use it in a `with`."""

    def __init__(self) -> None:
        self._pool: concurrent.futures.ProcessPoolExecutor | None = None
        self._found: dict[tuple, Trial | TrialError] = {}

    def __call__(self, job: Job) -> Trial:
        """The trial of a job. Raises TrialError with what went wrong."""
        key = alike(job)
        if key not in self._found:
            self._found[key] = self._measure(job)
        found = self._found[key]
        if isinstance(found, TrialError):
            raise found
        return found

    def _measure(self, job: Job) -> Trial | TrialError:
        self._pool = self._pool or _start_process()
        try:
            found = self._pool.submit(try_out, _bare(job)).result()
        except concurrent.futures.process.BrokenProcessPool:
            self.close()
            return TrialError("its process died (out of memory? killed?)")
        return TrialError(found) if isinstance(found, str) else found

    def close(self) -> None:
        if self._pool is not None:
            self._pool.shutdown()
            self._pool = None

    def __enter__(self) -> "Preflight":
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()


def alike(job: Job) -> tuple:
    """Jobs with an equal key share a trial: seeds always; numbers of shots where batches are as large and nothing but steps
    depends on how many images there are."""
    from dassl.engine import TRAINER_REGISTRY

    from dicap.trainer import PromptTrainer

    work = work_of(job)
    cls = TRAINER_REGISTRY.get(job.method)
    own_stage = work.steps and getattr(cls, "before_train", None) is not PromptTrainer.before_train
    return job.method, job.recipe, job.data, job.stage.split, job.prompt is None, work.batch, own_stage and work.train


def _bare(job: Job) -> Job:
    """Without the configurations that it remembers."""
    return dataclasses.replace(job, prompt=job.prompt and dataclasses.replace(job.prompt))


def _start_process() -> concurrent.futures.ProcessPoolExecutor:
    from dicap.experiments.cells import start_worker

    engine = os.environ.get("DICAP_ENGINE") or "auto"
    return concurrent.futures.ProcessPoolExecutor(
        1, multiprocessing.get_context("spawn"), start_worker, (engine, tuple(discover.PLUGINS))
    )


# --- in that process ---------------------------------------------------------------------------------------------


def try_out(job: Job) -> Trial | str:
    """The trial of a job, or what went wrong."""
    from dicap.experiments.run import free_memory

    try:
        with (
            tempfile.TemporaryDirectory(prefix="dicap-trial-") as folder,
            linked_cache(Path(folder, "cache")),
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(io.StringIO()),
        ):
            return _try_out(job, str(Path(folder, "run")))
    except Exception as error:
        return f"{type(error).__name__}: {str(error).strip() or 'no message'}".splitlines()[0]
    finally:
        free_memory()


def _try_out(job: Job, folder: str) -> Trial:
    from dassl.utils import set_random_seed

    from dicap.experiments.run import build, device_name, peak_memory

    cfg = job.cfg.clone()
    cfg.defrost()
    cfg.OUTPUT_DIR, cfg.RESUME = folder, ""
    cfg.freeze()
    if cfg.SEED >= 0:
        set_random_seed(cfg.SEED)  # the images of the run, whose features may be in the cache
    with some_encoded() as encoder:
        start = clock()
        trainer = build(cfg)
        built = clock() - start - encoder.seconds
        test = Evaluation(trainer)
        try:
            training = Training(trainer, test, encoder) if learns(job.method) and not job.prompt else None
            test.until_warm()
        finally:
            trainer.close_writer()
    memory, _ = peak_memory(trainer)
    return Trial(
        build=built,
        **(training.figures() if training else {}),
        **test.figures(),
        encodings=tuple(encoder.found),
        memory=memory,
        capacity=capacity(trainer.device),
        device=device_name(trainer.device),
    )


def capacity(device: torch.device) -> float:
    """MiB of memory that the device has, free or not; 0 where it does not say."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory / 2**20
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**20
    except (AttributeError, ValueError, OSError):
        return 0.0


@contextlib.contextmanager
def linked_cache(folder: Path) -> Iterator[None]:
    """DICAP_CACHE is `folder`, where links lead to what the cache has: it is read, and nothing is written to it."""
    real, before = cache_folder(""), os.environ.get("DICAP_CACHE")
    if real is None:
        yield
        return
    for path in real.rglob("*"):
        if path.is_file() and path.suffix not in (".lock", ".tmp"):
            link = folder / path.relative_to(real)
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(path.absolute())
    os.environ["DICAP_CACHE"] = str(folder)
    try:
        yield
    finally:
        os.environ.pop("DICAP_CACHE")
        os.environ.update({"DICAP_CACHE": before} if before is not None else {})
