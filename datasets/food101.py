"""Food101: 101 dishes (Bossard et al. 2014)."""

from dassl.data.datasets import DATASET_REGISTRY

from dicap.datasets.base import FewShotDataset


@DATASET_REGISTRY.register()
class Food101(FewShotDataset):
    folder, images = "food-101", "images"
    split_file = "split_zhou_Food101.json"
    counts = 101, 50500, 20200, 30300
    template = "a photo of {}, a type of food."
