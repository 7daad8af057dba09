"""Protocols: which runs make up a published comparison, planned and checked before anything runs (dicap/experiments/driver.py runs them).

    base2new                train on the first half of the classes, test on it and on the other half (arXiv 2203.05557, 4.1)
    few_shot                train on all classes with 1, 2, 4, 8 and 16 shots, test on them (arXiv 2109.01134, 4.1)
    cross_dataset           train on a source dataset, test its prompt on other datasets (arXiv 2203.05557, 4.2)
    domain_generalization   the same training, tested on shifts of the source (arXiv 2203.05557, 4.3)

A protocol is a list of stages; docs/protocols.md tells what each fixes. The last two share one training ("source").
"""

import dataclasses
import functools
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dicap.config import CONFIGS, build_cfg, config_path
from dicap.data.named import EMBEDDED, EMBEDDED_SHIFTS, OWN, PUBLISHED, SHIFTS, Data, find_dataset, registered
from dicap.options import ConfigError

METHODS = ("ZeroshotCLIP", "CoOp", "CoCoOp", "DiCap")  # the comparison of the main job
SEEDS = (1, 2, 3)
SHOTS = 16
# published recipes where the context starts from words: a method's is the first of these that it has
RECIPES = ("vit_b16_ctxv1", "vit_b16_c4_ep10_batch1_ctxv1", "vit_b16")
IMAGENET_FIRST = ("vit_b16_ep50_ctxv1",)  # CoOp trains 50 epochs there instead of 200


@dataclass(frozen=True)
class Stage:
    """One folder of a protocol. prompt_from: the stage whose trained prompt is tested; "" = train one, or the source's."""

    folder: str
    split: str
    prompt_from: str = ""


@dataclass(frozen=True)
class Protocol:
    """A comparison.

    Args:
        name: also its output folder, and what its results say.
        stages: in order.
        everything: what `all` means; also the default with a data folder.
        embedded: the default without one.
        shots: training images a class; one run each.
        source: the protocol that trains the prompt which is tested here; None = train on each dataset.
        shifts: whether it tests on shifts of the source (same classes), and on nothing else.
    """

    name: str
    stages: tuple[Stage, ...]
    everything: tuple[str, ...] = PUBLISHED
    embedded: tuple[str, ...] = EMBEDDED
    shots: tuple[int, ...] = (SHOTS,)
    source: "Protocol | None" = None
    shifts: bool = False


BASE2NEW = Protocol("base2new", (Stage("train_base", "base"), Stage("test_new", "new", prompt_from="train_base")))
FEW_SHOT = Protocol("few_shot", (Stage("train", "all"),), shots=(1, 2, 4, 8, 16))
SOURCE = Protocol("source", (Stage("train", "all"),), everything=PUBLISHED[:1], embedded=EMBEDDED[:1])
CROSS_DATASET = Protocol("cross_dataset", (Stage("test", "all"),), PUBLISHED[1:], EMBEDDED[1:], source=SOURCE)
DOMAIN_GENERALIZATION = Protocol(
    "domain_generalization", (Stage("test", "all"),), SHIFTS, EMBEDDED_SHIFTS, source=SOURCE, shifts=True
)
PROTOCOLS = {protocol.name: protocol for protocol in (BASE2NEW, FEW_SHOT, CROSS_DATASET, DOMAIN_GENERALIZATION)}


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
    given: dict[str, Any] = {
        key: tuple(value) if isinstance(value, list) else value
        for key, value in values.items()
        if value not in (None, "", [])
    }
    return dataclasses.replace(Request(), **given)


def many(number: int, what: str) -> str:
    """1 shot, 2 shots."""
    return f"{number:,} {what}{'' if number == 1 else 's'}"


