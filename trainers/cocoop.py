"""CoCoOp: the context is shifted by what a small network reads in each image (Zhou et al. 2022, arXiv 2203.05557, eq. 2-3).

    t_k(f) = text([V]_1 + h(f) ... [V]_n + h(f) NAME_k.),   loss = cross-entropy of logit_scale.exp() <f, t_k(f)>

All images of a batch go through the text tower in one call.

python train.py --trainer CoCoOp --dataset-config-file configs/datasets/causal_shapes.yaml \\
    --config-file configs/trainers/CoCoOp/tiny.yaml --seed 1 --output-dir output/cocoop DATASET.NUM_SHOTS 16
"""

import torch
from torch import nn

from dicap.prompts import CONTEXT, PromptLearner, meta_net
from dicap.text_tower import Prompts
from dicap.trainer import register


@register
class CoCoOp(PromptLearner):
    """Conditional context optimisation."""

    TEXT = "per_image"
    OPTIONS = CONTEXT

    def __init__(self, clip, options, texts, template):
        super().__init__(clip, options, texts, template)
        self.ctx = nn.Parameter(self.start_context(options.n_ctx, options.ctx_init))  # (n, d)
        self.meta_net = meta_net(clip)

    def prompts(self, f):
        ctx = self.ctx + self.meta_net(f)[:, None]  # (B, n, d)
        return Prompts(torch.cat([self.sot.expand(len(f), 1, -1), ctx], dim=1), self.name, self.lens)
