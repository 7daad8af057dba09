"""Settings: one table per method or dataset makes its config section, its checks, its --help and its page in the docs.

A trainer or dataset class carries `OPTIONS = {KEY: Option(default, why, choices)}`. The section is named after the class:
TRAINER.COOP for the trainer CoOp, DATASET.CAUSALSHAPES for the dataset CausalShapes.
"""

import ast
import difflib
import math
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import yaml
from yacs.config import CfgNode

MOVED = {  # keys of earlier versions
    "TRAINER.DICAP.PROMPT": "TRAINER.DICAP.LEARNER (CoOp for coop, CoCoOp for cocoop)",
    "TRAINER.DICAP.N_CTX": "TRAINER.COOP.N_CTX, or that of the learner which TRAINER.DICAP.LEARNER names",
    "TRAINER.DICAP.CTX_INIT": "TRAINER.COOP.CTX_INIT, or that of the learner which TRAINER.DICAP.LEARNER names",
}
# keys of a configuration that say where and how loudly a run works, not what it computes
PLACES = (
    *("OUTPUT_DIR", "RESUME", "VERSION", "VERBOSE", "DATASET.ROOT", "DATALOADER.NUM_WORKERS", "MODEL.TEXT_MEMORY"),
    *("TRAIN.PRINT_FREQ", "TRAIN.CHECKPOINT_FREQ"),
    *("DATASET.FOLDER.PATH", "DATASET.FOLDER.NAMES", "DATASET.FOLDER.IMAGES"),
)


class ConfigError(ValueError):
    """A setting that cannot be used; the message names the file, the key, the value and what is allowed."""


@dataclass(frozen=True)
class Option:
    """One setting.

    Args:
        default: its type is the type of the setting; 1 is taken where 1.0 is meant.
        why: what it does and why the default is what it is.
        choices: allowed values; empty = any of the type.
        least, most: smallest and largest allowed number, None = no bound.
    """

    default: Any
    why: str
    choices: tuple = ()
    least: float | None = None
    most: float | None = None

    def check(self, value: Any, key: str) -> Any:
        """The value in the type of the default. Raises ConfigError where it does not fit."""
        value = coerce(value, self.default, key)
        if self.choices and value not in self.choices:
            raise ConfigError(f"{key} is {value!r}; allowed: {', '.join(repr(c) for c in self.choices)}")
        if self.least is not None and value < self.least:
            raise ConfigError(f"{key} is {value!r}; the least allowed is {self.least}")
        if self.most is not None and value > self.most:
            raise ConfigError(f"{key} is {value!r}; the most allowed is {self.most}")
        if isinstance(value, float) and not math.isfinite(value):
            raise ConfigError(f"{key} is {value!r}; expected a finite number")
        return value


def section_name(cls: type) -> str:
    """The section of a class with OPTIONS: its name in upper case."""
    return cls.__name__.upper()


def default_section(options: dict[str, Option]) -> CfgNode:
    """A yacs section that holds the defaults."""
    return CfgNode({key: option.default for key, option in options.items()})


def read_options(section: CfgNode, options: dict[str, Option], name: str) -> SimpleNamespace:
    """Settings as attributes in lower case, checked.

    Raises ConfigError: a value outside of its choices, of another type, or a key that is missing.
    """
    values = {}
    for key, option in options.items():
        if key not in section:
            raise ConfigError(f"{name}.{key} is missing; call dicap.extend_cfg(cfg) before the files are merged")
        values[key.lower()] = option.check(section[key], f"{name}.{key}")
    return SimpleNamespace(**values)


def coerce(value: Any, default: Any, key: str) -> Any:
    """The value in the type of the default: 1 -> 1.0, "false" -> False, "(64, 64)" -> (64, 64), list <-> tuple.

    Raises ConfigError: no reading of the value has the type of the default.
    """
    if isinstance(value, str) and not (isinstance(default, str) or default is None):
        value = _parse(value)
    elif isinstance(value, str) and value[:1] in "\"'" and value[:1] == value[-1:] and len(value) > 1:
        value = _parse(value)
    if default is None or type(value) is type(default):
        return value
    if isinstance(default, float) and type(value) is int:
        return float(value)
    if isinstance(default, (tuple, list)) and isinstance(value, (tuple, list)):
        return type(default)(value)
    expected = f"{type(default).__name__}, such as {default!r}"
    raise ConfigError(f"{key} is {value!r} ({type(value).__name__}); expected {expected}")


def _parse(text: str) -> Any:
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def merge_file(cfg: CfgNode, path: str) -> None:
    """Merge a YAML file into cfg; unknown keys are refused with the nearest known one.

    Raises ConfigError: missing or unreadable file, unknown key, value of another type.
    """
    try:
        with open(path, encoding="utf-8") as file:
            tree = yaml.safe_load(file) or {}
    except FileNotFoundError:
        raise ConfigError(f"config file not found: {path}") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{path} is not YAML: {error}") from error
    if not isinstance(tree, dict):
        raise ConfigError(f"{path} holds a {type(tree).__name__}; expected sections with keys")
    try:
        for key, value in flatten(tree).items():
            set_key(cfg, key, value)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None


def merge_list(cfg: CfgNode, pairs: list[str] | tuple) -> None:
    """Merge KEY VALUE KEY VALUE ... as given on a command line. Raises ConfigError as merge_file does."""
    pairs = list(pairs)
    if len(pairs) % 2:
        raise ConfigError(f"settings come in pairs KEY VALUE; {pairs[-1]!r} has no partner")
    for key, value in zip(pairs[::2], pairs[1::2]):
        set_key(cfg, key, value)


def set_key(cfg: CfgNode, key: str, value: Any) -> None:
    """Set one dotted key that exists, in the type of its present value. Raises ConfigError."""
    *sections, last = key.split(".")
    node = cfg
    for name in sections:
        node = node.get(name) if isinstance(node, CfgNode) else None
    if not isinstance(node, CfgNode) or last not in node:
        moved = f"; it is {MOVED[key]} now" if key in MOVED else _nearest(cfg, key)
        raise ConfigError(f"unknown key {key}{moved}")
    if isinstance(node[last], CfgNode):
        raise ConfigError(f"{key} is a section; give one of its keys: {', '.join(node[last])}")
    node[last] = coerce(value, node[last], key)


def _nearest(cfg: CfgNode, key: str) -> str:
    near = difflib.get_close_matches(key, flatten(cfg), n=1, cutoff=0.5)
    return f"; did you mean {near[0]}?" if near else ""


def plain(cfg: Any) -> Any:
    """A config node as plain dicts, lists, strings and numbers: what JSON holds."""
    if isinstance(cfg, dict):
        return {str(key): plain(value) for key, value in cfg.items()}
    if isinstance(cfg, (list, tuple)):
        return [plain(value) for value in cfg]
    return cfg if cfg is None or isinstance(cfg, (bool, int, float, str)) else str(cfg)


def flatten(tree: dict, prefix: str = "") -> dict[str, Any]:
    """{"OPTIM": {"LR": .002}} -> {"OPTIM.LR": .002}."""
    flat: dict[str, Any] = {}
    for name, value in tree.items():
        flat |= flatten(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value}
    return flat
