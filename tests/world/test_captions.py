"""Captions say what is true, and `fits` knows which other pictures they fit."""

import numpy as np
import pytest

from dicap import world
from dicap.world import captions
from dicap.world.causal import COLOURS, PATTERNS, SCENES, SHAPES
from dicap.world.glyphs import FONTS, draw_digits, enlarge


@pytest.fixture
def rng():
    return np.random.Generator(np.random.Philox(key=3))


def test_captions_say_exactly_what_they_claim(rng):
    pictures, digits = captions.world_attributes(world.sample(600, 1)), captions.digit_attributes(np.arange(100) % 10)
    attributes = np.concatenate([pictures, digits])
    texts, mentioned = captions.write_captions(attributes, rng)
    tables = (PATTERNS, SHAPES, COLOURS, SCENES, captions.DIGITS)
    for text, said, true in zip(texts, mentioned, attributes):
        words = text.replace(".", " ").split()
        for column, table in enumerate(tables, 1):
            named = [word for word in words if word in table and not (word == "one" and said[0] == captions.WORLD)]
            assert named == ([table[said[column]]] if said[column] >= 0 else [])
            assert said[column] in (-1, true[column])


def test_downstream_templates_are_among_them(rng):
    pictures, digits = captions.world_attributes(world.sample(2000, 2)), captions.digit_attributes(np.arange(200) % 10)
    texts = {text for attributes in (pictures, digits) for text in captions.write_captions(attributes, rng)[0]}
    assert sum(captions.TEMPLATE.format(name) in texts for name in world.CLASSES) > 40
    assert all(captions.DIGIT_TEMPLATE.format(name) in texts for name in captions.DIGITS)
    assert all(captions.SCENE_TEMPLATE.format(name) in texts for name in SCENES)


def test_fits():
    classes = ["striped star", "striped star", "plain star", "dotted fish"]
    scenes = ["sand", "grass", "sand", "sand"]
    latents = world.intervene(world.sample(4, 1), world.do({"class": classes, "scene": scenes}))
    attributes = np.concatenate([captions.world_attributes(latents), captions.digit_attributes(np.array([1]))])
    mentioned = attributes.copy()
    mentioned[0, [3, 4]] = -1  # "striped star"
    mentioned[2, [1, 3]] = -1  # "star on sand"
    mentioned[3, [1, 2, 3]] = -1  # "sand"
    expected = np.array([[1, 0, 1, 1, 0], [1, 1, 0, 0, 0], [0, 0, 1, 1, 0], [0, 0, 0, 1, 0], [0, 0, 0, 0, 1]], bool)
    assert np.array_equal(captions.fits(mentioned, attributes), expected)


def test_digits_are_drawn_from_their_generator(rng):
    digits = np.arange(20) % 10
    first = draw_digits(digits, np.random.Generator(np.random.Philox(key=1)))
    assert first.shape == (20, 3, 64, 64)
    assert np.array_equal(first, draw_digits(digits, np.random.Generator(np.random.Philox(key=1))))
    assert not np.array_equal(first, draw_digits(digits, rng))
    assert (first.reshape(20, -1).astype(float).std(1) > 5).all()


def test_matplotlib_ships_the_fonts():
    from pathlib import Path

    import matplotlib

    folder = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    assert all((folder / f"{name}.ttf").is_file() for name in FONTS)


def test_enlarge_keeps_range_and_mean():
    import torch

    bitmaps = torch.rand(3, 8, 8, generator=torch.Generator().manual_seed(0))
    up = enlarge(bitmaps)
    assert up.shape == (3, 64, 64)
    assert 0 <= up.min() and up.max() <= 1
    assert torch.allclose(up.mean((1, 2)), bitmaps.mean((1, 2)), atol=0.03)
