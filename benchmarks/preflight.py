"""Time and memory as `dicap ... --dry-run --measure` estimates them, beside what the runs then take.

    python -m benchmarks.preflight                    # the tiny main job: four methods, two embedded datasets, base and new classes
    python -m benchmarks.preflight --vit              # CoOp and CoCoOp on a random CLIP of ViT-B/16's sizes, on pictures made here

Trials first, each in a process of its own; then the runs, here, with a cache of features that is empty at first.
"""

import argparse
import dataclasses
import json
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file

from benchmarks import harness
from dicap.experiments.cost import measured, work_of
from dicap.experiments.executor import execute, raise_failures
from dicap.experiments.protocols import BASE2NEW, FEW_SHOT, Job, Protocol, Request, plan
from dicap.experiments.run import engine_line, show_log
from dicap.files import write_text
from dicap.results import read_result

GOAL = 2.0  # a factor that is near enough
SHORT = 1.0  # seconds; a shorter time is shown, not judged


@dataclasses.dataclass(frozen=True)
class Row:
    """One figure of one run, estimated and seen, in seconds or MiB."""

    run: str
    unit: str
    estimate: float
    seen: float

    @property
    def factor(self) -> float:
        return self.estimate / self.seen if self.seen else 1.0

    @property
    def off(self) -> bool:
        return (self.unit != "s" or self.seen >= SHORT) and not 1 / GOAL <= self.factor <= GOAL

    def cells(self) -> list[str]:
        return [self.run, *(f"{value:,.2f} {self.unit}" for value in (self.estimate, self.seen)), f"{self.factor:.2f}"]


def estimates(jobs: Sequence[Job]) -> list[tuple[float, float]]:
    """Seconds and MiB of each run in order; what an earlier run has encoded costs a later one nothing."""
    found, encoded = list[tuple[float, float]](), set[tuple]()
    for job in jobs:
        rate, work, images = measured(job), work_of(job), (job.data, job.stage.split)
        if isinstance(rate, str):
            raise SystemExit(f"the trial of {job.name} failed: {rate}")
        seconds = rate.seconds(work) or 0.0
        found.append((seconds + (0.0 if images in encoded else rate.encode * work.items), rate.memory))
        encoded.add(images)
    return found


def compare(jobs: Sequence[Job], foretold: Sequence[tuple[float, float]], results: Sequence[dict]) -> list[Row]:
    """Two figures of each run, and the time of all."""
    rows = list[Row]()
    for job, (seconds, memory), result in zip(jobs, foretold, results):
        name, parts = f"{job.method}, {job.dataset}, {job.stage.split}", result["seconds"]
        rows.append(Row(name, "s", seconds, parts["build"] + parts["train"] + parts["test"]))
        rows.append(Row(name, "MiB", memory, result["peak_memory_mib"]))
    times = [row for row in rows if row.unit == "s"]
    return [*rows, Row("all runs", "s", sum(row.estimate for row in times), sum(row.seen for row in times))]


def main_job(folder: Path, args: argparse.Namespace) -> tuple[Protocol, Request]:
    """The tiny main job with one seed."""
    settings = ("OPTIM.MAX_EPOCH", "2", "TRAINER.DICAP.TRAIN_STEPS", "20") if args.quick else ()
    datasets = tuple(args.datasets or (("digits",) if args.quick else BASE2NEW.embedded))
    methods = tuple(args.methods or Request().methods)
    return BASE2NEW, Request(methods, datasets, seeds=(1,), out=str(folder / "out"), settings=settings)


def vit_job(folder: Path, args: argparse.Namespace) -> tuple[Protocol, Request]:
    """CoOp and CoCoOp by their published recipes but for the length, on 8 classes of made pictures, 4 shots."""
    weights = folder / "clip.safetensors"
    state = harness.make_clip(quick=args.quick).state_dict()
    save_file({name: value.contiguous() for name, value in state.items()}, weights)
    make_pictures(folder / "pictures", classes=8, each=15)
    size = 32 if args.quick else 224
    settings = ("OPTIM.MAX_EPOCH", "3", "DATALOADER.TRAIN_X.BATCH_SIZE", "4", "DATALOADER.NUM_WORKERS", "2")
    return FEW_SHOT, Request(
        tuple(args.methods or ("CoOp", "CoCoOp")),
        (str(folder / "pictures"),),
        seeds=(1,),
        shots=4,
        backbone=str(weights),
        out=str(folder / "out"),
        settings=(*settings, "INPUT.SIZE", f"({size}, {size})"),
    )


def make_pictures(folder: Path, classes: int, each: int) -> None:
    """Noise of 320 x 240 pixels as JPEG, in a folder for each class."""
    random = np.random.default_rng(0)
    for name in harness.CALTECH101_BASE[:classes]:
        (folder / name).mkdir(parents=True)
        for number in range(each):
            pixels = random.integers(0, 256, (60, 80, 3), dtype=np.uint8)
            Image.fromarray(pixels).resize((320, 240)).save(folder / name / f"{number}.jpg")


# ---- the command


def report(title: str, rows: Sequence[Row], path: Path | None) -> None:
    """Print the table and what is off; write the JSON that was asked for."""
    machine = harness.machine("cuda" if torch.cuda.is_available() else "cpu")
    lines = harness.markdown(("run", "estimated", "seen", "factor"), (row.cells() for row in rows))
    off = [f"{row.run} ({row.factor:.2f})" for row in rows if row.off]
    verdict = f"All figures of {SHORT:g} s or more, and of memory, are within a factor of {GOAL:g}"
    verdict += f", but {', '.join(off)}." if off else "."
    print("\n".join([f"## {title}", "", f"Measured {machine}.", "", *lines, ""]))
    print(verdict, flush=True)
    if path:
        found = [{**dataclasses.asdict(row), "factor": row.factor, "off": row.off} for row in rows]
        content = {"title": title, "machine": machine, "rows": found, "notes": [verdict]}
        write_text(path, json.dumps(content, indent=1) + "\n")


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vit", action="store_true", help="ViT-B/16's sizes instead of the tiny main job")
    parser.add_argument("--methods", nargs="+", metavar="NAME", help="these alone")
    parser.add_argument("--datasets", nargs="+", metavar="NAME", help="of the tiny main job, these alone")
    parser.add_argument("--quick", action="store_true", help="tiny sizes: does it run, no result")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows to this file too")
    args = parser.parse_args(arguments)
    print(engine_line(), flush=True)
    show_log()
    with tempfile.TemporaryDirectory() as folder:
        os.environ["DICAP_CACHE"] = str(Path(folder, "cache"))
        protocol, request = (vit_job if args.vit else main_job)(Path(folder), args)
        jobs = plan(protocol, request)
        foretold = estimates(jobs)
        raise_failures(execute(jobs), len(jobs))
        rows = compare(jobs, foretold, [read_result(job.folder) for job in jobs])
    title = "Estimated and seen: " + ("a random CLIP of ViT-B/16's sizes" if args.vit else "the tiny main job")
    report(title, rows, args.json)


if __name__ == "__main__":
    main()
