"""StanfordCars: 196 makes, models and years of cars (Krause et al. 2013)."""

from dassl.data.datasets import DATASET_REGISTRY

from dicap.datasets.base import FewShotDataset


@DATASET_REGISTRY.register()
class StanfordCars(FewShotDataset):
    folder, images = "stanford_cars", ""
    split_file = "split_zhou_StanfordCars.json"
    counts = 196, 6509, 1635, 8041
    template = "a photo of a {}."
