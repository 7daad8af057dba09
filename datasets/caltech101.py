"""Caltech101: objects and a few animals, 100 classes (Fei-Fei, Fergus, Perona 2004)."""

from dassl.data.datasets import DATASET_REGISTRY

from dicap.datasets.base import FewShotDataset, Source


@DATASET_REGISTRY.register()
class Caltech101(FewShotDataset):
    folder, images = "caltech-101", "101_ObjectCategories"
    split_file = "split_zhou_Caltech101.json"
    published = "218e9d1c52c12e6a15704da1908b67a35b96274dcc619f94f932972da744e9f6"
    counts = 100, 4128, 1649, 2465
    class_folders, ignored = True, ("BACKGROUND_Google", "Faces_easy")
    sources = (
        Source(
            "caltech-101.zip",
            url="https://data.caltech.edu/records/mzrjq-6wc02/files/caltech-101.zip",
            size=137_414_764,
            md5="3138e1922a9193bfa496528edbbc45d0",
            sha256="331234750fc7f77520e50d9565e8b6907b03565e30320da1401130db08c61f91",
            inner="101_ObjectCategories.tar.gz",
            unpack=("101_ObjectCategories",),
        ),
        Source(split_file, drive="1hyarUivQE36mY6jSomru6Fjd-JzwcCzN"),
    )
    licence = "CC BY 4.0 (CaltechDATA's record); the pictures were found on the web"
    homepage = "https://data.caltech.edu/records/mzrjq-6wc02"
    rename = {"airplanes": "airplane", "Faces": "face", "Leopards": "leopard", "Motorbikes": "motorbike"}
