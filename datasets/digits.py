"""Digits: scikit-learn's 1,797 bitmaps of handwritten digits (Alpaydin, Kaynak 1998); the tiny CLIP never saw any."""

from pathlib import Path
from typing import Any

from dassl.data.datasets import DATASET_REGISTRY

from dicap.datasets.base import FewShotDataset
from dicap.world import data_root, write_digits


@DATASET_REGISTRY.register()
class Digits(FewShotDataset):
    split_file, embedded = "split.json", True
    counts = 10, 300, 100, 1397
    template = "a photo of the digit {}."
    licence, homepage = "CC BY 4.0 (UCI); part of scikit-learn", "https://archive.ics.uci.edu/dataset/80"

    def locate(self, cfg: Any) -> Path:
        return write_digits(Path(cfg.DATASET.ROOT or data_root()).expanduser().absolute())
