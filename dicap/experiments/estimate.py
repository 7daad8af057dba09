"""What a plan will cost: the end of `dicap PROTOCOL --dry-run`.

    optimiser steps, test images   exact: counted from the data, without opening an image
    time and memory                from finished runs of the same method, recipe and backbone below OUT: their seconds a
                                   step times the steps, plus their seconds a test image times the images; of the same
                                   dataset and classes where there are such runs. Nothing alike has run: no estimate
    with --measure                 from short trials (dicap/experiments/preflight.py) of what has not run on the same dataset and classes
    downloads                      backbone weights that CLIP's cache lacks

A step costs more with more classes, and views or features that are cached cost nothing, so an estimate from other data
is rough; it says what it is from.
"""

import dataclasses
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dicap import results as store
from dicap.data.named import Data
from dicap.experiments.protocols import Job, Request, learns, many
from dicap.files import cache_folder
from dicap.report.table import gather

log = logging.getLogger(__name__)

# MiB of OpenAI's files, as the clip package's progress bar shows them
SIZES = {
    "RN50": 244,
    "RN101": 278,
    "RN50x4": 402,
    "RN50x16": 630,
    "RN50x64": 1291,
    "ViT-B/32": 338,
    "ViT-B/16": 335,
    "ViT-L/14": 890,
    "ViT-L/14@336px": 891,
}


@dataclass(frozen=True)
class Work:
    """What one run does: optimiser steps, test images; in training, epochs, images (N), images a batch, views of each."""

    steps: int
    images: int
    epochs: int = 0
    train: int = 0
    batch: int = 0
    views: int = 0


@dataclass(frozen=True)
class Rate:
    """What finished runs took: seconds a step and a test image, the highest peak of memory in MiB, and what they were."""

    step: float | None
    image: float
    memory: float
    source: str
    near: bool = False  # of the same dataset and classes

    def seconds(self, work: Work) -> float | None:
        """Of a run; None where it trains and none of these did."""
        if work.steps and self.step is None:
            return None
        return (self.step or 0.0) * work.steps + self.image * work.images


@dataclass(frozen=True)
class Encoding:
    """Images that are encoded once and then read from the cache.

    Args:
        key: names them.
        images: how many.
        seconds: an image.
        training: they are views of training images: others for each seed and number of shots.
    """

    key: str
    images: int
    seconds: float
    training: bool = False


@dataclass(frozen=True)
class Trial:
    """What a short trial took (dicap/experiments/preflight.py), in seconds, its peak of memory and the device's memory in MiB.

    Args:
        build: reading the data, building the model.
        before: from then to the first epoch.
        epoch: an epoch beside its steps: the loader's start, checkpoint, validation.
        step: an optimiser step with its batch.
        test: a test beside its images.
        image: a test image.
        steps, images: how many were timed.
        encodings: images that were not in the cache; their time is in none of the others.
    """

    build: float
    test: float
    image: float
    memory: float
    capacity: float
    device: str
    images: int
    before: float = 0.0
    epoch: float = 0.0
    step: float = 0.0
    steps: int = 0
    encodings: tuple[Encoding, ...] = ()

    def train_seconds(self, work: Work) -> float:
        """Of training, without images that have to be encoded."""
        return self.before + self.epoch * work.epochs + self.step * work.steps if work.steps else 0.0

    def test_seconds(self, work: Work) -> float:
        """Of the test at the end, without images that have to be encoded."""
        return self.test + self.image * work.images

    def seconds(self, work: Work) -> float:
        """Of a run whose images are encoded."""
        return self.build + self.train_seconds(work) + self.test_seconds(work)

    def encoding_seconds(self, work: Work, training: bool) -> float:
        """Of encoding a run's views of training images, or its other images."""
        return sum(
            found.seconds * (work.train * work.views if training else found.images)
            for found in self.encodings
            if found.training is training
        )

    @property
    def source(self) -> str:
        """What it is from."""
        steps = f"{many(self.steps, 'step')} and " if self.steps else ""
        return f"measured now: {steps}{many(self.images, 'test image')}; {self.device}"


class TrialError(RuntimeError):
    """A trial failed; the message is its error."""


@dataclass(frozen=True)
class Cost:
    """Of runs that differ in the seed alone: seconds of each, of what is done once for several runs by name, memory in MiB."""

    each: float
    memory: float
    once: dict[tuple, float]
    capacity: float = 0.0


Measure = Callable[[Job], Trial]


