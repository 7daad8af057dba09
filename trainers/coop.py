"""CoOp: one learned context before every class name (Zhou et al. 2022, arXiv 2109.01134, eq. 2-3).

    t_k = text([V]_1 ... [V]_n NAME_k.),   loss = cross-entropy of logit_scale.exp() <f, t_k>

python train.py --trainer CoOp --dataset-config-file configs/datasets/causal_shapes.yaml \\
    --config-file configs/trainers/CoOp/tiny.yaml --seed 1 --output-dir output/coop DATASET.NUM_SHOTS 16
"""

import dataclasses

import torch
from torch import nn

from dicap.options import Option
from dicap.prompts import CONTEXT, POSITIONS, PromptLearner, rows_around
from dicap.text_tower import Prompts
from dicap.trainer import register


@register
class CoOp(PromptLearner):
    """Context optimisation."""

    TEXT = "shared"
    OPTIONS = {
        **CONTEXT,
        "CSC": Option(False, "a context for each class: more to learn, and useless on classes that were not seen"),
        "CLASS_TOKEN_POSITION": Option("end", "where the class name stands; end shares one encoded prefix", POSITIONS),
    }

    @classmethod
    def facts_of(cls, options):
        facts = super().facts_of(options)
        return dataclasses.replace(facts, classes="trained") if options.csc else facts

    def __init__(self, clip, options, texts, template):
        super().__init__(clip, options, texts, template)
        ctx = self.start_context(options.n_ctx, options.ctx_init)  # (n, d)
        if options.csc:
            shape = (len(texts), *ctx.shape)
            ctx = ctx.expand(shape).clone() if options.ctx_init else torch.empty(shape).normal_(std=0.02)
        self.ctx = nn.Parameter(ctx)
        self.one_prefix = options.class_token_position == "end" and not options.csc  # the same before all names

    def read_texts(self, texts):
        super().read_texts(texts)
        if not self.one_prefix:
            rows = rows_around(texts, self.lens, self.n_ctx, self.options.class_token_position)
            self.register_buffer("rows", rows.to(self.ctx.device), persistent=False)

    def prompts(self, f):
        sot, ctx, name = self.sot, self.ctx, self.name  # (1, d), (n, d) or (C, n, d), (T, d)
        if self.one_prefix:
            return Prompts(torch.cat([sot, ctx])[None], name, self.lens)
        own = ctx.expand(len(self.lens), self.n_ctx, -1).flatten(0, 1)  # (C n, d)
        suffix = torch.cat([own, name]).index_select(0, self.rows)
        return Prompts(sot[None], suffix, tuple(length + self.n_ctx for length in self.lens))
