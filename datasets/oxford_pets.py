"""OxfordPets: 37 breeds of cats and dogs (Parkhi et al. 2012)."""

from dassl.data.datasets import DATASET_REGISTRY

from dicap.datasets.base import FewShotDataset


@DATASET_REGISTRY.register()
class OxfordPets(FewShotDataset):
    folder, images = "oxford_pets", "images"
    split_file = "split_zhou_OxfordPets.json"
    counts = 37, 2944, 736, 3669
    template = "a photo of a {}, a type of pet."
