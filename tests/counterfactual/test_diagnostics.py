"""Figures of a fitted generator: complete, repeatable, and each against a case that is known."""

import json
import math

import pytest
import scm
import torch

from dicap.counterfactual import CounterfactualGenerator, diagnose
from dicap.counterfactual.diagnostics import class_mmd, hsic_p, latent_divergence


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
