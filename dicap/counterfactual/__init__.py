"""Counterfactual features by diffusion: a library for anyone with features, labels and class texts."""

from .config import GeneratorConfig
from .diagnostics import diagnose
from .generator import CounterfactualGenerator, Latents
from .interventions import Counterfactuals
from .targets import choose_targets

__all__ = ["CounterfactualGenerator", "Counterfactuals", "GeneratorConfig", "Latents", "choose_targets", "diagnose"]
