"""Counterfactual features by diffusion: a library for anyone with features, labels and class texts.

    import torch
    from dicap.counterfactual import CounterfactualGenerator, GeneratorConfig, scm

    world = scm.skewed(seed=0, classes=8, shots=16)       # or your own: features (N, e), labels (N,), class texts (C, d)
    generator = CounterfactualGenerator(GeneratorConfig(train_steps=100))
    generator.fit(world.features, world.labels, world.texts)                          # or f, None, a caption an image
    target = (world.labels + 1) % 8                                                   # had each been of the next class
    answer = generator.counterfactual(world.features, world.labels, target)           # answer.features (N, 1, e), .valid
    least = generator.counterfactual(world.features, world.labels, target, train_on="minimal")   # .kappa, .start_time
    latents = generator.abduct(world.features, world.texts[world.labels])             # U
    same = generator.predict(latents, world.texts[target])                            # answer.features[:, 0]
    generator.save("generator.safetensors")                                           # CounterfactualGenerator.load
    error = (same - world.truth(target)).norm(dim=1).mean()                           # the truth is known here alone

Needs torch, numpy, scikit-learn and safetensors; imports neither CLIP nor Dassl, and runs on a CPU.
"""

from . import scm
from .bank import CounterfactualBank, choose_targets
from .config import GeneratorConfig
from .diagnostics import diagnose
from .generator import CounterfactualGenerator, Latents
from .interventions import Counterfactuals
from .losses import weighted

__all__ = [
    "CounterfactualBank",
    "CounterfactualGenerator",
    "Counterfactuals",
    "GeneratorConfig",
    "Latents",
    "choose_targets",
    "diagnose",
    "scm",
    "weighted",
]
