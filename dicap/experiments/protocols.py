"""Protocols: which runs make up a published comparison, planned and checked before anything runs (executor.py runs them).

A protocol is a list of stages; docs/protocols.md tells what each fixes. base2new: arXiv 2203.05557, 4.1; few_shot: arXiv
2109.01134, 4.1; cross_dataset and domain_generalization: arXiv 2203.05557, 4.2 and 4.3, with one training for both ("source").
The command line takes its help from here, so importing this imports neither torch nor dassl.
"""

import dataclasses
import functools
import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dicap import discover
from dicap.config import build_cfg, config_path, facts_of, published_recipes, recipe_files, recipe_learner, recipes
from dicap.data.named import EMBEDDED, EMBEDDED_SHIFTS, OWN, PUBLISHED, SHIFTS, Data, find_dataset, registered
from dicap.options import ConfigError

METHODS = ("ZeroshotCLIP", "CoOp", "CoCoOp", "DiCap")  # the comparison of the main job
SEEDS = (1, 2, 3)
SHOTS = 16


@dataclass(frozen=True)
class Stage:
    """One folder of a protocol and the classes that it is of: base, new or all."""

    folder: str
    split: str


@dataclass(frozen=True)
class Protocol:
    """A comparison."""

    name: str  # also its output folder, and what its results say
    stages: tuple[Stage, ...]  # the first trains, unless the protocol has a source; the next test its prompt
    summary: str = ""  # a line of help
    everything: tuple[str, ...] = PUBLISHED  # what `all` means; also the default with a data folder
    embedded: tuple[str, ...] = EMBEDDED  # the default without one
    shots: tuple[int, ...] = (SHOTS,)  # training images a class; one run each
    source: "Protocol | None" = None  # trains the prompt that is tested here; None = train on each dataset
    shifts: bool = False  # whether it tests on shifts of the source (same classes), and on nothing else
    cell: str = ""  # what its runs are called, where several comparisons make up one table


BASE2NEW = Protocol(
    "base2new",
    (Stage("train_base", "base"), Stage("test_new", "new")),
    "compare methods: train on base classes, test on base and new ones",
)
FEW_SHOT = Protocol(
    "few_shot",
    (Stage("train", "all"),),
    "compare methods with 1, 2, 4, 8 and 16 shots of all classes",
    shots=(1, 2, 4, 8, 16),
)
SOURCE = Protocol("source", (Stage("train", "all"),), everything=PUBLISHED[:1], embedded=EMBEDDED[:1])
CROSS_DATASET = Protocol(
    "cross_dataset",
    (Stage("test", "all"),),
    "test prompts of one dataset on other ones",
    everything=PUBLISHED[1:],
    embedded=EMBEDDED[1:],
    source=SOURCE,
)
DOMAIN_GENERALIZATION = Protocol(
    "domain_generalization",
    (Stage("test", "all"),),
    "test prompts of one dataset on its shifts",
    everything=SHIFTS,
    embedded=EMBEDDED_SHIFTS,
    source=SOURCE,
    shifts=True,
)
PROTOCOLS = {protocol.name: protocol for protocol in (BASE2NEW, FEW_SHOT, CROSS_DATASET, DOMAIN_GENERALIZATION)}


def protocol_of(folder: str) -> str:
    """The protocol whose paths an output folder follows (.../base2new/train_base/...), "" for any other."""
    known = {(protocol.name, stage.folder) for protocol in (*PROTOCOLS.values(), SOURCE) for stage in protocol.stages}
    return next((name for name, stage in itertools.pairwise(Path(folder).parts) if (name, stage) in known), "")


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
    source: str = ""  # dataset that prompts are trained on, of protocols that test them elsewhere; "" = the protocol's


def request_of(**values: Any) -> Request:
    """A Request from a command line's values; None and empty ones keep their default."""
    given = {key: value for key, value in values.items() if value not in (None, "", [])}
    tuples: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in given.items()}
    return Request(**tuples)


def many(number: int, what: str) -> str:
    """1 shot, 2 shots."""
    return f"{number:,} {what}{'' if number == 1 else 's'}"


