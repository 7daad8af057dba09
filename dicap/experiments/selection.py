"""Choice of settings by class hold-out: never a test image, never a new class, for any method on any dataset.

    dicap select --method CoOp --dataset causal_shapes --grid OPTIM.MAX_EPOCH=5,10,20,50 --folds 5 --seeds 1 2 3

docs/protocols.md tells the rule and its reasons; dicap/data/draw.py deals the folds and keeps shots back.
"""

import dataclasses
import itertools
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dicap.data.named import find_dataset
from dicap.data.split import DatasetError
from dicap.experiments.ablations import Cell, by_key, line_of, own_settings, run_cells, slug
from dicap.experiments.cost import SIZES, count_items, steps_an_epoch
from dicap.experiments.protocols import Job, Request, find_method, find_recipe
from dicap.options import ConfigError
from dicap.report.ablations import Line, best, selection_sheet
from dicap.report.sheet import Sheet

GRID = ("OPTIM.MAX_EPOCH=5,10,20,50",)  # CoOp is best on new classes early: length is the strongest lever


def read_grid(texts: Sequence[str]) -> list[dict[str, str]]:
    """["OPTIM.MAX_EPOCH=5,10", "W=1,2"] -> its four points, the last key varying fastest.

    Raises ConfigError: not KEY=VALUE,VALUE, or a key that comes twice.
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
    return " ".join(f"{key}={value}" for key, value in point.items())


def plan_points(points: Sequence[dict[str, str]], request: Request, folds: int) -> dict[str, list[Job]]:
    """The runs of every grid point: its folds and seeds. The request names one method and one dataset.

    Raises ConfigError: names the point, the value and what is allowed.
    """
    from dicap.datasets.base import FewShotDataset

    if folds < 2:
        raise ConfigError(f"--folds {folds}: expected 2 or more")
    data = find_dataset(request.datasets[0], request.data)
    if not issubclass(data.cls, FewShotDataset):
        raise ConfigError(f"dataset {data.name!r} cannot hold classes out: it is no dicap.datasets.base.FewShotDataset")
    method, _ = find_recipe(find_method(request.methods[0]), data, request)
    jobs: dict[str, list[Job]] = {name_of(point): [] for point in points}
    SIZES.clear()  # the data may be others than when this process last looked
    for point, fold in itertools.product(points, range(1, folds + 1)):
        name = name_of(point)
        cell, folder = f"{name}, fold {fold}", f"select/{data.name}/{method.replace(':', '-')}/{slug(name)}"
        held = ("DATASET.HOLDOUT_FOLDS", str(folds), "DATASET.HOLDOUT_FOLD", str(fold))
        settings = (*request.settings, *own_settings(point, method), *held)
        one_seed = dataclasses.replace(request, settings=settings, seeds=request.seeds[:1])
        epochs = _epochs(Cell(cell, folder, one_seed).jobs())
        wanted = dataclasses.replace(request, settings=(*settings, "OPTIM.MAX_EPOCH", str(epochs)))
        jobs[name] += Cell(cell, f"{folder}/fold{fold}of{folds}", wanted).jobs()
    return jobs


def _epochs(jobs: Sequence[Job]) -> int:
    """Epochs on a fold that make the steps of MAX_EPOCH epochs on all shots."""
    cfg = jobs[0].cfg
    try:
        (train, kept_back), (_, left_out) = (count_items(job.cfg) for job in jobs)
    except DatasetError as error:
        raise ConfigError(str(error)) from error
    here, there = (steps_an_epoch(cfg, size) for size in (train, train + kept_back + left_out))
    return max(1, round(cfg.OPTIM.MAX_EPOCH * there / here))


def run_selection(grid: Sequence[str], request: Request, *, folds: int = 5, **how: Any) -> None:
    """Plan and check all points, run them, tabulate, name the best one and the command that uses it.

    Args:
        how: as `run_cells` takes it.
    Raises ConfigError: before any work; RunError: at the end, if a run failed; it lists all that did.
    """
    points = {name_of(point): point for point in read_grid(grid or GRID)}
    jobs = plan_points(list(points.values()), request, folds)
    every = [job for some in jobs.values() for job in some]
    method, seeds = every[0].method, " ".join(map(str, request.seeds))
    what = f"{method} on {every[0].dataset}, {len(points)} points, {folds} folds, seeds {seeds}"

    def table() -> Sheet:
        lines = [line_of(name, some, by_key(own_settings(points[name], method))) for name, some in jobs.items()]
        return selection_sheet(lines, how_to_use(lines, request))

    title = f"select: {what}: {len(every)} runs of pseudo-base and pseudo-new classes"
    run_cells(title, every, table, Path(request.out, "select"), **how)


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
