"""Top-k accuracy."""

import torch

__all__ = ["compute_accuracy"]


def compute_accuracy(
    output: torch.Tensor | tuple[torch.Tensor, ...] | list[torch.Tensor],
    target: torch.Tensor,
    topk: tuple[int, ...] = (1,),
) -> list[torch.Tensor]:
    """Share of the labels target (B,) that are among the k highest scores, in percent: a tensor (1,) for each k of topk.

    output: scores (B, C), or a sequence whose first element they are.
    """
    scores = output[0] if isinstance(output, (tuple, list)) else output
    hits = scores.topk(max(topk), dim=1).indices.eq(target.view(-1, 1))  # (B, k)
    return [100.0 * hits[:, :k].any(dim=1).float().mean().view(1) for k in topk]
