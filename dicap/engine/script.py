"""The script that `python -m dicap.engine` runs, as the module __main__: in this process, and again in its spawned
children.

multiprocessing starts a child by importing the parent's main module by the name in __main__.__spec__. That name is this
file's, so that a spawned or forkserver child imports dicap.engine, and with it the finder, before the script's own
imports.
"""

import importlib.machinery
import importlib.util
import os
import sys
import types
from pathlib import Path
from typing import Any

_SCRIPT = "DICAP_SCRIPT"  # the environment variable that tells a child which script it is of


def run() -> None:
    """Runs the script sys.argv[0] as __main__."""
    script = os.environ[_SCRIPT] = os.path.abspath(sys.argv[0])
    sys.path[0] = os.path.dirname(script)
    home = str(Path(__file__).resolve().parents[2])
    if home not in sys.path:  # a checkout that was found through the working folder: children look for it too
        sys.path.append(home)
    main = types.ModuleType("__main__")
    main.__spec__ = importlib.machinery.ModuleSpec("dicap.engine.script", None)
    sys.modules["__main__"] = main
    execute(main.__dict__, script)


def execute(namespace: dict[str, Any], script: str) -> None:
    """Executes a script's source in a namespace."""
    _stand_in_for_pkg_resources()
    namespace.update(__file__=script, __builtins__=__builtins__)
    with open(script, "rb") as file:
        code = compile(file.read(), script, "exec")
    exec(code, namespace)


def _stand_in_for_pkg_resources() -> None:
    """Copies of OpenAI's clip begin with `from pkg_resources import packaging`; setuptools 82 dropped that module."""
    if "pkg_resources" in sys.modules or importlib.util.find_spec("pkg_resources") is not None:
        return
    import packaging.version

    stand_in = types.ModuleType("pkg_resources")
    stand_in.packaging = packaging  # type: ignore[attr-defined]
    sys.modules["pkg_resources"] = stand_in


if __name__ == "__mp_main__":  # in a child
    sys.argv[0] = os.environ[_SCRIPT]
    execute(globals(), sys.argv[0])
