"""ImageNet-R: renditions, 200 classes labelled 0 to 199 (Hendrycks et al. 2021, arXiv 2006.16241)."""

from typing import Any

from dassl.data.datasets import DATASET_REGISTRY

from dicap.data.imagenet import DUPLICATES, read_shift
from dicap.data.sources import CLASSNAMES, Source
from dicap.data.split import Items
from dicap.datasets.base import FewShotDataset


@DATASET_REGISTRY.register()
class ImageNetR(FewShotDataset):
    folder, images = "imagenet-rendition", "imagenet-r"
    counts = 200, 0, 0, 30000
    duplicates, test_only = DUPLICATES, True
    template = "a photo of a {}."
    sources = (
        Source(
            "imagenet-r.tar",
            url="https://people.eecs.berkeley.edu/~hendrycks/imagenet-r.tar",
            size=2_191_079_936,
            md5="a61312130a589d0ca1a8fca1f2bd3337",
            origin="tfds",
            unpack=("imagenet-r",),
            sha256="18c6bf493b39a0d975d48e587437f562caab9c52ae6327dcfa9dd8eb54aa1b52",
        ),
        CLASSNAMES,
    )
    licence = "MIT (the repository's); the pictures were found on the web"
    homepage = "https://github.com/hendrycks/imagenet-r"

    def read(self, cfg: Any) -> dict[str, Items]:
        return read_shift(self)
