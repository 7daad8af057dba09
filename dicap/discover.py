"""Finds what is registered: imports every trainer and dataset of ours, and plugins from files outside of the package.

Only our command line (through dicap.config.build_cfg) and the tests call it: in a fork with a CoOp of its own, importing
one file of ours must not register the others.
"""

import functools
import importlib
import importlib.util
import pkgutil
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

from dicap.options import ConfigError, Option, section_name

PLUGIN_PREFIX = "dicap_plugin_"  # of a plugin's module name
PLUGINS: dict[str, ModuleType] = {}  # by absolute path, in the order of loading


def load_all() -> None:
    """Import all of dicap.trainers and dicap.datasets; each module registers itself with Dassl."""
    _import_modules("dicap.trainers")
    _import_modules("dicap.datasets")


@functools.cache
def _import_modules(package_name: str) -> None:
    """Import all modules of a package; the folder is listed once, since plans ask for learners many times."""
    package = importlib.import_module(package_name)
    for module in pkgutil.iter_modules(package.__path__):
        importlib.import_module(f"{package_name}.{module.name}")


def load_plugin(path: str) -> ModuleType:
    """Import a trainer or dataset file from outside of the package; loading it twice is loading it once.

    Raises ConfigError: no such file, or it registers a name that is taken.
    """
    file = Path(path).resolve()
    if str(file) in PLUGINS:
        return PLUGINS[str(file)]
    if not file.is_file() or file.suffix != ".py":
        raise ConfigError(f"--plugin {path}: not a Python file")
    load_all()
    name = f"{PLUGIN_PREFIX}{file.stem}"
    spec = importlib.util.spec_from_file_location(name, file)
    module = importlib.util.module_from_spec(spec)  # type: ignore[arg-type]
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)  # type: ignore[union-attr]
    except (KeyError, AssertionError) as error:
        del sys.modules[name]
        if "already" not in str(error):
            raise
        raise ConfigError(
            f"--plugin {path}: {error}. Rename the class, or run the other repository's own train.py with"
            " `python -m dicap.engine train.py ...`"
        ) from error
    except BaseException:
        del sys.modules[name]
        raise
    PLUGINS[str(file)] = module
    return module


def is_learner(name: str) -> bool:
    """Whether a name is that of a learner, or of two with a plus."""
    return all(part in _learners() for part in name.split("+"))


def learner_options(name: str) -> dict[str, dict[str, Option]]:
    """{"COOP": OPTIONS, ...}: the sections below TRAINER of a learner's settings; of two learners both. Raises ConfigError."""
    from dicap.learner import learner_class

    learners = _learners()
    learner_class(name)  # refuses unknown ones
    return {part.upper(): learners[part].OPTIONS for part in name.split("+")}


def _learners() -> dict[str, Any]:
    """Dicap's own learners and those of plug-ins. Importing ours leaves names alone that a fork has registered."""
    from dicap.learner import LEARNERS

    _import_modules("dicap.trainers")
    return LEARNERS


def classes_with_options() -> dict[str, Any]:
    """Trainers, datasets and learners that carry OPTIONS: {"TRAINER.COOP": CoOp, "DATASET.CAUSALSHAPES": ...}.

    Where a fork's trainer has the name of one of our learners and no OPTIONS, the section is the learner's.
    """
    from dassl.data.datasets import DATASET_REGISTRY
    from dassl.engine import TRAINER_REGISTRY

    from dicap.learner import LEARNERS

    registered = [("TRAINER", TRAINER_REGISTRY), ("DATASET", DATASET_REGISTRY)]
    classes = [(top, registry.get(name)) for top, registry in registered for name in registry.registered_names()]
    if any("LEARNER" in getattr(cls, "OPTIONS", {}) for _, cls in classes):
        _learners()
        classes = [("TRAINER", cls) for cls in LEARNERS.values()] + classes
    return {f"{top}.{section_name(cls)}": cls for top, cls in classes if hasattr(cls, "OPTIONS")}
