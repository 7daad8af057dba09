"""The `clip` package, imported once and only here.

PyPI's distributions of OpenAI's CLIP (clip-anytorch 2.6.0, openai-clip 1.0.1) begin with `from pkg_resources import
packaging`; setuptools 82 dropped pkg_resources. An inert stand-in during that one import keeps users' setuptools as it is.
In a fork of CoOp, `import clip` finds the fork's own edited copy: only the parts named in docs/architecture.md are touched.
"""

import importlib
import importlib.util
import sys
import types


def clip_package() -> types.ModuleType:
    """The imported `clip` package; `clip_package().model.CLIP` is OpenAI's architecture.

    Raises:
        ImportError: no `clip` package, or one of another project (without `model.CLIP`).
    """
    if "clip" not in sys.modules:
        _import_clip()
    package = sys.modules["clip"]
    model = importlib.import_module("clip.model")
    if not hasattr(model, "CLIP"):
        raise ImportError(f"the package clip at {package.__file__} is not OpenAI's CLIP; pip install clip-anytorch")
    return package


def _import_clip() -> None:
    stand_in = None
    if "pkg_resources" not in sys.modules and importlib.util.find_spec("pkg_resources") is None:
        import packaging.version

        stand_in = types.ModuleType("pkg_resources")
        stand_in.packaging = packaging  # type: ignore[attr-defined]
        sys.modules["pkg_resources"] = stand_in
    try:
        importlib.import_module("clip")
    except ModuleNotFoundError as error:
        raise ImportError(f"CLIP cannot be imported ({error}); pip install clip-anytorch") from error
    finally:
        if stand_in is not None:
            del sys.modules["pkg_resources"]
