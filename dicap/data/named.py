"""What a command line may call a dataset: a name (eurosat: configs/datasets/eurosat.yaml), or a path to one's own images.

Which datasets a comparison has by default is the protocol's to say (dicap/experiments/protocols.py), from the lists here.
"""

import functools
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from dicap.config import dataset_files
from dicap.data.sources import lacking
from dicap.options import ConfigError

# the eleven of the published comparisons, in the order of their tables (CoOp, CoCoOp), and ImageNet's four shifts
PUBLISHED = tuple(
    "imagenet caltech101 oxford_pets stanford_cars oxford_flowers food101 fgvc_aircraft sun397 dtd eurosat ucf101".split()
)
SHIFTS = ("imagenetv2", "imagenet_sketch", "imagenet_a", "imagenet_r")
# what comparisons use where no data folder is given
EMBEDDED = ("causal_shapes", "digits")
EMBEDDED_SHIFTS = ("causal_shapes_scenes", "causal_shapes_colours", "causal_shapes_noise")
OWN = "folder"  # the file in configs/datasets of one's own images


@dataclass(frozen=True)
class Data:
    """A dataset of a plan: its name in paths and results, the name of its YAML file, and settings of its own."""

    name: str
    config: str
    settings: tuple[str, ...] = ()

    @property
    def cls(self) -> Any:
        """The registered dataset class."""
        return registered()[self.config]

    @property
    def embedded(self) -> bool:
        """Whether it writes itself and needs no data folder: its class says so."""
        return bool(getattr(self.cls, "embedded", False))

    @property
    def needs_root(self) -> bool:
        """Whether it is read from the data folder."""
        return self.config != OWN and not self.embedded

    @property
    def is_shift(self) -> bool:
        """Whether it is a test set of another dataset's classes."""
        return bool(getattr(self.cls, "test_only", False))


def registered() -> dict[str, Any]:
    """The dataset class of each dataset file that has one: ours and those of plugins."""
    from dassl.data.datasets import DATASET_REGISTRY

    from dicap import discover

    discover.load_all()
    known = DATASET_REGISTRY.registered_names()
    names = {stem: _dataset_name(file) for stem, file in dataset_files().items()}
    return {stem: DATASET_REGISTRY.get(name) for stem, name in names.items() if name in known}


@functools.cache
def _dataset_name(file: Path) -> str:
    tree = yaml.safe_load(file.read_text(encoding="utf-8")) or {}
    return tree.get("DATASET", {}).get("NAME", "")  # "": the file of a plugin that is no dataset


def find_dataset(text: str, root: str = "", elsewhere: tuple[str, ...] = EMBEDDED) -> Data:
    """The dataset that a name or a path stands for.

    Args:
        root: the data folder, "" = none given.
        elsewhere: what to name where a data folder is needed and none is given.
    Raises ConfigError: an unknown name, a path to nothing, or a dataset that needs a data folder.
    """
    from dicap.data.folder import dataset_of_path

    own = dataset_of_path(text)
    if own is not None:
        return Data(own[0], OWN, own[1])
    there = sorted((name for name in registered() if name != OWN), key=lambda name: (name not in EMBEDDED, name))
    if text not in there:
        allowed = f"{', '.join(there)}, all, or the path of a folder, CSV or split JSON of your own"
        raise ConfigError(f"unknown dataset {text!r}; allowed: {allowed}{path_hint(text)}")
    data = Data(text, text)
    if data.needs_root and not root:
        way = f"DATA=/path/to/datasets, or --data; without one: {', '.join(elsewhere)}"
        raise ConfigError(f"the dataset {text!r} needs a data folder: {way}")
    return data


def path_hint(text: str) -> str:
    """What to add to an error about an unknown name: how a folder of that name is given."""
    return f"; for the folder that is here: ./{text}" if text and os.path.isdir(text) else ""


def missing(data: Data, root: str) -> str:
    """Why a dataset cannot be read, "" where its folder, images and lists are there. A quick look; nothing is read."""
    if not data.needs_root or not hasattr(data.cls, "folder"):
        return ""
    folder = Path(root).expanduser().absolute() / data.cls.folder
    if not folder.is_dir():
        return f"no folder {folder}"
    if data.cls.split_file:
        wanted = [data.cls.images, data.cls.split_file]
        absent = [name for name in wanted if name and not (folder / name).exists()]
    else:
        absent = lacking(data.cls.sources, folder)
    return f"no {' and no '.join(absent)} in {folder}" if absent else ""
