"""CLIP's frozen text encoder for prompts that are given as embeddings: a prefix that classes share, and what is each class's own.

Attention is causal. So what stands behind the end-of-text token changes nothing (no padding to 77), a prefix that classes share
is the same for all of them, and the last block is needed at the end-of-text tokens only. Classes are packed side by side into few
short sequences, and a mask keeps them apart:

    [ prefix | tokens of class 4 | tokens of class 17 | tokens of class 1 ]      each class sees the prefix and itself
    [ prefix | tokens of class 9 | tokens of class 2  | padding           ]      n sequences for each of P prefixes

Equal to the textbook formula (77 padded tokens, one prompt at a time; Radford et al. 2021, arXiv 2103.00020) to rounding,
forward and gradient. Of CLIP it touches transformer.resblocks (ln_1, attn, ln_2, mlp), positional_embedding, ln_final and
text_projection. Time and memory against the textbook formula: docs/performance.md.
"""

import functools
import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from dicap.backbones import tokenize

MEMORY = 4.0  # GiB
KEPT = 14  # numbers of size d that a block keeps for the gradient of a token: input, q, k, v, attention, its sum, and 2 x 4 of the mlp
PASSING = 18  # numbers of size d that a token takes in a block at most, where no gradient is wanted
CACHED = 4096  # tokens at once without a gradient on a CPU: what its caches hold; more is slower


@dataclass(frozen=True)
class Prompts:
    """Prompts as embeddings, without positions: prompt (p, c) is prefix p followed by the tokens of class c.

    Args:
        prefix: (P, Lp, d) start-of-text token and what all classes share; P is 1, or one an image (CoCoOp).
        suffix: (T, d) the rest up to and including each end-of-text token, class behind class.
        lens: number of tokens of each of the C classes in the suffix; their sum is T.
    """

    prefix: Tensor
    suffix: Tensor
    lens: tuple[int, ...]


@torch.no_grad()
def embed(clip: nn.Module, texts: list[str], skip: int = 0) -> Prompts:
    """Texts as prompts: the start-of-text token as prefix, and the other tokens behind the first `skip` as suffix.

    Raises ConfigError: a text is too long; the message quotes it.
    """
    tokens = tokenize(texts)
    eot = tokens.argmax(dim=-1)  # (C,), on the CPU: lengths are needed here
    tokens = tokens[:, : int(eot.max()) + 1].to(clip.token_embedding.weight.device)
    embedding = clip.token_embedding(tokens).float()  # (C, L, d)
    lens = tuple((eot - skip).tolist())
    rows = [row[1 + skip : 1 + skip + length] for row, length in zip(embedding, lens)]
    return Prompts(embedding[:1, :1], torch.cat(rows), lens)


