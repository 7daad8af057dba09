"""What the datasets share: a data folder laid out as CoOp's becomes lists of Dassl's Datum.

A dataset file states facts (see caltech101.py); dicap/data reads, checks and draws.
"""

import logging
import os
from pathlib import Path
from typing import Any

from dassl.data.datasets import DatasetBase, Datum

from dicap.data.draw import few_shot, hold_out, subsample
from dicap.data.images import check_images
from dicap.data.sources import Source
from dicap.data.split import PARTS, DatasetError, Item, Items, check_names, counts_of, digest, read_split

log = logging.getLogger(__name__)


class FewShotDataset(DatasetBase):
    """A dataset from a split file. Subclasses state facts; `locate`, `read` and `official` are there to be overridden.

    Args:
        cfg: reads DATASET.ROOT, DATASET.NUM_SHOTS (< 1: all), DATASET.SUBSAMPLE_CLASSES, DATASET.HOLDOUT_FOLDS,
            DATASET.HOLDOUT_FOLD and SEED.

    Raises:
        DatasetError: missing root, folder, split file or image; a split file that breaks the rules or the counts; base
            or new classes of a test-only set.
    """

    folder = ""  # below DATASET.ROOT
    images = "images"  # below the folder; "" where paths are relative to the folder
    split_file = ""  # in the folder
    counts: tuple[int, int, int, int] | None = None  # classes, train, val, test: checked on load
    template = "a photo of a {}."  # of the zero-shot method; learned prompts do not use it
    published = ""  # digest of the published split, where it is known; another one is a warning
    rename: dict[str, str] = {}  # class names as they are prompted, by the names on disk
    duplicates: tuple[str, ...] = ()  # class names that two classes share; any other is an error
    test_only = False  # a shift of another dataset: only a test part, of all classes; it also names the classes
    val_is_test = False  # the test part validates, too: there is no other
    sources: tuple[Source, ...] = ()  # what `dicap data download` gets; none: written here when first used
    licence = ""  # licence and terms, as far as they are stated
    homepage = ""

    def __init__(self, cfg: Any):
        split = self.items(cfg)
        check_images(split, self.image_dir)
        self.groups = {self.path(item): name for item, name in self.group(split["test"]).items()}
        train, val, test = ([Datum(self.path(item), item[1], 0, item[2]) for item in split[part]] for part in PARTS)
        super().__init__(train_x=test if self.test_only else train, val=test if self.val_is_test else val, test=test)
        limit = getattr(cfg.DATASET, "TEST_LIMIT", 0)
        if limit:  # after super, which counts the classes
            self._val, self._test = self._val[:limit], self._test[:limit]

    def items(self, cfg: Any) -> dict[str, Items]:
        """The items of a run by part; no image is looked at. Raises DatasetError."""
        self._place(self.locate(cfg))
        split = self.read(cfg)
        self.check_counts(split)
        for line in check_names(split, self.duplicates, self.dataset_dir):
            log.info("%s: %s", type(self).__name__, line)
        return self._choose(split, cfg)

    @classmethod
    def at(cls, folder: str | os.PathLike) -> "FewShotDataset":
        """The dataset of a folder with nothing read yet: for `read` and `official`."""
        self = cls.__new__(cls)
        self._place(Path(folder))
        return self

    @classmethod
    def unread(cls, cfg: Any) -> "FewShotDataset":
        """The dataset where cfg says it is, with nothing read yet. Raises DatasetError where it is not there."""
        self = cls.__new__(cls)
        self._place(self.locate(cfg))
        return self

    def _place(self, folder: Path) -> None:
        self.dataset_dir = str(folder)
        self.image_dir = os.path.join(self.dataset_dir, self.images) if self.images else self.dataset_dir

    def _choose(self, split: dict[str, Items], cfg: Any) -> dict[str, Items]:
        """The items of this run: few-shot draw, then base or new classes or a hold-out of classes."""
        classes, folds = getattr(cfg.DATASET, "SUBSAMPLE_CLASSES", "all"), getattr(cfg.DATASET, "HOLDOUT_FOLDS", 0)
        if self.test_only:
            if classes != "all" or folds:
                wrong = f"DATASET.HOLDOUT_FOLDS is {folds}" if folds else f"DATASET.SUBSAMPLE_CLASSES is {classes!r}"
                raise DatasetError(
                    f"{wrong}, but {type(self).__name__} is a test set of all classes; use `all`"
                    " (the protocol domain_generalization)"
                )
            return split
        if cfg.DATASET.NUM_SHOTS >= 1:
            split = few_shot(split, cfg.DATASET.NUM_SHOTS, cfg.SEED, self.draw_folder())
        if folds:
            return hold_out(split, classes, folds, cfg.DATASET.HOLDOUT_FOLD, cfg.SEED)
        return subsample(split, classes)

    def locate(self, cfg: Any) -> Path:
        """The dataset's folder."""
        if not cfg.DATASET.ROOT:
            raise DatasetError(
                f"{type(self).__name__} needs a data folder: give --root (DATASET.ROOT), the one with {self.folder}/"
            )
        folder = Path(cfg.DATASET.ROOT).expanduser().absolute() / self.folder
        if not folder.is_dir():
            raise DatasetError(
                f"{type(self).__name__}: folder not found: {folder}; is the data folder (--data, --root) right?"
            )
        return folder

    def read(self, cfg: Any) -> dict[str, Items]:
        """All items by part, with class names as they are prompted."""
        path = Path(self.dataset_dir) / self.split_file
        if not path.is_file():
            raise DatasetError(f"split file not found: {path}; get it with: dicap data download {self.stem()}")
        split = read_split(path, self.rename)
        if self.published and digest(split) != self.published:
            log.warning("%s is not the published split; results on it do not compare with published ones", path)
        return split

    def official(self) -> dict[str, Items]:
        """The split made anew from the official lists or class folders, where the rule is known; never done silently.

        Where CoOp shuffled, it is not the published split (dicap/data/official.py). Raises DatasetError.
        """
        raise DatasetError(f"{type(self).__name__} has no split to be made anew: its files are read as they are")

    @classmethod
    def stem(cls) -> str:
        """The name of its file in configs/datasets, which is that of its module."""
        return cls.__module__.rpartition(".")[2]

    def draw_folder(self) -> Path | None:
        """Where few-shot draws are cached, None = nowhere."""
        return Path(self.dataset_dir) / "split_fewshot"

    def group(self, test: Items) -> dict[Item, str]:
        """Test items by group, for accuracies by group; none here."""
        return {}

    def path(self, item: Item) -> str:
        """The absolute path of an item's image."""
        return os.path.join(self.image_dir, item[0])

    def check_counts(self, split: dict[str, Items]) -> None:
        """Compare with `counts`. Raises DatasetError."""
        found = counts_of(split)
        if self.counts is not None and found != tuple(self.counts):
            raise DatasetError(
                f"{type(self).__name__} in {self.dataset_dir}: classes/train/val/test are {found},"
                f" expected {tuple(self.counts)}; this is not the benchmark's split"
            )
