"""ImageNetV2: new test images of ImageNet, the matched-frequency set (Recht et al. 2019, arXiv 1902.10811)."""
from typing import Any

from dassl.data.datasets import DATASET_REGISTRY

from dicap.data.imagenet import DUPLICATES, labelled, read_classnames
from dicap.data.split import Items
from dicap.datasets.base import FewShotDataset


@DATASET_REGISTRY.register()
class ImageNetV2(FewShotDataset):
    folder, images = "imagenetv2", "imagenetv2-matched-frequency-format-val"
    counts = 1000, 0, 0, 10000
    duplicates, test_only = DUPLICATES, True
    template = "a photo of a {}."

    def read(self, cfg: Any) -> dict[str, Items]:
        return {"train": [], "val": [], "test": labelled(self.image_dir, read_classnames(self.dataset_dir), numbered=True)}
