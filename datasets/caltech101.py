"""Caltech101: objects and a few animals, 100 classes (Fei-Fei, Fergus, Perona 2004)."""

from dassl.data.datasets import DATASET_REGISTRY

from dicap.datasets.base import FewShotDataset


@DATASET_REGISTRY.register()
class Caltech101(FewShotDataset):
    folder, images = "caltech-101", "101_ObjectCategories"
    split_file = "split_zhou_Caltech101.json"
    counts = 100, 4128, 1649, 2465
    template = "a photo of a {}."
    rename = {"airplanes": "airplane", "Faces": "face", "Leopards": "leopard", "Motorbikes": "motorbike"}
