"""Protocols: which runs make up a published comparison, and one driver that plans, skips, runs and tabulates them.

    dicap base2new                                              # the embedded default: four methods, two datasets
    dicap base2new --data /path --datasets caltech101 --methods DiCap

A protocol is a list of stages. Base-to-new (CoCoOp, arXiv 2203.05557, section 4.1): train on the first half of the
classes and test on it; test the same prompt on the second half. All runs of a plan share one process. A finished run is
skipped only if its result file is whole and settings, data, backbone weights and tested prompt are the planned ones.
"""
import contextlib
import dataclasses
import functools
import io
import logging
import os
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dicap.config import CONFIGS, build_cfg, config_path
from dicap.options import ConfigError
from dicap.report import store

log = logging.getLogger(__name__)

METHODS = ("ZeroshotCLIP", "CoOp", "CoCoOp", "DiCap")  # the comparison of the main job
SEEDS = (1, 2, 3)
SHOTS = 16
NOT_FINISHED = "not finished"
STAMP = ".plan.json"  # in a run's folder: what the checkpoints there belong to
# published base-to-new recipes: a method's is the first of these that it has
RECIPES = ("vit_b16_ctxv1", "vit_b16_c4_ep10_batch1_ctxv1", "vit_b16")
RECIPES_IMAGENET = ("vit_b16_ep50_ctxv1", *RECIPES)  # CoOp trains 50 epochs there instead of 200


class RunError(RuntimeError):
    """A run of a plan failed; the message names the run, the last error and the log."""


@dataclass(frozen=True)
class Stage:
    """One folder of a protocol. prompt_from: the stage whose trained prompt is tested; "" = train one."""

    folder: str
    split: str
    prompt_from: str = ""


@dataclass(frozen=True)
class Protocol:
    """A name, which is also its output folder and stands in its results, and its stages in order."""

    name: str
    stages: tuple[Stage, ...]


BASE2NEW = Protocol("base2new", (Stage("train_base", "base"), Stage("test_new", "new", prompt_from="train_base")))


@dataclass(frozen=True)
class Request:
    """What to run. Empty data = the embedded datasets; empty recipe = `tiny` there, the published one elsewhere."""

    methods: tuple[str, ...] = METHODS
    datasets: tuple[str, ...] = ()
    seeds: tuple[int, ...] = SEEDS
    shots: int = SHOTS
    recipe: str = ""
    backbone: str = ""
    data: str = ""
    out: str = "output"
    settings: tuple[str, ...] = ()


@dataclass(frozen=True)
class Job:
    """One planned run."""

    protocol: Protocol
    stage: Stage
    dataset: str
    method: str
    recipe: str
    seed: int
    request: Request

    @property
    def name(self) -> str:
        """As progress lines and messages name it."""
        return f"{self.dataset}, {self.method} ({self.recipe}), seed {self.seed}, {self.stage.split} classes"

    def folder_of(self, stage: str) -> Path:
        """The family's path of this run's stage."""
        return Path(self.request.out, self.protocol.name, stage, self.dataset, f"shots_{self.request.shots}",
                    self.method, self.recipe, f"seed{self.seed}")

    @property
    def folder(self) -> Path:
        """Where this run writes."""
        return self.folder_of(self.stage.folder)

    @functools.cached_property
    def cfg(self) -> Any:
        """Its frozen configuration. Raises ConfigError."""
        request = self.request
        return build_cfg(
            config_path("datasets", self.dataset), config_path(f"trainers/{self.method}", self.recipe), self.method,
            root=request.data, output_dir=str(self.folder), seed=self.seed, backbone=request.backbone,
            opts=["DATASET.NUM_SHOTS", str(request.shots), "DATASET.SUBSAMPLE_CLASSES", self.stage.split,
                  *request.settings])

    def planned(self) -> dict[str, str]:
        """Digests of settings and data. Reads the dataset; an embedded one is written where it is missing."""
        return {"config": store.config_digest(self.cfg), "data": _data_digest(self.cfg)}

    def prompt_digest(self) -> str | None:
        """Digest of the prompt that this run is to test, None where it trains one or where none is trained yet."""
        if not self.stage.prompt_from:
            return None
        try:
            return store.read_result(self.folder_of(self.stage.prompt_from))["digests"]["model"]
        except store.ResultError:
            return None


