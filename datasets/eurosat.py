"""EuroSAT: 27,000 Sentinel-2 tiles, 10 kinds of land (Helber et al. 2019, arXiv 1709.00029)."""

from dassl.data.datasets import DATASET_REGISTRY

from dicap.datasets.base import FewShotDataset


@DATASET_REGISTRY.register()
class EuroSAT(FewShotDataset):
    folder, images = "eurosat", "2750"
    split_file = "split_zhou_EuroSAT.json"
    counts = 10, 13500, 5400, 8100
    template = "a centered satellite photo of {}."
    rename = {
        "AnnualCrop": "Annual Crop Land",
        "HerbaceousVegetation": "Herbaceous Vegetation Land",
        "Highway": "Highway or Road",
        "Industrial": "Industrial Buildings",
        "Pasture": "Pasture Land",
        "PermanentCrop": "Permanent Crop Land",
        "Residential": "Residential Buildings",
        "SeaLake": "Sea or Lake",
    }
