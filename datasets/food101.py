"""Food101: 101 dishes (Bossard et al. 2014)."""

from dassl.data.datasets import DATASET_REGISTRY

from dicap.datasets.base import FewShotDataset, Source


@DATASET_REGISTRY.register()
class Food101(FewShotDataset):
    folder, images = "food-101", "images"
    split_file = "split_zhou_Food101.json"
    counts = 101, 50500, 20200, 30300
    class_folders = True
    template = "a photo of {}, a type of food."
    sources = (
        Source(
            "food-101.tar.gz",
            url="https://data.vision.ee.ethz.ch/cvl/food-101.tar.gz",
            size=4_996_278_331,
            unpack=("images",),
            md5="85eeb15f3717b99a5da872d97d918f87",
            sha256="d97d15e438b7f4498f96086a4f7e2fa42a32f2712e87d3295441b2b6314053a4",
            also=("meta", "license_agreement.txt", "README.txt"),
        ),
        Source(split_file, drive="1QK0tGi096I0Ba6kggatX1ee6dJFIcEJl"),
    )
    licence = "scientific fair use only: the pictures are Foodspotting's (license_agreement.txt in the archive)"
    homepage = "https://data.vision.ee.ethz.ch/cvl/datasets_extra/food-101"
