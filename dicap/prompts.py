"""What learners of text prompts share: names as embedded tokens, the context to start from, the text tower.

Saved names are the family's: ctx, meta_net.linear{1,2}.{weight,bias}. Nothing else is saved, so that a context trained on
n classes loads into m others. The learned parameters are always fp32.
"""

import logging
from collections import OrderedDict
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dicap.backbones import tokenize
from dicap.learner import Learner
from dicap.options import ConfigError, Option
from dicap.text_tower import Prompts, embed
from dicap.wording import readable

log = logging.getLogger(__name__)

POSITIONS = ("end", "middle", "front")
CONTEXT = {
    "N_CTX": Option(16, "context tokens without CTX_INIT; 16 in the few-shot setting of the papers", least=1),
    "CTX_INIT": Option("", 'words to start the context from, "a photo of a" for base-to-new; they decide its length'),
}


class PromptLearner(Learner):
    """A learner of what stands around each text. A subclass makes `prompts` of `self.words`, the texts' own tokens."""

    FOLDER = "prompt_learner"  # the family's name
    context_words = ""  # words in the place of the context when texts are tokenised
    n_ctx = 0

    def read_texts(self, texts: Sequence[str]) -> None:
        sentences = [f"{self.context_words} {readable(text)}.".lstrip() for text in texts]
        words = embed(self.clip, sentences, skip=self.n_ctx)  # the tokens behind the context
        self.lens = words.lens
        self.register_buffer("sot", words.prefix[0], persistent=False)  # (1, d) start-of-text token
        self.register_buffer("name", words.suffix, persistent=False)  # (T, d)

    def prompts(self, f: Tensor | None) -> Prompts:
        """Prompts with one prefix for all images, or where TEXT is per_image one for each of f (B, e)."""
        raise NotImplementedError  # a method must say

    def text(self, f: Tensor | None = None) -> Tensor:
        t = F.normalize(self.text_tower(self.prompts(f)).float(), dim=-1)  # (1 or B, C, e)
        return t if self.facts.text == "per_image" else t[0]

    def start_context(self, n_ctx: int, words: str) -> Tensor:
        """The context to start from, (n, d) in fp32: the tokens of words, or without any n_ctx random ones, std 0.02."""
        if words:
            prompts = embed(self.clip, [readable(words)])
            ctx = prompts.suffix[:-1].clone().cpu()  # without the end-of-text token
            self.context_words = readable(words)
        elif n_ctx < 1:
            raise ConfigError(f"N_CTX is {n_ctx}; a learned context has at least one token")
        else:
            ctx = torch.empty(n_ctx, self.clip.positional_embedding.shape[1]).normal_(std=0.02)
            self.context_words = " ".join(["X"] * n_ctx)
        self.n_ctx = len(ctx)
        log.info('initial context: "%s", %d tokens', self.context_words, self.n_ctx)
        return ctx


def rows_around(texts: Sequence[str], lens: Sequence[int], n_ctx: int, position: str) -> Tensor:
    """Where each class has a context of its own: its prompt as rows of [C contexts | tokens of all texts], (C n + T,).

    Args:
        lens: number of tokens of each text with its full stop and end-of-text token.
        position: where the text stands: at the "end" of the context, in its "middle" or in "front" of it.
    """
    half = {"end": n_ctx, "middle": n_ctx // 2, "front": 0}[position]
    text_lens = (tokenize([readable(text) for text in texts]).argmax(dim=-1) - 1).tolist()
    rows, at = [], len(texts) * n_ctx
    for c, (length, n) in enumerate(zip(lens, text_lens)):
        ctx, own = torch.arange(c * n_ctx, (c + 1) * n_ctx), torch.arange(at, at + length)
        rows += [ctx[:half], own[:n], ctx[half:], own[n:]]
        at += length
    return torch.cat(rows)


def meta_net(clip: nn.Module) -> nn.Sequential:
    """CoCoOp's network from image features (B, e) to an offset of the context tokens (B, d)."""
    d, e = clip.text_projection.shape
    width = max(1, e // 16)
    return nn.Sequential(OrderedDict(linear1=nn.Linear(e, width), relu=nn.ReLU(), linear2=nn.Linear(width, d)))
