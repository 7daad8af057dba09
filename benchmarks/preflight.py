"""Time and memory as `dicap ... --dry-run --measure` foretells them, beside what the runs then take.

    python -m benchmarks.preflight                    # the tiny main job: four methods, two embedded datasets, base and new classes
    python -m benchmarks.preflight --vit              # CoOp and CoCoOp on a random CLIP of ViT-B/16's sizes, on pictures made here

Trials first, in a process of their own; then the runs, in another one, with a cache of features that is empty at first.
"""

import argparse
import concurrent.futures
import dataclasses
import json
import multiprocessing
import os
import tempfile
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file

from benchmarks import harness
from dicap.experiments.cells import start_worker
from dicap.experiments.driver import finish, planned_digests
from dicap.experiments.estimate import Trial, work_of
from dicap.experiments.preflight import Preflight
from dicap.experiments.protocols import BASE2NEW, FEW_SHOT, Job, Protocol, Request, plan
from dicap.experiments.run import engine_line
from dicap.files import write_text

GOAL = 0.30  # a relative error that is near enough
SHORT = 1.0  # seconds; a shorter time is shown, not judged


@dataclasses.dataclass(frozen=True)
class Row:
    """One figure of one run: as foretold and as seen, in seconds or MiB."""

    run: str
    figure: str
    estimate: float
    seen: float
    unit: str

    @property
    def error(self) -> float:
        return self.estimate / self.seen - 1 if self.seen else 0.0

    @property
    def judged(self) -> bool:
        return self.unit != "s" or self.seen >= SHORT

    def cells(self) -> list[str]:
        return [
            self.run,
            self.figure,
            *(f"{value:,.2f} {self.unit}" for value in (self.estimate, self.seen)),
            f"{self.error:+.0%}" + ("" if self.judged else " (short)"),
        ]

    def as_dict(self) -> dict:
        return {**dataclasses.asdict(self), "error": self.error, "judged": self.judged}


def compare(jobs: Sequence[Job], trials: Sequence[Trial], made: Sequence[tuple[dict, float]]) -> list[Row]:
    """Four figures of each run in order; what an earlier run has encoded costs a later one nothing."""
    rows, encoded, total, wall = list[Row](), set[tuple](), 0.0, 0.0
    for job, trial, (result, seconds) in zip(jobs, trials, made):
        work, once = work_of(job), [0.0, 0.0]
        for training in (False, True):
            key = (
                tuple(sorted(found.key for found in trial.encodings if found.training is training)),
                job.seed * training,
            )
            if key not in encoded:
                once[training] = trial.encoding_seconds(work, training)
            encoded.add(key)
        name = f"{job.method}, {job.dataset}, {job.stage.split}"
        train, whole = trial.train_seconds(work) + once[True], trial.seconds(work) + sum(once)
        rows += [Row(name, "training", train, result["seconds"]["train"], "s")] if work.steps else []
        rows += [
            Row(name, "test", trial.test_seconds(work), result["seconds"]["test"], "s"),
            Row(name, "whole run", whole, seconds, "s"),
            Row(name, "peak memory", trial.memory, result["peak_memory_mib"], "MiB"),
        ]
        total, wall = total + whole, wall + seconds
    return [*rows, Row("all", "whole runs", total, wall, "s")]


# ---- runs


def make(jobs: Sequence[Job]) -> list[tuple[dict, float]]:
    """Make the runs in order: result and seconds of each."""
    made, plans = [], [planned_digests(job) for job in jobs]
    for job, planned in zip(jobs, plans):
        start = time.perf_counter()
        result, _ = finish(job, planned)
        made.append((result, time.perf_counter() - start))
    return made


def foretell(jobs: Iterable[Job]) -> list[Trial]:
    """The trial of each job."""
    with Preflight() as measure:
        return [measure(job) for job in jobs]


def in_a_process(jobs: Sequence[Job]) -> list[tuple[dict, float]]:
    """`make` in a fresh process."""
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(1, context, start_worker, ("auto", ())) as pool:
        return pool.submit(make, [dataclasses.replace(job) for job in jobs]).result()


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
    settings = (
        "OPTIM.MAX_EPOCH",
        "3",
        "DATALOADER.TRAIN_X.BATCH_SIZE",
        "4",
        "DATALOADER.NUM_WORKERS",
        "2",
        "INPUT.SIZE",
        f"({size}, {size})",
    )
    return FEW_SHOT, Request(
        tuple(args.methods or ("CoOp", "CoCoOp")),
        (str(folder / "pictures"),),
        seeds=(1,),
        shots=4,
        backbone=str(weights),
        out=str(folder / "out"),
        settings=settings,
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
    head = [["run", "figure", "foretold", "seen", "error"], ["---"] * 5]
    print(
        "\n".join(
            [
                f"## {title}",
                "",
                f"Measured {machine}.",
                "",
                *(f"| {' | '.join(line)} |" for line in [*head, *(row.cells() for row in rows)]),
            ]
        )
    )
    judged = [row for row in rows if row.judged]
    off = [f"{row.figure} of {row.run} ({row.error:+.0%})" for row in judged if abs(row.error) > GOAL]
    verdict = f"{len(judged) - len(off)} of {len(judged)} figures of {SHORT:g} s or more, and of memory, are within {GOAL:.0%}"
    print(f"\n{verdict}{': all but ' + ', '.join(off) if off else ''}.", flush=True)
    if path:
        content = {"title": title, "machine": machine, "rows": [row.as_dict() for row in rows], "notes": [verdict]}
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
    with tempfile.TemporaryDirectory() as folder:
        os.environ["DICAP_CACHE"] = str(Path(folder, "cache"))
        protocol, request = (vit_job if args.vit else main_job)(Path(folder), args)
        jobs = plan(protocol, request)
        trials = foretell(jobs)
        rows = compare(jobs, trials, in_a_process(jobs))
    title = "Foretold and seen: " + ("a random CLIP of ViT-B/16's sizes" if args.vit else "the tiny main job")
    report(title, rows, args.json)


if __name__ == "__main__":
    main()
