"""Shared fixtures. Environment that must be set before torch is imported stands at the top."""

import copy
import functools
import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import pytest  # noqa: E402
import torch  # noqa: E402

from dicap.backbones.package import clip_package  # noqa: E402


def pytest_collection_modifyitems(items):
    """Tests that are marked gpu are skipped where there is none."""
    if not torch.cuda.is_available():
        for item in items:
            if item.get_closest_marker("gpu"):
                item.add_marker(pytest.mark.skip(reason="needs an NVIDIA GPU that torch can use"))


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory):
    """What tests remember goes into a folder of this session, not into the user's cache; DICAP_CACHE says otherwise."""
    patch = pytest.MonkeyPatch()
    if "DICAP_CACHE" not in os.environ:
        patch.setenv("DICAP_CACHE", str(tmp_path_factory.mktemp("cache")))
    yield
    patch.undo()


@pytest.fixture(scope="session")
def random_clip():
    """Makes small random CLIPs of the true architecture, frozen, fp32: random_clip("vit") or random_clip("resnet")."""

    @functools.cache
    def make(tower: str):
        vision = (2, 64, 16) if tower == "vit" else ((1, 1, 1, 1), 8, None)
        with torch.random.fork_rng():
            torch.manual_seed(11)
            clip = clip_package().model.CLIP(32, 32, *vision, 77, 49408, 128, 2, 3)
        return clip.float().requires_grad_(False).eval()

    return make


@pytest.fixture(scope="session")
def embedded_data(tmp_path_factory):
    """The embedded datasets and the caches in folders of this test session."""
    patch = pytest.MonkeyPatch()
    patch.setenv("DICAP_DATA", str(tmp_path_factory.mktemp("embedded")))
    patch.setenv("DICAP_CACHE", str(tmp_path_factory.mktemp("cache")))
    yield
    patch.undo()


RESULT = {
    "schema": 2,
    "protocol": "base2new",
    "task": "classification",
    "method": "CoOp",
    "backbone": "tiny",
    "recipe": "tiny",
    "dataset": "digits",
    "shots": 16,
    "seed": 1,
    "split": "base",
    "test_set": "test",
    "n": 10,
    "primary": "accuracy",
    "metrics": {"accuracy": 60.0, "macro_f1": 50.0},
    "measures": {
        "accuracy": {"label": "Accuracy", "unit": "%", "higher_is_better": True},
        "macro_f1": {"label": "Macro F1", "unit": "%", "higher_is_better": True},
    },
    "groups": {},
    "seconds": {"train": 5.0, "test": 1.0},
    "resumed_from_epoch": 0,
    "peak_memory_mib": 100.0,
    "config": {"SEED": 1, "OUTPUT_DIR": "a", "OPTIM": {"LR": 0.1}},
    "digests": {"config": "c", "data": "d", "weights": "w", "model": "m"},
    "versions": {},
    "method_record": {},
    "status": "complete",
}


@pytest.fixture
def make_result():
    """make_result(seed=2, value=70.0, groups={"a": 60.0}): a complete result of these fields.

    value: its primary metric. groups: that of each group, or whole groups. task="counting": a made-up one, whose primary
    measure has no unit and is better where it is lower.
    """

    def make(value=None, groups=(), task="classification", **fields):
        result = {**copy.deepcopy(RESULT), "task": task, **fields}
        if task == "counting":
            error = {"label": "Count error", "unit": "", "higher_is_better": False}
            result |= {"primary": "error", "metrics": {"error": 0.6}, "measures": {"error": error}, **fields}
        main = result["primary"]
        if value is not None:
            result["metrics"] = {**result["metrics"], main: value}
        for name, one in dict(groups).items():
            whole = one if isinstance(one, dict) else {"n": 5, "metrics": {**result["metrics"], main: one}}
            result["groups"] = {**result["groups"], name: whole}
        result["config"]["SEED"] = result["seed"]
        return result

    return make
