"""CoOp: one learned context before every class name (Zhou et al. 2022, arXiv 2109.01134, eq. 2-3).

    t_k = text([V]_1 ... [V]_n NAME_k.),   loss = cross-entropy of logit_scale.exp() <f, t_k>

python train.py --trainer CoOp --dataset-config-file configs/datasets/causal_shapes.yaml \\
    --config-file configs/trainers/CoOp/tiny.yaml --seed 1 --output-dir output/coop DATASET.NUM_SHOTS 16
"""

from dassl.engine import TRAINER_REGISTRY
from torch.nn.functional import cross_entropy

from dicap.options import Option
from dicap.prompts import POSITIONS, StaticContext
from dicap.trainer import CONTEXT, PromptTrainer


@TRAINER_REGISTRY.register()
class CoOp(PromptTrainer):
    """Context optimisation."""

    OPTIONS = {
        **CONTEXT,
        "CSC": Option(False, "a context for each class: more to learn, and useless on classes that were not seen"),
        "CLASS_TOKEN_POSITION": Option(
            "end", "where the class name stands; the end shares one encoded prefix", POSITIONS
        ),
    }

    def build_prompt(self, clip, names):
        o = self.options
        return StaticContext(clip, names, o.n_ctx, o.ctx_init, o.csc, o.class_token_position)

    def loss(self, batch):
        logits = self.model(batch["img"])  # (B, C)
        return logits, {"ce": cross_entropy(logits, batch["label"])}
