"""FGVCAircraft: 100 variants of aircraft, the official split (Maji et al. 2013, arXiv 1306.5151)."""

from typing import Any

from dassl.data.datasets import DATASET_REGISTRY

from dicap.data.official import look_up, read_rows
from dicap.data.split import PARTS, Items, check_split
from dicap.datasets.base import FewShotDataset, Source


@DATASET_REGISTRY.register()
class FGVCAircraft(FewShotDataset):
    folder, images = "fgvc_aircraft", "images"
    split_file = "variants.txt"  # its order is the labels'; images_variant_{train,val,test}.txt name the images
    counts = 100, 3334, 3333, 3333
    template = "a photo of a {}, a type of aircraft."
    sources = (
        Source(
            "fgvc-aircraft-2013b.tar.gz",
            size=2_770_575_360,
            url="https://www.robots.ox.ac.uk/~vgg/data/fgvc-aircraft/archives/fgvc-aircraft-2013b.tar.gz",
            sha256="d5f68b1b81d6d7831eb9d5c5517074176b5dfbce6bcb43dc14ed1c66a87b8d75",
            unpack=("images", "variants.txt", *(f"images_variant_{part}.txt" for part in ("train", "val", "test"))),
        ),
    )
    licence, homepage = "non-commercial research only", "https://www.robots.ox.ac.uk/~vgg/data/fgvc-aircraft"

    def read(self, cfg: Any) -> dict[str, Items]:
        label = {row[0]: number for number, row in enumerate(read_rows(f"{self.dataset_dir}/{self.split_file}", 1))}

        def items(part: str) -> Items:
            file = f"{self.dataset_dir}/images_variant_{part}.txt"
            return [(f"{image}.jpg", look_up(label, name, file), name) for image, name in read_rows(file, 2)]

        return check_split(self.dataset_dir, {part: items(part) for part in PARTS})
