"""FGVCAircraft: 100 variants of aircraft, the official split (Maji et al. 2013, arXiv 1306.5151)."""

from pathlib import Path
from typing import Any

from dassl.data.datasets import DATASET_REGISTRY

from dicap.data.sources import Source
from dicap.data.split import PARTS, DatasetError, Items
from dicap.datasets.base import FewShotDataset


@DATASET_REGISTRY.register()
class FGVCAircraft(FewShotDataset):
    folder, images = "fgvc_aircraft", "images"
    split_file = "variants.txt"  # its order is the labels'; images_variant_{train,val,test}.txt name the images
    counts = 100, 3334, 3333, 3333
    template = "a photo of a {}, a type of aircraft."
    sources = (
        Source("fgvc-aircraft-2013b.tar.gz", size=2_770_575_360, origin="torchvision",
               url="https://www.robots.ox.ac.uk/~vgg/data/fgvc-aircraft/archives/fgvc-aircraft-2013b.tar.gz",
               sha256="d5f68b1b81d6d7831eb9d5c5517074176b5dfbce6bcb43dc14ed1c66a87b8d75",
               unpack=("images", "variants.txt", "images_variant_train.txt", "images_variant_val.txt",
                       "images_variant_test.txt")),
    )  # fmt: skip
    licence = "non-commercial research only"
    homepage = "https://www.robots.ox.ac.uk/~vgg/data/fgvc-aircraft"

    def read(self, cfg: Any) -> dict[str, Items]:
        folder = Path(self.dataset_dir)
        label = {name: number for number, name in enumerate(_lines(folder / "variants.txt"))}
        split: dict[str, Items] = {}
        for part in PARTS:
            file = folder / f"images_variant_{part}.txt"
            rows = [line.partition(" ")[::2] for line in _lines(file)]
            unknown = [name for _, name in rows if name not in label]
            if unknown:
                raise DatasetError(f"{file}: variant {unknown[0]!r} is not in variants.txt; restore both from the archive")
            split[part] = [(f"{image}.jpg", label[name], name) for image, name in rows]
        return split


def _lines(file: Path) -> list[str]:
    if not file.is_file():
        raise DatasetError(f"list not found: {file}; get it with: dicap data download fgvc_aircraft")
    return [line.strip() for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
