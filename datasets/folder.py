"""Folder: your own images, from a folder of class folders, a CSV or a split JSON (docs/your-data.md).

dicap train --dataset-config-file configs/datasets/folder.yaml ... DATASET.FOLDER.PATH /pictures
"""

import os
from pathlib import Path
from typing import Any

from dassl.data.datasets import DATASET_REGISTRY

from dicap.data.folder import image_folder, read_own
from dicap.datasets.base import FewShotDataset, Items
from dicap.options import ConfigError, Option, default_section, read_options
from dicap.wording import check_template
from dicap.world import data_root


@DATASET_REGISTRY.register()
class Folder(FewShotDataset):
    images = ""
    keep_draws = False  # a folder of draws would be a class to other tools, and split and seed decide the draw
    OPTIONS = {
        "PATH": Option("", "folder of class folders, CSV with path,label[,split], or split JSON"),
        "NAMES": Option("", 'file of class names: folder,name lines, or a plain list; "" = the folders\' own names'),
        "TEMPLATE": Option(FewShotDataset.template, "hand template of zero-shot CLIP and of DiCap's frozen prompt"),
        "SPLIT": Option("0.5 0.2 0.3", "shares of train, val and test of each class, where the data bring no split"),
        "SPLIT_SEED": Option(1, "of the split by shares, which is made once and kept", least=0),
        "IMAGES": Option("", 'folder that the paths in a CSV or JSON are relative to; "" = that of the file'),
    }

    def locate(self, cfg: Any) -> Path:
        section = getattr(cfg.DATASET, "FOLDER", None) or default_section(self.OPTIONS)
        self.options = read_options(section, self.OPTIONS, "DATASET.FOLDER")
        if not self.options.path:
            raise ConfigError("DATASET.FOLDER.PATH is empty; give a folder of class folders, a CSV or a split JSON")
        self.own = Path(os.path.abspath(os.path.expanduser(self.options.path)))
        self.template = check_template(self.options.template)
        return image_folder(self.own, self.options.images)

    def read(self, cfg: Any) -> dict[str, Items]:
        o = self.options
        return read_own(self.own, o.split, o.split_seed, o.names, o.images, data_root() / "folder")
