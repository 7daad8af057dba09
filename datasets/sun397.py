"""SUN397: 397 scenes (Xiao et al. 2010)."""

from dassl.data.datasets import DATASET_REGISTRY

from dicap.datasets.base import FewShotDataset


@DATASET_REGISTRY.register()
class SUN397(FewShotDataset):
    folder, images = "sun397", "SUN397"
    split_file = "split_zhou_SUN397.json"
    counts = 397, 15880, 3970, 19850
    template = "a photo of a {}."