@dataclass(frozen=True)
class Job:
    """One planned run. prompt: the run whose trained prompt it tests, None where it trains."""

    protocol: Protocol
    stage: Stage
    data: Data
    method: str
    recipe: str
    seed: int
    request: Request
    prompt: "Job | None" = None

    @property
    def dataset(self) -> str:
        """Name of its dataset, in paths and results."""
        return self.data.name

    @property
    def trained_on(self) -> str:
        """Name of the dataset that the tested prompt was trained on."""
        return self.prompt.dataset if self.prompt else self.dataset

    @property
    def depends_on(self) -> "Job | None":
        """The run that has to be finished before; a method that learns nothing waits for none."""
        return self.prompt if learns(self.method) else None

    @property
    def name(self) -> str:
        """As progress lines and messages name it."""
        what = f"{self.stage.split} classes" if self.stage.split != "all" else many(self.request.shots, "shot")
        ending = f", prompt of {self.trained_on}" if self.protocol.source else ""
        return f"{self.dataset}, {self.method} ({self.recipe}), seed {self.seed}, {what}{ending}"

    @property
    def folder(self) -> Path:
        """Where this run writes: the family's path."""
        return Path(
            self.request.out,
            self.protocol.name,
            self.stage.folder,
            self.dataset,
            f"shots_{self.request.shots}",
            self.method,
            self.recipe,
            f"seed{self.seed}",
        )

    @functools.cached_property
    def cfg(self) -> Any:
        """Its frozen configuration. Raises ConfigError."""
        request = self.request
        return build_cfg(
            config_path("datasets", self.data.config),
            config_path(f"trainers/{self.method}", self.recipe),
            self.method,
            root=request.data,
            output_dir=str(self.folder),
            seed=self.seed,
            backbone=request.backbone,
            opts=[
                "DATASET.NUM_SHOTS",
                str(request.shots),
                "DATASET.SUBSAMPLE_CLASSES",
                self.stage.split,
                *self.data.settings,
                *request.settings,
            ],
        )


# --- planning ----------------------------------------------------------------------------------------------------


def plan(protocol: Protocol, request: Request) -> list[Job]:
    """All runs of one number of shots, in order; every name, recipe, seed and setting is checked before anything runs.

    Raises:
        ConfigError: with the value and what is allowed.
    """
    methods = list(dict.fromkeys(map(find_method, request.methods)))
    datasets = find_datasets(protocol, request)
    if request.data and not Path(request.data).is_dir():
        raise ConfigError(f"no folder {request.data!r}; DATA (--data) is the folder that holds the datasets' folders")
    for name, numbers in (("seeds", request.seeds), ("shots", (request.shots,))):
        if not numbers or any(number < int(name == "shots") for number in numbers):
            raise ConfigError(f"{name} {numbers}: expected whole numbers from {int(name == 'shots')}, at least one")
    runs = [(method, seed) for method in methods for seed in dict.fromkeys(request.seeds)]
    if protocol.source is None:
        jobs = [
            job for data in datasets for method, seed in runs for job in _stages(protocol, data, method, seed, request)
        ]
    else:
        source = find_source(protocol, request)
        trained = {run: _stages(protocol.source, source, *run, request)[0] for run in runs}
        jobs = [*trained.values(), *(_test(protocol, data, trained[run]) for data in datasets for run in runs)]
    for job in jobs:
        _check(job)
    return jobs


def _stages(protocol: Protocol, data: Data, method: str, seed: int, request: Request) -> list[Job]:
    """The runs of one method and seed on one dataset."""
    recipe, made = find_recipe(method, data, request, protocol), dict[str, Job]()
    for stage in protocol.stages:
        made[stage.folder] = Job(protocol, stage, data, method, recipe, seed, request, made.get(stage.prompt_from))
    return list(made.values())


def _test(protocol: Protocol, data: Data, trained: Job) -> Job:
    """The run that tests a source run's prompt on another dataset."""
    return dataclasses.replace(trained, protocol=protocol, stage=protocol.stages[0], data=data, prompt=trained)


def _check(job: Job) -> None:
    """Settings that contradict each other are found here, not after an hour of other runs. Raises ConfigError."""
    from dassl.engine import TRAINER_REGISTRY

    from dicap.trainer import PromptTrainer

    section = job.cfg.TRAINER.NAME.upper()
    if job.prompt and job.cfg.TRAINER.get(section, {}).get("CSC", False):
        raise ConfigError(
            f"TRAINER.{section}.CSC is True: a context for each class says nothing of other classes, and "
            f"{job.protocol.name} tests on them; set it False, or use few_shot"
        )
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


def learns(method: str) -> bool:
    """Whether a trainer has something to train: it defines forward_backward, or says so itself with `learns`."""
    from dassl.engine import TRAINER_REGISTRY, TrainerBase

    cls = TRAINER_REGISTRY.get(method)
    return getattr(cls, "learns", cls.forward_backward is not TrainerBase.forward_backward)


