"""Domain shifts: one factor moves out of what any training shows, all else stays."""

import numpy as np
import pytest
from PIL import Image

from dicap import world
from dicap.world import files
from dicap.world.causal import SCENES, UNSEEN_SCENES, VALUES
from dicap.world.render import TONES
from dicap.world.textures import TILE, tiles

TEST_ONLY = {"per_class_train": 0, "per_class_val": 0, "per_class_test": 2}
FACTORS = {"scenes": "scene", "colours": "colour"}


def others(name):
    return [field for field in world.LATENTS.names if field != name]


@pytest.mark.parametrize(("shift", "factor"), FACTORS.items())
def test_a_shift_moves_its_factor_alone(shift, factor):
    latents = world.sample(300, seed=5)
    after = world.shift(latents, shift)
    assert np.array_equal(after[factor], latents[factor] + 8)  # one unseen value for each known one
    assert after[factor].max() == len(VALUES[factor]) - 1
    assert np.array_equal(after[others(factor)], latents[others(factor)])
    assert np.array_equal(world.shift(latents, ""), latents)


def test_an_unknown_shift():
    with pytest.raises(ValueError, match="unknown shift 'fog'; known are '', 'scenes', 'colours'"):
        world.shift(world.sample(2), "fog")


def test_a_shift_is_an_intervention():
    latents = world.sample(5, seed=5)
    by_name = world.do(scene=[UNSEEN_SCENES[scene] for scene in latents["scene"]])
    assert np.array_equal(world.render(world.shift(latents, "scenes")), world.counterfactual(latents, by_name))


def test_no_training_draws_what_is_unseen():
    drawn = world.sample(5000, seed=3)
    assert set(drawn["scene"]) == set(drawn["colour"]) == set(range(8))
    assert world.confound(drawn, 0.7)["scene"].max() < 8


def test_unseen_tones_stay_apart_under_any_tint():
    tint = np.abs(world.sample(5000, seed=1)["tint"]).max()
    known, unseen = TONES[:8].reshape(-1, 3), TONES[8:].reshape(-1, 3)
    assert np.abs(unseen[:, None] - known).max(-1).min() > 2 * tint


def test_unseen_scenes_look_like_no_known_one():
    """Every window of an unseen scene is farther from each known scene than that scene's own windows ever are."""
    corners = [(y, x) for y in range(0, TILE, 64) for x in range(0, TILE, 64)]
    windows = np.stack([tiles()[..., y : y + 64, x : x + 64] for y, x in corners], 1)  # (16, B, 3, 64, 64)
    looks = np.concatenate([windows.mean((3, 4)), windows.std((3, 4))], -1)  # (16, B, 6)
    centres = looks[:8].mean(1)
    spread = np.linalg.norm(looks[:8] - centres[:, None], axis=-1).max(1)  # (8,)
    far = np.linalg.norm(looks[8:, :, None] - centres, axis=-1).min((0, 1))  # (8,) by known scene
    assert (far > 1.5 * spread).all(), dict(zip(SCENES, far / spread))


def test_unseen_scenes_are_periodic():
    whole = tiles()[8:, :, :TILE, :TILE]
    for lines in (whole, whole.swapaxes(2, 3)):
        seam = np.abs(lines[:, :, 0] - lines[:, :, -1]).mean((1, 2))  # (8,)
        inside = np.abs(np.diff(lines, axis=2)).mean((1, 3))  # (8, TILE - 1)
        assert (seam < 1.05 * inside.max(1)).all()


def test_new_colours_change_the_objects_pixels_only():
    latents = world.sample(60, seed=4)
    before, after = (world.render(rows, world.DOWNSTREAM) for rows in (latents, world.shift(latents, "colours")))
    mask = world.object_mask(latents)
    changed = (before != after).any(-1)
    assert not changed[~mask].any()
    assert changed[mask].mean() > 0.99


def test_new_scenes_leave_the_object():
    latents = world.sample(60, seed=4)
    before, after = (world.render(rows, world.DOWNSTREAM) for rows in (latents, world.shift(latents, "scenes")))
    mask = world.object_mask(latents)
    inner = mask & np.roll(mask, 1, 1) & np.roll(mask, -1, 1) & np.roll(mask, 1, 2) & np.roll(mask, -1, 2)
    same = (before == after).all(-1)
    assert same[inner].mean() > 0.97  # what is left are edge pixels that let the scene through
    assert same[~world.object_mask(latents, halo=True)].mean() < 0.05


def test_the_noisy_camera_amplifies_the_same_noise():
    latents = world.sample(40, seed=4)
    clean, less, more = (
        world.render(latents, world.Domain(0.3, noise)).astype(float)
        for noise in (0.0, world.DOWNSTREAM.noise / 4, world.NOISY.noise / 4)
    )
    inner = (more > 0) & (more < 255)
    assert world.NOISY.contrast == world.DOWNSTREAM.contrast
    ratio = world.NOISY.noise / world.DOWNSTREAM.noise
    np.testing.assert_allclose((more - clean)[inner], (ratio * (less - clean))[inner], atol=1 + ratio)


@pytest.mark.parametrize(("shift", "factor"), FACTORS.items())
def test_folders_pair_with_the_test_split(shift, factor, tmp_path):
    plain, shifted = (world.write_causal_shapes(tmp_path, world.Knobs(**TEST_ONLY, shift=name)) for name in ("", shift))
    before, after = world.read_manifest(plain), world.read_manifest(shifted)
    assert [row["path"] for row in after] == [row["path"] for row in before]
    assert [VALUES[factor].index(row[factor]) for row in after] == [VALUES[factor].index(r[factor]) + 8 for r in before]
    paths = [row["path"] for row in after]
    latents = world.latents_of(shifted, paths)
    assert np.array_equal(latents, world.shift(world.latents_of(plain, paths), shift))
    assert world.read_knobs(shifted).shift == shift
    truth = world.rendered_truth(shifted, paths[:9], world.do({"class": latents["label"][:9]}))
    assert all(np.array_equal(np.asarray(Image.open(shifted / "images" / p)), t) for p, t in zip(paths, truth))


def test_the_default_world_keeps_its_folder():
    """Finished runs and published figures name this folder's pictures."""
    assert files._digest(world.Knobs().to_dict()) == "68e759069993"
    assert files._digest(world.Knobs(shift="scenes").to_dict()) != "68e759069993"
    assert "shift" not in world.Knobs().to_dict()
