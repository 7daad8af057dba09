"""RAdam (Liu et al. 2020, arXiv 1908.03265) with Dassl's arguments, on torch's implementation."""

from typing import Any

import torch

__all__ = ["RAdam"]


class RAdam(torch.optim.RAdam):
    """Adam whose adaptive rate is rectified for its variance; weight decay is decoupled, as in the authors' code.

    Args:
        degenerated_to_sgd: while the rectification is undefined (the first steps), step along the momentum. Only True.
    """

    def __init__(
        self,
        params: Any,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0,
        degenerated_to_sgd: bool = True,
    ) -> None:
        if not degenerated_to_sgd:
            raise ValueError("RAdam: degenerated_to_sgd=False is not supported; leave it True, or use adam")
        super().__init__(params, lr=lr, betas=betas, eps=eps, weight_decay=weight_decay, decoupled_weight_decay=True)
