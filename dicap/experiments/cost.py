"""What a plan will cost: the end of `dicap PROTOCOL --dry-run`. docs/protocols.md tells how good the figures are.

Time and memory are those of finished runs below OUT, with --measure also of trials: the run itself, made shorter by settings,
twice, in a process, an output folder and a cache of its own. What the longer one takes beyond the shorter is an item's price.
"""

import dataclasses
import logging
import math
import os
import statistics
import tempfile
from collections.abc import Sequence
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dicap import results as store
from dicap.config import facts_of
from dicap.experiments.executor import DIED, Processes, duration, quiet
from dicap.experiments.protocols import Job, learns, many

log = logging.getLogger(__name__)

# MiB of OpenAI's files, as the clip package's progress bar shows them
WEIGHTS = {
    **{"RN50": 244, "RN101": 278, "RN50x4": 402, "RN50x16": 630, "RN50x64": 1291},
    **{"ViT-B/32": 338, "ViT-B/16": 335, "ViT-L/14": 890, "ViT-L/14@336px": 891},
}
TRIAL_STEPS = 10  # at least, where the run has as many
SIZES: dict[str, tuple[int, int]] = {}  # training and test items by digest of the DATASET section


@dataclass(frozen=True)
class Work:
    """What one run does."""

    steps: int  # of the optimiser
    items: int  # of the test
    train: int = 0  # items that it is fitted to


@dataclass(frozen=True)
class Rate:
    """What runs took, in seconds, and what they were."""

    step: float  # of the optimiser
    item: float  # of the test
    memory: float  # the highest peak, MiB
    source: str
    fixed: float = 0.0  # all that does not grow
    fit: float = 0.0  # each training item, before the first step
    encode: float = 0.0  # each test item, once for all methods and seeds

    def seconds(self, work: Work) -> float:
        """Of a run whose test items are encoded."""
        return self.fixed + self.step * work.steps + self.item * work.items + self.fit * work.train


@dataclass(frozen=True)
class Estimate:
    """Runs that differ in the seed alone: what each does, what it costs, or why that is not known (`source`)."""

    jobs: list[Job]
    work: Work = Work(0, 0)
    source: str = "no estimate yet"
    seconds: float | None = None  # of each run; None = not known
    encoding: float = 0.0  # seconds, once for all methods and seeds
    memory: float = 0.0  # MiB

    def line(self) -> str:
        """What a plan says of it."""
        job, work = self.jobs[0], self.work
        what = f"{job.stage.split} classes, {many(job.request.shots, 'shot')}"
        head = f"{job.method} ({job.recipe}) on {job.dataset}, {what}: {len(self.jobs)} to run"
        if work.items:
            head += f", each {many(work.steps, 'optimiser step')} and {many(work.items, 'test image')}"
        if self.seconds is None:
            return f"{head}; {self.source}"
        once = f" and {duration(self.encoding)} to encode images, once for all methods" if self.encoding >= 1 else ""
        return f"{head}; about {duration(self.seconds)} each{once}, {self.memory:,.0f} MiB ({self.source})"


def show_costs(jobs: Sequence[Job], out: str, measure: bool = False) -> None:
    """Print what the runs of a plan cost, those that differ in the seed alone as one line, and what is downloaded.

    Args:
        out: the folder of finished runs.
        measure: make trials where nothing like it has run.
    """
    from dicap.report.table import gather

    SIZES.clear()  # the data may be others than when this process last looked
    for line in downloads(jobs):
        log.info("%s", line)
    results = gather(out)[0] if Path(out).is_dir() else []
    groups: dict[tuple, list[Job]] = {}
    for job in jobs:
        key = (job.protocol.name, job.stage, job.data, job.method, job.recipe, job.request.shots)
        groups.setdefault(key, []).append(job)
    estimates: list[Estimate] = []
    trials: dict[tuple, Rate | str] = {}
    for some in groups.values():
        try:
            estimates.append(_estimate(some, results, trials if measure else None))
        except (ValueError, OSError) as error:
            estimates.append(Estimate(some, source=f"its data cannot be read: {error}"))
        log.info("%s", estimates[-1].line())
    if jobs:
        log.info("In all: %s", in_all(estimates))


