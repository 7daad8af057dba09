"""ImageNet-Sketch: black and white sketches of ImageNet's classes (Wang et al. 2019, arXiv 1905.13549)."""

from typing import Any

from dassl.data.datasets import DATASET_REGISTRY

from dicap.data.imagenet import DUPLICATES, read_shift
from dicap.data.sources import CLASSNAMES, Source
from dicap.data.split import Items
from dicap.datasets.base import FewShotDataset


@DATASET_REGISTRY.register()
class ImageNetSketch(FewShotDataset):
    folder, images = "imagenet-sketch", "images"
    counts = 1000, 0, 0, 50889
    duplicates, test_only = DUPLICATES, True
    template = "a photo of a {}."
    sources = (
        Source(
            "ImageNet-Sketch.zip",
            drive="1Mj0i5HBthqH1p_yeXzsg22gZduvgoNeA",
            unpack=("images",),
            rename={"sketch": "images"},
            origin="authors",
            note="7.8 GB, the authors say",
        ),
        CLASSNAMES,
    )
    licence = "MIT (the repository's); the pictures were found on the web"
    homepage = "https://github.com/HaohanWang/ImageNet-Sketch"

    def read(self, cfg: Any) -> dict[str, Items]:
        return read_shift(self)
