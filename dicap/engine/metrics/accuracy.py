"""Top-k accuracy."""

import torch

__all__ = ["compute_accuracy"]


def compute_accuracy(
    output: torch.Tensor | tuple[torch.Tensor, ...] | list[torch.Tensor],
    target: torch.Tensor,
    topk: tuple[int, ...] = (1,),
) -> list[torch.Tensor]:
    """Share of the labels that are among the k highest scores, in percent.

    Args:
        output: scores (B, C), or a sequence whose first element they are.
        target: labels (B,).
        topk: values of k.

    Returns:
        A tensor of shape (1,) for each k.
    """
    scores = output[0] if isinstance(output, (tuple, list)) else output
    hits = scores.topk(max(topk), dim=1).indices.eq(target.view(-1, 1))  # (B, k)
    return [100.0 * hits[:, :k].any(dim=1).float().mean().view(1) for k in topk]
