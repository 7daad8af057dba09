"""Tests of the built-in engine: the toy dataset and trainer, and child processes."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

import dicap.engine  # noqa: F401  these are its tests, whatever Dassl is installed

HERE = Path(__file__).parent


def _load(name):
    spec = importlib.util.spec_from_file_location(name, HERE / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def toy():
    """The module toy.py, imported once."""
    return sys.modules.get("toy") or _load("toy")


@pytest.fixture(scope="session")
def pictures(toy, tmp_path_factory):
    """Folder of the toy's pictures."""
    root = str(tmp_path_factory.mktemp("pictures"))
    toy.make(root)
    return root


@pytest.fixture(scope="session")
def python():
    """Runs Python on arguments in a child process; gives its output, or with ok=False the finished process."""

    def run(*arguments, ok=True, cwd=HERE, **environment):
        path = os.pathsep.join([str(HERE.parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])])
        kept = {key: value for key, value in os.environ.items() if key != "DICAP_ENGINE"}
        environment = {**kept, "PYTHONPATH": path, "OMP_WAIT_POLICY": "PASSIVE", "OMP_NUM_THREADS": "1", **environment}
        done = subprocess.run(
            [sys.executable, *map(str, arguments)],
            capture_output=True,
            text=True,
            timeout=120,
            cwd=cwd,
            env=environment,
        )
        if not ok:
            return done
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    return run
