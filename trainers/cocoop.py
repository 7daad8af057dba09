"""CoCoOp: the context is shifted by what a small network reads in each image (Zhou et al. 2022, arXiv 2203.05557, eq. 2-3).

    t_k(f) = text([V]_1 + h(f) ... [V]_n + h(f) NAME_k.),   loss = cross-entropy of logit_scale.exp() <f, t_k(f)>

All images of a batch go through the text tower in one call.

python train.py --trainer CoCoOp --dataset-config-file configs/datasets/causal_shapes.yaml \\
    --config-file configs/trainers/CoCoOp/tiny.yaml --seed 1 --output-dir output/cocoop DATASET.NUM_SHOTS 16
"""

from dassl.engine import TRAINER_REGISTRY
from torch.nn.functional import cross_entropy

from dicap.prompts import ConditionalContext
from dicap.trainer import CONTEXT, PromptTrainer


@TRAINER_REGISTRY.register()
class CoCoOp(PromptTrainer):
    """Conditional context optimisation."""

    OPTIONS = dict(CONTEXT)

    def build_prompt(self, clip, names):
        return ConditionalContext(clip, names, self.options.n_ctx, self.options.ctx_init)

    def loss(self, batch):
        logits = self.model(batch["img"])  # (B, C)
        return logits, {"ce": cross_entropy(logits, batch["label"])}