def _estimate(jobs: list[Job], results: Sequence[dict], trials: "dict[tuple, Rate | str] | None") -> Estimate:
    """From finished runs, else from trials, which are kept in `trials`; None: none are made."""
    job, work = jobs[0], work_of(jobs[0])
    rate: Rate | str | None = rate_of(job, results)
    if rate is None and trials is not None:
        key = (job.method, job.recipe, job.data, job.stage.split, job.prompt is None)  # seeds and shots share a trial
        trials[key] = rate = trials.get(key) or measured(job)
    if isinstance(rate, Rate):
        return Estimate(jobs, work, rate.source, rate.seconds(work), rate.encode * work.items, rate.memory)
    return Estimate(jobs, work, f"no estimate, its trial failed: {rate}") if rate else Estimate(jobs, work)


def in_all(estimates: Sequence[Estimate]) -> str:
    """Time of all runs; memory of the one that needs most, where the device's is known."""
    known = [one for one in estimates if one.seconds is not None]
    if not known:
        return "no estimate yet"
    once: dict[tuple, float] = {}
    for one in known:
        images = one.jobs[0].data, one.jobs[0].stage.split
        once[images] = max(once.get(images, 0.0), one.encoding)
    seconds = sum(len(one.jobs) * (one.seconds or 0.0) for one in known) + sum(once.values())
    unknown = sum(len(one.jobs) for one in estimates if one.seconds is None)
    rest = f", and {many(unknown, 'run')} without an estimate yet" if unknown else ""
    memory, limit = max(one.memory for one in known), capacity()
    fits = f"; {'about' if memory <= limit else 'TOO MUCH:'} {memory:,.0f} of {limit:,.0f} MiB of memory"
    return f"about {duration(seconds)}{rest}{fits if limit else ''}"


def work_of(job: Job) -> Work:
    """Exact for a trainer whose loader is of the config: an incomplete last batch is dropped, unless it is the only one.

    Raises ValueError, OSError: data that cannot be read.
    """
    train, test = count_items(job.cfg)
    if job.prompt or not learns(job):
        return Work(0, test)
    steps = facts_of(job.cfg).fit == "steps"
    return Work(steps * steps_an_epoch(job.cfg, train) * job.cfg.OPTIM.MAX_EPOCH, test, train)