@dataclass(frozen=True)
class Job:
    """One planned run."""

    protocol: Protocol
    stage: Stage
    data: Data
    method: str  # "CoOp", or "DiCap:CoOp" where the trainer trains a learner
    recipe: str
    seed: int
    request: Request
    prompt: "Job | None" = None  # the run whose trained prompt it tests, None where it trains

    @property
    def dataset(self) -> str:
        """Name of its dataset, in paths and results."""
        return self.data.name

    @property
    def names(self) -> dict[str, Any]:
        """What its result says that its configuration does not; trained_on: the dataset of the tested prompt."""
        names = {"protocol": self.protocol.name, "dataset": self.dataset, "recipe": self.recipe}
        return {**names, "trained_on": self.prompt.dataset if self.prompt else self.dataset}

    @property
    def depends_on(self) -> "Job | None":
        """The run that has to be finished before; a method that learns nothing waits for none."""
        return self.prompt if learns(self) else None

    @property
    def name(self) -> str:
        """As progress lines and messages name it."""
        cell = f"{self.protocol.cell}: " if self.protocol.cell else ""
        what = f"{self.stage.split} classes" if self.stage.split != "all" else many(self.request.shots, "shot")
        prompt = f", prompt of {self.names['trained_on']}" if self.protocol.source else ""
        return f"{cell}{self.dataset}, {self.method} ({self.recipe}), seed {self.seed}, {what}{prompt}"

    @property
    def folder(self) -> Path:
        """Where this run writes: the family's path, where "DiCap:CoOp" is DiCap-CoOp."""
        stage = Path(self.request.out, self.protocol.name, self.stage.folder, self.dataset)
        return stage / f"shots_{self.request.shots}" / self.method.replace(":", "-") / self.recipe / f"seed{self.seed}"

    @functools.cached_property
    def cfg(self) -> Any:
        """Its frozen configuration. Raises ConfigError."""
        request = self.request
        own = ("DATASET.NUM_SHOTS", str(request.shots), "DATASET.SUBSAMPLE_CLASSES", self.stage.split)
        flags = {"output_dir": str(self.folder), "root": request.data, "backbone": request.backbone}
        files = config_path("datasets", self.data.config), recipes(self.method)[self.recipe]
        settings = [*own, *self.data.settings, *request.settings]
        return build_cfg(*files, self.method, settings, seed=self.seed, **flags)


def learns(job: Job) -> bool:
    """Whether a run's method has something to train. Raises ConfigError where its configuration does not fit."""
    return facts_of(job.cfg).fit != "none"


def plan(protocol: Protocol, request: Request) -> list[Job]:
    """All runs of one number of shots, in order; every name, recipe, seed and setting is checked before anything runs.

    Raises ConfigError: with the value and what is allowed.
    """
    methods = list(dict.fromkeys(map(find_method, request.methods)))
    datasets = find_datasets(protocol, request)
    _check_request(request)
    runs = [(method, seed) for method in methods for seed in dict.fromkeys(request.seeds)]
    if protocol.source is None:
        jobs = [job for data in datasets for run in runs for job in _stages(protocol, data, *run, request)]
    else:
        source = find_source(protocol, request)
        trained = {run: _stages(protocol.source, source, *run, request)[0] for run in runs}
        test = functools.partial(dataclasses.replace, protocol=protocol, stage=protocol.stages[0])
        tests = (test(trained[run], data=data, prompt=trained[run]) for data in datasets for run in runs)
        jobs = [*trained.values(), *tests]
    for job in jobs:
        _check_job(job)
    return list({job.folder: job for job in jobs}.values())  # "DiCap" and the pair that it stands for are one method


def _stages(protocol: Protocol, data: Data, method: str, seed: int, request: Request) -> list[Job]:
    """The runs of one method and seed on one dataset."""
    method, recipe = find_recipe(method, data, request, protocol)
    first = Job(protocol, protocol.stages[0], data, method, recipe, seed, request)
    return [first, *(dataclasses.replace(first, stage=stage, prompt=first) for stage in protocol.stages[1:])]


def _check_request(request: Request) -> None:
    """Raises ConfigError."""
    if request.data and not Path(request.data).is_dir():
        raise ConfigError(f"no folder {request.data!r}; DATA (--data) is the folder that holds the datasets' folders")
    for name, numbers, least in (("seeds", request.seeds, 0), ("shots", (request.shots,), 1)):
        if not numbers or min(numbers) < least:
            raise ConfigError(f"{name} {numbers}: expected whole numbers from {least}, at least one")
    for key, value in zip(request.settings[::2], request.settings[1::2]):
        if trainer := re.fullmatch(r"TRAINER\.(\w+)\.LEARNER", key):
            names = ", ".join(name for name in method_names() if name.upper().startswith(f"{trainer[1]}:"))
            raise ConfigError(
                f"the setting {key} {value} contradicts the method's name, which says the learner; name it as the method"
                f" (METHODS, --methods, `method:`), one of: {names}"
            )
        if key == "DATASET.TEST_LIMIT":
            raise ConfigError(f"the setting {key} {value} makes trials of costs: a comparison tests on all test items")


def _check_job(job: Job) -> None:
    """Settings that contradict each other are found here, not after an hour of other runs. Raises ConfigError."""
    from dassl.engine import TRAINER_REGISTRY

    if job.prompt and facts_of(job.cfg).classes == "trained":
        sections = ((name, job.cfg.TRAINER.get(name.rpartition(".")[2], {})) for name in sections_of(job.method))
        reason = "".join(f"{name}.CSC is True: " for name, section in sections if section.get("CSC", False))
        raise ConfigError(
            f"{reason}what {job.method} learns for each trained class says nothing of other classes, and "
            f"{job.protocol.name} tests on them; choose another method or setting, or use few_shot"
        )
    cls = TRAINER_REGISTRY.get(job.cfg.TRAINER.NAME)
    if hasattr(cls, "OPTIONS"):  # ours: check_cfg reads the configuration alone; others' may need a whole trainer
        cls.check_cfg(object.__new__(cls), job.cfg)


