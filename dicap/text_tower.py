"""CLIP's frozen text encoder for prompts that are given as embeddings: each prompt is a prefix followed by a suffix.

Attention is causal. So what stands behind the end-of-text token changes nothing (no padding to 77), a prefix that many
prompts share is encoded once and lends them its keys and values, and the last block is needed at the end-of-text token only:

    x_prefix <- block(x_prefix)                                      (P, Lp, d)   P prefixes: 1, or one an image (CoCoOp)
    x_suffix <- block(x_suffix | keys and values of its prefix)   (P, C, Ls, d)   C classes

Equal to the textbook formula (77 padded tokens, one prompt at a time; Radford et al. 2021, arXiv 2103.00020) to rounding,
forward and gradient. Of CLIP it touches transformer.resblocks (ln_1, attn, ln_2, mlp), positional_embedding, ln_final and
text_projection.
"""
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

TOKENS_AT_ONCE = 1 << 17  # suffix tokens in one pass; more are split by prefix, to bound the memory


@dataclass(frozen=True)
class Prompts:
    """Prompts as embeddings, without positions: prompt (p, c) is prefix p followed by suffix c.

    Args:
        prefix: (P, Lp, d) start-of-text token and what all classes share.
        suffix: (C, Ls, d) the rest, padded to the longest; the padding is never seen.
        eot: (C,) position of the end-of-text token within the suffix.
    """

    prefix: Tensor
    suffix: Tensor
    eot: Tensor


class TextTower(nn.Module):
    """Encodes prompts with the text side of a CLIP; it owns no parameters, and none of CLIP's appear in its state dict.

    Args:
        clip: a `clip.model.CLIP`.
    """

    def __init__(self, clip: nn.Module):
        super().__init__()
        self._clip = [clip]  # in a list, so that it is no submodule: its owner registers it once

    @property
    def clip(self) -> nn.Module:
        return self._clip[0]

    def forward(self, prompts: Prompts) -> Tensor:
        """Text features (P, C, e), not normalised, in the type of the text projection (fp32 under autocast).

        Raises:
            ValueError: the prompts are longer than CLIP's context.
        """
        (n_prefix, n_suffix), positions = (prompts.prefix.shape[1], prompts.suffix.shape[1]), self.clip.positional_embedding
        if n_prefix + n_suffix > positions.shape[0]:
            raise ValueError(f"prompts of {n_prefix + n_suffix} tokens; CLIP's context has {positions.shape[0]}")
        dtype = self.clip.text_projection.dtype
        prefix = prompts.prefix.to(dtype) + positions[:n_prefix].to(dtype)  # (P, Lp, d)
        suffix = prompts.suffix.to(dtype) + positions[n_prefix : n_prefix + n_suffix].to(dtype)  # (C, Ls, d)
        at_once = max(1, TOKENS_AT_ONCE // (suffix.shape[0] * n_suffix))
        return torch.cat([self._encode(part, suffix, prompts.eot) for part in prefix.split(at_once)])

    def _encode(self, prefix: Tensor, suffix: Tensor, eot: Tensor) -> Tensor:
        suffix = suffix.expand(prefix.shape[0], *suffix.shape)  # (P, C, Ls, d)
        *blocks, last = self.clip.transformer.resblocks
        for block in blocks:
            prefix, suffix = _block(block, prefix, suffix)
        x = _last_block(last, prefix, suffix, eot)  # (P, C, d)
        return self.clip.ln_final(x) @ self.clip.text_projection


def _block(block: nn.Module, prefix: Tensor, suffix: Tensor) -> tuple[Tensor, Tensor]:
    """One residual attention block over prefixes (P, Lp, d) and suffixes (P, C, Ls, d)."""
    q_pre, k_pre, v_pre = _project(block.attn, block.ln_1(prefix), 3)  # (P, h, Lp, d/h)
    q_suf, k_suf, v_suf = _project(block.attn, block.ln_1(suffix), 3)  # (P, C, h, Ls, d/h)
    x_pre = F.scaled_dot_product_attention(q_pre, k_pre, v_pre, is_causal=True)
    mask = _suffix_mask(suffix.shape[2], prefix.shape[1], suffix.device)
    x_suf = F.scaled_dot_product_attention(q_suf, _join(k_pre, k_suf), _join(v_pre, v_suf), attn_mask=mask)
    return _residual(block, prefix, x_pre), _residual(block, suffix, x_suf)


def _last_block(block: nn.Module, prefix: Tensor, suffix: Tensor, eot: Tensor) -> Tensor:
    """The last block where it is read: at the end-of-text tokens. Returns (P, C, d)."""
    index = eot.to(suffix.device)[None, :, None, None].expand(suffix.shape[0], -1, 1, suffix.shape[-1])
    end = suffix.gather(2, index)  # (P, C, 1, d)
    _, k_pre, v_pre = _project(block.attn, block.ln_1(prefix), 3)
    h_suf = block.ln_1(suffix)
    k_suf, v_suf = _project(block.attn, h_suf, 2)
    query = _project(block.attn, h_suf.gather(2, index), 1)[0]  # (P, C, h, 1, d/h)
    mask = _suffix_mask(suffix.shape[2], prefix.shape[1], suffix.device)[eot.to(suffix.device)]  # (C, Lp + Ls)
    x = F.scaled_dot_product_attention(query, _join(k_pre, k_suf), _join(v_pre, v_suf), attn_mask=mask[:, None, None])
    return _residual(block, end, x)[:, :, 0]


def _project(attn: nn.MultiheadAttention, x: Tensor, parts: int) -> tuple[Tensor, ...]:
    """Queries, keys and values (3), keys and values (2) or queries (1) of x (..., L, d), each (..., h, L, d/h)."""
    d = x.shape[-1]
    rows = {3: slice(None), 2: slice(d, None), 1: slice(0, d)}[parts]
    heads = F.linear(x, attn.in_proj_weight[rows], attn.in_proj_bias[rows])
    heads = heads.unflatten(-1, (parts, attn.num_heads, d // attn.num_heads))  # (..., L, parts, h, d/h)
    return heads.transpose(-4, -2).unbind(-3)


def _join(of_prefix: Tensor, of_suffix: Tensor) -> Tensor:
    """Keys or values (P, h, Lp, m) of prefixes before those (P, C, h, Ls, m) of their suffixes."""
    shared = of_prefix.unsqueeze(1).expand(-1, of_suffix.shape[1], -1, -1, -1)
    return torch.cat([shared, of_suffix], dim=-2)


def _suffix_mask(n_suffix: int, n_prefix: int, device: torch.device) -> Tensor:
    """(Ls, Lp + Ls), True where a suffix token may look: the whole prefix, and the suffix up to itself."""
    return torch.ones(n_suffix, n_prefix + n_suffix, dtype=torch.bool, device=device).tril(n_prefix)


def _residual(block: nn.Module, x: Tensor, heads: Tensor) -> Tensor:
    """x (..., L, d) plus attention output (from heads (..., h, L, d/h)) plus the block's feed-forward part."""
    x = x + block.attn.out_proj(heads.transpose(-3, -2).flatten(-2))
    return x + block.mlp(block.ln_2(x))
