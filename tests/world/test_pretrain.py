"""Pretraining: batches, the cut text tower, the loss with its ignored pairs, and resuming."""

import pytest
import torch

from dicap.backbones import tiny
from dicap.backbones.package import clip_package
from dicap.world import pretrain as module
from dicap.world.files import SEED_OFFSET
from dicap.world.pretrain import (
    ARCHITECTURE,
    LENGTH,
    Recipe,
    contrastive_loss,
    encode_text,
    make_batch,
    pretrain,
    token_ids,
)

RECIPE = Recipe(pairs=32, batch=8, digits=2, warmup=2)
IDS = token_ids()


def test_a_batch_depends_on_its_number_alone():
    first, again, other = (make_batch(RECIPE, IDS, step) for step in (2, 2, 3))
    assert all(torch.equal(a, b) for a, b in zip(first, again))
    assert not torch.equal(first[0], other[0])
    images, tokens, positions, ignore = first
    assert images.shape == (8, 3, 64, 64) and tokens.shape == positions.shape == (8, LENGTH)
    assert not ignore.diagonal().any()
    assert positions.max() < 77 and (positions[:, 0] == 0).all()


def test_late_positions_are_learned_too():
    positions = make_batch(Recipe(pairs=2000, batch=500, digits=10), IDS, 0)[2]
    assert set(range(70)) <= set(positions.ravel().tolist()) <= set(range(77))


def test_the_benchmarks_worlds_are_not_trained_on():
    from dicap.world.evaluate import HELD_OUT_SEED

    assert Recipe().seed < SEED_OFFSET < HELD_OUT_SEED
    with pytest.raises(ValueError, match="seed must be"):
        Recipe(seed=SEED_OFFSET)


def test_cut_text_equals_clips_own():
    torch.manual_seed(0)
    model = clip_package().model.CLIP(**ARCHITECTURE, vocab_size=len(IDS)).float().eval()
    tokens = make_batch(RECIPE, IDS, 0)[1]
    padded = torch.nn.functional.pad(tokens, (0, 77 - LENGTH))
    with torch.no_grad():
        expected = model.encode_text(padded)
        ours = encode_text(model, tokens, torch.arange(LENGTH).expand_as(tokens))
    torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-5)


def test_ignored_pairs_have_no_gradient():
    torch.manual_seed(0)
    logit_scale = torch.tensor(2.0)
    f, text = torch.randn(3, 4), torch.randn(3, 4)
    ignore = torch.zeros(3, 3, dtype=torch.bool)
    ignore[0, 1] = True
    unit_f, unit_text = (torch.nn.functional.normalize(x, dim=-1) for x in (f, text))
    logits = logit_scale.exp() * unit_f @ unit_text.T
    rows = [logits[0, [0, 2]].logsumexp(0), logits[1].logsumexp(0), logits[2].logsumexp(0)]
    columns = [logits[:, 0].logsumexp(0), logits[[1, 2], 1].logsumexp(0), logits[:, 2].logsumexp(0)]
    expected = (sum(rows) + sum(columns) - 2 * logits.trace()) / 6
    torch.testing.assert_close(contrastive_loss(logit_scale, f, text, ignore), expected)


def test_the_vocabulary_covers_names_and_templates():
    from dicap.world.captions import DIGITS
    from dicap.world.causal import CLASSES, SCENES

    texts = [f"a photo of a {name}." for name in (*CLASSES, *SCENES, *DIGITS)] + ["X X X X", "this is a picture of the"]
    used = set(clip_package().tokenize(texts).ravel().tolist())
    assert used <= set(IDS)


def test_resumed_equals_never_stopped(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "evaluate", lambda *a, **k: {})
    pretrain(tmp_path / "a.safetensors", tmp_path / "a", RECIPE, check_every=1)
    for _ in range(RECIPE.steps):
        pretrain(tmp_path / "b.safetensors", tmp_path / "b", RECIPE, minutes=0, check_every=1)
    whole, parts = tiny.state_dict(tmp_path / "a.safetensors"), tiny.state_dict(tmp_path / "b.safetensors")
    assert all(torch.equal(whole[key], parts[key]) for key in whole)
    assert tiny.metadata(tmp_path / "b.safetensors")["complete"] == "true"
    assert len((tmp_path / "b" / "log.jsonl").read_text().splitlines()) == RECIPE.steps
