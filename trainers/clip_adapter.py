"""CLIP-Adapter: a small network over the image features, blended with them (Gao et al. 2021, arXiv 2110.04544, eq. 4-5).

    f' = normalise(r ReLU(W2 ReLU(W1 f)) + (1 - r) f),   W1: e -> e/4, W2: e/4 -> e,   texts are hand prompts

Settings as the authors' code has them (gaopengcuhk/CLIP-Adapter: reduction 4, no bias, r 0.2). It adapts CLIP's features
before they are normalised; ours are normalised first, as everywhere here, so that they are encoded once.

python train.py --trainer CLIPAdapter --dataset-config-file configs/datasets/causal_shapes.yaml \\
    --config-file configs/trainers/CLIPAdapter/tiny.yaml --seed 1 --output-dir output/adapter DATASET.NUM_SHOTS 16
"""

import torch.nn.functional as F
from torch import nn

from dicap.learner import Learner
from dicap.options import Option
from dicap.trainer import LR_SCALE, register


@register
class CLIPAdapter(Learner):
    """A bottleneck adapter of image features."""

    IMAGE = "features"
    OPTIONS = {
        "RATIO": Option(0.2, "share of the adapted features, 0 to 1; 0.2 in the authors' code", least=0),
        "LR_SCALE": LR_SCALE,
    }

    def __init__(self, clip, options, texts, template):
        super().__init__(clip, options, texts, template)
        e = clip.text_projection.shape[1]
        fc1, fc2 = nn.Linear(e, e // 4, bias=False), nn.Linear(e // 4, e, bias=False)
        self.fc = nn.Sequential(fc1, nn.ReLU(), fc2, nn.ReLU())

    def image(self, x):
        ratio = self.options.ratio
        return F.normalize((ratio * self.fc(x) + (1 - ratio) * x).float(), dim=-1)
