"""Builds a run's configuration: Dassl's defaults, our keys, dataset file, method file, flags, KEY VALUE pairs, frozen.

cfg = build_cfg("configs/datasets/digits.yaml", "configs/trainers/DiCap/tiny.yaml", trainer="DiCap", seed=1)
"""

import functools
from operator import attrgetter
from pathlib import Path
from typing import Any

import yaml
from yacs.config import CfgNode

from dicap import discover
from dicap.options import ConfigError, Option, merge_file, merge_list, read_options

CONFIGS = Path(__file__).parent / "configs"
IMAGENET = "imagenet"  # some papers train fewer epochs there
# published recipes where the context starts from words: a method's is the first of these that it has
RECIPES = ("vit_b16_ctxv1", "vit_b16_c4_ep10_batch1_ctxv1", "vit_b16")

# keys of every run that Dassl does not have
GENERAL = {
    "DATASET.SUBSAMPLE_CLASSES": Option("all", "half of the classes, by label: base-to-new", ("all", "base", "new")),
    "DATASET.HOLDOUT_FOLDS": Option(0, "2 or more: class hold-out on base classes' shots (`dicap select`)", least=0),
    "DATASET.HOLDOUT_FOLD": Option(1, "the fold whose classes play the new ones, from 1", least=1),
    "DATASET.TEST_LIMIT": Option(0, "K: only the first K val and test items, for trials of costs; 0: all", least=0),
    "INPUT.VIEWS": Option(0, "0: fresh augmentation; K: K augmented views of each image, encoded once", least=0),
    "MODEL.TEXT_MEMORY": Option(4.0, "GiB for the text tower in training; what needs more is computed twice", least=0),
}
# what Dassl's own keys may be
_of_dassl = functools.partial(Option, None, "Dassl's")
_COUNT, _RATE, _LOADERS = _of_dassl(least=1), _of_dassl(least=0), ("TRAIN_X", "TRAIN_U", "TEST")
_SAMPLERS = ("RandomSampler", "SequentialSampler", "RandomDomainSampler", "SeqDomainSampler", "RandomClassSampler")
DASSL = {
    **{f"DATALOADER.{part}.BATCH_SIZE": _COUNT for part in _LOADERS},
    **{f"DATALOADER.{part}.SAMPLER": _of_dassl(_SAMPLERS) for part in _LOADERS},
    **dict.fromkeys(("DATALOADER.K_TRANSFORMS", "OPTIM.MAX_EPOCH", "TRAIN.PRINT_FREQ"), _COUNT),
    **dict.fromkeys(("OPTIM.LR", "OPTIM.WARMUP_CONS_LR", "OPTIM.WARMUP_MIN_LR"), _RATE),
    **dict.fromkeys(("OPTIM.WEIGHT_DECAY", "OPTIM.MOMENTUM", "OPTIM.GAMMA", "DATALOADER.NUM_WORKERS"), _RATE),
    "OPTIM.NAME": _of_dassl(("adam", "amsgrad", "sgd", "rmsprop", "radam", "adamw")),
    "OPTIM.LR_SCHEDULER": _of_dassl(("single_step", "multi_step", "cosine")),
    "OPTIM.WARMUP_TYPE": _of_dassl(("constant", "linear")),
    "SEED": _of_dassl(least=-1, most=2**32 - 1),
    "TEST.SPLIT": _of_dassl(("val", "test")),
    "TEST.FINAL_MODEL": _of_dassl(("last_step", "best_val")),
    "TRAIN.COUNT_ITER": _of_dassl(("train_x", "train_u", "smaller_one")),
    "INPUT.INTERPOLATION": _of_dassl(("bilinear", "bicubic", "nearest")),
}
FLAGS = {
    **{"root": "DATASET.ROOT", "output_dir": "OUTPUT_DIR", "resume": "RESUME", "seed": "SEED"},
    **{"source_domains": "DATASET.SOURCE_DOMAINS", "target_domains": "DATASET.TARGET_DOMAINS"},
    **{"transforms": "INPUT.TRANSFORMS", "trainer": "TRAINER.NAME"},
    **{"backbone": "MODEL.BACKBONE.NAME", "head": "MODEL.HEAD.NAME"},
}


def extend_cfg(cfg: CfgNode) -> None:
    """Add `every_option`; keys that are there, a fork's own, stay as they are."""
    for key, option in every_option().items():
        *sections, name = key.split(".")
        node = cfg
        for section in sections:
            node = node.setdefault(section, CfgNode())
        node.setdefault(name, option.default)