class TextTower(nn.Module):
    """Encodes prompts with the text side of a CLIP; it owns no parameters, and none of CLIP's appear in its state dict.

    Args:
        clip: a `clip.model.CLIP`.
        memory: GiB that activations may take in training. What needs more is computed in parts, each a second time in the
            backward pass: slower by half, gradients equal to rounding.
    """

    def __init__(self, clip: nn.Module, memory: float = MEMORY):
        super().__init__()
        self._clip = [clip]  # in a list, so that it is no submodule: its owner registers it once
        self.memory = memory

    @property
    def clip(self) -> nn.Module:
        return self._clip[0]

    def forward(self, prompts: Prompts) -> Tensor:
        """Text features (P, C, e), not normalised, in the type of the text projection (autocast's under autocast).

        Raises ValueError: the prompts are longer than CLIP's context.
        """
        (count, n_prefix, d), positions = prompts.prefix.shape, self.clip.positional_embedding
        if n_prefix + max(prompts.lens) > positions.shape[0]:
            raise ValueError(f"prompts of {n_prefix + max(prompts.lens)} tokens; CLIP's context has {len(positions)}")
        pack, dtype = pack_classes(prompts.lens, n_prefix, d, prompts.suffix.device), self.clip.text_projection.dtype
        prefix = prompts.prefix.to(dtype) + positions[:n_prefix].to(dtype)  # (P, Lp, d)
        suffix = prompts.suffix.index_select(0, pack.rows.flatten()).unflatten(0, pack.rows.shape)  # (n, S, d)
        suffix = suffix.to(dtype) + positions[pack.positions].to(dtype)
        tower = self.clip.transformer
        learned = prefix.requires_grad or suffix.requires_grad or any(p.requires_grad for p in tower.parameters())
        wanted = torch.is_grad_enabled() and learned
        at_once = max(1, self.tokens_at_once(wanted, prefix.device) // pack.mask.shape[-1])  # sequences
        parts = [(p, s) for p in _spans(count, max(1, at_once // len(suffix))) for s in _spans(len(suffix), at_once)]
        encode = self._encode
        if wanted and len(parts) > 1:
            dropout = any(isinstance(module, nn.Dropout) and module.p for module in tower.modules())
            encode = functools.partial(checkpoint, self._encode, use_reentrant=False, preserve_rng_state=dropout)
        encoded = [encode(prefix[p], suffix[s], pack.mask[s], pack.ends[s]) for p, s in parts]
        across = len(parts) // len({p.start for p, _ in parts})  # parts of one span of prefixes
        rows = [torch.cat(encoded[i : i + across], dim=1) for i in range(0, len(encoded), across)]
        return torch.cat(rows).flatten(1, 2).index_select(1, pack.order)

    def tokens_at_once(self, gradient: bool, device: torch.device) -> int:
        """How many tokens go through the blocks together."""
        layers, d = len(self.clip.transformer.resblocks), self.clip.text_projection.shape[0]
        if not gradient and device.type == "cpu":
            return CACHED
        return int(self.memory * 2**30 / (4 * d * (layers * KEPT if gradient else PASSING)))

    def _encode(self, prefix: Tensor, suffix: Tensor, mask: Tensor, ends: Tensor) -> Tensor:
        """Features (P, n, K, e) at the ends (n, K) of the sequences of prefixes (P, Lp, d) and packed suffixes (n, S, d)."""
        count, n = len(prefix), len(suffix)
        x = torch.cat([prefix[:, None].expand(-1, n, -1, -1), suffix.expand(count, -1, -1, -1)], dim=2).flatten(0, 1)
        mask, ends = mask.repeat(count, 1, 1, 1), ends.repeat(count, 1)  # (P n, 1, L, L), (P n, K)
        *blocks, last = self.clip.transformer.resblocks
        for block in blocks:
            x = _block(block, x, mask)
        x = _last_block(last, x, mask, ends)  # (P n, K, d)
        return (self.clip.ln_final(x) @ self.clip.text_projection).unflatten(0, (count, n))


# -- packing ---------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Pack:
    """Where the tokens of C classes stand in n sequences of L = Lp + S tokens.

    Args:
        rows: (n, S) which token of the suffix (T, d) stands there; 0 in the padding, which nobody sees.
        positions: (n, S) position in its prompt.
        mask: (n, 1, L, L) True where a token may look: the prefix and its own class, up to itself.
        ends: (n, K) where in the sequence its classes end, K the most classes of a sequence.
        order: (C,) of each class, its place in the flattened ends.
    """

    rows: Tensor
    positions: Tensor
    mask: Tensor
    ends: Tensor
    order: Tensor


@functools.lru_cache(maxsize=16)
@torch.inference_mode(False)  # what is kept serves training too, whoever asks first
def pack_classes(lens: tuple[int, ...], n_prefix: int, d: int, device: torch.device) -> Pack:
    """The packing of classes of so many tokens behind a prefix of n_prefix tokens, for a tower of width d.

    A long sequence costs attention between classes that do not see each other, L / (6 d) of the work; a short one repeats
    the prefix, Lp / L of the tokens: the best length is the square root of 6 d Lp.
    """
    width = max(round(math.sqrt(6 * d * n_prefix)), 4 * max(lens))
    sequences = _fill(lens, math.ceil(sum(lens) / width))
    n, length = len(sequences), max(sum(lens[c] for c in classes) for classes in sequences)
    starts = torch.tensor((0, *lens)).cumsum(0)[:-1].tolist()
    rows, positions, owner = (torch.zeros(n, length, dtype=torch.long) for _ in range(3))
    ends = torch.zeros(n, max(map(len, sequences)), dtype=torch.long)
    order = torch.zeros(len(lens), dtype=torch.long)
    for i, classes in enumerate(sequences):
        at = 0
        for k, c in enumerate(classes):
            span, own = slice(at, at + lens[c]), torch.arange(lens[c])
            rows[i, span], positions[i, span], owner[i, span] = starts[c] + own, n_prefix + own, c + 1  # 0: padding
            at += lens[c]
            ends[i, k], order[c] = n_prefix + at - 1, i * ends.shape[1] + k
    owner = torch.cat([torch.full((n, n_prefix), -1), owner], dim=1)  # (n, L)
    seen = (owner[:, None] == owner[:, :, None]) | (owner[:, None] == -1)
    mask = seen & torch.ones(seen.shape[1:], dtype=torch.bool).tril()
    return Pack(*(x.to(device) for x in (rows, positions, mask[:, None], ends, order)))


def _fill(lens: tuple[int, ...], n: int) -> list[list[int]]:
    """Classes in n sequences of about equal length: the longest first, each to where there is least."""
    sequences: list[list[int]] = [[] for _ in range(n)]
    load = [0] * n
    for c in sorted(range(len(lens)), key=lambda c: -lens[c]):
        i = load.index(min(load))
        sequences[i].append(c)
        load[i] += lens[c]
    return [classes for classes in sequences if classes]


def _spans(n: int, size: int) -> list[slice]:
    """0 to n in spans of about equal size, none larger than asked."""
    count = math.ceil(n / size)
    return [slice(n * i // count, n * (i + 1) // count) for i in range(count)]


# -- blocks ----------------------------------------------------------------------------------------------------------------


def _block(block: nn.Module, x: Tensor, mask: Tensor) -> Tensor:
    """One residual attention block over sequences x (N, L, d) under mask (N, 1, L, L)."""
    query, key, value = _project(block.attn, block.ln_1(x), 3)
    return _residual(block, x, F.scaled_dot_product_attention(query, key, value, attn_mask=mask))


def _last_block(block: nn.Module, x: Tensor, mask: Tensor, ends: Tensor) -> Tensor:
    """The last block where it is read: at the ends (N, K) of the classes. Returns (N, K, d)."""
    index = ends[:, :, None].expand(-1, -1, x.shape[-1])
    h = block.ln_1(x)
    key, value = _project(block.attn, h, 2)
    (query,) = _project(block.attn, h.gather(1, index), 1)  # (N, h, K, d/h)
    mask = mask.gather(2, ends[:, None, :, None].expand(-1, -1, -1, x.shape[1]))  # (N, 1, K, L)
    return _residual(block, x.gather(1, index), F.scaled_dot_product_attention(query, key, value, attn_mask=mask))


def _project(attn: nn.MultiheadAttention, x: Tensor, parts: int) -> tuple[Tensor, ...]:
    """Queries, keys and values (3), keys and values (2) or queries (1) of x (N, L, d), each (N, h, L, d/h)."""
    d = x.shape[-1]
    rows = {3: slice(None), 2: slice(d, None), 1: slice(0, d)}[parts]
    heads = F.linear(x, attn.in_proj_weight[rows], attn.in_proj_bias[rows])
    return heads.unflatten(-1, (parts, attn.num_heads, d // attn.num_heads)).transpose(1, 3).unbind(2)


def _residual(block: nn.Module, x: Tensor, heads: Tensor) -> Tensor:
    """x (N, L, d) plus attention output (from heads (N, h, L, d/h)) plus the block's feed-forward part."""
    x = x + block.attn.out_proj(heads.transpose(1, 2).flatten(2))
    return x + block.mlp(block.ln_2(x))
