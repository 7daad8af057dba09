"""The shipped weights: form, honesty of the card, and the goals on pictures never seen."""

import hashlib
import json
import re

import pytest
import torch

from dicap.backbones import tiny
from dicap.backbones.package import clip_package
from dicap.world.evaluate import evaluate, write_card

CARD = tiny.PATH.with_suffix(".md")


@pytest.fixture(scope="module")
def weights():
    return tiny.state_dict()


def test_form(weights):
    assert tiny.PATH.stat().st_size <= 8 * 2**20
    assert weights["token_embedding.weight"].shape == (49408, 128)
    assert weights["positional_embedding"].shape == (77, 128)
    assert all(value.isfinite().all() for value in weights.values())
    stored = torch.zeros(49408, dtype=torch.bool)
    stored[tiny.stored_ids()] = True
    norms = weights["token_embedding.weight"].norm(dim=1)
    assert (norms[~stored] == 0).all() and (norms[stored] > 0).all()


def test_it_is_openais_architecture(weights):
    model = clip_package().model.build_model(dict(weights)).float()
    assert model.visual.input_resolution == 64
    assert model.encode_image(torch.zeros(1, 3, 64, 64)).shape == (1, 128)
    assert model.transformer.resblocks[0].attn.num_heads == 2 and len(model.transformer.resblocks) == 3
    assert 1 < model.logit_scale.exp() <= 100


def test_the_card_is_about_this_file():
    text = CARD.read_text()
    assert hashlib.sha256(tiny.PATH.read_bytes()).hexdigest() in text
    facts = tiny.metadata()
    assert facts["complete"] == "true"
    assert f"{int(facts['pairs']):,} pairs" in text
    assert json.loads(facts["versions"])["torch"] in text


def test_the_template_writes_this_card(tmp_path):
    path = tmp_path / "tiny.safetensors"
    path.write_bytes(tiny.PATH.read_bytes())
    rows = re.findall(r"^\| `(\w+)` \| ([\d.]+) \|", CARD.read_text(), re.M)
    card = write_card(path, {name: float(value) for name, value in rows})
    assert card.read_text() == CARD.read_text()


@pytest.fixture(scope="module")
def figures():
    return evaluate(count=600)


def test_goals_in_its_own_domain(figures):
    assert figures["classes"] >= 90
    assert figures["scenes"] >= 98
    assert figures["real_digits"] >= 65


def test_the_benchmark_leaves_room(figures):
    assert 35 <= figures["gap_base"] <= 65
    assert 35 <= figures["gap_new"] <= 65


def test_the_cards_figures_are_these(figures):
    rows = dict(re.findall(r"^\| `(\w+)` \| ([\d.]+) \|", CARD.read_text(), re.M))
    assert set(rows) == set(figures)
    far = {name: value for name, value in figures.items() if abs(float(rows[name]) - value) > 8}
    assert not far  # of 600 pictures, 300 in each half: a standard deviation of up to 3 points


def test_round_trip(weights, tmp_path):
    tiny.save(weights, tmp_path / "copy.safetensors", tiny.stored_ids(), tiny.metadata())
    again = tiny.state_dict(tmp_path / "copy.safetensors")
    assert all(torch.equal(weights[key], again[key]) for key in weights)
    assert [p.name for p in tmp_path.iterdir()] == ["copy.safetensors"]


def test_missing_or_foreign_file(tmp_path):
    with pytest.raises(FileNotFoundError, match="dicap.world pretrain"):
        tiny.state_dict(tmp_path / "none.safetensors")
    from safetensors.torch import save_file

    save_file({"x": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match="is not a file of the tiny CLIP"):
        tiny.state_dict(tmp_path / "other.safetensors")
