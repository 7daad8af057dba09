"""Shared fixtures. Environment that must be set before torch is imported stands at the top."""

import functools
import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import pytest  # noqa: E402
import torch  # noqa: E402

from dicap.backbones.package import clip_package  # noqa: E402


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
