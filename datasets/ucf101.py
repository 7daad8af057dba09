"""UCF101: the middle frame of each video, 101 actions (Soomro et al. 2012, arXiv 1212.0402)."""

import re

from dassl.data.datasets import DATASET_REGISTRY

from dicap.data.official import by_lists, from_one, look_up, read_rows
from dicap.data.sources import LISTS, Source
from dicap.datasets.base import FewShotDataset, Items


@DATASET_REGISTRY.register()
class UCF101(FewShotDataset):
    folder, images = "ucf101", "UCF-101-midframes"
    split_file = "split_zhou_UCF101.json"
    published = "0134fedd2870cbb3288a49fa49b6b1aff540d402a5e93de28a0a7db04c7d27d7"
    counts = 101, 7639, 1898, 3783
    template = "a photo of a person doing {}."
    sources = (
        Source("UCF-101-midframes.zip", drive="10Jqome3vtUA2keJkNanAiFpgbyC9Hc2O", unpack=("UCF-101-midframes",)),
        Source(split_file, drive="1I0S0q91hJfsV9Gf4xDIjgDq4AqBNJb1y"),
        Source(
            "UCF101TrainTestSplits-RecognitionTask.zip",
            unpack=("ucfTrainTestlist",),
            optional=LISTS,
            url="https://www.crcv.ucf.edu/data/UCF101/UCF101TrainTestSplits-RecognitionTask.zip",
        ),
    )
    licence, homepage = "not stated; the videos are YouTube's", "https://www.crcv.ucf.edu/data/UCF101.php"

    def official(self) -> dict[str, Items]:
        """ "HandstandPushups/v_x.avi" of the lists is the picture "Handstand_Pushups/v_x.jpg"."""
        lists = f"{self.dataset_dir}/ucfTrainTestlist"
        label = {name: from_one(number, lists) for number, name in read_rows(f"{lists}/classInd.txt", 2)}

        def items(part: str) -> Items:
            rows = []
            for video in (row[0].split(" ")[0] for row in read_rows(f"{lists}/{part}list01.txt", 1)):
                action, _, file = video.partition("/")
                name = "_".join(re.findall("[A-Z][^A-Z]*", action))
                rows.append((f"{name}/{file.replace('.avi', '.jpg')}", look_up(label, action, lists), name))
            return rows

        return by_lists(lists, items("train"), items("test"))
