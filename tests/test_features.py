"""The cache of frozen features: encoded once; a broken file or a folder that cannot be written costs time and no run."""
import pytest
import torch
from torch.utils.data import DataLoader

from dicap.features import encode


class Counting(torch.nn.Module):
    """encode_image sums the pixels, and counts its calls."""

    calls = 0

    def encode_image(self, image):
        self.calls += 1
        return image.flatten(1).sum(1, keepdim=True)


@pytest.fixture
def encoded(tmp_path, monkeypatch):
    """(model, a call that encodes three images in two views)."""
    monkeypatch.setenv("DICAP_CACHE", str(tmp_path / "cache"))
    images = torch.arange(6.0)[:, None, None, None].expand(6, 3, 2, 2)
    model, loader = Counting(), DataLoader([{"img": image} for image in images], 6)
    return model, lambda seed=1: encode(model, loader, torch.device("cpu"), 2, {"seed": seed})


def test_features_are_encoded_once(encoded, tmp_path):
    model, features = encoded
    first = features()
    assert torch.equal(first, 12 * torch.arange(6.0).view(3, 2, 1))
    assert torch.equal(features(), first) and model.calls == 1
    features(2)
    assert model.calls == 2 and len(list((tmp_path / "cache/features").iterdir())) == 2  # and nothing temporary


@pytest.mark.parametrize("content", [b"", b"cut short", b'\x02\x00\x00\x00\x00\x00\x00\x00{}'])
def test_a_broken_file_is_encoded_and_written_again(encoded, tmp_path, caplog, content):
    model, features = encoded
    first = features()
    file, = (tmp_path / "cache/features").iterdir()
    whole = file.read_bytes()
    file.write_bytes(content)
    assert torch.equal(features(), first) and model.calls == 2
    assert file.read_bytes() == whole and "cannot be read" in caplog.text


def test_a_cache_that_cannot_be_written_is_a_warning(encoded, tmp_path, caplog):
    (tmp_path / "cache").write_text("a file where a folder should be")
    assert encoded[1]().shape == (3, 2, 1)
    assert "features are not cached" in caplog.text and "cache" in caplog.text
