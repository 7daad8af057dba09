"""CausalShapes in eight colours that no training shows (docs/world.md): its test pictures under do(colour=unseen)."""

from dassl.data.datasets import DATASET_REGISTRY

from dicap.datasets.causal_shapes import ShiftedCausalShapes


@DATASET_REGISTRY.register()
class CausalShapesColours(ShiftedCausalShapes):
    fixed = {**ShiftedCausalShapes.fixed, "shift": "colours"}
