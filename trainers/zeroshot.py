"""Zero-shot CLIP: a hand template around each class name, nothing is learned (Radford et al. 2021, arXiv 2103.00020).

    logits = logit_scale.exp() <f, t_k>,   t_k = text("a photo of a NAME_k.")

python train.py --trainer ZeroshotCLIP --dataset-config-file configs/datasets/digits.yaml \\
    --config-file configs/trainers/ZeroshotCLIP/tiny.yaml --eval-only
"""

from dassl.engine import TRAINER_REGISTRY

from dicap.options import Option
from dicap.prompts import FixedPrompt
from dicap.trainer import PREC, PromptTrainer
from dicap.wording import hand_template


@TRAINER_REGISTRY.register()
class ZeroshotCLIP(PromptTrainer):
    """The frozen CLIP with the dataset's own hand template."""

    learns = False
    OPTIONS = {
        "TEMPLATE": Option(
            "", 'text with one {} for the class name; "" = the dataset\'s template, else "a photo of a {}."'
        ),
        "PREC": PREC,
    }

    def build_prompt(self, clip, names):
        return FixedPrompt(clip, names, hand_template(self.dm.dataset, self.options.template))
