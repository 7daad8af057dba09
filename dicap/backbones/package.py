"""The `clip` package, imported once and only here.

In a fork of CoOp, `import clip` finds the fork's own edited copy: only the parts named in docs/architecture.md are touched.
"""

import importlib
import sys
from types import ModuleType

from dicap import provide_pkg_resources


def clip_package() -> ModuleType:
    """The imported `clip` package; `clip_package().model.CLIP` is OpenAI's architecture.

    Raises ImportError: no `clip` package, or one of another project (without `model.CLIP`).
    """
    if "clip" not in sys.modules:
        _import_clip()
    package = sys.modules["clip"]
    if not hasattr(importlib.import_module("clip.model"), "CLIP"):
        raise ImportError(f"the package clip at {package.__file__} is not OpenAI's CLIP; pip install clip-anytorch")
    return package


def _import_clip() -> None:
    stand_in = provide_pkg_resources()
    try:
        importlib.import_module("clip")
    except ModuleNotFoundError as error:
        raise ImportError(f"CLIP cannot be imported ({error}); pip install clip-anytorch") from error
    finally:
        if stand_in:
            del sys.modules["pkg_resources"]
