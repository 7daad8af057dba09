"""CausalShapes by a noisier camera (docs/world.md): its test pictures with more of the same sensor noise."""

from dassl.data.datasets import DATASET_REGISTRY

from dicap.datasets.causal_shapes import ShiftedCausalShapes
from dicap.options import Option
from dicap.world import NOISY


@DATASET_REGISTRY.register()
class CausalShapesNoise(ShiftedCausalShapes):
    OPTIONS = {
        **ShiftedCausalShapes.OPTIONS,
        "NOISE": Option(NOISY.noise, "the shift: sensor noise; CausalShapes has 0.25", least=0),
    }