def show_costs(jobs: Sequence[Job], absent: Sequence[Data], request: Request, measure: Measure | None = None) -> None:
    """Print what the runs of a plan cost, those that differ in the seed alone as one line, and what is downloaded.

    Args:
        measure: makes a trial of a job (dicap.experiments.preflight.Preflight), where nothing like it has run; None = no trials.
    """
    _SIZES.clear()  # the data may be others than when this process last looked
    for line in downloads(jobs):
        log.info("%s", line)
    results = _results(request.out)
    groups: dict[tuple, list[Job]] = {}
    for job in jobs:
        groups.setdefault(
            (job.protocol.name, job.stage, job.data, job.method, job.recipe, job.request.shots), []
        ).append(job)
    costs: list[tuple[int, Cost | None]] = []
    unreadable: set[Data] = set()
    for some in groups.values():
        line, cost = _cost(some, results, unreadable, measure)
        costs.append((len(some), cost))
        log.info("%s", line)
    if jobs:
        log.info("In all: %s", _in_all(costs))


def _in_all(costs: Sequence[tuple[int, Cost | None]]) -> str:
    """Time of all runs; memory of the one that needs most, where the device's is known."""
    known = [(number, cost) for number, cost in costs if cost]
    unknown = sum(number for number, cost in costs if not cost)
    if not known:
        return "no estimate yet"
    once = {name: seconds for _, cost in known for name, seconds in cost.once.items()}
    text = f"about {duration(sum(number * cost.each for number, cost in known) + sum(once.values()))}"
    text += f", and {many(unknown, 'run')} without an estimate yet" if unknown else ""
    capacity = max(cost.capacity for _, cost in known)
    if capacity:
        peak = max(cost.memory for _, cost in known)
        text += f"; {'at most' if peak <= capacity else 'TOO MUCH:'} {peak:,.0f} of {capacity:,.0f} MiB of memory"
    return text


def _cost(
    jobs: Sequence[Job], results: Sequence[dict], unreadable: set[Data], measure: Measure | None
) -> tuple[str, Cost | None]:
    """A line on runs that differ in the seed alone, and what each costs, None where nothing is known.

    Data that cannot be read join `unreadable`; why is said once.
    """
    job = jobs[0]
    head = (
        f"{job.method} ({job.recipe}) on {job.dataset}, {job.stage.split} classes, {many(job.request.shots, 'shot')}: "
        f"{len(jobs)} to run"
    )
    if job.data in unreadable:
        return f"{head}; its data cannot be read, as said above", None
    try:
        work = work_of(job)
    except (ValueError, OSError) as error:
        unreadable.add(job.data)
        return f"{head}; its data cannot be read: {error}", None
    head += f", each {many(work.steps, 'optimiser step')} and {many(work.images, 'test image')}"
    rate = rate_of(job, results)
    if measure is not None and not (rate and rate.near):
        return _measured(jobs, work, head, measure)
    seconds = rate.seconds(work) if rate else None
    if rate is None or seconds is None:
        return f"{head}; no estimate yet", None
    return f"{head}; about {duration(seconds)} each, {rate.memory:,.0f} MiB ({rate.source})", Cost(
        seconds, rate.memory, {}
    )


def _measured(jobs: Sequence[Job], work: Work, head: str, measure: Measure) -> tuple[str, Cost | None]:
    try:
        trial = measure(jobs[0])
    except TrialError as error:
        return f"{head}; no estimate, its trial failed: {error}", None
    each, once = trial.seconds(work), _once(jobs, work, trial)
    parts = f"training {duration(trial.train_seconds(work))}, " if work.steps else ""
    text = f"{head}; about {duration(each)} each ({parts}test {duration(trial.test_seconds(work))})"
    if once:
        text += f" and {duration(sum(once.values()))} to encode images, once for all methods"
    return f"{text}, {trial.memory:,.0f} MiB ({trial.source})", Cost(each, trial.memory, once, trial.capacity)


def _once(jobs: Sequence[Job], work: Work, trial: Trial) -> dict[tuple, float]:
    """Seconds of encoding by what is encoded: each once, or without a cache in each run."""
    kept = cache_folder("features") is not None
    found: dict[tuple, float] = {}
    for job in jobs:
        for training in (False, True):
            seconds = trial.encoding_seconds(work, training)
            keys = tuple(encoding.key for encoding in trial.encodings if encoding.training is training)
            which = (job.seed, job.request.shots) if training else ()
            if seconds:
                found[(keys, which) if kept else (keys, job.folder)] = seconds
    return found


