"""Data with a known truth: features of images whose scenes are tied to their classes, and a fitted generator of each kind.

`import reference`, `import scm` and `import mutations` in this folder's tests are loaded by path, so that no folder
of tests (datasets, engine ...) becomes importable.
"""
# ruff: noqa: E402

import importlib.util
import sys
from pathlib import Path

import pytest
import torch

HERE = Path(__file__).parent


def _load(name: str, path: Path) -> None:
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, path)
        sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[name])


_load("reference", HERE.parent / "reference.py")
_load("scm", HERE / "scm.py")
_load("mutations", HERE / "mutations.py")

import scm

from dicap.counterfactual import CounterfactualGenerator, choose_targets
from dicap.counterfactual.config import generator_options

GENERATORS = generator_options()["generator"][2]


@pytest.fixture(scope="session")
def images():
    """Six classes of eight images in two views, with known truth."""
    return scm.scenes(rho=0.5, patterns=2, shapes=3, shots=8, views=2, width=32, seed=3)


@pytest.fixture(scope="session")
def targets(images):
    return choose_targets(images.texts, images.labels, 2, "top3", torch.Generator().manual_seed(0))


@pytest.fixture(scope="session", params=GENERATORS)
def generator(request, images):
    """Every generator of the table, trained for a moment."""
    config = scm.small(generator=request.param)
    return CounterfactualGenerator(config).fit(images.features, images.labels, images.texts, logit_scale=20.0)


@pytest.fixture(scope="session")
def gauss(images):
    return CounterfactualGenerator(scm.small(generator="gauss")).fit(images.features, images.labels, images.texts)


@pytest.fixture(autouse=True)
def untouched_global_randomness():
    """No test of this folder may move torch's, numpy's or Python's global random state."""
    import random

    import numpy as np

    before = torch.get_rng_state(), np.random.get_state(), random.getstate()
    yield
    assert torch.equal(before[0], torch.get_rng_state())
    assert all(np.array_equal(a, b) for a, b in zip(before[1], np.random.get_state()))
    assert before[2] == random.getstate()
