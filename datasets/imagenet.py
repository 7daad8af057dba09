"""ImageNet: ILSVRC 2012, 1,000 classes; its validation images are the test part (Deng et al. 2009, Russakovsky et al. 2015).

images/{train,val}/<WordNet id>/; classnames.txt has CLIP's class names, two of which stand twice.
"""

from typing import Any

from dassl.data.datasets import DATASET_REGISTRY

from dicap.data.official import DUPLICATES, labelled, read_classnames
from dicap.data.sources import BY_HAND, CLASSNAMES, TOO, Source
from dicap.datasets.base import FewShotDataset, Items


@DATASET_REGISTRY.register()
class ImageNet(FewShotDataset):
    folder = "imagenet"
    counts = 1000, 1281167, 0, 50000
    duplicates, val_is_test = DUPLICATES, True
    sources = (Source("images/train", note=BY_HAND), Source("images/val", note=TOO), CLASSNAMES)
    licence = "non-commercial research and education, by agreement with image-net.org; the pictures belong to others"
    homepage = "https://image-net.org"

    def read(self, cfg: Any) -> dict[str, Items]:
        names = read_classnames(self.dataset_dir)
        train, test = (labelled(self.image_dir, names, below) for below in ("train", "val"))
        return {"train": train, "val": [], "test": test}


class ImageNetShift(FewShotDataset):
    """What ImageNet's shifts share: class folders of test images, named by ImageNet's classnames.txt."""

    duplicates, test_only = DUPLICATES, True
    licence = "MIT (the repository's); the pictures were found on the web"
    numbered = False  # folders are labels ("0", "1" ...), not WordNet ids

    def read(self, cfg: Any) -> dict[str, Items]:
        items = labelled(self.image_dir, read_classnames(self.dataset_dir), numbered=self.numbered)
        return {"train": [], "val": [], "test": items}
