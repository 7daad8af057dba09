"""DiCap: causality-aligned prompt learning with diffusion counterfactuals, a plugin for Dassl.pytorch (arXiv 2507.19882).

Trainers and datasets speak to `dassl.*` only. Where a Dassl is installed they run inside it; where none is, importing
dicap puts the built-in engine under the same names, so that `import dicap.trainers.dicap` just works.
"""

import importlib.util
import os
import sys
import types

__version__ = "0.1.0"


def extend_cfg(cfg) -> None:
    """Add DiCap's keys to a Dassl config: what a fork's yacs would refuse. Sections that are there stay as they are."""
    from dicap.config import extend_cfg as extend

    extend(cfg)


def provide_pkg_resources() -> bool:
    """Put a stand-in into sys.modules where there is no pkg_resources; returns whether there now is one.

    OpenAI's clip, on PyPI (clip-anytorch 2.6.0, openai-clip 1.0.1) and as copied into forks, begins with `from
    pkg_resources import packaging`, which setuptools 82 dropped. The stand-in leaves the user's setuptools as it is.
    """
    if "pkg_resources" in sys.modules or importlib.util.find_spec("pkg_resources") is not None:
        return False
    import packaging.version

    stand_in = sys.modules["pkg_resources"] = types.ModuleType("pkg_resources")
    stand_in.packaging = packaging  # type: ignore[attr-defined]
    return True


_dassl_is_here = "dassl" in sys.modules or importlib.util.find_spec("dassl") is not None
if os.environ.get("DICAP_ENGINE") == "builtin" or not _dassl_is_here:
    import dicap.engine  # noqa: F401