def find_datasets(protocol: Protocol, request: Request) -> list[Data]:
    """The datasets to train or test on: those named, else the embedded ones of the protocol, with a data folder all.

    Raises:
        ConfigError: an unknown name, one that needs a data folder, or one that the protocol is not for.
    """
    names = request.datasets or (("all",) if request.data else protocol.embedded)
    if "all" in names and not request.data:
        raise ConfigError(
            f"the dataset 'all' needs a data folder: DATA=/path/to/datasets, or --data; without one: "
            f"{', '.join(protocol.embedded)}"
        )
    texts = [text for name in names for text in (protocol.everything if name == "all" else (name,))]
    source = find_source(protocol, request).name if protocol.source else ""
    found = [find_dataset(text, request.data, protocol.embedded) for text in texts if text != source or text in names]
    for data in found:
        _check_dataset(protocol, data, source)
    return _distinct(found)


def _check_dataset(protocol: Protocol, data: Data, source: str) -> None:
    """Raises ConfigError where a protocol is not for a dataset."""
    if data.name == source:
        raise ConfigError(
            f"the dataset {source!r} is the source, which prompts are trained on; {protocol.name} tests on others"
        )
    if data.is_shift and not protocol.shifts:
        raise ConfigError(f"the dataset {data.name!r} is a shift, for tests only: dicap domain_generalization")
    if protocol.shifts and not data.is_shift and data.config != OWN:
        raise ConfigError(
            f"the dataset {data.name!r} is no shift of {source}; shifts: "
            f"{', '.join(name for name, cls in registered().items() if getattr(cls, 'test_only', False))}; "
            "other classes: dicap cross_dataset"
        )


def _distinct(found: Iterable[Data]) -> list[Data]:
    """Each dataset once. Raises ConfigError where two paths have one name."""
    by_name: dict[str, Data] = {}
    for data in found:
        if by_name.setdefault(data.name, data) != data:
            raise ConfigError(
                f"two datasets are called {data.name!r}: {by_name[data.name].settings[-1]} and "
                f"{data.settings[-1]}; run them into two output folders"
            )
    return list(by_name.values())


def find_source(protocol: Protocol, request: Request) -> Data:
    """The dataset that a protocol's prompts are trained on. Raises ConfigError."""
    assert protocol.source is not None
    default = (protocol.source.everything if request.data else protocol.source.embedded)[0]
    source = find_dataset(request.source or default, request.data, protocol.source.embedded)
    if source.is_shift:
        raise ConfigError(f"the source {source.name!r} is a shift, for tests only; the default is {default}")
    return source


def find_recipe(method: str, data: Data, request: Request, protocol: Protocol = BASE2NEW) -> str:
    """The recipe (stem of a file in configs/trainers/METHOD) of a training. Raises ConfigError with those there are."""
    there = _recipes(method)
    tiny = data.embedded or request.backbone == "tiny"
    wanted = (
        (request.recipe,)
        if request.recipe
        else ("tiny",)
        if tiny
        else published_recipes(protocol, data.name, request.shots)
    )
    for name in wanted:
        if name in there:
            return name
    raise ConfigError(
        f"configs/trainers/{method} has no recipe {' or '.join(wanted)}; give one with CFG= or --config: "
        f"{', '.join(there)}"
    )


def published_recipes(protocol: Protocol, dataset: str, shots: int) -> tuple[str, ...]:
    """Names of the papers' recipes; a method's is the first that it has.

    CoOp's few-shot setting learns 16 random context tokens for 50 epochs with 1 shot, 100 with 2 to 4, 200 with more, and
    50 on ImageNet; elsewhere contexts start from words.
    """
    imagenet = dataset == PUBLISHED[0]
    if protocol.name != FEW_SHOT.name:
        return (*(IMAGENET_FIRST if imagenet else ()), *RECIPES)
    return ("vit_b16_ep50" if imagenet or shots == 1 else "vit_b16_ep100" if shots <= 4 else "vit_b16", *RECIPES)


def _recipes(method: str) -> list[str]:
    return sorted(path.stem for path in (CONFIGS / "trainers" / method).glob("*.yaml"))
