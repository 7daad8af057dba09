"""Losses of DiCap (docs/method.md, section "Losses"). Counterfactuals come detached; invalid ones carry no gradient.

B images, M counterfactuals an image, C classes, e embedding. A masked mean divides by B M, so that each counterfactual
weighs the same whatever else is in its batch.
"""

import torch
from torch import Tensor


def masked_mean(values: Tensor, valid: Tensor) -> Tensor:
    """Sum of the valid values (B, M) over B M; 0 with zero gradient where none is valid."""
    return torch.where(valid, values, torch.zeros_like(values)).sum() / max(1, values.numel())


def text_contrast(text_y: Tensor, f: Tensor, cf: Tensor, valid: Tensor, scale: Tensor | float) -> Tensor:
    """L_con, the text as the anchor, the factual against its valid counterfactuals.

        -log exp(s <t_y, f>) / (exp(s <t_y, f>) + sum_m exp(s <t_y, cf_m>))

    For M = 1 its gradient in t_y is parallel to cf - f: what both share cancels, the causal difference stays.

    Args:
        text_y: (B, e) text feature of each image's class, L2-normalised.
        f: (B, e) factual, cf: (B, M, e) counterfactual features, L2-normalised.
        valid: (B, M) bool.
        scale: 1/tau, the model's own logit_scale.exp() by default.
    """
    positive = scale * (text_y * f).sum(-1, keepdim=True)  # (B, 1)
    negative = scale * torch.einsum("be,bme->bm", text_y, cf)
    return _contrast(positive, negative, valid)


def image_contrast(f: Tensor, text_y: Tensor, cf: Tensor, valid: Tensor, scale: Tensor | float) -> Tensor:
    """L_con, the image as the anchor: its text against its counterfactuals. An ablation: <f, cf> swamps <f, t_y>."""
    positive = scale * (text_y * f).sum(-1, keepdim=True)
    negative = scale * torch.einsum("be,bme->bm", f, cf)
    return _contrast(positive, negative, valid)


def _contrast(positive: Tensor, negative: Tensor, valid: Tensor) -> Tensor:
    """Mean over B of -log softmax of the positive (B, 1) against the valid negatives (B, M); 0 for images without any."""
    scores = torch.cat([positive, negative.masked_fill(~valid, float("-inf"))], dim=1).float()
    return -scores.log_softmax(dim=1)[:, 0].mean()


def knowledge_loss(text: Tensor, frozen: Tensor) -> Tensor:
    """L_kg: mean over classes of 1 - cos(t_k, frozen t_k) (KgCoOp, arXiv 2303.13283). text (..., C, e), frozen (C, e)."""
    return (1 - (text * frozen).sum(-1)).mean()
