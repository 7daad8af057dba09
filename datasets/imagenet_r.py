"""ImageNet-R: renditions, 200 classes labelled 0 to 199 (Hendrycks et al. 2021, arXiv 2006.16241)."""

from dassl.data.datasets import DATASET_REGISTRY

from dicap.data.sources import CLASSNAMES, Source
from dicap.datasets.imagenet import ImageNetShift


@DATASET_REGISTRY.register()
class ImageNetR(ImageNetShift):
    folder, images = "imagenet-rendition", "imagenet-r"
    counts = 200, 0, 0, 30000
    sources = (
        Source(
            "imagenet-r.tar",
            url="https://people.eecs.berkeley.edu/~hendrycks/imagenet-r.tar",
            size=2_191_079_936,
            origin="tfds",
            unpack=("imagenet-r",),
            md5="a61312130a589d0ca1a8fca1f2bd3337",
            sha256="18c6bf493b39a0d975d48e587437f562caab9c52ae6327dcfa9dd8eb54aa1b52",
        ),
        CLASSNAMES,
    )
    homepage = "https://github.com/hendrycks/imagenet-r"
