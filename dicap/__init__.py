"""DiCap: causality-aligned prompt learning with diffusion counterfactuals, a plugin for Dassl.pytorch (arXiv 2507.19882).

Trainers and datasets speak to `dassl.*` only. Where a Dassl is installed they run inside it; where none is, importing
dicap puts the built-in engine under the same names, so that `import dicap.trainers.dicap` just works.
"""

import importlib.util
import os
import sys

__version__ = "0.1.0"


def extend_cfg(cfg) -> None:
    """Add DiCap's keys to a Dassl config: what a fork's yacs would refuse. Sections that are there stay as they are."""
    from dicap.config import extend_cfg as extend

    extend(cfg)


def _dassl_is_missing() -> bool:
    return "dassl" not in sys.modules and importlib.util.find_spec("dassl") is None


if os.environ.get("DICAP_ENGINE") == "builtin" or _dassl_is_missing():
    import dicap.engine  # noqa: F401
