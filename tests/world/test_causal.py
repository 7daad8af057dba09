"""The causal model and its pictures: exogenous draws, confounding, interventions."""

import json
from pathlib import Path

import numpy as np
import pytest

from dicap import world
from dicap.world.causal import COLOURS, PATTERNS, SCENES, SHAPES, VALUES
from dicap.world.render import TONES
from dicap.world.shapes import PATTERN_DISTANCE, SHAPE_DISTANCE
from dicap.world.textures import TEXTURES, tiles

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "world.json").read_text())


@pytest.mark.parametrize("half", [slice(0, 25), slice(25, 50)], ids=["base", "new"])
def test_every_pattern_and_shape_in_both_halves(half):
    names = [name.split() for name in world.CLASSES[half]]
    assert {pattern for pattern, _ in names} == set(PATTERNS)
    assert {shape for _, shape in names} == set(SHAPES)
    assert all(sum(p == pattern for p, _ in names) == 5 for pattern in PATTERNS)


def test_classes_are_all_pairs_once():
    assert sorted(world.CLASSES) == sorted(f"{p} {s}" for p in PATTERNS for s in SHAPES)


def test_every_name_can_be_drawn():
    assert set(SHAPE_DISTANCE) == set(SHAPES)
    assert {"plain", *PATTERN_DISTANCE} == set(PATTERNS)
    assert set(TEXTURES) == set(VALUES["scene"])
    assert len(TONES) == len(VALUES["colour"])


def test_drawing_and_rendering_do_not_depend_on_the_batch():
    latents = world.sample(70, seed=9)
    pictures = world.render(latents, world.DOWNSTREAM)
    order = np.array([69, 3, 40, 0])
    assert np.array_equal(world.sample(order, seed=9), latents[order])
    assert np.array_equal(world.render(latents[order], world.DOWNSTREAM), pictures[order])
    singly = np.concatenate([world.render(latents[i : i + 1]) for i in range(5)])
    assert np.array_equal(singly, world.render(latents[:5]))
    assert not np.array_equal(world.render(world.sample(3, seed=10)), world.render(latents[:3]))


def test_nothing_is_no_error():
    assert world.render(world.sample(0)).shape == (0, 64, 64, 3)
    assert world.object_mask(world.sample(0)).shape == (0, 64, 64)


def test_golden_latents_and_pictures():
    latents = world.sample(GOLDEN["index"], seed=GOLDEN["seed"])
    for name, values in GOLDEN["latents"].items():
        np.testing.assert_allclose(latents[name], values, rtol=1e-6, err_msg=name)
    for domain in ("PRETRAIN", "DOWNSTREAM"):
        blocks = world.render(latents, getattr(world, domain)).reshape(-1, 8, 8, 8, 8, 3).mean((2, 4))  # (B, 8, 8, 3)
        np.testing.assert_allclose(blocks, GOLDEN[domain], atol=0.5, err_msg=domain)


def test_golden_scenes():
    looks = [[255 * scene.mean((1, 2)), 255 * scene.std((1, 2))] for scene in tiles()]
    np.testing.assert_allclose(looks, GOLDEN["scenes"], atol=0.05)


def test_do_class_changes_the_objects_pixels_only():
    latents = world.sample(50, seed=4)
    other = np.roll(np.arange(50), 1)
    after = world.intervene(latents, world.do({"class": other}))
    factual = world.render(latents, world.DOWNSTREAM)
    truth = world.counterfactual(latents, world.do(class_=other), world.DOWNSTREAM)
    touched = world.object_mask(latents, halo=True) | world.object_mask(after, halo=True)
    assert (factual == truth).all(-1)[~touched].all()
    assert ((factual != truth).any(-1) & touched).any((1, 2)).all()
    assert all(np.array_equal(latents[name], after[name]) for name in world.LATENTS.names if name != "label")


def test_do_scene_leaves_the_object():
    latents = world.sample(40, seed=5)
    inside = world.object_mask(latents) & (world.object_mask(latents, halo=True))
    inside &= np.roll(inside, 1, 1) & np.roll(inside, -1, 1) & np.roll(inside, 1, 2) & np.roll(inside, -1, 2)
    truth = world.counterfactual(latents, world.do(scene=(latents["scene"] + 1) % 8))
    same = (world.render(latents) == truth).all(-1)
    assert same[inside].mean() > 0.97  # what is left are edge pixels that let the scene through
    assert same.mean() < 0.7


def test_do_with_the_factual_values_changes_nothing():
    latents = world.sample(20, seed=6)
    action = world.do(
        {"class": latents["label"], "scene": [SCENES[s] for s in latents["scene"]], "colour": latents["colour"]}
    )
    assert np.array_equal(world.counterfactual(latents, action), world.render(latents))


@pytest.mark.parametrize(
    ("action", "message"),
    [
        ({"klass": 3}, "unknown variable; known are class, label, scene"),
        ({"class": "striped stars"}, "'striped stars'.*known are"),
        ({"scene": "moonlight"}, "known are grass"),
        ({"class": 50}, r"0\.\.49"),
        ({"colour": -1}, r"0\.\.15"),
    ],
)
def test_an_unknown_intervention(action, message):
    with pytest.raises(ValueError, match=message):
        world.intervene(world.sample(2), world.do(action))


def test_rho_ties_scene_to_class():
    latents = world.sample(4000, seed=8)
    shares = []
    tied_before = np.zeros(len(latents), bool)
    for rho in (0.0, 0.5, 1.0):
        tied = world.confound(latents, rho)["scene"] == world.TIED_SCENE[latents["label"]]
        assert (tied | ~tied_before).all()  # more rho only ties more pictures
        tied_before = tied
        shares.append(tied.mean())
    assert shares[2] == 1
    np.testing.assert_allclose(shares[:2], [1 / 8, 0.5 + 0.5 / 8], atol=0.03)
    with pytest.raises(ValueError, match="rho must be in"):
        world.confound(latents, 1.1)


def test_class_and_scene_are_independent_and_uniform():
    latents = world.sample(20000, seed=2)
    table = np.zeros((50, 8))
    np.add.at(table, (latents["label"], latents["scene"]), 1)
    assert ((table - 50) ** 2 / 50).sum() < 500  # chi square with 399 degrees of freedom: mean 399, deviation 28
    assert set(latents["colour"]) == set(range(len(COLOURS)))


def test_the_object_stays_inside_the_picture():
    mask = world.object_mask(world.sample(500, seed=3))
    edge = mask[:, 0].sum() + mask[:, -1].sum() + mask[:, :, 0].sum() + mask[:, :, -1].sum()
    assert edge / mask.sum() < 0.001
    assert (mask.mean((1, 2)) > 0.02).all()


def test_domain_knobs_do_what_they_say():
    latents = world.sample(64, seed=1)
    clean, weak = (world.render(latents, world.Domain(c, 0.0)).astype(float) for c in (1.0, 0.5))
    inner = (clean > 5) & (clean < 250)
    np.testing.assert_allclose((weak - 127.5)[inner], 0.5 * (clean - 127.5)[inner], atol=1.01)
    noisy = world.render(latents, world.Domain(0.2, 0.1)).astype(float) - world.render(latents, world.Domain(0.2, 0.0))
    assert abs(noisy.std() / 255 - 0.1) < 0.003
    assert abs(noisy.mean()) < 0.2
