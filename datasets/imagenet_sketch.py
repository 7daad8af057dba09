"""ImageNet-Sketch: black and white sketches of ImageNet's classes (Wang et al. 2019, arXiv 1905.13549)."""

from dassl.data.datasets import DATASET_REGISTRY

from dicap.data.sources import CLASSNAMES, Source
from dicap.datasets.imagenet import ImageNetShift


@DATASET_REGISTRY.register()
class ImageNetSketch(ImageNetShift):
    folder, images = "imagenet-sketch", "images"
    counts = 1000, 0, 0, 50889
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
    homepage = "https://github.com/HaohanWang/ImageNet-Sketch"
