"""UCF101: the middle frame of each video, 101 actions (Soomro et al. 2012, arXiv 1212.0402)."""

from dassl.data.datasets import DATASET_REGISTRY

from dicap.datasets.base import FewShotDataset


@DATASET_REGISTRY.register()
class UCF101(FewShotDataset):
    folder, images = "ucf101", "UCF-101-midframes"
    split_file = "split_zhou_UCF101.json"
    counts = 101, 7639, 1898, 3783
    template = "a photo of a person doing {}."
