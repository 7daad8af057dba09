"""FGVCAircraft: 100 variants of aircraft, the official split (Maji et al. 2013, arXiv 1306.5151)."""

from pathlib import Path
from typing import Any

from dassl.data.datasets import DATASET_REGISTRY

from dicap.data.split import PARTS, DatasetError, Items
from dicap.datasets.base import FewShotDataset


@DATASET_REGISTRY.register()
class FGVCAircraft(FewShotDataset):
    folder, images = "fgvc_aircraft", "images"
    split_file = "variants.txt"  # its order is the labels'; images_variant_{train,val,test}.txt name the images
    counts = 100, 3334, 3333, 3333
    template = "a photo of a {}, a type of aircraft."

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
