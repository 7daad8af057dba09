"""Learning-rate schedules by name, with warm-up. Stepped once an epoch.

The warm-up does not shorten the schedule that follows: cosine over MAX_EPOCH = N epochs after W epochs of constant
warm-up is LR/2 (1 + cos(pi (e - W) / N)) in epoch e >= W. The state of a schedule is plain numbers: it can be saved
without pickling an object, and after loading it steers the optimiser of the new process.
"""

from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR, LRScheduler, MultiStepLR, StepLR

__all__ = ["AVAI_SCHEDS", "ConstantWarmupScheduler", "LinearWarmupScheduler", "build_lr_scheduler"]

AVAI_SCHEDS = ["single_step", "multi_step", "cosine"]


class _BaseWarmupScheduler(LRScheduler):
    """warmup_epoch epochs of its own rates, then the successor takes over."""

    def __init__(self, optimizer: Optimizer, successor: LRScheduler, warmup_epoch: int, last_epoch: int = -1) -> None:
        self.successor = successor
        self.warmup_epoch = warmup_epoch
        super().__init__(optimizer, last_epoch)

    def warmup_lr(self) -> list[float]:
        """The rates of epoch self.last_epoch < warmup_epoch, one a parameter group."""
        raise NotImplementedError

    def get_lr(self) -> list[Any]:
        """The rates of the current epoch, one a parameter group."""
        return self.successor.get_last_lr() if self.last_epoch >= self.warmup_epoch else self.warmup_lr()

    def step(self, epoch: int | None = None) -> None:
        """Goes to the next epoch."""
        if self.last_epoch >= self.warmup_epoch:
            self.successor.step(epoch)
            self._last_lr = self.successor.get_last_lr()
        else:
            super().step(epoch)

    def state_dict(self) -> dict[str, Any]:
        """Plain numbers; the successor's under its own name."""
        own = {key: value for key, value in self.__dict__.items() if key not in ("optimizer", "successor")}
        return {**own, "successor": self.successor.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Takes the numbers of state_dict(); optimiser and successor stay the objects they are."""
        own = dict(state_dict)
        self.successor.load_state_dict({k: v for k, v in own.pop("successor").items() if k != "optimizer"})
        self.__dict__.update(own)


class ConstantWarmupScheduler(_BaseWarmupScheduler):
    """Warm-up at the rate cons_lr."""

    def __init__(
        self, optimizer: Optimizer, successor: LRScheduler, warmup_epoch: int, cons_lr: float, last_epoch: int = -1
    ) -> None:
        self.cons_lr = cons_lr
        super().__init__(optimizer, successor, warmup_epoch, last_epoch)

    def warmup_lr(self) -> list[float]:
        """cons_lr for each group."""
        return [self.cons_lr for _ in self.base_lrs]


class LinearWarmupScheduler(_BaseWarmupScheduler):
    """Warm-up from min_lr in epoch 0, then along a straight line from 0 to the base rate."""

    def __init__(
        self, optimizer: Optimizer, successor: LRScheduler, warmup_epoch: int, min_lr: float, last_epoch: int = -1
    ) -> None:
        self.min_lr = min_lr
        super().__init__(optimizer, successor, warmup_epoch, last_epoch)

    def warmup_lr(self) -> list[float]:
        """min_lr in epoch 0, then base rate * epoch / warmup_epoch."""
        if self.last_epoch == 0:
            return [self.min_lr for _ in self.base_lrs]
        return [float(lr) * self.last_epoch / self.warmup_epoch for lr in self.base_lrs]


def build_lr_scheduler(optimizer: Optimizer, optim_cfg: Any) -> LRScheduler:
    """The schedule optim_cfg.LR_SCHEDULER, after WARMUP_EPOCH epochs of warm-up.

    Raises ValueError on an unknown LR_SCHEDULER or WARMUP_TYPE, TypeError where STEPSIZE does not suit the schedule.
    """
    schedule, warmup = _build_schedule(optimizer, optim_cfg), optim_cfg.WARMUP_EPOCH
    if warmup <= 0:
        return schedule
    if not optim_cfg.WARMUP_RECOUNT:
        schedule.last_epoch = warmup
    if optim_cfg.WARMUP_TYPE == "constant":
        return ConstantWarmupScheduler(optimizer, schedule, warmup, optim_cfg.WARMUP_CONS_LR)
    if optim_cfg.WARMUP_TYPE == "linear":
        return LinearWarmupScheduler(optimizer, schedule, warmup, optim_cfg.WARMUP_MIN_LR)
    raise ValueError(f"OPTIM.WARMUP_TYPE {optim_cfg.WARMUP_TYPE}: there are constant, linear")


def _build_schedule(optimizer: Optimizer, optim_cfg: Any) -> LRScheduler:
    name, stepsize = optim_cfg.LR_SCHEDULER, optim_cfg.STEPSIZE
    if name == "cosine":
        return CosineAnnealingLR(optimizer, float(optim_cfg.MAX_EPOCH))  # type: ignore[arg-type]
    if name == "single_step":
        step = stepsize[-1] if isinstance(stepsize, (list, tuple)) else stepsize
        if not isinstance(step, int):
            raise TypeError(f"OPTIM.STEPSIZE {stepsize!r}: single_step takes a whole number of epochs")
        return StepLR(optimizer, step_size=step if step > 0 else optim_cfg.MAX_EPOCH, gamma=optim_cfg.GAMMA)
    if name == "multi_step":
        if not isinstance(stepsize, (list, tuple)):
            raise TypeError(f"OPTIM.STEPSIZE {stepsize!r}: multi_step takes a list of epochs")
        return MultiStepLR(optimizer, milestones=list(stepsize), gamma=optim_cfg.GAMMA)
    raise ValueError(f"OPTIM.LR_SCHEDULER {name}: there are {', '.join(AVAI_SCHEDS)}")
