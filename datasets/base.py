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
from dicap.data.official import by_class_folders
from dicap.data.sources import Source
from dicap.data.split import PARTS, DatasetError, Item, Items, check_names, counts_of, digest, read_split
from dicap.discover import PLUGIN_PREFIX

log = logging.getLogger(__name__)


class FewShotDataset(DatasetBase):
    """A dataset from a split file. Subclasses state facts; `locate`, `read` and `official` are there to be overridden.

    Args:
        cfg: reads DATASET.ROOT, DATASET.NUM_SHOTS (< 1: all), DATASET.SUBSAMPLE_CLASSES, DATASET.HOLDOUT_FOLDS,
            DATASET.HOLDOUT_FOLD and SEED.

    Raises DatasetError: missing root, folder, split file or image; a split file that breaks the rules or the counts;
        base or new classes of a test-only set; a classification of one class, whole or in a half.
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
    keep_draws = True  # few-shot draws are kept in split_fewshot/ beside the images
    embedded = False  # it is written here when first used, by an own `locate`, and needs no data folder
    class_folders = False  # the published split is 50/20/30 % of each class folder: `official` can make one anew
    ignored: tuple[str, ...] = ()  # class folders that are not used
    task: Any = None  # the Task instance that says what is measured; None: classification
    sources: tuple[Source, ...] = ()  # what `dicap data download` gets
    licence = ""  # licence and terms, as far as they are stated
    homepage = ""
    _val: Any  # Dassl's
    _test: Any

    def __init__(self, cfg: Any):
        split = self.items(cfg)
        check_images(split, self.image_dir)
        paths = {item: os.path.join(self.image_dir, item[0]) for part in PARTS for item in split[part]}
        groups = self.group([*split["train"], *split["test"]])
        self.groups = {paths[item]: name for item, name in groups.items()}  # of train and test items, by path
        train, val, test = ([Datum(paths[item], item[1], 0, item[2]) for item in split[part]] for part in PARTS)
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
    def unread(cls, cfg: Any = None, folder: str | os.PathLike = "") -> "FewShotDataset":
        """The dataset in a folder, or where cfg says it is (else DatasetError), with nothing read yet."""
        self = cls.__new__(cls)
        self._place(Path(folder or self.locate(cfg)))
        return self

    def _place(self, folder: Path) -> None:
        self.dataset_dir = str(folder)
        self.image_dir = os.path.join(self.dataset_dir, self.images) if self.images else self.dataset_dir

    def _choose(self, split: dict[str, Items], cfg: Any) -> dict[str, Items]:
        """The items of this run: few-shot draw, then base or new classes or a hold-out of classes."""
        classes, folds = getattr(cfg.DATASET, "SUBSAMPLE_CLASSES", "all"), getattr(cfg.DATASET, "HOLDOUT_FOLDS", 0)
        if self.test_only and (classes != "all" or folds):
            wrong = f"HOLDOUT_FOLDS is {folds}" if folds else f"SUBSAMPLE_CLASSES is {classes!r}"
            name = type(self).__name__
            raise DatasetError(f"DATASET.{wrong}, but {name} is a test set of all classes: dicap domain_generalization")
        if self.test_only:
            return split
        count = counts_of(split)[0]
        if classes != "all" and count < 4 and not self.task:
            halves = f"{count - count // 2} base and {count // 2} new; a half needs two, as one class is always right"
            raise DatasetError(f"{type(self).__name__} in {self.dataset_dir}: its {count} classes make {halves}")
        if cfg.DATASET.NUM_SHOTS >= 1:
            cache = Path(self.dataset_dir) / "split_fewshot" if self.keep_draws else None
            split = few_shot(split, cfg.DATASET.NUM_SHOTS, cfg.SEED, cache)
        if folds:
            return hold_out(split, classes, folds, cfg.DATASET.HOLDOUT_FOLD, cfg.SEED)
        return subsample(split, classes)

    def locate(self, cfg: Any) -> Path:
        """The dataset's folder."""
        name, folder = type(self).__name__, Path(cfg.DATASET.ROOT).expanduser().absolute() / self.folder
        if not cfg.DATASET.ROOT:
            raise DatasetError(f"{name} needs a data folder: give --root (DATASET.ROOT), the one with {self.folder}/")
        if not folder.is_dir():
            raise DatasetError(f"{name}: folder not found: {folder}; is the data folder (--data, --root) right?")
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
        """The split made anew where its rule is known: not the published one (dicap/data/official.py). Raises DatasetError."""
        if self.class_folders:
            return by_class_folders(self.image_dir, self.rename, self.ignored)
        raise DatasetError(f"{type(self).__name__} has no split to be made anew: its files are read as they are")

    @classmethod
    def stem(cls) -> str:
        """The name of its YAML file, which is that of its module."""
        return cls.__module__.rpartition(".")[2].removeprefix(PLUGIN_PREFIX)

    def group(self, items: Items) -> dict[Item, str]:
        """The group of each item, of any part, for accuracies by group of test items; an item may have none, as here."""
        return {}

    def check_counts(self, split: dict[str, Items]) -> None:
        """Compare with `counts`, and ask for two classes. Raises DatasetError."""
        found, where = counts_of(split), f"{type(self).__name__} in {self.dataset_dir}"
        if self.counts is not None and found != self.counts:
            problem = f"classes/train/val/test are {found}, expected {self.counts}"
            raise DatasetError(f"{where}: {problem}; this is not the benchmark's split")
        if found[0] < 2 and not self.task:
            raise DatasetError(f"{where}: {found[0]} classes, but a dataset needs two")