# --- planning ----------------------------------------------------------------------------------------------------


def plan(protocol: Protocol, request: Request) -> list[Job]:
    """All runs, in order; every name, recipe, seed and setting is checked before anything runs.

    Raises:
        ConfigError: with the value and what is allowed.
    """
    methods = [find_method(name) for name in request.methods]
    datasets = find_datasets(request.datasets, request.data)
    if request.data and not Path(request.data).is_dir():
        raise ConfigError(f"no folder {request.data!r}; DATA (--data) is the folder that holds the datasets' folders")
    for name, numbers in (("seeds", request.seeds), ("shots", (request.shots,))):
        if not numbers or any(number < int(name == "shots") for number in numbers):
            raise ConfigError(f"{name} {numbers}: expected whole numbers from {int(name == 'shots')}, at least one")
    jobs = [Job(protocol, stage, dataset, method, find_recipe(method, dataset, request), seed, request)
            for dataset in datasets for method in methods for seed in dict.fromkeys(request.seeds)
            for stage in protocol.stages]
    for job in jobs:
        _check_method(job)
    return jobs


def _check_method(job: Job) -> None:
    """Settings that contradict each other are found here, not after an hour of other runs. Raises ConfigError."""
    from dassl.engine import TRAINER_REGISTRY

    from dicap.trainer import PromptTrainer

    cls = TRAINER_REGISTRY.get(job.cfg.TRAINER.NAME)
    if issubclass(cls, PromptTrainer):  # its check_cfg reads the configuration alone; others' may need a whole trainer
        cls.check_cfg(object.__new__(cls), job.cfg)


def find_method(name: str) -> str:
    """The registered trainer that a name stands for: itself, in any case, or its beginning ("zeroshot").

    Raises:
        ConfigError: none; the message lists those there are.
    """
    from dassl.engine import TRAINER_REGISTRY

    from dicap import discover

    discover.load_all()
    names = sorted(n for n in TRAINER_REGISTRY.registered_names() if _recipes(n))
    low = name.lower()
    for fits in (name.__eq__, lambda n: n.lower() == low, lambda n: bool(low) and n.lower().startswith(low)):
        found = sorted(filter(fits, names), key=len)
        if found:
            return found[0]
    raise ConfigError(f"unknown method {name!r}; allowed: {', '.join(names)}")


def find_datasets(names: Iterable[str], data: str) -> list[str]:
    """Names of dataset files: the embedded ones where none is named and there is no data folder; "all" = all real ones.

    Raises:
        ConfigError: an unknown name, or one that needs a data folder.
    """
    real, embedded = dataset_names()
    chosen: list[str] = []
    for name in list(names) or (["all"] if data else embedded):
        if name not in [*real, *embedded, "all"]:
            raise ConfigError(f"unknown dataset {name!r}; allowed: {', '.join([*embedded, *real])}, all")
        if name not in embedded and not data:
            raise ConfigError(f"the dataset {name!r} needs a data folder: DATA=/path/to/datasets, or --data; "
                              f"without one: {', '.join(embedded)}")
        chosen += real if name == "all" else [name]
    return list(dict.fromkeys(chosen))


def dataset_names() -> tuple[list[str], list[str]]:
    """Names in configs/datasets of registered datasets: those read from a data folder, and the embedded ones."""
    import yaml
    from dassl.data.datasets import DATASET_REGISTRY

    from dicap import discover
    from dicap.datasets.base import FewShotDataset

    discover.load_all()
    real: list[str] = []
    embedded: list[str] = []
    for path in sorted((CONFIGS / "datasets").glob("*.yaml")):
        name = yaml.safe_load(path.read_text(encoding="utf-8"))["DATASET"]["NAME"]
        if name in DATASET_REGISTRY.registered_names() and name != "Folder":  # which is named by its path
            cls = DATASET_REGISTRY.get(name)
            finds = getattr(cls, "locate", FewShotDataset.locate)
            if not getattr(cls, "test_only", False):  # a shift has no base and new classes
                (real if finds is FewShotDataset.locate else embedded).append(path.stem)  # an embedded one writes itself
    return real, embedded


