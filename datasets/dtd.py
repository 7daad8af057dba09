"""DescribableTextures: 47 textures (Cimpoi et al. 2014)."""

from dassl.data.datasets import DATASET_REGISTRY

from dicap.datasets.base import FewShotDataset


@DATASET_REGISTRY.register()
class DescribableTextures(FewShotDataset):
    folder, images = "dtd", "images"
    split_file = "split_zhou_DescribableTextures.json"
    counts = 47, 2820, 1128, 1692
    template = "{} texture."