def every_option() -> dict[str, Option]:
    """All settings that Dassl does not have, by dotted key: the general ones and those of each class with OPTIONS."""
    classes = discover.classes_with_options().items()
    return GENERAL | {f"{section}.{key}": option for section, cls in classes for key, option in cls.OPTIONS.items()}


def dataset_files() -> dict[str, Path]:
    """Dataset files by name: configs/datasets/*.yaml, and x.yaml beside the plugin x.py. Raises ConfigError."""
    files = {path.stem: path for path in sorted((CONFIGS / "datasets").glob("*.yaml"))}
    for path in (Path(plugin).with_suffix(".yaml") for plugin in discover.PLUGINS):
        if path.is_file() and files.setdefault(path.stem, path) != path:
            raise ConfigError(f"{path}: {files[path.stem]} has this name already; rename the plugin and its file")
    return files


def config_path(kind: str, name: str) -> str:
    """The path of a YAML: config_path("datasets", "digits"), also a plugin's, or config_path("trainers/CoOp", "tiny").

    Raises ConfigError: no such file; the message lists those there are.
    """
    files = dataset_files() if kind == "datasets" else {path.stem: path for path in (CONFIGS / kind).glob("*.yaml")}
    if name not in files:
        raise ConfigError(f"no configs/{kind}/{name}.yaml; there are: {', '.join(sorted(files)) or 'none'}")
    return str(files[name])


def split_method(method: str) -> tuple[str, str]:
    """The trainer and the learner of a method's name: "DiCap:CoOp" -> ("DiCap", "CoOp"); "CoOp" -> ("CoOp", "")."""
    trainer, _, learner = method.partition(":")
    return trainer, learner


def method_of(cfg: CfgNode) -> str:
    """The name of a run's method in results and tables: "CoOp", and "DiCap:CoOp" where a learner is chosen."""
    name = cfg.TRAINER.NAME
    learner = cfg.TRAINER.get(name.upper(), {}).get("LEARNER", "")
    return f"{name}:{learner}" if learner else name


def recipes(method: str) -> dict[str, str]:
    """The recipes of a method: {"tiny": path of the YAML file, ...}, {} where there is none.

    They are in configs/trainers/TRAINER, ours or beside a plugin's file.
    "DiCap:CLIPAdapter" has DiCap/tiny_CLIPAdapter.yaml as its recipe `tiny`; DiCap/tiny.yaml is that of the learner
    which it names, else of the default one. "DiCap" alone has those that name no learner in their file name.
    """
    trainer, learner = split_method(method)
    files = recipe_files(trainer)
    plain = {stem: path for stem, path in files.items() if not discover.is_learner(stem.rpartition("_")[2])}
    if not learner:
        return {stem: str(path) for stem, path in plain.items()}
    own = {stem.removesuffix(f"_{learner}"): path for stem, path in files.items() if stem.endswith(f"_{learner}")}
    of_default = {stem: path for stem, path in plain.items() if recipe_learner(trainer, path) == learner}
    return {stem: str(path) for stem, path in {**of_default, **own}.items()}


def recipe_files(trainer: str) -> dict[str, Path]:
    """All recipes of a trainer by the file's stem: configs/trainers/TRAINER, ours or beside a plugin's file."""
    folders = [CONFIGS, *(Path(plugin).parent / "configs" for plugin in discover.PLUGINS)]
    return {path.stem: path for folder in folders for path in sorted((folder / "trainers" / trainer).glob("*.yaml"))}


def recipe_learner(trainer: str, path: str | Path) -> str:
    """The learner that a recipe of a trainer with a LEARNER trains: the one it names, else the default; "" for others."""
    section = discover.classes_with_options().get(f"TRAINER.{trainer.upper()}")
    if section is None or "LEARNER" not in section.OPTIONS:
        return ""
    tree = yaml.safe_load(Path(path).read_text(encoding="utf-8")) or {}
    own = (tree.get("TRAINER") or {}).get(trainer.upper()) or {}
    return str(own.get("LEARNER") or section.OPTIONS["LEARNER"].default)


def recipe_of(method: str, path: str | Path) -> str:
    """The name of a recipe in results: the file's stem without the learner that the method names."""
    return Path(path).stem.removesuffix(f"_{split_method(method)[1]}")