def find_recipe(method: str, dataset: str, request: Request) -> str:
    """The recipe (stem of a file in configs/trainers/METHOD) of a run. Raises ConfigError with those there are."""
    there = _recipes(method)
    tiny = not request.data or request.backbone == "tiny"
    wanted = (request.recipe,) if request.recipe else ("tiny",) if tiny else \
        RECIPES_IMAGENET if dataset == "imagenet" else RECIPES
    for name in wanted:
        if name in there:
            return name
    raise ConfigError(f"configs/trainers/{method} has no recipe {' or '.join(wanted)}; give one with CFG= or --config: "
                      f"{', '.join(there)}")


def _recipes(method: str) -> list[str]:
    return sorted(path.stem for path in (CONFIGS / "trainers" / method).glob("*.yaml"))


_DATA_DIGESTS: dict[str, str] = {}


def _data_digest(cfg: Any) -> str:
    """Digest of a configuration's dataset, remembered by its DATASET section and seed."""
    from dassl.data.datasets import build_dataset
    from dassl.utils import set_random_seed

    key = store.digest_of([store.plain(cfg.DATASET), cfg.SEED])
    if key not in _DATA_DIGESTS:
        with contextlib.redirect_stdout(io.StringIO()):
            set_random_seed(cfg.SEED)  # the few-shot draw uses Python's generator
            _DATA_DIGESTS[key] = store.data_digest(build_dataset(cfg))
    return _DATA_DIGESTS[key]


def why_run(job: Job, planned: dict[str, str]) -> str:
    """Why a run has to be made, "" where it is finished: whole, with the planned digests and names.

    Args:
        planned: digests of the result that must be equal; "prompt" is that of the tested prompt.
    """
    path = job.folder / store.FILE
    if not path.exists():
        return NOT_FINISHED
    try:
        result = store.read_result(path)
    except store.ResultError as error:
        return str(error)
    names = {"protocol": job.protocol.name, "dataset": job.dataset, "recipe": job.recipe, "split": job.stage.split}
    for key, value in names.items():
        if result[key] != value:
            return f"its result says {key} {result[key]!r}, not {value!r}"
    digests = result["digests"]
    if planned["config"] != digests["config"]:
        return "settings changed" + _changed(result["config"], store.plain(job.cfg))
    if planned.get("data", digests["data"]) != digests["data"]:
        return "the data changed"
    if digests["weights"] and digests["weights"] != (_weights_digest(job.cfg) or digests["weights"]):
        return "the backbone's weights changed"
    prompt = job.prompt_digest()
    if job.stage.prompt_from and prompt != digests["model"]:
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


def execute(jobs: list[Job], *, verbose: bool = False) -> None:
    """Run what is not finished, in order; stops at the first failure.

    Args:
        verbose: show each run's log in the terminal too; it is in its log.txt in any case.
    Raises:
        RunError: a run failed.
    """
    start = time.perf_counter()
    plans = [job.planned() for job in jobs]  # the whole data is looked at before the first run
    skipped = 0
    for number, (job, planned) in enumerate(zip(jobs, plans), 1):
        head = f"[{number:{len(str(len(jobs)))}}/{len(jobs)}] {job.name}"
        began = time.perf_counter()
        result, why = finish(job, planned, verbose)
        if why:
            again = "" if why == NOT_FINISHED else f" (again: {why})"
            log.info("%s: %.1f %%, %.0f s%s", head, result["accuracy"], time.perf_counter() - began, again)
        else:
            skipped += 1
            log.info("%s: finished before", head)
    log.info("%d runs in %.0f s, %d finished before", len(jobs) - skipped, time.perf_counter() - start, skipped)


