"""SUN397: 397 scenes (Xiao et al. 2010)."""

from dassl.data.datasets import DATASET_REGISTRY

from dicap.data.official import by_lists, look_up, read_rows
from dicap.data.sources import LISTS, Source
from dicap.datasets.base import FewShotDataset, Items


@DATASET_REGISTRY.register()
class SUN397(FewShotDataset):
    folder, images = "sun397", "SUN397"
    split_file = "split_zhou_SUN397.json"
    counts = 397, 15880, 3970, 19850
    sources = (
        Source(
            "SUN397.tar.gz",
            url="https://huggingface.co/zhengli97/SUN397_Dataset/resolve/main/SUN397.tar.gz",
            size=39_077_296_924,
            origin="mirror",
            unpack=("SUN397",),
            md5="8ca2778205c41d23104230ba66911c7a",
            sha256="f404130965a7ad77bed5ececc71e720ab50f3cc1e1bb257257610d38f3b928ec",
            note="the authors' site is gone; the digests are those of its archive",
        ),
        Source(split_file, drive="1y2RD81BYuiyvebdN-JymPfyWYcd8_MUq"),
        Source(
            "Partitions.zip",
            size=18_293_705,
            origin="tfds",
            unpack=("ClassName.txt", "Training_01.txt", "Testing_01.txt"),
            sha256="e3311ea5f812d4cc6faef194688343d1111f6cd6f70f2c62f393c2b8d6ba1ec9",
            optional=LISTS,
            note="from someone who has it",
        ),
    )
    licence = "not stated; the pictures were found on the web"
    homepage = "https://vision.princeton.edu/projects/2010/SUN"

    def official(self) -> dict[str, Items]:
        """ "/i/ice_skating_rink/indoor" of ClassName.txt is prompted as "indoor ice_skating_rink"; labels by its lines."""
        folder = self.dataset_dir
        label = {row[0]: number for number, row in enumerate(read_rows(f"{folder}/ClassName.txt", 1))}

        def items(file: str) -> Items:
            rows = [(row[0], row[0].rpartition("/")[0]) for row in read_rows(file, 1)]
            return [(path[1:], look_up(label, place, file), " ".join(place.split("/")[:1:-1])) for path, place in rows]

        return by_lists(folder, items(f"{folder}/Training_01.txt"), items(f"{folder}/Testing_01.txt"))
