"""Targets, controls and diagnostics."""

import json
import math

import pytest
import scm
import torch

from dicap.counterfactual import CounterfactualGenerator, choose_targets, diagnose
from dicap.counterfactual.bank import CONTROLS, control_counterfactuals
from dicap.counterfactual.diagnostics import class_mmd, hsic_p, latent_divergence


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


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


# ---- controls


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


# ---- diagnostics


def test_diagnosis_is_complete_finite_and_repeatable(generator, images, targets):
    held_out = scm.scenes(rho=0.5, patterns=2, shapes=3, shots=4, width=32, seed=3)
    figures = diagnose(generator, images.features, images.labels, targets, (held_out.features[:, 0], held_out.labels))
    needed = {
        "valid_full",
        "valid_minimal",
        "invalid_percent_full",
        "head_valid_full",
        "reconstruction_error",
        "null_error",
        "round_trip_error",
        "cld_full",
        "hsic_p",
        "latent_probe",
        "latent_chance",
        "mmd_full",
    }
    needed |= {"proximity_full"} if figures["valid_full"] else set()
    needed |= {"proximity_minimal", "kappa_minimal", "start_time_minimal"} if figures["valid_minimal"] else set()
    if generator.config.generator in ("gskip", "v", "eps"):
        needed |= {"loss", "loss_held_out"}
    assert needed <= set(figures), needed - set(figures)
    assert all(isinstance(value, float) and math.isfinite(value) for value in figures.values())
    json.dumps(figures, allow_nan=False)
    assert figures == diagnose(
        generator, images.features, images.labels, targets, (held_out.features[:, 0], held_out.labels)
    )
    full = generator.counterfactual(images.features[:, 0], images.labels, targets)
    assert figures["valid_full"] == pytest.approx(float(full.valid.float().mean()))
    if bool(full.valid.any()):
        cosine = (full.features * images.features[:, :1]).sum(-1)[full.valid]
        assert figures["proximity_full"] == pytest.approx(float(1 - cosine.mean()), abs=1e-5)


def test_minimal_is_nearer_than_full(gauss, images, targets):
    figures = diagnose(gauss, images.features, images.labels, targets)
    assert figures["proximity_minimal"] < figures["proximity_full"]
    assert figures["reconstruction_error"] < 1e-4


def test_one_image_a_class_leaves_figures_out():
    images = scm.scenes(1.0, patterns=2, shapes=3, shots=1, width=32)
    fitted = CounterfactualGenerator(scm.small(generator="gauss")).fit(images.features, images.labels, images.texts)
    figures = diagnose(fitted, images.features, images.labels, (images.labels[:, None] + 1) % 6)
    assert "hsic_p" not in figures and "mmd_full" not in figures and figures["valid_full"] >= 0


def test_hsic_finds_dependence_and_nothing_else():
    labels = torch.arange(4).repeat_interleave(15)
    free = [hsic_p(scm.noise(60, 3, seed), labels, seed) for seed in range(40)]
    assert sum(p <= 0.05 for p in free) <= 6
    assert hsic_p(scm.noise(60, 3) + scm.means(4, 3)[labels], labels) <= 0.01


def test_mmd_is_zero_on_average_for_the_same_law_and_grows(gauss, images):
    real, labels = images.features[:, 0], images.labels
    halves = torch.arange(48) % 2 == 0
    alike = class_mmd(real[halves][:, None], labels[halves][:, None], real[~halves], labels[~halves], gauss)
    apart = class_mmd(real[halves][:, None], (labels[halves][:, None] + 3) % 6, real[~halves], labels[~halves], gauss)
    assert abs(alike) < 0.1 < apart


def test_latent_divergence_by_hand():
    factual = torch.tensor([[1.0, 0.0]])
    real = torch.tensor([[0.8, 0.6], [0.0, 1.0], [0.6, 0.8]])  # 1 - cos: 0.2, 1.0, 0.4
    labels = torch.tensor([0, 1, 1])
    value = latent_divergence(factual, torch.tensor([0]), torch.tensor([[1]]), torch.tensor([[0.5]]), real, labels)
    assert value == pytest.approx(math.log(0.5 * math.exp(0.5) + 0.5 * math.exp(0.0)))
