"""ImageNet-A: natural images that fool classifiers, 200 classes labelled 0 to 199 (Hendrycks et al. 2021, arXiv 1907.07174)."""

from typing import Any

from dassl.data.datasets import DATASET_REGISTRY

from dicap.data.imagenet import DUPLICATES, read_shift
from dicap.data.sources import CLASSNAMES, Source
from dicap.data.split import Items
from dicap.datasets.base import FewShotDataset


@DATASET_REGISTRY.register()
class ImageNetA(FewShotDataset):
    folder, images = "imagenet-adversarial", "imagenet-a"
    counts = 200, 0, 0, 7500
    duplicates, test_only = DUPLICATES, True
    template = "a photo of a {}."
    sources = (
        Source(
            "imagenet-a.tar",
            url="https://people.eecs.berkeley.edu/~hendrycks/imagenet-a.tar",
            size=687_552_512,
            md5="c3e55429088dc681f30d81f4726b6595",
            origin="tfds",
            unpack=("imagenet-a",),
            sha256="3bb3632277e6ba6392ea64c02ddbf4dd2266c9caffd6bc09c9656d28f012589e",
        ),
        CLASSNAMES,
    )
    licence = "MIT (the repository's); the pictures were found on the web"
    homepage = "https://github.com/hendrycks/natural-adv-examples"

    def read(self, cfg: Any) -> dict[str, Items]:
        return read_shift(self)