def steps_an_epoch(cfg: Any, train: int) -> int:
    """Optimiser steps over so many training items."""
    return max(1, train // cfg.DATALOADER.TRAIN_X.BATCH_SIZE)


def count_items(cfg: Any) -> tuple[int, int]:
    """Training and test items. Raises ValueError and OSError where the data cannot be read."""
    from dassl.data import datasets

    key = store.digest_of(store.plain(cfg.DATASET))
    if key not in SIZES:
        cls = datasets.DATASET_REGISTRY.get(cfg.DATASET.NAME)
        if not cfg.DATASET.HOLDOUT_FOLDS:  # which are drawn by the seed
            cfg = _changed(cfg, "SEED", -1)  # the draw changes no number, and none is kept
        if hasattr(cls, "items"):
            split = cls.__new__(cls).items(cfg)
            SIZES[key] = len(split["train"]), len(split["test"])
        else:
            dataset = datasets.build_dataset(cfg)
            SIZES[key] = len(dataset.train_x), len(dataset.test)
    return SIZES[key]


def _changed(cfg: Any, *settings: Any) -> Any:
    """A frozen copy with other settings: KEY, VALUE, KEY, VALUE ..."""
    cfg = cfg.clone()
    cfg.defrost()
    cfg.merge_from_list(list(settings))
    cfg.freeze()
    return cfg


def rate_of(job: Job, results: Sequence[dict]) -> Rate | None:
    """What finished runs of its method, recipe, backbone, dataset and classes took, None where there is none."""
    like = {"method": job.method, "recipe": job.recipe, "backbone": job.cfg.MODEL.BACKBONE.NAME}
    like |= {"dataset": job.dataset, "split": job.stage.split}
    same = [r for r in results if [r[key] for key in like] == list(like.values())]
    trained = [r for r in same if r["seconds"]["train"] and not r.get("resumed_from_epoch")]
    if not same or not (trained or job.prompt or not learns(job)):
        return None
    devices = ", ".join(sorted({str(r["versions"].get("device", "?")) for r in same}))
    where = f"{job.dataset}, {job.stage.split} classes; {devices}"
    return _mean_rate(same, trained, f"from {many(len(same), 'finished run')} on {where}")


def _mean_rate(results: Sequence[dict], trained: Sequence[dict], source: str) -> Rate:
    """Of all these the test, of those that trained the training."""
    fits = [r["seconds"].get("fit", 0.0) if r["steps"] else r["seconds"]["train"] for r in trained]
    training = sum(r["seconds"]["train"] for r in trained) - sum(fits)
    return Rate(
        step=training / max(1, sum(r["steps"] for r in trained)),
        item=sum(r["seconds"]["test"] for r in results) / sum(r["n"] for r in results),
        memory=max(r["peak_memory_mib"] for r in results),
        source=source,
        fixed=statistics.median(r["seconds"].get("build", 0.0) for r in results) + statistics.median(fits or [0.0]),
    )


def measured(job: Job) -> Rate | str:
    """What trials of a job took, or what went wrong."""
    log.info("Measuring %s", job.name)
    with Processes(1) as process:
        try:
            found = process.submit(try_out, job).result()
        except BrokenProcessPool:
            return DIED
    return found if isinstance(found, str) else rate_between(*found)


def rate_between(short: tuple[Work, dict], long: tuple[Work, dict]) -> Rate:
    """The rate of two trials: a step's is that of the longer one, an item's what that one takes beyond the shorter."""
    (before, first), (work, last) = short, long

    def grown(part: str, what: str) -> tuple[float, float]:
        """Seconds of each item more, and of none."""
        less, number, seconds = getattr(before, what), getattr(work, what), last["seconds"][part]
        slope = max(0.0, seconds - first["seconds"][part]) / (number - less) if number > less else 0.0
        return slope, max(0.0, seconds - slope * number)

    (encode, build), (item, test) = grown("build", "items"), grown("test", "items")
    fit, start = grown("fit" if work.steps else "train", "train")
    steps = f"{many(work.steps, 'step')} and " if work.steps else ""
    source = f"measured now: {steps}{many(work.items, 'test image')}; {last['versions']['device']}"
    rate = _mean_rate([first, last], [last], source)
    return dataclasses.replace(rate, item=item, fixed=build + start + test, fit=fit, encode=encode)


def try_out(job: Job) -> "list[tuple[Work, dict]] | str":
    """Two short runs of a job, what each did and its result; or what went wrong. For a process of its own."""
    from dicap.experiments.run import run

    trains, found = job.prompt is None and learns(job), []
    try:
        with tempfile.TemporaryDirectory(prefix="dicap-trial-") as folder, quiet():
            os.environ["DICAP_CACHE"] = str(Path(folder, "cache"))
            run(shortened(job, 1, Path(folder, "warm-up")), no_train=True)
            for size in (1, 2):
                cfg = shortened(job, size, Path(folder, str(size)))
                result = run(cfg, eval_only=not trains)
                assert result is not None
                found.append((Work(result["steps"], result["n"], count_items(cfg)[0] if trains else 0), result))
    except Exception as error:
        return f"{type(error).__name__}: {str(error).strip() or 'no message'}".splitlines()[0]
    return found


def shortened(job: Job, size: int, folder: Path) -> Any:
    """The configuration of a trial: so many batches of test items, shots for so many whole batches, few epochs."""
    cfg, shots, (train, _) = job.cfg, job.request.shots, count_items(job.cfg)
    some = min(shots, size * math.ceil(cfg.DATALOADER.TRAIN_X.BATCH_SIZE * shots / max(1, train)))
    epochs = 1 if size == 1 else math.ceil(TRIAL_STEPS / steps_an_epoch(cfg, train * some // shots))
    limits = ("DATASET.NUM_SHOTS", some, "DATASET.TEST_LIMIT", size * cfg.DATALOADER.TEST.BATCH_SIZE)
    epochs = min(cfg.OPTIM.MAX_EPOCH, epochs)
    return _changed(cfg, "OUTPUT_DIR", str(folder), "RESUME", "", *limits, "OPTIM.MAX_EPOCH", epochs)


def capacity() -> float:
    """MiB of memory that the device has, free or not; 0 where it does not say."""
    import torch

    if torch.cuda.is_available():
        return torch.cuda.get_device_properties(0).total_memory / 2**20
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**20
    except (AttributeError, ValueError, OSError):
        return 0.0


def downloads(jobs: Sequence[Job]) -> list[str]:
    """A line for each backbone whose weights are not here yet."""
    from dicap.backbones import DOWNLOADS
    from dicap.backbones.package import clip_package

    urls, lines = clip_package().clip._MODELS, []
    for name in dict.fromkeys(job.cfg.MODEL.BACKBONE.NAME for job in jobs):
        if name in urls and not (DOWNLOADS / urls[name].rpartition("/")[2]).is_file():
            size = f"about {WEIGHTS[name]} MiB" if name in WEIGHTS else "size not known"
            lines.append(f"To be downloaded: the weights of {name} ({size}) into {DOWNLOADS}")
        elif name.startswith("open_clip:"):
            lines.append(f"To be downloaded by open_clip, unless its cache has them: the weights of {name}")
    return lines
