"""What a plan will cost: the end of `dicap PROTOCOL --dry-run`. docs/protocols.md tells how good the figures are.

Time and memory are those of finished runs below OUT, with --measure also of trials: the run itself, made shorter by settings,
twice, in a process, an output folder and a cache of its own. What the longer one takes beyond the shorter is an item's price.
"""

import logging
import math
import os
import statistics
import tempfile
from collections.abc import Sequence
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any, NamedTuple

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
UNKNOWN = "no estimate yet"
TRIAL_STEPS = 10  # at least, where the run has as many
SIZES: dict[str, tuple[int, int]] = {}  # training and test items by digest of the DATASET section


class Work(NamedTuple):
    """What one run does."""

    steps: int  # of the optimiser
    items: int  # of the test
    train: int = 0  # items that it is fitted to


class Rate(NamedTuple):
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

    def line(self, work: Work) -> str:
        """What a plan says of such a run."""
        encoding = self.encode * work.items
        once = f" and {duration(encoding)} to encode images, once for all methods" if encoding >= 1 else ""
        return f"about {duration(self.seconds(work))} each{once}, {self.memory:,.0f} MiB ({self.source})"


def show_costs(jobs: Sequence[Job], out: str, measure: bool = False) -> None:
    """Print what the runs of a plan cost, those that differ in the seed alone as one line, and what is downloaded.

    Args:
        out: the folder of finished runs.
        measure: make trials where nothing like it has run.
    """
    from dicap.report.table import gather, grouped

    SIZES.clear()  # the data may be others than when this process last looked
    for line in downloads(jobs):
        log.info("%s", line)
    results = gather(out)[0] if Path(out).is_dir() else []
    known: list[tuple[Job, Work, Rate]] = []
    trials: dict[tuple, Rate | str] = {}
    for key, some in grouped(jobs, lambda j: (j.data, j.method, j.recipe, j.stage, j.request.shots)).items():
        job = some[0]
        rate: Rate | str | None
        what = f"{job.stage.split} classes, {many(job.request.shots, 'shot')}: {len(some)} to run"
        try:
            work, rate = work_of(job), rate_of(job, results)
            what += f", each {many(work.steps, 'optimiser step')} and {many(work.items, 'test image')}"
        except (ValueError, OSError) as error:
            rate = f"its data cannot be read: {error}"
        if rate is None and measure:
            trials[key[:-1]] = trial = trials.get(key[:-1]) or measured(job)  # seeds and shots share one
            rate = trial if isinstance(trial, Rate) else f"no estimate, its trial failed: {trial}"
        if isinstance(rate, Rate):
            known += [(job, work, rate)] * len(some)
            rate = rate.line(work)
        log.info("%s (%s) on %s, %s; %s", job.method, job.recipe, job.dataset, what, rate or UNKNOWN)
    if jobs:
        log.info("In all: %s", in_all(known, len(jobs)))


def in_all(known: Sequence[tuple[Job, Work, Rate]], number: int) -> str:
    """Time of `number` runs, of which so many are known; the memory of the one that needs most."""
    if not known:
        return UNKNOWN
    by_encoding = sorted(known, key=lambda one: one[2].encode)  # of each test set the longest counts
    encoding = {(job.data, job.stage.split): rate.encode * work.items for job, work, rate in by_encoding}
    seconds = sum(rate.seconds(work) for _, work, rate in known) + sum(encoding.values())
    rest = f", and {many(number - len(known), 'run')} without an estimate yet" if number > len(known) else ""
    memory, limit = max(rate.memory for _, _, rate in known), capacity()
    fits = f"; {'about' if memory <= limit else 'TOO MUCH:'} {memory:,.0f} of {limit:,.0f} MiB of memory"
    return f"about {duration(seconds)}{rest}{fits if limit else ''}"


def work_of(job: Job) -> Work:
    """Exact for a trainer whose loader is of the config. Raises ValueError, OSError: data that cannot be read."""
    train, test = count_items(job.cfg)
    if job.prompt or not learns(job):
        return Work(0, test)
    steps = facts_of(job.cfg).fit == "steps"
    return Work(steps * steps_an_epoch(job.cfg, train) * job.cfg.OPTIM.MAX_EPOCH, test, train)


def steps_an_epoch(cfg: Any, train: int) -> int:
    """Optimiser steps over so many training items: an incomplete last batch is dropped, unless it is the only one."""
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
    same = [r for r in results if like.items() <= r.items()]
    trained = [r for r in same if r["seconds"]["train"] and not r.get("resumed_from_epoch")]
    if not same or not (trained or job.prompt or not learns(job)):
        return None
    devices = ", ".join(sorted({str(r["versions"].get("device", "?")) for r in same}))
    fits = [r["seconds"].get("fit", 0.0) if r["steps"] else r["seconds"]["train"] for r in trained]
    return Rate(
        step=(sum(r["seconds"]["train"] for r in trained) - sum(fits)) / max(1, sum(r["steps"] for r in trained)),
        item=sum(r["seconds"]["test"] for r in same) / sum(r["n"] for r in same),
        memory=max(r["peak_memory_mib"] for r in same),
        source=f"from {many(len(same), 'finished run')} on {job.dataset}, {job.stage.split} classes; {devices}",
        fixed=statistics.median(r["seconds"].get("build", 0.0) for r in same) + statistics.median(fits or [0.0]),
    )


def measured(job: Job) -> Rate | str:
    """What trials of a job took, or what went wrong."""
    log.info("Measuring %s", job.name)
    with Processes(1) as process:
        future = process.submit(try_out, job)
        found = DIED if isinstance(future.exception(), BrokenProcessPool) else future.result()
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
    before_steps = "fit" if work.steps else "train"
    fit, start = grown(before_steps, "train")
    steps = f"{many(work.steps, 'step')} and " if work.steps else ""
    source = f"measured now: {steps}{many(work.items, 'test image')}; {last['versions']['device']}"
    step = (last["seconds"]["train"] - last["seconds"][before_steps]) / max(1, work.steps)
    memory = max(first["peak_memory_mib"], last["peak_memory_mib"])
    return Rate(step, item, memory, source, fixed=build + start + test, fit=fit, encode=encode)


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
    steps = 1 if size == 1 else TRIAL_STEPS
    epochs = min(cfg.OPTIM.MAX_EPOCH, math.ceil(steps / steps_an_epoch(cfg, train * some // shots)))
    limits = ("DATASET.NUM_SHOTS", some, "DATASET.TEST_LIMIT", size * cfg.DATALOADER.TEST.BATCH_SIZE)
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
            size = WEIGHTS.get(name, "?")  # a fork's clip may have others
            lines.append(f"To be downloaded: the weights of {name} (about {size} MiB) into {DOWNLOADS}")
        elif name.startswith("open_clip:"):
            lines.append(f"To be downloaded by open_clip, unless its cache has them: the weights of {name}")
    return lines
