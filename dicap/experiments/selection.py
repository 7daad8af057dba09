"""Choice of settings by class hold-out: never a test image, never a new class, for any method on any dataset.

    dicap select --method CoOp --dataset causal_shapes --grid OPTIM.MAX_EPOCH=5,10,20,50 --folds 5 --seeds 1 2 3

The rule: on the few shots of the base classes, deal the base classes into folds; train on the shots of all folds but
one, a quarter of each class's shots kept back; test on what was kept back (pseudo-base) and on all shots of the fold that
was left out (pseudo-new); take the settings with the best mean H (of an error, the lowest mean) over folds and seeds.
dicap/data/draw.py deals.

Why shots are kept back instead of using the few-shot validation split: it would be no fairer a judge (where training
shots tie a scene to a class, so do validation shots, so neither can select for robustness to that tie) and many
datasets' users have none; what is learned on k shots is then chosen from k shots.

Fewer images make shorter epochs, and the length of training is what is mostly chosen: a run here gets as many more
epochs (OPTIM.MAX_EPOCH) as it takes to make the number of optimiser steps of the run that the settings are for.
"""

import contextlib
import dataclasses
import io
import itertools
import logging
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dicap import results as store
from dicap.data.named import find_dataset
from dicap.experiments.cells import by_key, line_of, own_settings, plan_cell, run_cells, slug
from dicap.experiments.driver import show_plan
from dicap.experiments.executor import raise_failures
from dicap.experiments.protocols import Job, Request, find_method, find_recipe
from dicap.options import ConfigError
from dicap.report.ablations import Line, best, selection_sheet
from dicap.report.sheet import print_sheet, write_sheet

log = logging.getLogger(__name__)

GRID = ("OPTIM.MAX_EPOCH=5,10,20,50",)  # CoOp is best on new classes early: length is the strongest lever
FOLDS = 5


def read_grid(texts: Sequence[str]) -> list[dict[str, str]]:
    """["OPTIM.MAX_EPOCH=5,10", "W=1,2"] -> its four points, the last key varying fastest.

    Raises:
        ConfigError: not KEY=VALUE,VALUE, or a key that comes twice.
    """
    axes: dict[str, list[str]] = {}
    for text in texts:
        key, _, values = text.partition("=")
        found = [value.strip() for value in values.split(",")]
        if not key or not all(found) or key in axes:
            raise ConfigError(f"--grid {text!r}: expected KEY=VALUE,VALUE, each key once, such as OPTIM.MAX_EPOCH=5,10")
        axes[key] = list(dict.fromkeys(found))
    return [dict(zip(axes, point)) for point in itertools.product(*axes.values())]


def name_of(point: dict[str, str]) -> str:
    """A grid point as tables and folders name it."""
    return " ".join(f"{key}={value}" for key, value in point.items()) or "as it is"


def plan_points(points: Sequence[dict[str, str]], request: Request, folds: int) -> dict[str, list[Job]]:
    """The runs of every grid point: its folds and seeds. The request names one method and one dataset.

    Raises:
        ConfigError: names the point, the value and what is allowed.
    """
    if folds < 2:
        raise ConfigError(f"--folds {folds}: expected 2 or more")
    data = find_dataset(request.datasets[0], request.data)
    method, _ = find_recipe(find_method(request.methods[0]), data, request)
    jobs: dict[str, list[Job]] = {name_of(point): [] for point in points}
    sizes: dict[str, tuple[int, int]] = {}
    for point, fold in itertools.product(points, range(1, folds + 1)):
        name = name_of(point)
        cell, folder = f"{name}, fold {fold}", f"select/{data.name}/{method.replace(':', '-')}/{slug(name)}"
        held = ("DATASET.HOLDOUT_FOLDS", str(folds), "DATASET.HOLDOUT_FOLD", str(fold))
        settings = (*request.settings, *own_settings(point, method), *held)
        one_seed = dataclasses.replace(request, settings=settings, seeds=request.seeds[:1])
        epochs = _epochs(plan_cell(cell, folder, one_seed), sizes)
        wanted = dataclasses.replace(request, settings=(*settings, "OPTIM.MAX_EPOCH", str(epochs)))
        jobs[name] += plan_cell(cell, f"{folder}/fold{fold}of{folds}", wanted)
    return jobs


