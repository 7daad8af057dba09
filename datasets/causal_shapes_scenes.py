"""CausalShapes in eight scenes that no training shows (docs/world.md): its test pictures under do(scene=unseen)."""

from dassl.data.datasets import DATASET_REGISTRY

from dicap.data.split import Item, Items
from dicap.datasets.causal_shapes import ShiftedCausalShapes


@DATASET_REGISTRY.register()
class CausalShapesScenes(ShiftedCausalShapes):
    fixed = {**ShiftedCausalShapes.fixed, "shift": "scenes"}

    def group(self, items: Items) -> dict[Item, str]:
        """None: an unseen scene is tied to no class."""
        return {}
