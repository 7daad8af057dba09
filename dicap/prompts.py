"""Prompts with learned context, and the CLIP that reads them.

    StaticContext       "<ctx> NAME."  one context for all images                 CoOp (arXiv 2109.01134)
    ConditionalContext  "<ctx + h(f)> NAME."  the context depends on the image    CoCoOp (arXiv 2203.05557)
    FixedPrompt         "a photo of a NAME."  a hand template, nothing is learned

Saved names are the family's: ctx, meta_net.linear{1,2}.{weight,bias}. Nothing else is saved, so that a prompt trained on
n classes loads into m others. The learned parameters are always fp32.
"""

import logging

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dicap.backbones import tokenize
from dicap.options import ConfigError
from dicap.text_tower import MEMORY, Prompts, TextTower
from dicap.wording import check_template, readable

log = logging.getLogger(__name__)

POSITIONS = ("end", "middle", "front")
CACHED_PIXELS = (
    8 * 224 * 224
)  # of images that go through the tower together on a CPU; more takes more memory and is slower


class FixedPrompt(nn.Module):
    """A hand template around each class name.

    Args:
        clip: a `clip.model.CLIP`.
        names: C class names.
        template: text with one {}, such as "a photo of a {}.".
    """

    def __init__(self, clip: nn.Module, names: list[str], template: str):
        super().__init__()
        _register(self, clip, [check_template(template).format(readable(name)) for name in names], n_ctx=0)

    def forward(self, f: Tensor | None = None) -> Prompts:
        """The prompts; f is not looked at."""
        return Prompts(self.sot[None], self.name, self.lens)