def _epochs(jobs: Sequence[Job], sizes: dict[str, tuple[int, int]]) -> int:
    """Epochs on a fold that make the steps of MAX_EPOCH epochs on all shots; sizes: by data, read once."""
    cfg = jobs[0].cfg
    key = store.digest_of(store.plain(cfg.DATASET))
    if key not in sizes:
        base, new = (_read(job) for job in jobs)
        sizes[key] = len(base.train_x), len(base.train_x) + len(base.test) + len(new.test)
    here, there = (max(1, size // cfg.DATALOADER.TRAIN_X.BATCH_SIZE) for size in sizes[key])  # the last is dropped
    return max(1, round(cfg.OPTIM.MAX_EPOCH * there / here))


def _read(job: Job) -> Any:
    """A job's dataset. Raises ConfigError where it cannot hold classes out."""
    from dassl.data.datasets import DATASET_REGISTRY, build_dataset

    from dicap.data.split import DatasetError
    from dicap.datasets.base import FewShotDataset

    if not issubclass(DATASET_REGISTRY.get(job.cfg.DATASET.NAME), FewShotDataset):
        raise ConfigError(
            f"dataset {job.dataset!r} cannot hold classes out: it is no dicap.datasets.base.FewShotDataset"
        )
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            return build_dataset(job.cfg)
    except DatasetError as error:
        raise ConfigError(str(error)) from error


def run_selection(
    grid: Sequence[str],
    request: Request,
    *,
    folds: int = FOLDS,
    parallel: int = 1,
    dry_run: bool = False,
    verbose: bool = False,
) -> None:
    """Plan and check all points, run them, tabulate, name the best one and the command that uses it.

    Raises:
        ConfigError: before any work.
        RunError: at the end, if a run failed; lists all that did.
    """
    points = read_grid(grid or GRID)
    jobs = plan_points(points, request, folds)
    every = [job for some in jobs.values() for job in some]
    what = f"{every[0].method} on {every[0].dataset}, {len(points)} points, {folds} folds"
    seeds = " ".join(map(str, request.seeds))
    log.info("select: %s, seeds %s: %d runs of pseudo-base and pseudo-new classes", what, seeds, len(every))
    if dry_run:
        show_plan(every)
        return
    failures = run_cells(every, parallel, verbose)
    own = {name_of(point): by_key(own_settings(point, every[0].method)) for point in points}
    lines = [line_of(name, some, own[name]) for name, some in jobs.items()]
    sheet = selection_sheet(lines, how_to_use(lines, request))
    print_sheet(sheet)
    log.info("Written: %s", ", ".join(map(str, write_sheet(sheet, Path(request.out, "select")))))
    raise_failures(failures, len(every))


def how_to_use(lines: Sequence[Line], request: Request) -> str:
    """The command that runs the chosen settings base-to-new; "" where nothing is chosen."""
    winner = best(lines)
    if winner is None:
        return ""
    facts: dict[str, Any] = winner.facts
    dataset = request.datasets[0] if request.datasets else facts["dataset"]
    words = ["dicap", "base2new", "--methods", facts["method"], "--datasets", dataset]
    words += ["--shots", str(facts["shots"]), "--config", facts["recipe"]]
    words += ["--data", request.data] if request.data else []
    words += ["--backbone", request.backbone] if request.backbone else []
    chosen = {**by_key(request.settings), **facts["settings"]}
    words += ["--set", *(word for pair in chosen.items() for word in pair)] if chosen else []
    return shlex.join(words)
