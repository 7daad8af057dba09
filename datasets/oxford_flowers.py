"""OxfordFlowers: 102 kinds of flowers (Nilsback, Zisserman 2008)."""

from dassl.data.datasets import DATASET_REGISTRY

from dicap.datasets.base import FewShotDataset


@DATASET_REGISTRY.register()
class OxfordFlowers(FewShotDataset):
    folder, images = "oxford_flowers", "jpg"
    split_file = "split_zhou_OxfordFlowers.json"
    counts = 102, 4093, 1633, 2463
    template = "a photo of a {}, a type of flower."
