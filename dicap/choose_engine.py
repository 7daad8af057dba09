"""Which engine answers to `dassl`: an installed Dassl.pytorch, or the built-in one (dicap.engine).

An installed Dassl is tried in a process of its own before it is chosen: the last release cannot train on a current
torch (a schedule with warm-up and a resumed checkpoint both fail), and a half-imported package could not be taken back.
The choice is noted in the environment variable DICAP_ENGINE, which child processes inherit.
"""

import functools
import importlib.util
import logging
import os
import subprocess
import sys
from typing import Any, NamedTuple

_CHOICES = ("auto", "dassl", "builtin")
_INSTALL_DASSL = 'pip install --no-deps "git+https://github.com/KaiyangZhou/Dassl.pytorch@c61a1b5"'

_PROBE = """
import os, sys, tempfile, torch
sys.path[:] = sys.argv[1:]
step = "importing it"
try:
    import dassl.data, dassl.engine, dassl.evaluation
    from dassl.config import get_cfg_default
    from dassl.optim import build_lr_scheduler, build_optimizer
    from dassl.utils import load_checkpoint, save_checkpoint
    step = "building a schedule with warm-up"
    cfg = get_cfg_default().OPTIM
    cfg.NAME, cfg.LR_SCHEDULER, cfg.WARMUP_EPOCH, cfg.WARMUP_TYPE = "sgd", "cosine", 1, "constant"
    optimizer = build_optimizer(torch.nn.Linear(1, 1), cfg)
    scheduler = build_lr_scheduler(optimizer, cfg)
    step = "saving and loading a checkpoint"
    with tempfile.TemporaryDirectory() as folder:
        states = {"optimizer": optimizer.state_dict(), "scheduler": scheduler.state_dict()}
        save_checkpoint({"state_dict": {}, "epoch": 1, **states}, folder)
        load_checkpoint(os.path.join(folder, "model.pth.tar-1"))
    cause = ""
except BaseException as error:
    cause = f"{step} failed with {type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
    missing = isinstance(error, ModuleNotFoundError) and error.name
    way_out = f"pip install {missing}" if missing else "install a torch that it can run on (torch < 2.6)"
    cause = f"on torch {torch.__version__}, {cause} (way out: {way_out})"
print("DICAP", cause)
"""


class EngineChoice(NamedTuple):
    name: str  # builtin or dassl
    reason: str  # one sentence for the log


class EngineError(RuntimeError):
    """The engine that was asked for cannot run; the message has the cause and the way out."""


def choose_engine(choice: str = "auto") -> EngineChoice:
    """Chooses the engine of this process and its children. May be called again: it then reports what runs.

    Args:
        choice: dassl, builtin, or auto: what DICAP_ENGINE says, else an installed Dassl that can run, else builtin.
    Raises EngineError: unknown choice, no Dassl that can run, or the other engine is in use already.
    """
    reason = "as asked"
    if choice == "auto" and (asked := _asked_by_environment()):
        choice, reason = asked, "as DICAP_ENGINE says"
    if choice not in _CHOICES:
        raise EngineError(f"engine {choice}: there are {', '.join(_CHOICES)} (option --engine, or DICAP_ENGINE)")
    if running := _running():
        if choice not in ("auto", running.name):
            raise EngineError(
                f"the engine {choice} was asked for, but {running.name} is in use ({running.reason}): "
                f"choose before anything imports dassl, or start with DICAP_ENGINE={choice}"
            )
        return running
    cause = ""
    if choice != "builtin":
        place = _installed_dassl()
        cause = _why_not(place, *sys.path) if place else "no Dassl is installed"
        if not cause:
            os.environ["DICAP_ENGINE"] = "dassl"
            level = logging.root.manager.disable
            importlib.import_module("dassl.engine")
            logging.disable(level)  # Dassl 0.6.3 switches off all warnings of the process, and what is below them
            reason = reason if choice == "dassl" else f"an installed Dassl, {place}, that can run here"
            return EngineChoice("dassl", reason)
        if choice == "dassl":
            hint = "" if place else f" (way out: {_INSTALL_DASSL})"
            raise EngineError(f"Dassl cannot be the engine: {cause}{hint}. Or use --engine builtin")
    importlib.import_module("dicap.engine").install()
    return EngineChoice("builtin", cause or reason)


def _asked_by_environment() -> str:
    """DICAP_ENGINE as the user or a parent process set it; the built-in engine sets it too, by being imported."""
    engine = sys.modules.get("dicap.engine")
    by_import = engine is not None and engine.is_installed() and not engine.ASKED_FOR
    return "" if by_import else os.environ.get("DICAP_ENGINE", "")


def _running() -> EngineChoice | None:
    """The engine that can no longer be changed in this process."""
    dassl = sys.modules.get("dassl")
    if dassl is None:
        return None
    if dassl is sys.modules.get("dicap.engine"):
        return EngineChoice("builtin", "already imported")
    return EngineChoice("dassl", f"already imported from {getattr(dassl, '__file__', None)}")


def _installed_dassl() -> str | None:
    """Where a Dassl is installed. The built-in engine steps aside for the question; nothing has used it yet."""
    engine = sys.modules.get("dicap.engine")
    if engine is not None and engine.is_installed():
        engine.uninstall()
    spec = importlib.util.find_spec("dassl")
    return (spec.origin or ", ".join(spec.submodule_search_locations or ())) if spec else None


@functools.cache
def _why_not(place: str, *path: str) -> str:
    """Why the Dassl at that place cannot run on the installed torch; empty if it can. Tried in another process."""
    options: dict[str, Any] = {"capture_output": True, "text": True, "stdin": subprocess.DEVNULL, "timeout": 300}
    try:
        done = subprocess.run([sys.executable, "-c", _PROBE, *path], env={**os.environ, "DICAP_ENGINE": ""}, **options)
    except subprocess.TimeoutExpired:
        return f"the installed Dassl ({place}) did not answer for 300 seconds"
    answers = [line for line in done.stdout.splitlines() if line.startswith("DICAP ")]
    if not answers:
        return f"the installed Dassl ({place}) ended Python with code {done.returncode}"
    cause = answers[-1].removeprefix("DICAP ")
    return f"the installed Dassl ({place}) cannot run: {cause}" if cause else ""
