"""ImageNetV2: new test images of ImageNet, the matched-frequency set (Recht et al. 2019, arXiv 1902.10811)."""

from dassl.data.datasets import DATASET_REGISTRY

from dicap.data.sources import CLASSNAMES, Source
from dicap.datasets.imagenet import ImageNetShift


@DATASET_REGISTRY.register()
class ImageNetV2(ImageNetShift):
    folder, images = "imagenetv2", "imagenetv2-matched-frequency-format-val"
    counts = 1000, 0, 0, 10000
    numbered = True
    sources = (
        Source(
            "imagenetv2-matched-frequency.tar.gz",
            size=1_264_079_360,
            origin="tfds",
            url="https://huggingface.co/datasets/vaishaal/ImageNetV2/resolve/main/imagenetv2-matched-frequency.tar.gz",
            sha256="f0c37fdf925916b19ea1323cd9a2208cdb6959ba2c32eef2a7fc393835c9ca7c",
            unpack=("imagenetv2-matched-frequency-format-val",),
        ),
        CLASSNAMES,
    )
    licence = "MIT (the repository's); the pictures are Flickr's"
    homepage = "https://github.com/modestyachts/ImageNetV2"
