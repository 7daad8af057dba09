"""Where a dataset's files come from: facts only, stated in datasets/<stem>.py as `sources`.

sources = (Source("EuroSAT.zip", url="https://...", md5="c8fa...", size=94_280_567, unpack=("2750",)),
           Source("split_zhou_EuroSAT.json", drive="1Ip7yaCWFi0eaOFUGga0lUdVi_DDQth1o"))
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from rich.filesize import decimal
from tqdm import tqdm

ADDRESSES = {
    "coop": "CoOp's DATASETS.md",
    "torchvision": "torchvision's records",
    "tfds": "TensorFlow Datasets' records",
    "authors": "the authors' page",
    "mirror": "a mirror by other people",
}
LISTS = "official lists: only `dicap data prepare --regenerate` reads them"
TOO = "as images/train"
BY_HAND = """put ILSVRC2012_img_train.tar, ILSVRC2012_img_val.tar and ILSVRC2012_devkit_t12.tar.gz into imagenet/images (an \
account at image-net.org gets them); torchvision.datasets.ImageNet("DATA/imagenet/images", "train"), then "val", unpacks \
them; or link the folders train and val of class folders (n01440764 ...) there"""


@dataclass(frozen=True)
class Source:
    """A file that a dataset is made of.

    One with neither `url` nor `drive` is put there by hand; `note` says from where and how.
    """

    file: str  # below the dataset's folder; its form is read from its bytes, not from its name
    url: str = ""  # https
    drive: str = ""  # file id on Google Drive
    md5: str = ""  # where a digest is known it is checked
    sha256: str = ""
    size: int = 0  # bytes; 0: not known
    unpack: tuple[str, ...] = ()  # what is taken out of the archive; (): the file itself is wanted
    also: tuple[str, ...] = ()  # what is taken out too, where it is in the archive; nothing needs it
    inner: str = ""  # the archive in the archive
    rename: dict[str, str] = field(default_factory=dict)  # from the archive's names to those of `unpack`
    origin: str = ""  # who records this address: a key of ADDRESSES; "": CoOp for Google Drive, else torchvision
    beside: str = ""  # another dataset's folder that has the same file
    optional: str = ""  # why one may want it; runs do not need it
    note: str = ""

    @property
    def wanted(self) -> tuple[str, ...]:
        """What must be below the dataset's folder in the end."""
        return self.unpack or (self.file,)

    @property
    def manual(self) -> bool:
        """Whether a person has to put it there."""
        return not (self.url or self.drive)

    @property
    def place(self) -> str:
        """The address for people."""
        return f"https://drive.google.com/file/d/{self.drive}" if self.drive else self.url or "by hand"

    @property
    def recorded_by(self) -> str:
        """Whose list has the address."""
        return ADDRESSES[self.origin or ("coop" if self.drive else "torchvision")]

    @property
    def digest(self) -> str:
        """The strongest known digest, as "sha256:..." or "md5:...", or ""."""
        return f"sha256:{self.sha256}" if self.sha256 else f"md5:{self.md5}" if self.md5 else ""

    def missing(self, folder: Path) -> list[str]:
        """What of `wanted` is not in the dataset's folder, nor beside it; an empty file or folder counts as missing."""
        return [name for name in self.wanted if not (filled(folder / name) or self.neighbour(folder))]

    def neighbour(self, folder: Path) -> Path | None:
        """The same file in the other dataset's folder, if it is there."""
        path = folder.parent / self.beside / self.file
        return path if self.beside and folder.name != self.beside and filled(path) else None


# of ImageNet and of its shifts
CLASSNAMES = Source("classnames.txt", drive="1-61f_ol79pViBFDG_IDlUQSwoLcn2XXF", beside="imagenet")


def lacking(sources: Iterable[Source], folder: Path) -> list[str]:
    """What a dataset's folder lacks of its sources, those aside that runs do not need."""
    return [name for source in sources if not source.optional for name in source.missing(folder)]


def human(size: int) -> str:
    """94280567 -> "94.3 MB"; 0 -> "?"."""
    return decimal(size) if size else "?"


def filled(path: Path) -> bool:
    """Whether there is a file with bytes in it, or a folder with anything in it."""
    if path.is_dir():
        return any(path.iterdir())
    return path.is_file() and path.stat().st_size > 0


def progress(what: str, total: int = 0) -> tqdm:
    """A progress bar in bytes on a terminal, nothing elsewhere; total 0: not known."""
    style = {"unit": "B", "unit_scale": True, "unit_divisor": 1000, "leave": False, "disable": None, "delay": 0.5}
    return tqdm(desc=what, total=total or None, **style)
