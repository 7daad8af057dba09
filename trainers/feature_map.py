"""FeatureMap: one linear residual map of the image features. Ours: the simplest learner that sees the image side.

    f' = normalise(f + f A),   A (e, e), zero at first, so that training starts at zero-shot CLIP;   texts are hand prompts

python train.py --trainer FeatureMap --dataset-config-file configs/datasets/causal_shapes.yaml \\
    --config-file configs/trainers/FeatureMap/tiny.yaml --seed 1 --output-dir output/map DATASET.NUM_SHOTS 16
"""

import torch
import torch.nn.functional as F
from torch import nn

from dicap.learner import Learner
from dicap.trainer import LR_SCALE, register


@register
class FeatureMap(Learner):
    """A linear residual map of image features."""

    IMAGE = "features"
    OPTIONS = {"LR_SCALE": LR_SCALE}

    def __init__(self, clip, options, texts, template):
        super().__init__(clip, options, texts, template)
        e = clip.text_projection.shape[1]
        self.weight = nn.Parameter(torch.zeros(e, e))

    def image(self, x):
        return F.normalize((x + x @ self.weight).float(), dim=-1)
