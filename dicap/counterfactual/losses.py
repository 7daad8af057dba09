"""Losses of counterfactuals (docs/method.md, section "Losses"). They come detached; invalid ones carry no gradient.

B images, M counterfactuals an image, e embedding. A masked mean divides by B M, so that each counterfactual weighs the same
whatever else is in its batch.
"""

import torch
from torch import Tensor


def weighted(factual: Tensor, counterfactual: Tensor, valid: Tensor, weight: float) -> dict[str, Tensor]:
    """Losses `ce` and `cf`, each (), whose sum is (CE + w CE_cf) / (1 + w times the share that is valid).

    Undivided, w would act as a larger learning rate. factual (B,) and counterfactual (B, M) are losses, valid (B, M) bool;
    weight w is that of an image's counterfactuals together.
    """
    total = 1 + weight * valid.float().mean()
    of_valid = torch.where(valid, counterfactual, torch.zeros_like(counterfactual)).sum()
    return {"ce": factual.mean() / total, "cf": weight * (of_valid / max(1, counterfactual.numel())) / total}


def contrast(anchor: Tensor, factual: Tensor, cf: Tensor, valid: Tensor, scale: Tensor | float) -> Tensor:
    """L_con (): mean over B of -log exp(s <a, x>) / (exp(s <a, x>) + sum_m exp(s <a, cf_m>)); 0 for images without a valid one.

    For M = 1 its gradient in the anchor is parallel to cf - x: what both share cancels, the causal difference stays.

    Args:
        anchor, factual: (B, e) a and x, the text of each image's class and the image, or the other way round; L2-normalised.
        cf: (B, M, e) counterfactuals, L2-normalised. valid: (B, M) bool.
        scale: s = 1/tau, the model's own logit_scale.exp() by default.
    """
    positive = scale * (anchor * factual).sum(-1, keepdim=True)  # (B, 1)
    negative = scale * torch.einsum("be,bme->bm", anchor, cf)
    scores = torch.cat([positive, negative.masked_fill(~valid, float("-inf"))], dim=1).float()
    return -scores.log_softmax(dim=1)[:, 0].mean()
