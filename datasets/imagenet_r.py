"""ImageNet-R: renditions, 200 classes labelled 0 to 199 (Hendrycks et al. 2021, arXiv 2006.16241)."""
from typing import Any

from dassl.data.datasets import DATASET_REGISTRY

from dicap.data.imagenet import DUPLICATES, labelled, read_classnames
from dicap.data.split import Items
from dicap.datasets.base import FewShotDataset


@DATASET_REGISTRY.register()
class ImageNetR(FewShotDataset):
    folder, images = "imagenet-rendition", "imagenet-r"
    counts = 200, 0, 0, 30000
    duplicates, test_only = DUPLICATES, True
    template = "a photo of a {}."

    def read(self, cfg: Any) -> dict[str, Items]:
        return {"train": [], "val": [], "test": labelled(self.image_dir, read_classnames(self.dataset_dir))}