def sections_of(method: str) -> list[str]:
    """Where a method's settings are: "DiCap:CoOp" -> ["TRAINER.DICAP", "TRAINER.COOP"]."""
    return [f"TRAINER.{part.upper()}" for part in re.split("[:+]", method)]


def method_names() -> list[str]:
    """All that a method may be called: trainers with a recipe, ours or a plugin's, and pairs with a recipe's learner."""
    from dassl.engine import TRAINER_REGISTRY

    discover.load_all()
    names: dict[str, None] = {}
    for trainer in sorted(TRAINER_REGISTRY.registered_names()):
        for path in recipe_files(trainer).values():
            ending = path.stem.rpartition("_")[2]
            learner = recipe_learner(trainer, path)
            names |= {trainer: None, f"{trainer}:{ending if discover.is_learner(ending) else learner}": None}
    return [name for name in names if not name.endswith(":")]


def find_method(name: str) -> str:
    """The method that a name stands for: in any case, with or without `_`, or its beginning ("zeroshot", "dicap:clip").

    Raises ConfigError: none, or several; the message lists those there are.
    """

    def fold(method: str) -> str:
        return method.lower().replace("_", "")

    folded, low = {method: fold(method) for method in method_names()}, fold(name)
    begun = [method for method in folded if low and folded[method].startswith(low)]
    same = [method for method in begun if folded[method] == low]
    found = same or [method for method in begun if ":" not in method or ":" in name]
    if len(found) == 1:
        return found[0]
    if found:
        raise ConfigError(f"method {name!r} may be {' or '.join(found)}; write more of it")
    raise ConfigError(f"unknown method {name!r}; allowed: {', '.join(folded)}")


def find_datasets(protocol: Protocol, request: Request) -> list[Data]:
    """The datasets to train or test on: those named, else the embedded ones of the protocol, with a data folder all.

    Raises ConfigError: an unknown name, one that needs a data folder, or one that the protocol is not for.
    """
    names = request.datasets or (("all",) if request.data else protocol.embedded)
    if "all" in names and not request.data:
        way = f"DATA=/path/to/datasets, or --data; without one: {', '.join(protocol.embedded)}"
        raise ConfigError(f"the dataset 'all' needs a data folder: {way}")
    every = [text for name in names for text in (protocol.everything if name == "all" else (name,))]
    source = find_source(protocol, request).name if protocol.source else ""
    by_name: dict[str, Data] = {}
    for text in (text for text in every if text != source or text in names):
        data = find_dataset(text, request.data, protocol.embedded)
        _check_dataset(protocol, data, source)
        other = by_name.setdefault(data.name, data)
        if other != data:
            both = f"{other.settings[-1]} and {data.settings[-1]}"
            raise ConfigError(f"two datasets are called {data.name!r}: {both}; run them into two output folders")
    return list(by_name.values())


def _check_dataset(protocol: Protocol, data: Data, source: str) -> None:
    """Raises ConfigError where a protocol is not for a dataset."""
    if data.name == source:
        raise ConfigError(f"the dataset {source!r} is the source of the prompts; {protocol.name} tests on others")
    if data.is_shift and not protocol.shifts:
        raise ConfigError(f"the dataset {data.name!r} is a shift, for tests only: dicap domain_generalization")
    if protocol.shifts and not data.is_shift and data.config != OWN:
        shifts = ", ".join(name for name, cls in registered().items() if getattr(cls, "test_only", False))
        there = f"{source}; shifts: {shifts}; other classes: dicap cross_dataset"
        raise ConfigError(f"the dataset {data.name!r} is no shift of {there}")


def find_source(protocol: Protocol, request: Request) -> Data:
    """The dataset that a protocol's prompts are trained on. Raises ConfigError."""
    assert protocol.source is not None
    default = (protocol.source.everything if request.data else protocol.source.embedded)[0]
    source = find_dataset(request.source or default, request.data, protocol.source.embedded)
    if source.is_shift:
        raise ConfigError(f"the source {source.name!r} is a shift, for tests only; the default is {default}")
    return source


def find_recipe(method: str, data: Data, request: Request, protocol: Protocol = BASE2NEW) -> tuple[str, str]:
    """The method with the learner that is trained, and the recipe (`recipes`). Raises ConfigError with those there are."""
    tiny = data.embedded or request.backbone == "tiny"
    wanted = published_recipes(protocol.name, data.name, request.shots)
    return choose_recipe(method, (request.recipe,) if request.recipe else ("tiny",) if tiny else wanted)


def choose_recipe(method: str, wanted: Sequence[str]) -> tuple[str, str]:
    """The method with the learner that its recipe trains, and the recipe: the first of these that it has.

    Raises ConfigError: none; the message lists those there are.
    """
    there, (trainer, _, learner) = recipes(method), method.partition(":")
    recipe = next((name for name in wanted if name in there), None)
    if recipe is None:
        absent = " or ".join(wanted) + (f" of {method}" if learner else "")
        way = f"give one with CFG= or --config: {', '.join(there)}"
        raise ConfigError(f"configs/trainers/{trainer} has no recipe {absent}; {way}")
    learner = learner or recipe_learner(trainer, there[recipe])
    return f"{trainer}:{learner}" if learner else trainer, recipe
