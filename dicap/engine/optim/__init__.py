"""Optimisers and learning-rate schedules that a configuration names."""

from dicap.engine.optim.lr_scheduler import ConstantWarmupScheduler, LinearWarmupScheduler, build_lr_scheduler
from dicap.engine.optim.optimizer import build_optimizer
from dicap.engine.optim.radam import RAdam

__all__ = ["ConstantWarmupScheduler", "LinearWarmupScheduler", "RAdam", "build_lr_scheduler", "build_optimizer"]
