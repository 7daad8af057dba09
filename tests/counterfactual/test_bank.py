"""The bank of counterfactuals - what it holds, its cache, its contradictions, its loss - and targets and stand-ins."""

import json

import pytest
import scm
import torch

from dicap.counterfactual import CounterfactualBank, CounterfactualGenerator, choose_targets
from dicap.counterfactual.bank import CONTROLS, control_counterfactuals


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def build(images, **settings):
    given = {"labels": images.labels, "conditions": images.texts, "config": scm.small(generator="gauss"), "seed": 4}
    return CounterfactualBank.build(images.features, **(given | settings))


def every_pair(images):
    """Indices of all images and views, (N * V,) each."""
    count, views, _ = images.features.shape
    return torch.arange(count).repeat_interleave(views), torch.arange(views).repeat(count)


@pytest.mark.parametrize("train_on", ["full", "minimal"])
def test_a_bank_answers_what_its_generator_does_at_once_or_at_each_call(images, train_on):
    bank, lazy = (build(images, m=2, train_on=train_on, lazy=lazy) for lazy in (False, True))
    assert bank.features.shape == (48, 2, 2, 32) and bank.valid.shape == (48, 2, 2) and bank.target.shape == (48, 2)
    assert lazy.features is None and lazy.valid is None
    drawn = choose_targets(images.texts, images.labels, 2, "random", seeded(4))
    assert torch.equal(bank.target, drawn) and torch.equal(lazy.target, drawn)
    index, view = torch.tensor([7, 0, 47, 7]), torch.tensor([1, 0, 1, 0])
    cf, valid, target = bank(index, view)
    alone = bank.generator.counterfactual(images.features[index, view], images.labels[index], target, train_on=train_on)
    for features, judged in ((cf, valid), lazy(index, view)[:2]):
        assert torch.allclose(features, alone.features, atol=1e-5) and torch.equal(judged, alone.valid)
    assert bank.figures["stage1_seconds"] > 0 and 0 <= bank.figures["valid_full"] <= 1


@pytest.mark.parametrize("control", CONTROLS)
def test_stand_ins_are_drawn_from_all_views_and_scored_as_what_they_are(images, control):
    bank = build(images, control=control, m=2)
    index, view = every_pair(images)
    drawn = choose_targets(images.texts, images.labels, 2, "random", seeded(4))
    features, labels = images.features[index, view], images.labels[index]
    expected, valid = control_counterfactuals(control, bank.generator, features, labels, drawn[index], seed=4)
    cf, judged, target = bank(index, view)
    assert torch.equal(cf, expected) and torch.equal(judged, valid)
    own_class = images.labels[:, None].expand(48, 2)
    assert torch.equal(target, (own_class if control == "random-cf" else drawn)[index])


def test_the_truth_is_taken_as_it_is(images):
    asked = []

    def truth(target):
        asked.append(target)
        return torch.ones(48, 2, 3, 32)

    bank = build(images, control="truth", truth=truth)
    assert torch.equal(asked[0], bank.target) and bool(bank.valid.all())
    assert torch.equal(bank(*every_pair(images))[0], torch.ones(96, 3, 32))


def test_one_text_an_image_needs_no_labels(images):
    captions = images.texts[images.labels]
    bank = build(images, labels=None, conditions=captions, m=9)
    assert bank.target.shape == (48, 5)  # six different texts
    assert bool((captions[bank.target] != captions[:, None]).any(-1).all())
    by_label = bank.generator.counterfactual(
        images.features[:, 0], torch.arange(48), bank.target, conditions=captions
    ).features
    assert torch.allclose(bank.features[:, 0], by_label, atol=1e-5)
    noise = build(images, labels=None, conditions=captions, control="random-cf")
    assert torch.equal(captions[noise.target], captions[:, None].expand(48, 3, 32))


def test_no_more_targets_than_other_classes(images):
    assert build(images, m=99).target.shape == (48, 5)


def test_the_cache_answers_for_the_same_content_alone(images, tmp_path, monkeypatch):
    first = build(images, cache=tmp_path)
    files = sorted(tmp_path.iterdir())
    assert [file.suffix for file in files] == [".json", ".safetensors"]
    other = build(images, cache=tmp_path, target="top1")  # another diagnosis of the same generator
    assert len(list(tmp_path.iterdir())) == 3 and not torch.equal(other.target, first.target)
    build(images, cache=tmp_path, labels=images.labels.flip(0))
    assert len(list(tmp_path.iterdir())) == 5
    monkeypatch.setattr(CounterfactualGenerator, "fit", lambda *_, **__: pytest.fail("fitted again"))
    monkeypatch.setattr("dicap.counterfactual.bank.diagnose", lambda *_: pytest.fail("diagnosed again"))
    again = build(images, cache=tmp_path)
    assert torch.equal(again.features, first.features) and torch.equal(again.valid, first.valid)
    assert again.figures | {"stage1_seconds": 0} == first.figures | {"stage1_seconds": 0}


@pytest.mark.parametrize("content", [b"", b"[1]", b"cut short", b"\xff"])
def test_damaged_files_of_the_cache_are_made_again_with_a_warning(images, tmp_path, caplog, content):
    first = build(images, cache=tmp_path)
    figures, generator = sorted(tmp_path.iterdir())
    whole = json.loads(figures.read_text()), generator.stat().st_size
    for file in (figures, generator):
        file.write_bytes(content)
    again = build(images, cache=tmp_path)
    assert torch.equal(again.features, first.features)
    assert (json.loads(figures.read_text()), generator.stat().st_size) == whole
    assert figures.name in caplog.text and generator.name in caplog.text and "again" in caplog.text