def work_of(job: Job) -> Work:
    """Exact for a trainer whose loader is of the config: an incomplete last batch is dropped, unless it is the only one.

    Raises:
        ValueError, OSError: data that cannot be read.
    """
    train, test = _sizes(job.cfg)
    if job.prompt or not learns(job.method):
        return Work(0, test)
    batch, epochs = job.cfg.DATALOADER.TRAIN_X.BATCH_SIZE, job.cfg.OPTIM.MAX_EPOCH
    return Work(max(1, train // batch) * epochs, test, epochs, train, min(train, batch), job.cfg.INPUT.VIEWS)


_SIZES: dict[str, tuple[int, int]] = {}


def _sizes(cfg: Any) -> tuple[int, int]:
    """Training and test images, remembered by the DATASET section."""
    key = store.digest_of(store.plain(cfg.DATASET))
    if key not in _SIZES:
        _SIZES[key] = _count(cfg)
    return _SIZES[key]


def _count(cfg: Any) -> tuple[int, int]:
    from dassl.data.datasets import DATASET_REGISTRY, build_dataset

    cfg = cfg.clone()
    cfg.defrost()
    cfg.SEED = -1  # the draw changes no number, and none is kept
    cls = DATASET_REGISTRY.get(cfg.DATASET.NAME)
    if hasattr(cls, "items"):
        split = cls.__new__(cls).items(cfg)
        return len(split["train"]), len(split["test"])
    dataset = build_dataset(cfg)
    return len(dataset.train_x), len(dataset.test)


def rate_of(job: Job, results: Sequence[dict]) -> Rate | None:
    """What finished runs like this one took, None where there is none: of its dataset and classes, else of its dataset,
    else of any."""
    name = job.cfg.MODEL.BACKBONE.NAME
    alike = [r for r in results if (r["method"], r["recipe"], r["backbone"]) == (job.method, job.recipe, name)]
    near = [r for r in alike if r["dataset"] == job.dataset]
    nearest = [r for r in near if r["split"] == job.stage.split]
    for some, where in (
        (nearest, f" on {job.dataset}, {job.stage.split} classes"),
        (near, f" on {job.dataset}"),
        (alike, ""),
    ):
        trained = [r for r in some if r.get("steps") and not r.get("resumed_from_epoch")]
        if some and (trained or job.prompt or not learns(job.method)):
            return dataclasses.replace(_rate(some, trained, where), near=some is nearest)
    return None


def _rate(results: Sequence[dict], trained: Sequence[dict], where: str) -> Rate:
    other = "" if where else f" on {', '.join(sorted({r['dataset'] for r in results}))}"
    devices = ", ".join(sorted({str(r["versions"].get("device", "?")) for r in results}))
    steps, images = sum(r["steps"] for r in trained), sum(r["n"] for r in results)
    return Rate(
        sum(r["seconds"]["train"] for r in trained) / steps if trained else None,
        sum(r["seconds"]["test"] for r in results) / images,
        max(r["peak_memory_mib"] for r in results),
        f"from {many(len(results), 'finished run')}{where or other}; {devices}",
    )


def _results(out: str) -> list[dict]:
    """Every result below a folder that can be read; none where there is no folder."""
    return gather(out)[0] if Path(out).is_dir() else []


def downloads(jobs: Sequence[Job]) -> list[str]:
    """A line for each backbone whose weights are not here yet."""
    from dicap.backbones import DOWNLOADS
    from dicap.backbones.package import clip_package

    urls, lines = clip_package().clip._MODELS, []
    for name in dict.fromkeys(job.cfg.MODEL.BACKBONE.NAME for job in jobs):
        if name in urls and not (DOWNLOADS / urls[name].rpartition("/")[2]).is_file():
            size = f"about {SIZES[name]} MiB" if name in SIZES else "size not known"
            lines.append(f"To be downloaded: the weights of {name} ({size}) into {DOWNLOADS}")
        elif name.startswith("open_clip:"):
            lines.append(f"To be downloaded by open_clip, unless its cache has them: the weights of {name}")
    return lines


def duration(seconds: float) -> str:
    """0.2 -> "1 s", 42 -> "42 s", 4200 -> "70 min", 42000 -> "11.7 h"."""
    seconds = max(seconds, 1)
    minutes = round(seconds / 60)
    return f"{seconds:.0f} s" if seconds < 100 else f"{minutes} min" if minutes < 100 else f"{seconds / 3600:.1f} h"