def finish(job: Job, planned: dict[str, str], verbose: bool = False) -> tuple[dict, str]:
    """A run's result and why it was made now, "" where it was finished before. Raises RunError."""
    why = why_run(job, planned)
    if not why:
        return store.read_result(job.folder), ""
    _make_way(job, planned)
    return _run(job, verbose), why


def _make_way(job: Job, planned: dict[str, str]) -> None:
    """Keep a folder whose checkpoints belong to this run (training resumes there), put any other aside, stamp it."""
    stamp = job.folder / STAMP
    with contextlib.suppress(OSError, ValueError):
        if store.read_json(stamp) == planned:
            return
    if job.folder.exists() and any(job.folder.iterdir()):
        aside = job.folder.parent / ".old" / f"{job.folder.name}-{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}"
        aside.parent.mkdir(exist_ok=True)
        os.replace(job.folder, aside)
        log.info("%s: what was in its folder belongs to another run and is now in %s", job.name, aside)
    store.write_json(stamp, planned)


def _run(job: Job, verbose: bool) -> dict:
    from dicap.run import run

    trains = not job.stage.prompt_from and learns(job.method)
    source = str(job.folder_of(job.stage.prompt_from)) if job.stage.prompt_from and learns(job.method) else ""
    try:
        with contextlib.nullcontext() if verbose else _quiet():
            result = run(job.cfg, eval_only=not trains, model_dir=source, protocol=job.protocol.name,
                         dataset=job.dataset, recipe=job.recipe)
    except Exception as error:
        raise RunError(f"{job.name} failed: {type(error).__name__}: {error}\nlog: {job.folder / 'log.txt'}") from error
    if result is None:
        raise RunError(f"{job.name} tested nothing: TEST.NO_TEST is set; a protocol needs the test")
    return result


def learns(method: str) -> bool:
    """Whether a trainer has something to train: it defines forward_backward, or says so itself with `learns`."""
    from dassl.engine import TRAINER_REGISTRY, TrainerBase

    cls = TRAINER_REGISTRY.get(method)
    return getattr(cls, "learns", cls.forward_backward is not TrainerBase.forward_backward)


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


def run_protocol(protocol: Protocol, request: Request, *, dry_run: bool = False, verbose: bool = False) -> None:
    """Plan, skip, run, tabulate. Raises ConfigError before any work, RunError at the first failure."""
    from dicap.report.render import print_table, write_table
    from dicap.report.table import base2new_table

    jobs = plan(protocol, request)
    log.info("%s: %d runs (%s; %s; seeds %s; %d shots) in %s", protocol.name, len(jobs),
             ", ".join(dict.fromkeys(job.dataset for job in jobs)),
             ", ".join(f"{method} ({recipe})" for method, recipe in dict.fromkeys((j.method, j.recipe) for j in jobs)),
             " ".join(map(str, request.seeds)), request.shots, Path(request.out, protocol.name))
    if dry_run:
        show_plan(jobs)
        return
    execute(jobs, verbose=verbose)
    table = base2new_table(request.out)
    print_table(table)
    log.info("Written: %s", ", ".join(map(str, write_table(table, request.out))))


def show_plan(jobs: list[Job]) -> None:
    """Print each run and whether it is finished; nothing is run, and data are read only where a result is there."""
    remade: set[Path] = set()
    for job in jobs:
        planned = job.planned() if (job.folder / store.FILE).exists() else {"config": store.config_digest(job.cfg)}
        why = why_run(job, planned)
        if not why and job.stage.prompt_from and job.folder_of(job.stage.prompt_from) in remade:
            why = "its prompt will be trained again"
        if why:
            remade.add(job.folder)
        log.info("%s: %s", job.name, f"to run ({why})" if why else "finished")
    log.info("%d to run, %d finished", len(remade), len(jobs) - len(remade))


def request_of(**values: Any) -> Request:
    """A Request from a command line's values; None and empty ones keep their default."""
    given: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value
             for key, value in values.items() if value not in (None, "", [])}
    return dataclasses.replace(Request(), **given)
