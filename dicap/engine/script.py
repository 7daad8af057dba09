"""The script that `python -m dicap.engine` runs, as the module __main__: in this process and in its spawned children.

multiprocessing starts a child by importing the parent's main module by the name in __main__.__spec__. That name is this
file's, so that a spawned or forkserver child imports dicap.engine, and with it the finder, before the script's own
imports.
"""

import os
import sys
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

import dicap

_SCRIPT = "DICAP_SCRIPT"  # the environment variable that tells a child which script it is of


def run() -> None:
    """Runs the script sys.argv[0] as __main__."""
    script = os.environ[_SCRIPT] = os.path.abspath(sys.argv[0])
    sys.path[0] = os.path.dirname(script)
    home = str(Path(__file__).resolve().parents[2])
    if home not in sys.path:  # a checkout that was found through the working folder: children look for it too
        sys.path.append(home)
    main = sys.modules["__main__"] = ModuleType("__main__")
    main.__spec__ = ModuleSpec("dicap.engine.script", None)
    execute(main.__dict__, script)


def execute(namespace: dict[str, Any], script: str) -> None:
    """Executes a script's source in a namespace."""
    dicap.provide_pkg_resources()
    namespace.update(__file__=script, __builtins__=__builtins__)
    exec(compile(Path(script).read_bytes(), script, "exec"), namespace)


if __name__ == "__mp_main__":  # in a child
    sys.argv[0] = os.environ[_SCRIPT]
    execute(globals(), sys.argv[0])
