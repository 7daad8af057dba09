"""Zero-shot CLIP: a hand template around each class name, nothing is learned (Radford et al. 2021, arXiv 2103.00020).

    logits = logit_scale.exp() <f, t_k>,   t_k = text("a photo of a NAME_k.")

python train.py --trainer ZeroshotCLIP --dataset-config-file configs/datasets/digits.yaml \\
    --config-file configs/trainers/ZeroshotCLIP/tiny.yaml --eval-only
"""

from dicap.learner import Learner
from dicap.options import Option
from dicap.trainer import register


@register
class ZeroshotCLIP(Learner):
    """The frozen CLIP with the dataset's own hand template."""

    FIT = "none"
    OPTIONS = {"TEMPLATE": Option("", 'text with one {} for the class; "" = the dataset\'s, else "a photo of a {}."')}

    def __init__(self, clip, options, texts, template):
        super().__init__(clip, options, texts, options.template or template)