class StaticContext(nn.Module):
    """n context tokens, learned, before, around or behind each class name (CoOp, eq. 2-3).

    Args:
        clip: a `clip.model.CLIP`.
        names: C class names.
        n_ctx: number of context tokens; ctx_init decides where it is given.
        ctx_init: words to start from, "" = normal with std 0.02.
        csc: a context for each class (C, n, d) in place of one (n, d).
        position: where the class name stands: "end", "middle" or "front".
    """

    def __init__(
        self,
        clip: nn.Module,
        names: list[str],
        n_ctx: int = 16,
        ctx_init: str = "",
        csc: bool = False,
        position: str = "end",
    ):
        super().__init__()
        if position not in POSITIONS:
            raise ConfigError(f"CLASS_TOKEN_POSITION is {position!r}; allowed: {', '.join(POSITIONS)}")
        ctx, words = _start(clip, n_ctx, ctx_init)  # (n, d)
        self.n_ctx, self.position = len(ctx), position
        if csc:
            shape = (len(names), *ctx.shape)
            ctx = ctx.expand(shape).clone() if ctx_init else torch.empty(shape).normal_(std=0.02)
        self.ctx = nn.Parameter(ctx)
        _register(self, clip, _after(words, names), self.n_ctx)
        self.shared = position == "end" and not csc  # what stands before the names is one prefix of all classes
        if not self.shared:
            self.register_buffer("rows", self._rows(names), persistent=False)

    def _rows(self, names: list[str]) -> Tensor:
        """Where a class has a context of its own: its prompt as rows of [all contexts | tokens of all names], (C n + T,)."""
        half = {"end": self.n_ctx, "middle": self.n_ctx // 2, "front": 0}[self.position]
        name_lens = (tokenize([readable(name) for name in names]).argmax(dim=-1) - 1).tolist()
        rows, at = [], len(names) * self.n_ctx
        for c, (length, n) in enumerate(zip(self.lens, name_lens)):
            ctx, own = torch.arange(c * self.n_ctx, (c + 1) * self.n_ctx), torch.arange(at, at + length)
            rows += [ctx[:half], own[:n], ctx[half:], own[n:]]
            at += length
        return torch.cat(rows)

    def forward(self, f: Tensor | None = None) -> Prompts:
        """The prompts; f is not looked at."""
        sot, ctx, name = self.sot, self.ctx, self.name  # (1, d), (n, d) or (C, n, d), (T, d)
        if self.shared:
            return Prompts(torch.cat([sot, ctx])[None], name, self.lens)
        own = ctx.expand(len(self.lens), self.n_ctx, -1).flatten(0, 1)  # (C n, d)
        suffix = torch.cat([own, name]).index_select(0, self.rows)
        return Prompts(sot[None], suffix, tuple(length + self.n_ctx for length in self.lens))


class ConditionalContext(nn.Module):
    """Context tokens plus an offset that a small network makes of the image feature (CoCoOp, eq. 2).

    Args: as StaticContext.
    """

    def __init__(self, clip: nn.Module, names: list[str], n_ctx: int = 16, ctx_init: str = ""):
        super().__init__()
        ctx, words = _start(clip, n_ctx, ctx_init)
        self.n_ctx = len(ctx)
        self.ctx = nn.Parameter(ctx)
        e, d = clip.text_projection.shape[1], clip.text_projection.shape[0]
        self.meta_net = nn.Sequential()
        self.meta_net.add_module("linear1", nn.Linear(e, max(1, e // 16)))
        self.meta_net.add_module("relu", nn.ReLU())
        self.meta_net.add_module("linear2", nn.Linear(max(1, e // 16), d))
        _register(self, clip, _after(words, names), self.n_ctx)

    def forward(self, f: Tensor) -> Prompts:
        """The prompts of images f (B, e), L2-normalised: prefixes (B, 1 + n, d)."""
        ctx = self.ctx + self.meta_net(f)[:, None]  # (B, n, d)
        return Prompts(torch.cat([self.sot.expand(len(f), 1, -1), ctx], dim=1), self.name, self.lens)


class PromptedCLIP(nn.Module):
    """A frozen CLIP whose class prompts come from a prompt module. Features are L2-normalised and fp32.

    Args:
        clip: a `clip.model.CLIP`, frozen.
        prompt: one of the modules above.
        memory: GiB for the text tower's activations, see `TextTower`.
    """

    def __init__(self, clip: nn.Module, prompt: nn.Module, memory: float = MEMORY):
        super().__init__()
        self.clip, self.prompt_learner, self.text_tower = clip, prompt, TextTower(clip, memory)
        self.conditional = isinstance(prompt, ConditionalContext)

    def encode_image(self, image: Tensor) -> Tensor:
        """Features (B, e) of images (B, 3, H, W); an input of rank 2 holds features already (a cached view)."""
        if image.dim() == 2:
            return image
        at_once = max(1, CACHED_PIXELS // image[0, 0].numel()) if image.device.type == "cpu" else len(image)
        with torch.no_grad():
            f = torch.cat([self.clip.encode_image(part) for part in image.split(at_once)])
            return F.normalize(f.float(), dim=-1)

    def encode_text(self, f: Tensor | None = None) -> Tensor:
        """Class features (C, e), or (B, C, e) where the context depends on the image features f (B, e)."""
        text = F.normalize(self.text_tower(self.prompt_learner(f)).float(), dim=-1)
        return text if self.conditional else text[0]

    def logits(self, f: Tensor, text: Tensor) -> Tensor:
        """logit_scale.exp() <f, text>: (..., C) for f (..., e) and text (C, e), or f (B, ..., e) and text (B, C, e)."""
        scale = self.clip.logit_scale.exp().float()
        with torch.autocast(
            text.device.type, enabled=False
        ):  # rounded again, and times 100, they would err most of all here
            if text.dim() == 2:
                return scale * f @ text.t()
            return scale * torch.einsum("b...e,bce->b...c", f, text)

    def parts(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Image features (B, e), class features (C, e) or (B, C, e), logits (B, C)."""
        f = self.encode_image(image)
        text = self.encode_text(f)
        return f, text, self.logits(f, text)

    def forward(self, image: Tensor) -> Tensor:
        """Logits (B, C)."""
        return self.parts(image)[2]


def load_prompt(prompt: nn.Module, state: dict[str, Tensor], source: str) -> None:
    """Load learned parameters, ours or published ones; fixed token vectors of other classes are dropped.

    Raises:
        ConfigError: parameters are missing, unknown or of another size; the message names source, parameter and sizes.
    """
    state = {key: value for key, value in state.items() if key not in ("token_prefix", "token_suffix")}
    wanted = {key: tuple(value.shape) for key, value in prompt.state_dict().items()}
    given = {key: tuple(value.shape) for key, value in state.items()}
    if wanted != given:
        wrong = sorted(key for key in wanted.keys() | given.keys() if wanted.get(key) != given.get(key))
        told = "; ".join(
            f"{key}: this prompt has {wanted.get(key, 'none')}, the file {given.get(key, 'none')}" for key in wrong
        )
        raise ConfigError(
            f"{source} does not fit ({told}). Method, N_CTX, CTX_INIT and backbone must be those of the training"
            " (and with CSC the classes too)"
        )
    prompt.load_state_dict({key: value.float() for key, value in state.items()})


def _embed(clip: nn.Module, texts: list[str]) -> tuple[Tensor, Tensor]:
    """Token embeddings (C, L, d), fp32, cut behind the longest text, and end-of-text positions (C,)."""
    tokens = tokenize(texts).to(clip.token_embedding.weight.device)
    eot = tokens.argmax(dim=-1)
    return clip.token_embedding(tokens[:, : int(eot.max()) + 1]).detach().float(), eot


def _start(clip: nn.Module, n_ctx: int, ctx_init: str) -> tuple[Tensor, str]:
    """The context to start from, (n, d) in fp32, and its words as a text."""
    if not ctx_init:
        if n_ctx < 1:
            raise ConfigError(f"N_CTX is {n_ctx}; a learned context has at least one token")
        ctx = torch.empty(n_ctx, clip.positional_embedding.shape[1]).normal_(std=0.02)
        words = " ".join(["X"] * n_ctx)
    else:
        words = readable(ctx_init)
        embedding, eot = _embed(clip, [words])
        ctx = embedding[0, 1 : int(eot)].clone().cpu()
    log.info('initial context: "%s", %d tokens', words, len(ctx))
    return ctx, words


def _after(words: str, names: list[str]) -> list[str]:
    """Each class name behind the words of the context, as the papers have it."""
    return [f"{words} {readable(name)}." for name in names]


def _register(prompt: nn.Module, clip: nn.Module, texts: list[str], n_ctx: int) -> None:
    """Buffers of what is fixed, not saved: start-of-text (1, d), and what follows n_ctx tokens of context, name (T, d)."""
    embedding, eot = _embed(clip, texts)
    prompt.lens = tuple((eot - n_ctx).tolist())
    prompt.register_buffer("sot", embedding[0, :1], persistent=False)
    own = [row[1 + n_ctx : 1 + n_ctx + length] for row, length in zip(embedding, prompt.lens)]
    prompt.register_buffer("name", torch.cat(own), persistent=False)
