"""Builds a run's configuration: Dassl's defaults, our keys, dataset file, method file, flags, KEY VALUE pairs, frozen.

cfg = build_cfg("configs/datasets/digits.yaml", "configs/trainers/DiCap/tiny.yaml", trainer="DiCap", seed=1)
"""

from pathlib import Path
from typing import Any

from yacs.config import CfgNode

from dicap import discover
from dicap.options import ConfigError, Option, default_section, merge_file, merge_list, read_options

CONFIGS = Path(__file__).parent / "configs"

# keys of every run that Dassl does not have
GENERAL = {
    "DATASET.SUBSAMPLE_CLASSES": Option(
        "all", "which half of the classes, by label: base-to-new", ("all", "base", "new")
    ),
    "DATASET.HOLDOUT_FOLDS": Option(
        0,
        "2 and more: choose settings by class hold-out; base and new are then parts of the"
        " base classes' training shots (`dicap select`)",
        least=0,
    ),
    "DATASET.HOLDOUT_FOLD": Option(1, "the fold whose classes play the new ones, from 1", least=1),
    "INPUT.VIEWS": Option(
        0,
        "0: fresh augmentation every epoch (the published recipes); K: K augmented views of each"
        " training image are encoded once and reused",
        least=0,
    ),
    "MODEL.TEXT_MEMORY": Option(
        4.0,
        "GiB that activations of the text tower may take; what needs more in training is computed"
        " in parts, each a second time in the backward pass: slower by half, equal to rounding",
        least=0,
    ),
}
FLAGS = {
    "root": "DATASET.ROOT",
    "output_dir": "OUTPUT_DIR",
    "resume": "RESUME",
    "seed": "SEED",
    "source_domains": "DATASET.SOURCE_DOMAINS",
    "target_domains": "DATASET.TARGET_DOMAINS",
    "transforms": "INPUT.TRANSFORMS",
    "trainer": "TRAINER.NAME",
    "backbone": "MODEL.BACKBONE.NAME",
    "head": "MODEL.HEAD.NAME",
}


def extend_cfg(cfg: CfgNode) -> None:
    """Add the general keys and a section for each registered class with OPTIONS; nothing that is there is changed."""
    for key, option in GENERAL.items():
        section, name = key.split(".")
        if name not in cfg[section]:
            cfg[section][name] = option.default
    for key, cls in discover.classes_with_options().items():
        top, name = key.split(".")
        if name not in cfg[top]:
            cfg[top][name] = default_section(cls.OPTIONS)  # type: ignore[attr-defined]


def dataset_files() -> dict[str, Path]:
    """Dataset files by name: configs/datasets/*.yaml, and x.yaml beside the plugin x.py. Raises ConfigError."""
    files = {path.stem: path for path in sorted((CONFIGS / "datasets").glob("*.yaml"))}
    for path in (Path(plugin).with_suffix(".yaml") for plugin in discover.PLUGINS):
        if path.is_file() and files.setdefault(path.stem, path) != path:
            raise ConfigError(f"{path}: {files[path.stem]} has this name already; rename the plugin and its file")
    return files


def config_path(kind: str, name: str) -> str:
    """The path of a YAML: config_path("datasets", "digits"), also a plugin's, or config_path("trainers/CoOp", "tiny").

    Raises:
        ConfigError: no such file; the message lists those there are.
    """
    files = dataset_files() if kind == "datasets" else {path.stem: path for path in (CONFIGS / kind).glob("*.yaml")}
    if name not in files:
        raise ConfigError(f"no configs/{kind}/{name}.yaml; there are: {', '.join(sorted(files)) or 'none'}")
    return str(files[name])


def build_cfg(
    dataset_file: str = "", trainer_file: str = "", trainer: str = "", opts: list[str] | tuple = (), **flags: Any
) -> CfgNode:
    """A run's configuration, frozen.

    Merge order: Dassl's defaults, our keys (and those of plugins), dataset file, method file, flags, KEY VALUE pairs.

    Args:
        dataset_file, trainer_file: YAML files, "" = none.
        trainer: name of the registered trainer.
        opts: KEY VALUE KEY VALUE ...
        flags: root, output_dir, resume, seed, source_domains, target_domains, transforms, backbone, head; None and ""
            mean "not given" (a seed of 0 is given).
    Raises:
        ConfigError: names file, key, value and what is allowed.
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
    for flag, value in {"trainer": trainer, **flags}.items():
        if flag not in FLAGS:
            raise ConfigError(f"unknown flag {flag}; allowed: {', '.join(FLAGS)}")
        if value is not None and value != "":
            top = FLAGS[flag]
            merge_list(cfg, [top, value])
    merge_list(cfg, opts)
    check_cfg(cfg)
    cfg.freeze()
    return cfg


def check_cfg(cfg: CfgNode) -> None:
    """Check trainer and dataset names, the general keys and the sections that this run reads. Raises ConfigError."""
    from dassl.data.datasets import DATASET_REGISTRY
    from dassl.engine import TRAINER_REGISTRY

    for key, registry in (("TRAINER", TRAINER_REGISTRY), ("DATASET", DATASET_REGISTRY)):
        name, names = cfg[key].NAME, registry.registered_names()
        if name not in names:
            raise ConfigError(f"{key}.NAME is {name!r}; registered: {', '.join(sorted(names))}")
        cls = registry.get(name)
        if hasattr(cls, "OPTIONS"):
            read_options(cfg[key][name.upper()], cls.OPTIONS, f"{key}.{name.upper()}")
    for key, option in GENERAL.items():
        section, name = key.split(".")
        cfg[section][name] = option.check(cfg[section][name], key)
