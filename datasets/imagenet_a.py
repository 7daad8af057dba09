"""ImageNet-A: natural images that fool classifiers, 200 classes labelled 0 to 199 (Hendrycks et al. 2021, arXiv 1907.07174)."""

from dassl.data.datasets import DATASET_REGISTRY

from dicap.data.sources import CLASSNAMES, Source
from dicap.datasets.imagenet import ImageNetShift


@DATASET_REGISTRY.register()
class ImageNetA(ImageNetShift):
    folder, images = "imagenet-adversarial", "imagenet-a"
    counts = 200, 0, 0, 7500
    sources = (
        Source(
            "imagenet-a.tar",
            url="https://people.eecs.berkeley.edu/~hendrycks/imagenet-a.tar",
            size=687_552_512,
            origin="tfds",
            unpack=("imagenet-a",),
            md5="c3e55429088dc681f30d81f4726b6595",
            sha256="3bb3632277e6ba6392ea64c02ddbf4dd2266c9caffd6bc09c9656d28f012589e",
        ),
        CLASSNAMES,
    )
    homepage = "https://github.com/hendrycks/natural-adv-examples"
