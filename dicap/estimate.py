"""What a plan will cost: the end of `dicap PROTOCOL --dry-run`.

    optimiser steps, test images   exact: counted from the data, without opening an image
    time and memory                from finished runs of the same method, recipe and backbone below OUT: their seconds a
                                   step times the steps, plus their seconds a test image times the images; of the same
                                   dataset and classes where there are such runs. Nothing alike has run: no estimate
    downloads                      backbone weights that CLIP's cache lacks

A step costs more with more classes, and views or features that are cached cost nothing, so an estimate from other data
is rough; it says what it is from.
"""
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dicap.data.named import Data
from dicap.protocols import Job, Request, learns, many
from dicap.report import store
from dicap.report.table import gather

log = logging.getLogger(__name__)

# MiB of OpenAI's files, as the clip package's progress bar shows them
SIZES = {"RN50": 244, "RN101": 278, "RN50x4": 402, "RN50x16": 630, "RN50x64": 1291, "ViT-B/32": 338, "ViT-B/16": 335,
         "ViT-L/14": 890, "ViT-L/14@336px": 891}


@dataclass(frozen=True)
class Work:
    """What one run does: optimiser steps and test images."""

    steps: int
    images: int


@dataclass(frozen=True)
class Rate:
    """What finished runs took: seconds a step and a test image, the highest peak of memory in MiB, and what they were."""

    step: float | None
    image: float
    memory: float
    source: str

    def seconds(self, work: Work) -> float | None:
        """Of a run; None where it trains and none of these did."""
        if work.steps and self.step is None:
            return None
        return (self.step or 0.0) * work.steps + self.image * work.images


def show_costs(jobs: Sequence[Job], absent: Sequence[Data], request: Request) -> None:
    """Print what the runs of a plan cost, those that differ in the seed alone as one line, and what is downloaded."""
    for line in downloads(jobs):
        log.info("%s", line)
    results = _results(request.out)
    groups: dict[tuple, list[Job]] = {}
    for job in jobs:
        groups.setdefault((job.protocol.name, job.stage, job.data, job.method, job.recipe, job.request.shots), []).append(job)
    total, unknown = 0.0, 0
    unreadable: set[Data] = set()
    for some in groups.values():
        line, seconds = _cost(some, results, unreadable)
        total, unknown = (total + seconds * len(some), unknown) if seconds is not None else (total, unknown + len(some))
        log.info("%s", line)
    if jobs:
        log.info("In all: %s%s", f"about {duration(total)}" if unknown < len(jobs) else "no estimate yet",
                 f", and {many(unknown, 'run')} without an estimate yet" if 0 < unknown < len(jobs) else "")


def _cost(jobs: Sequence[Job], results: Sequence[dict], unreadable: set[Data]) -> tuple[str, float | None]:
    """A line on runs that differ in the seed alone, and the seconds of each, None where nothing alike has run.

    Data that cannot be read join `unreadable`; why is said once.
    """
    job = jobs[0]
    head = (f"{job.method} ({job.recipe}) on {job.dataset}, {job.stage.split} classes, {many(job.request.shots, 'shot')}: "
            f"{len(jobs)} to run")
    if job.data in unreadable:
        return f"{head}; its data cannot be read, as said above", None
    try:
        work = work_of(job)
    except (ValueError, OSError) as error:
        unreadable.add(job.data)
        return f"{head}; its data cannot be read: {error}", None
    head += f", each {many(work.steps, 'optimiser step')} and {many(work.images, 'test image')}"
    rate = rate_of(job, results)
    seconds = rate.seconds(work) if rate else None
    if rate is None or seconds is None:
        return f"{head}; no estimate yet", None
    return f"{head}; about {duration(seconds)} each, {rate.memory:,.0f} MiB ({rate.source})", seconds


def work_of(job: Job) -> Work:
    """Exact for a trainer whose loader is of the config: an incomplete last batch is dropped, unless it is the only one.

    Raises:
        ValueError, OSError: data that cannot be read.
    """
    train, test = _sizes(job.cfg)
    batch = job.cfg.DATALOADER.TRAIN_X.BATCH_SIZE
    steps = max(1, train // batch) * job.cfg.OPTIM.MAX_EPOCH if learns(job.method) and not job.prompt else 0
    return Work(steps, test)


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
    for some, where in (([r for r in near if r["split"] == job.stage.split], f" on {job.dataset}, {job.stage.split} classes"),
                        (near, f" on {job.dataset}"), (alike, "")):
        trained = [r for r in some if r.get("steps") and not r.get("resumed_from_epoch")]
        if some and (trained or job.prompt or not learns(job.method)):
            return _rate(some, trained, where)
    return None


def _rate(results: Sequence[dict], trained: Sequence[dict], where: str) -> Rate:
    other = "" if where else f" on {', '.join(sorted({r['dataset'] for r in results}))}"
    devices = ", ".join(sorted({str(r["versions"].get("device", "?")) for r in results}))
    steps, images = sum(r["steps"] for r in trained), sum(r["n"] for r in results)
    return Rate(sum(r["seconds"]["train"] for r in trained) / steps if trained else None,
                sum(r["seconds"]["test"] for r in results) / images,
                max(r["peak_memory_mib"] for r in results),
                f"from {many(len(results), 'finished run')}{where or other}; {devices}")


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