def published_recipes(protocol: str, dataset: str, shots: int) -> tuple[str, ...]:
    """Names of the papers' recipes for ViT-B/16; a method's is the first that it has.

    CoOp's few-shot setting learns 16 random context tokens for 50 epochs with 1 shot, 100 with 2 to 4, 200 with more, and
    50 on ImageNet; in the other protocols contexts start from words.
    """
    if protocol != "few_shot":
        return ("vit_b16_ep50_ctxv1", *RECIPES) if dataset == IMAGENET else RECIPES
    epochs = "_ep50" if dataset == IMAGENET or shots == 1 else "_ep100" if shots <= 4 else ""
    return (f"vit_b16{epochs}", *RECIPES)


def build_cfg(
    dataset_file: str = "", trainer_file: str = "", trainer: str = "", opts: list[str] | tuple = (), **flags: Any
) -> CfgNode:
    """A run's configuration, frozen.

    Merge order: Dassl's defaults, our keys (and those of plugins), dataset file, method file, flags, KEY VALUE pairs.

    Args:
        dataset_file, trainer_file: YAML files, "" = none.
        trainer: name of the registered trainer; "DiCap:CoOp" also chooses its learner.
        opts: KEY VALUE KEY VALUE ...
        flags: root, output_dir, resume, seed, source_domains, target_domains, transforms, backbone, head; None and ""
            mean "not given" (a seed of 0 is given).
    Raises ConfigError: names file, key, value and what is allowed.
    """
    from dassl.config import get_cfg_default

    discover.load_all()
    cfg = get_cfg_default()
    extend_cfg(cfg)
    for plugin in discover.PLUGINS.values():
        if hasattr(plugin, "extend_cfg"):
            plugin.extend_cfg(cfg)
    for path in filter(None, (dataset_file, trainer_file)):
        merge_file(cfg, path)
    trainer, learner = split_method(trainer)
    learner_key = f"TRAINER.{trainer.upper()}.LEARNER"
    for flag, value in {"trainer": trainer, **flags}.items():
        if flag not in FLAGS:
            raise ConfigError(f"unknown flag {flag}; allowed: {', '.join(FLAGS)}")
        if value is not None and value != "":
            merge_list(cfg, [FLAGS[flag], value])
    if learner:
        merge_list(cfg, [learner_key, learner])
    merge_list(cfg, opts)
    if learner and cfg.TRAINER[trainer.upper()].LEARNER != learner:
        raise ConfigError(f"{learner_key} contradicts {trainer}:{learner}; name the learner once, as {trainer}:LEARNER")
    check_cfg(cfg)
    cfg.freeze()
    return cfg


def facts_of(cfg: CfgNode) -> Any:
    """What a configuration's method is and needs: `dicap.learner.Facts`.

    Of a trainer that is not ours only `fit` is known: "steps" where it trains, i.e. defines forward_backward.
    """
    from dassl.engine import TRAINER_REGISTRY, TrainerBase

    from dicap.learner import Facts

    cls = TRAINER_REGISTRY.get(cfg.TRAINER.NAME)
    if hasattr(cls, "facts_of"):
        return cls.facts_of(cfg)
    return Facts(fit="none" if cls.forward_backward is TrainerBase.forward_backward else "steps")


def check_cfg(cfg: CfgNode) -> None:
    """Check trainer and dataset names, general and Dassl's keys, and the sections that this run reads. Raises ConfigError."""
    from dassl.data.datasets import DATASET_REGISTRY
    from dassl.engine import TRAINER_REGISTRY

    for key, registry in (("TRAINER", TRAINER_REGISTRY), ("DATASET", DATASET_REGISTRY)):
        name, names = cfg[key].NAME, registry.registered_names()
        if name not in names:
            raise ConfigError(f"{key}.NAME is {name!r}; registered: {', '.join(sorted(names))}")
        cls = registry.get(name)
        if hasattr(cls, "OPTIONS"):
            read_options(cfg[key].get(name.upper(), {}), cls.OPTIONS, f"{key}.{name.upper()}")
        if hasattr(cls, "facts_of"):
            cls.facts_of(cfg)  # reads the learner's settings
    for key, option in {**GENERAL, **DASSL}.items():
        section, _, name = key.rpartition(".")
        node = attrgetter(section)(cfg) if section else cfg
        node[name] = option.check(node[name], key)
