"""Textbook formulas of CLIP's prompts, written plainly: 77 padded tokens, one image at a time. Imports nothing of dicap.

They follow Radford et al. 2021 (arXiv 2103.00020), CoOp (2109.01134, eq. 1-3) and CoCoOp (2203.05557, eq. 2-3).
"""
import torch


def encode_prompts(clip, embedding, eot):
    """Text features (C, e), not normalised, of embedded prompts (C, 77, d) that end at eot (C,)."""
    x = embedding + clip.positional_embedding
    x = clip.transformer(x.permute(1, 0, 2)).permute(1, 0, 2)
    x = clip.ln_final(x)
    return x[torch.arange(len(x)), eot] @ clip.text_projection


def unit(x):
    return x / x.norm(dim=-1, keepdim=True)


def prompt_embedding(clip, ctx, tokens, name_lens, position):
    """Prompts (C, 77, d): context ctx (n, d) or (C, n, d) put at the end, middle or front around each name."""
    embedded = clip.token_embedding(tokens)
    n = ctx.shape[-2]
    rows = []
    for k in range(len(tokens)):
        c = ctx if ctx.dim() == 2 else ctx[k]
        sot, name, rest = embedded[k, :1], embedded[k, 1 + n : 1 + n + name_lens[k]], embedded[k, 1 + n + name_lens[k] :]
        order = {"end": [sot, c, name, rest], "front": [sot, name, c, rest],
                 "middle": [sot, c[: n // 2], name, c[n // 2 :], rest]}[position]
        rows.append(torch.cat(order))
    return torch.stack(rows)


def coop_logits(clip, ctx, tokens, name_lens, f, position="end"):
    """(B, C) logits of L2-normalised features f (B, e)."""
    text = unit(encode_prompts(clip, prompt_embedding(clip, ctx, tokens, name_lens, position), tokens.argmax(-1)))
    return torch.stack([clip.logit_scale.exp() * text @ one for one in f])


def cocoop_logits(clip, ctx, meta_net, tokens, name_lens, f):
    """(B, C) logits, one image at a time; meta_net maps (e,) to (d,)."""
    rows = []
    for one in f:
        shifted = ctx + meta_net(one)
        text = unit(encode_prompts(clip, prompt_embedding(clip, shifted, tokens, name_lens, "end"), tokens.argmax(-1)))
        rows.append(clip.logit_scale.exp() * text @ one)
    return torch.stack(rows)
