"""UCF101: the middle frame of each video, 101 actions (Soomro et al. 2012, arXiv 1212.0402)."""

from dassl.data.datasets import DATASET_REGISTRY

from dicap.data.sources import LISTS, Source
from dicap.datasets.base import FewShotDataset


@DATASET_REGISTRY.register()
class UCF101(FewShotDataset):
    folder, images = "ucf101", "UCF-101-midframes"
    split_file = "split_zhou_UCF101.json"
    counts = 101, 7639, 1898, 3783
    template = "a photo of a person doing {}."
    sources = (
        Source("UCF-101-midframes.zip", drive="10Jqome3vtUA2keJkNanAiFpgbyC9Hc2O", unpack=("UCF-101-midframes",)),
        Source(split_file, drive="1I0S0q91hJfsV9Gf4xDIjgDq4AqBNJb1y"),
        Source("UCF101TrainTestSplits-RecognitionTask.zip", origin="torchvision", unpack=("ucfTrainTestlist",), optional=LISTS,
               url="https://www.crcv.ucf.edu/data/UCF101/UCF101TrainTestSplits-RecognitionTask.zip"),
    )  # fmt: skip
    licence = "not stated; the videos are YouTube's"
    homepage = "https://www.crcv.ucf.edu/data/UCF101.php"
