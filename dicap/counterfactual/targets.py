"""Which class an image is asked to become: base classes near its own by the frozen text, never new ones."""

import torch
from torch import Tensor
from torch.nn.functional import normalize

MODES = ("top1", "top3", "random")


def choose_targets(conditions: Tensor, labels: Tensor, m: int, mode: str, generator: torch.Generator) -> Tensor:
    """M target classes of every image, all different and none its own.

    Args:
        conditions: (C, d) text features of the base classes. labels: (N,) long in 0..C-1. m: targets an image, 1..C-1.
        mode: `top1` the m nearest texts by cosine, nearest first; `top3` m drawn from the max(3, m) nearest; `random` m
            of all.
        generator: a CPU generator, the only source of randomness (unused by top1).

    Returns:
        (N, M) long, on the device of labels.

    Raises:
        ValueError: an unknown mode, m outside 1..C-1, or labels outside 0..C-1.
    """
    count = len(conditions)
    if mode not in MODES:
        raise ValueError(f"mode={mode!r}: allowed are {', '.join(MODES)}")
    if not 1 <= m <= count - 1:
        raise ValueError(f"m={m} targets an image: {count} classes allow 1 to {count - 1}; lower M or add classes")
    if labels.numel() and (int(labels.min()) < 0 or int(labels.max()) >= count):
        raise ValueError(
            f"labels from {int(labels.min())} to {int(labels.max())}: {count} conditions allow 0 to {count - 1}"
        )
    texts = normalize(conditions.double().cpu(), dim=-1)
    similarity = texts @ texts.T
    similarity.fill_diagonal_(-torch.inf)
    nearest = similarity.argsort(dim=1, descending=True, stable=True)[
        :, : count - 1
    ]  # (C, C - 1), never the class itself
    pool = {"top1": m, "top3": min(max(3, m), count - 1), "random": count - 1}[mode]
    near = nearest[labels.cpu(), :pool]  # (N, pool)
    if mode == "top1":
        return near.to(labels.device)
    order = torch.rand(near.shape, generator=generator).argsort(1)[:, :m]
    return near.gather(1, order).to(labels.device)
