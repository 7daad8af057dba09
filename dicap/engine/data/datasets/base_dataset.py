"""What a dataset of the family is: lists of Datum for training, validation and test, and the names of the classes."""

import logging
import os
import random
from collections import defaultdict
from collections.abc import Sequence
from operator import attrgetter
from typing import Any

__all__ = ["DatasetBase", "Datum"]

_log = logging.getLogger(__name__)


def _read_only(attribute: str, doc: str) -> property:
    return property(attrgetter(attribute), doc=doc)


class Datum:
    """One item: an image file, its label, its domain and the name of its class.

    Pickles name it as Dassl's class: a few-shot draw that a fork pickles on this engine is read on Dassl too. Raises
    FileNotFoundError where there is no such image, TypeError where impath is no string.
    """

    __module__ = "dassl.data.datasets.base_dataset"

    def __init__(self, impath: str = "", label: int = 0, domain: int = 0, classname: str = "") -> None:
        if not isinstance(impath, str):
            raise TypeError(f"impath is a string, not {type(impath).__name__}: {impath!r}")
        if not os.path.isfile(impath):
            raise FileNotFoundError(
                f"no image at {impath} (class {classname!r}): is DATASET.ROOT right, the dataset complete?"
            )
        self._impath = impath
        self._label = label
        self._domain = domain
        self._classname = classname

    impath = _read_only("_impath", "Path of the image.")
    label = _read_only("_label", "Label, from 0.")
    domain = _read_only("_domain", "Domain, from 0.")
    classname = _read_only("_classname", "Name of the class.")


class DatasetBase:
    """A dataset in splits: train_x (labelled, not empty), train_u (unlabelled, may be None), val (may be None), test."""

    dataset_dir = ""

    def __init__(
        self,
        train_x: list[Datum] | None = None,
        train_u: list[Datum] | None = None,
        val: list[Datum] | None = None,
        test: list[Datum] | None = None,
    ) -> None:
        if not train_x:
            raise ValueError(
                f"{type(self).__name__}: no training item; is DATASET.ROOT right, the split file complete?"
            )
        self._train_x, self._train_u, self._val, self._test = train_x, train_u, val, test
        self._num_classes = self.get_num_classes(train_x)
        self._lab2cname, self._classnames = self.get_lab2cname(train_x)

    train_x = _read_only("_train_x", "Labelled training items.")
    train_u = _read_only("_train_u", "Unlabelled training items, or None.")
    val = _read_only("_val", "Validation items, or None.")
    test = _read_only("_test", "Test items.")
    lab2cname = _read_only("_lab2cname", "Label to class name.")
    classnames = _read_only("_classnames", "Class names in the order of their labels.")
    num_classes = _read_only("_num_classes", "The highest label, plus one.")

    @staticmethod
    def get_num_classes(data_source: Sequence[Datum]) -> int:
        """The highest label, plus one."""
        return max(item.label for item in data_source) + 1

    @staticmethod
    def get_lab2cname(data_source: Sequence[Datum]) -> tuple[dict[int, str], list[str]]:
        """Label to class name, and the names in the order of their labels."""
        mapping = {item.label: item.classname for item in data_source}
        return mapping, [mapping[label] for label in sorted(mapping)]

    def generate_fewshot_dataset(self, *data_sources: list[Datum], num_shots: int = -1, repeat: bool = False) -> Any:
        """num_shots random items of each class, by Python's `random`; classes in the order of their first item.

        Args:
            data_sources: one or more lists; several give a list of lists.
            num_shots: items a class; below 1 the lists come back as they are (several: as a tuple).
            repeat: draw with repetition where a class has fewer items; otherwise all of them are taken.
        """
        if num_shots < 1:
            return data_sources[0] if len(data_sources) == 1 else data_sources
        _log.info("Creating a %d-shot dataset", num_shots)
        drawn = [self._draw(items, num_shots, repeat) for items in data_sources]
        return drawn[0] if len(drawn) == 1 else drawn

    def _draw(self, data_source: list[Datum], num_shots: int, repeat: bool) -> list[Datum]:
        chosen: list[Datum] = []
        for items in self.split_dataset_by_label(data_source).values():
            if len(items) >= num_shots:
                chosen += random.sample(items, num_shots)
            else:
                chosen += random.choices(items, k=num_shots) if repeat else items
        return chosen

    def split_dataset_by_label(self, data_source: Sequence[Datum]) -> dict[int, list[Datum]]:
        """Items of each label, labels in the order of their first item."""
        groups: defaultdict[int, list[Datum]] = defaultdict(list)
        for item in data_source:
            groups[item.label].append(item)
        return groups
