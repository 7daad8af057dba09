"""EuroSAT: 27,000 Sentinel-2 tiles, 10 kinds of land (Helber et al. 2019, arXiv 1709.00029)."""

from dassl.data.datasets import DATASET_REGISTRY

from dicap.datasets.base import FewShotDataset, Source


@DATASET_REGISTRY.register()
class EuroSAT(FewShotDataset):
    folder, images = "eurosat", "2750"
    split_file = "split_zhou_EuroSAT.json"
    published = "06f3e2e5d863e3b7e7809f703d9145c4b8514473df1032d7a8413f9b65e84561"
    counts = 10, 13500, 5400, 8100
    class_folders = True
    template = "a centered satellite photo of {}."
    sources = (
        Source(
            "EuroSAT.zip",
            url="https://huggingface.co/datasets/torchgeo/eurosat/resolve/c877bcd43f099cd0196738f714544e355477f3fd/EuroSAT.zip",
            md5="c8fa014336c82ac7804f0398fcb19387",
            sha256="8ebea626349354c5328b142b96d0430e647051f26efc2dc974c843f25ecf70bd",
            size=94_280_567,
            unpack=("2750",),
        ),
        Source(split_file, drive="1Ip7yaCWFi0eaOFUGga0lUdVi_DDQth1o"),
    )
    licence, homepage = "MIT", "https://github.com/phelber/EuroSAT"
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
