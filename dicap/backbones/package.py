"""OpenAI's `clip` package as it was installed, imported once and only here, under a name of its own.

In a fork of CoOp, `import clip` finds the fork's own copy, whose `build_model` may want more than the weights. That one is
left to the fork's trainers.
"""

import importlib.util
import sys
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from types import ModuleType

from dicap import provide_pkg_resources

_NAME = "dicap._clip"


def clip_package() -> ModuleType:
    """The package; `clip_package().model.CLIP` is OpenAI's architecture. Raises ImportError where none is installed."""
    if _NAME not in sys.modules:
        _import_clip()
    return sys.modules[_NAME]


def _import_clip() -> None:
    folder = next((folder for folder in _folders() if (folder / "model.py").is_file()), None)
    if folder is None:
        raise ImportError("OpenAI's CLIP is not installed; pip install clip-anytorch")
    spec = importlib.util.spec_from_file_location(_NAME, folder / "__init__.py")
    assert spec is not None and spec.loader is not None
    package = sys.modules[_NAME] = importlib.util.module_from_spec(spec)
    stand_in = provide_pkg_resources()
    try:
        spec.loader.exec_module(package)
        package.model.CLIP  # noqa: B018
    except (ImportError, AttributeError) as error:
        del sys.modules[_NAME]
        raise ImportError(f"CLIP cannot be imported from {folder} ({error}); pip install clip-anytorch") from error
    finally:
        if stand_in:
            del sys.modules["pkg_resources"]


def _folders() -> Iterator[Path]:
    """Where a distribution has put the package; last, what `import clip` finds: a link to a checkout, or a fork's copy."""
    for name in ("clip-anytorch", "openai-clip", "clip"):
        try:
            yield Path(str(distribution(name).locate_file("clip")))
        except PackageNotFoundError:
            continue
    spec = importlib.util.find_spec("clip")
    if spec is not None and spec.origin:
        yield Path(spec.origin).parent
