"""Trainers: the base classes that plugins derive from, and their registry. No trainer is built in."""

from dicap.engine.engine.build import TRAINER_REGISTRY, build_trainer
from dicap.engine.engine.trainer import SimpleTrainer, TrainerBase, TrainerX, TrainerXU

__all__ = ["TRAINER_REGISTRY", "SimpleTrainer", "TrainerBase", "TrainerX", "TrainerXU", "build_trainer"]
