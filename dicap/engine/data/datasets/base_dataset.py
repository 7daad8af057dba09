"""What a dataset of the family is: lists of Datum for training, validation and test, and the names of the classes."""

import logging
import os
import random
import tarfile
import zipfile
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

__all__ = ["DatasetBase", "Datum"]

_log = logging.getLogger(__name__)


class Datum:
    """One item: an image file, its label, its domain and the name of its class.

    Raises:
        FileNotFoundError: no such image.
        TypeError: impath is not a string.
    """

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

    @property
    def impath(self) -> str:
        """Path of the image."""
        return self._impath

    @property
    def label(self) -> int:
        """Label, from 0."""
        return self._label

    @property
    def domain(self) -> int:
        """Domain, from 0."""
        return self._domain

    @property
    def classname(self) -> str:
        """Name of the class."""
        return self._classname


class DatasetBase:
    """A dataset in splits: train_x (labelled), train_u (unlabelled, may be None), val (may be None), test.

    Raises:
        ValueError: train_x is empty.
    """

    dataset_dir = ""
    domains: Sequence[str] = ()

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

    @property
    def train_x(self) -> list[Datum]:
        """Labelled training items."""
        return self._train_x

    @property
    def train_u(self) -> list[Datum] | None:
        """Unlabelled training items."""
        return self._train_u

    @property
    def val(self) -> list[Datum] | None:
        """Validation items."""
        return self._val

    @property
    def test(self) -> list[Datum] | None:
        """Test items."""
        return self._test

    @property
    def lab2cname(self) -> dict[int, str]:
        """Label to class name."""
        return self._lab2cname

    @property
    def classnames(self) -> list[str]:
        """Class names in the order of their labels."""
        return self._classnames

    @property
    def num_classes(self) -> int:
        """The highest label, plus one."""
        return self._num_classes

    @staticmethod
    def get_num_classes(data_source: Sequence[Datum]) -> int:
        """The highest label, plus one."""
        return max(item.label for item in data_source) + 1

    @staticmethod
    def get_lab2cname(data_source: Sequence[Datum]) -> tuple[dict[int, str], list[str]]:
        """Label to class name, and the names in the order of their labels."""
        mapping = {item.label: item.classname for item in data_source}
        return mapping, [mapping[label] for label in sorted(mapping)]

    def check_input_domains(self, source_domains: Sequence[str], target_domains: Sequence[str]) -> None:
        """Checks cfg.DATASET.SOURCE_DOMAINS and TARGET_DOMAINS.

        Raises:
            ValueError: one of them is empty or holds an unknown domain.
        """
        for key, names in (("SOURCE_DOMAINS", source_domains), ("TARGET_DOMAINS", target_domains)):
            if not names:
                raise ValueError(f"DATASET.{key} is empty; {type(self).__name__} has {list(self.domains)}")
            self.is_input_domain_valid(names)

    def is_input_domain_valid(self, input_domains: Sequence[str]) -> None:
        """Checks that each domain exists.

        Raises:
            ValueError: it does not.
        """
        for domain in input_domains:
            if domain not in self.domains:
                raise ValueError(f"{type(self).__name__} has no domain [{domain}]; it has {list(self.domains)}")

    def download_data(self, url: str, dst: str, from_gdrive: bool = True) -> None:
        """Fetches an archive from Google Drive to dst and unpacks it into dst's folder.

        Raises:
            ValueError: not from Google Drive, or neither .zip, .tar nor .tar.gz.
        """
        if not from_gdrive or not dst.endswith((".zip", ".tar", ".tar.gz")):
            raise ValueError(f"{url}: only .zip, .tar, .tar.gz from Google Drive are fetched; put {dst} there by hand")
        import gdown

        folder = Path(dst).parent
        folder.mkdir(parents=True, exist_ok=True)
        gdown.download(url, dst, quiet=False)
        if dst.endswith(".zip"):
            with zipfile.ZipFile(dst) as archive:
                archive.extractall(folder)
        else:
            with tarfile.open(dst) as archive_tar:
                archive_tar.extractall(folder, filter="data")
        _log.info("File extracted to %s", folder)

    def generate_fewshot_dataset(self, *data_sources: list[Datum], num_shots: int = -1, repeat: bool = False) -> Any:
        """num_shots random items of each class, by Python's `random`; classes in the order of their first item.

        Args:
            data_sources: one or more lists.
            num_shots: items a class; below 1 the lists come back as they are.
            repeat: draw with repetition where a class has fewer items; otherwise all of them are taken.

        Returns:
            The list, or a list of lists where several were given (the tuple of them where num_shots < 1).
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

    def split_dataset_by_domain(self, data_source: Sequence[Datum]) -> dict[int, list[Datum]]:
        """Items of each domain, domains in the order of their first item."""
        groups: defaultdict[int, list[Datum]] = defaultdict(list)
        for item in data_source:
            groups[item.domain].append(item)
        return groups