def test_other_figures_than_were_written_are_made_again(images, tmp_path, caplog):
    first = build(images, cache=tmp_path)
    path = min(tmp_path.iterdir())
    text, figure = path.read_text(), str(first.figures["proximity_full"])
    path.write_text(text.replace(figure, figure.replace(figure[2], str((int(figure[2]) + 1) % 10), 1)))
    again = build(images, cache=tmp_path)
    assert again.figures | {"stage1_seconds": 0} == first.figures | {"stage1_seconds": 0}
    assert path.read_text() == text and "its content is not what was written" in caplog.text


def test_a_cache_that_cannot_be_written_is_a_warning(images, tmp_path, caplog):
    (tmp_path / "file").write_text("")
    bank = build(images, cache=tmp_path / "file")
    assert torch.equal(bank.features, build(images).features)
    assert "generators are not cached" in caplog.text and "diagnoses are not cached" in caplog.text


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"control": "no-cf"}, "control='no-cf': allowed are none, truth, random-cf"),
        ({"control": "recombine", "lazy": True}, "lazy=True contradicts control='recombine'"),
        ({"control": "truth"}, "control='truth' and a function"),
        ({"truth": lambda target: target}, "control='none', truth=<function"),
        ({"target": "far"}, "mode='far'"),
        ({"train_on": "half"}, "train_on='half'"),
    ],
)
def test_contradictions_are_refused(images, settings, message):
    with pytest.raises(ValueError, match=message):
        build(images, **settings)


# ---- targets


@pytest.mark.parametrize("mode", ["top1", "top3", "random"])
@pytest.mark.parametrize("m", [1, 3, 5])
def test_targets_are_other_classes_without_repeats(images, mode, m):
    chosen = choose_targets(images.texts, images.labels, m, mode, seeded())
    assert chosen.shape == (48, m) and chosen.dtype == torch.long
    assert not bool((chosen == images.labels[:, None]).any())
    assert all(len(set(row)) == m for row in chosen.tolist())
    assert torch.equal(chosen, choose_targets(images.texts, images.labels, m, mode, seeded()))


def test_top_modes_stay_near_by_cosine(images):
    texts = torch.nn.functional.normalize(images.texts, dim=1)
    cosine = texts @ texts.T - 2 * torch.eye(6)
    assert torch.equal(
        choose_targets(images.texts * 7, images.labels, 1, "top1", seeded())[:, 0], cosine.argmax(1)[images.labels]
    )
    near = cosine.topk(3).indices[images.labels]
    chosen = choose_targets(images.texts, images.labels, 1, "top3", seeded())
    assert bool((chosen[..., None] == near[:, None]).any(-1).all()) and len(chosen.unique()) > 1


def test_targets_refuse(images):
    for message, call in {
        "allow 1 to 5": (images.texts, images.labels, 6, "top3"),
        "m=0": (images.texts, images.labels, 0, "top3"),
        "mode='far'": (images.texts, images.labels, 1, "far"),
        "allow 0 to 3": (images.texts[:4], images.labels, 1, "top1"),
    }.items():
        with pytest.raises(ValueError, match=message):
            choose_targets(*call, seeded())


# ---- what stands in for counterfactuals


@pytest.mark.parametrize("name", CONTROLS)
def test_controls_answer_like_counterfactuals(gauss, images, targets, name):
    f, y = images.features[:, 0], images.labels
    moved, valid = control_counterfactuals(name, gauss, f, y, targets, seed=3)
    assert moved.shape == (48, 2, 32) and valid.shape == (48, 2) and bool(valid.all())
    assert torch.allclose(moved.norm(dim=-1), torch.ones(48, 2), atol=1e-5)
    again, _ = control_counterfactuals(name, gauss, f, y, targets, seed=3)
    assert torch.equal(moved, again)


def test_each_control_is_what_it_says(gauss, images, targets):
    f, y = images.features[:, 0], images.labels
    full = gauss.counterfactual(f, y, targets).features
    noise, _ = control_counterfactuals("random-cf", gauss, f, y, targets)
    assert torch.allclose((noise - f[:, None]).norm(dim=-1), (full - f[:, None]).norm(dim=-1), atol=1e-4)
    wanted = torch.tensor([[5, 1]]).expand(40, -1)  # no image is of class 5
    neighbour, valid = control_counterfactuals("real-neighbour-cf", gauss, f[:40], y[:40], wanted)
    assert valid.tolist() == [[False, True]] * 40
    ones = f[:40][y[:40] == 1]
    assert torch.equal(neighbour[:, 1], ones[(f[:40] @ ones.T).argmax(1)])
    prototype, _ = control_counterfactuals("prototype", gauss, f, y, targets)
    assert torch.allclose(prototype[targets == 2], prototype[targets == 2][:1].expand(int((targets == 2).sum()), -1))
    recombined, _ = control_counterfactuals("recombine", gauss, f, y, targets)
    own = gauss.abduct(f, images.texts[y]).residual
    there = torch.cdist(gauss.space.encode(recombined)[1].flatten(0, 1), own).min(1).values
    assert float(there.median()) < 0.1  # some image's residual, up to normalising


def test_unknown_controls_are_refused(gauss, images, targets):
    with pytest.raises(ValueError, match="prototype"):
        control_counterfactuals("no-cf", gauss, images.features[:, 0], images.labels, targets)
