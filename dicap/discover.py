"""Finds what is registered: imports every trainer and dataset of ours, and plugins from files outside of the package.

Only our command line (through dicap.config.build_cfg) and the tests call it: in a fork with a CoOp of its own, importing
one file of ours must not register the others.
"""

import importlib
import importlib.util
import pkgutil
import sys
from pathlib import Path
from types import ModuleType

from dicap.options import ConfigError

PLUGIN_PREFIX = "dicap_plugin_"  # of a plugin's module name
PLUGINS: dict[str, ModuleType] = {}  # by absolute path, in the order of loading


def load_all() -> None:
    """Import all of dicap.trainers and dicap.datasets; each module registers itself with Dassl."""
    for package_name in ("dicap.trainers", "dicap.datasets"):
        package = importlib.import_module(package_name)
        for module in pkgutil.iter_modules(package.__path__):
            importlib.import_module(f"{package_name}.{module.name}")


def load_plugin(path: str) -> ModuleType:
    """Import a trainer or dataset file from outside of the package; loading it twice is loading it once.

    Raises:
        ConfigError: no such file, or it registers a name that is taken.
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


def classes_with_options() -> dict[str, type]:
    """Registered trainers and datasets that carry OPTIONS: {"TRAINER.COOP": CoOp, "DATASET.CAUSALSHAPES": ...}."""
    from dassl.data.datasets import DATASET_REGISTRY
    from dassl.engine import TRAINER_REGISTRY

    from dicap.options import section_name

    found = {}
    for top, registry in (("TRAINER", TRAINER_REGISTRY), ("DATASET", DATASET_REGISTRY)):
        for name in registry.registered_names():
            cls = registry.get(name)
            if hasattr(cls, "OPTIONS"):
                found[f"{top}.{section_name(cls)}"] = cls
    return found
