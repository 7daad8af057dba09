"""CLIP's prompts by the textbook, written plainly: 77 padded tokens, every block for every token, one image at a time.

The baseline of the benchmarks, and what tests compare with. It follows Radford et al. 2021 (arXiv 2103.00020), CoOp
(2109.01134, eq. 1-3) and CoCoOp (2203.05557, eq. 2-3). Imports nothing of dicap: it is given a `clip.model.CLIP`.
"""

import torch
from torch import Tensor, nn


def encode_prompts(clip: nn.Module, embedding: Tensor, eot: Tensor) -> Tensor:
    """Text features (C, e), not normalised, of embedded prompts (C, 77, d) that end at eot (C,)."""
    x = embedding + clip.positional_embedding
    x = clip.transformer(x.permute(1, 0, 2)).permute(1, 0, 2)
    x = clip.ln_final(x)
    return x[torch.arange(len(x), device=x.device), eot] @ clip.text_projection


def unit(x: Tensor) -> Tensor:
    """x (..., e) over its length."""
    return x / x.norm(dim=-1, keepdim=True)


def prompt_embedding(embedded: Tensor, ctx: Tensor, name_lens: list[int], position: str = "end") -> Tensor:
    """Prompts (C, 77, d): the context takes the place of the n words behind the start, or moves around the name.

    Args:
        embedded: (C, 77, d) tokens of "X ... X NAME." with n words X.
        ctx: (n, d), or (C, n, d) where each class has its own.
        name_lens: tokens of each name.
        position: where the name stands: "end", "middle" or "front".
    """
    n = ctx.shape[-2]
    ctx = ctx.expand(len(embedded), n, -1)
    if position == "end":
        return torch.cat([embedded[:, :1], ctx, embedded[:, 1 + n :]], dim=1)
    before = {"middle": n // 2, "front": 0}[position]
    rows = []
    for row, c, length in zip(embedded, ctx, name_lens):
        name, rest = row[1 + n : 1 + n + length], row[1 + n + length :]
        rows.append(torch.cat([row[:1], c[:before], name, c[before:], rest]))
    return torch.stack(rows)


def class_features(clip: nn.Module, ctx: Tensor, tokens: Tensor, name_lens: list[int], position: str = "end") -> Tensor:
    """L2-normalised features (C, e) of the classes that tokens (C, 77) name."""
    prompts = prompt_embedding(clip.token_embedding(tokens), ctx, name_lens, position)
    return unit(encode_prompts(clip, prompts, tokens.argmax(dim=-1)))


def coop_logits(
    clip: nn.Module, ctx: Tensor, tokens: Tensor, name_lens: list[int], f: Tensor, position: str = "end"
) -> Tensor:
    """(B, C) logits of L2-normalised image features f (B, e)."""
    return clip.logit_scale.exp() * f @ class_features(clip, ctx, tokens, name_lens, position).t()


def cocoop_logits(
    clip: nn.Module, ctx: Tensor, meta_net: nn.Module, tokens: Tensor, name_lens: list[int], f: Tensor
) -> Tensor:
    """(B, C) logits of L2-normalised image features f (B, e); meta_net maps (..., e) to (..., d)."""
    rows = []
    for one in f:
        text = class_features(clip, ctx + meta_net(one), tokens, name_lens)
        rows.append(clip.logit_scale.exp() * one @ text.t())
    return torch.stack(rows)


def image_features(clip: nn.Module, images: Tensor) -> Tensor:
    """L2-normalised features (B, e) of images (B, 3, H, W)."""
    return unit(clip.encode_image(images))
