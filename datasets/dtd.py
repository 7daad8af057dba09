"""DescribableTextures: 47 textures (Cimpoi et al. 2014)."""

from dassl.data.datasets import DATASET_REGISTRY

from dicap.datasets.base import FewShotDataset, Source


@DATASET_REGISTRY.register()
class DescribableTextures(FewShotDataset):
    folder, images = "dtd", "images"
    split_file = "split_zhou_DescribableTextures.json"
    published = "f0b22503f5d9d3aaab3e920ec97b14f1c16b321687b734fd01e5da5b55b84084"
    counts = 47, 2820, 1128, 1692
    class_folders = True
    template = "{} texture."
    sources = (
        Source(
            "dtd-r1.0.1.tar.gz",
            url="https://www.robots.ox.ac.uk/~vgg/data/dtd/download/dtd-r1.0.1.tar.gz",
            size=625_239_812,
            unpack=("images",),
            md5="fff73e5086ae6bdbea199a49dfb8a4c1",
            sha256="e42855a52a4950a3b59612834602aa253914755c95b0cff9ead6d07395f8e205",
            also=("imdb", "labels"),
        ),
        Source(split_file, drive="1u3_QfB467jqHgNXC00UIzbLZRQCg2S7x"),
    )
    licence = "research purposes; the pictures were found on the web"
    homepage = "https://www.robots.ox.ac.uk/~vgg/data/dtd"
