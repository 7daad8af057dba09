"""The built-in engine: answers to the names of Dassl.pytorch 0.6.3 (KaiyangZhou, MIT) where no Dassl can run.

`import dicap.engine` puts a finder in front of all others, so that `import dassl.data.datasets` gives the very module
object of `dicap.engine.data.datasets`: one copy, one registry. The choice travels to child processes in the environment
variable DICAP_ENGINE. Own code throughout; what is added to Dassl's behaviour: checkpoints that hold no code, atomic
writes, bit-exact resume, a log that can be closed.

    python -m dicap.engine train.py ...        runs another repository's script, unmodified, on this engine
"""

import importlib
import importlib.util
import os
import sys
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

__version__ = "0.6.3"  # of the Dassl whose names are answered


class DasslFinder(MetaPathFinder, Loader):
    """Finds `dassl` and `dassl.x.y` as the modules `dicap.engine` and `dicap.engine.x.y`."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """The alias of one module, None for names outside `dassl`; raises ModuleNotFoundError where the engine has none."""
        if fullname.partition(".")[0] != "dassl":
            return None
        if importlib.util.find_spec(_real_name(fullname)) is None:
            raise ModuleNotFoundError(
                f"the built-in engine of DiCap has no module {fullname}: it covers what prompt learning needs. Code "
                "that needs it runs on Dassl.pytorch itself (DICAP_ENGINE=dassl, with a torch that Dassl can run on)",
                name=fullname,
            )
        return ModuleSpec(fullname, self)

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        """The one real module; the import system is about to overwrite its __spec__."""
        module = importlib.import_module(_real_name(spec.name))
        spec.loader_state = module.__spec__
        return module

    def exec_module(self, module: ModuleType) -> None:
        """Nothing to run: the module is complete; gives it back its own __spec__."""
        assert module.__spec__ is not None
        module.__spec__ = module.__spec__.loader_state


def _real_name(name: str) -> str:
    return "dicap.engine" + name.removeprefix("dassl")


def is_installed() -> bool:
    """Whether the built-in engine answers to `dassl` in this process."""
    return FINDER in sys.meta_path


def install() -> None:
    """Makes the built-in engine answer to `dassl`; done by importing this package.

    Raises ImportError where another `dassl` is imported already: two engines in one process would mean two registries.
    """
    other = sys.modules.get("dassl")
    if other is not None and other is not sys.modules[__name__]:
        raise ImportError(
            f"another dassl is imported already, from {getattr(other, '__file__', None) or 'an unknown place'}: the "
            "built-in engine cannot stand beside it. Import dicap before anything that imports dassl, or set "
            "DICAP_ENGINE=dassl"
        )
    if not is_installed():
        sys.meta_path.insert(0, FINDER)
    os.environ["DICAP_ENGINE"] = "builtin"


def uninstall() -> None:
    """Takes the finder away again; raises ImportError once something was imported through it."""
    if "dassl" in sys.modules:
        raise ImportError("the built-in engine is in use: choose the engine before anything imports dassl")
    if is_installed():
        sys.meta_path.remove(FINDER)
    os.environ.pop("DICAP_ENGINE", None)


FINDER = DasslFinder()
ASKED_FOR = (
    os.environ.get("DICAP_ENGINE") == "builtin"
)  # by the user or a parent process, not by importing this package
install()
