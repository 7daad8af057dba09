"""Unpacks archives that nobody vouches for: zip and tar, into a temporary folder, then renamed into place.

    unpack("EuroSAT.zip", "DATA/eurosat", ["2750"])

Nothing that an archive says is obeyed but names below the folder and bytes of regular files: absolute names, `..`, devices,
names that stand twice and links that lead outside are refused, and so is more than the archive's size can explain. A link
inside a tar becomes a copy of what it names. Permissions and owners are not taken over, so nothing comes out setuid.
"""

import errno
import lzma
import os
import posixpath
import shutil
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from dicap.data.sources import filled, progress
from dicap.data.split import DatasetError

RATIO, SLACK = 20, 1 << 28  # pictures do not shrink; lists and annotations do, and are small
ENTRIES = 2_000_000  # ImageNet has 1.3 million files
BLOCK = 1 << 20
# what the standard library raises at broken, encrypted or unknown archives
BROKEN = (tarfile.TarError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError)
FAULTS = (*BROKEN, OSError, ValueError, KeyError, RuntimeError)
Entry = tuple[str, int, Callable[[], IO[bytes] | None] | None]  # name, bytes, opener (None: a folder)


class UnpackError(DatasetError):
    """An archive that cannot be unpacked, or must not be; the message names archive and member."""


def unpack(
    archive: str | os.PathLike,
    folder: str | os.PathLike,
    names: Sequence[str],
    also: Sequence[str] = (),
    inner: str = "",
    rename: Mapping[str, str] | None = None,
) -> list[str]:
    """Put `names`, wherever they stand together in the archive, into the folder; what it has already stays, unless it is empty.

    Args:
        archive: zip or tar, plain or compressed, told by its bytes.
        folder: made where it does not exist; half of an archive is never seen there.
        also: names that come along where they stand beside the others.
        inner: the name of an archive in the archive, which holds the names.
        rename: from names in the archive to names in the folder.
    Returns:
        The names that were put there.
    Raises:
        UnpackError: see above; also where the archive is broken or does not hold the names.
    """
    folder, archive = Path(folder), Path(archive)
    inside = {ours: theirs for theirs, ours in (rename or {}).items()}
    with open(archive, "rb") as file, alone(file, archive), _temporary(folder / f".{archive.name}.unpack") as temporary:
        top = temporary / "top"
        extract(archive, top)
        if inner:
            held = _holder(top, [inner], archive) / inner
            top = temporary / "inner"
            extract(held, top)
        source = _holder(top, [inside.get(name, name) for name in names], archive)
        names = [*names, *(name for name in also if (source / inside.get(name, name)).exists())]
        new = [name for name in names if not filled(folder / name)]
        for name in new:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            os.rename(source / inside.get(name, name), folder / name)
        return new


@contextmanager
def alone(file: IO[bytes], path: Path) -> Iterator[None]:
    """Hold an open file for the block, where the system can. Raises DatasetError where another process holds it."""
    try:
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise DatasetError(f"another process is at work on {path}; wait for it") from None
    except (ImportError, OSError):
        pass  # Windows, some network file systems
    yield


def extract(archive: Path, into: Path) -> None:
    """Write all of an archive below a new folder. Raises UnpackError."""
    into.mkdir()
    packed, written = archive.stat().st_size, 0
    limit = RATIO * packed + SLACK
    try:
        with progress(f"unpacking {archive.name}") as bar:
            for number, (name, size, opener) in enumerate(_entries(archive)):
                target = into / _checked(name)
                written += size
                if written > limit or number >= ENTRIES:
                    raise UnpackError(f"more than {limit} bytes or {ENTRIES} files come out of {packed} bytes")
                if opener is None:
                    target.mkdir(parents=True, exist_ok=True)
                else:
                    _write(target, name, opener, size, bar)
    except UnpackError as error:
        raise UnpackError(f"{archive} was not unpacked: {error}; do not use it") from None
    except FAULTS as error:
        no_room = getattr(error, "errno", None) == errno.ENOSPC
        advice = "make room and try again" if no_room else "delete it and get it again"
        reason = " ".join(f"{type(error).__name__}: {error}".split())  # tarfile's has several lines
        raise UnpackError(f"{archive} cannot be unpacked: {reason}; {advice}") from error


@contextmanager
def _temporary(folder: Path) -> Iterator[Path]:
    shutil.rmtree(folder, ignore_errors=True)  # of a killed run
    folder.mkdir(parents=True)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _entries(archive: Path) -> Iterator[Entry]:
    with open(archive, "rb") as file:
        is_zip = file.read(2) == b"PK"
    if is_zip:
        with zipfile.ZipFile(archive) as zipped:
            yield from (_zip_entry(zipped, info) for info in zipped.infolist())
    else:
        with tarfile.open(archive) as tarred:
            yield from (_tar_entry(tarred, member) for member in tarred)


def _zip_entry(zipped: zipfile.ZipFile, info: zipfile.ZipInfo) -> Entry:
    kind = stat.S_IFMT(info.external_attr >> 16)
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        raise UnpackError(f"{info.filename!r} is a link or device")
    return info.filename, info.file_size, None if info.is_dir() else lambda: zipped.open(info)


def _tar_entry(tarred: tarfile.TarFile, member: tarfile.TarInfo) -> Entry:
    if member.isdir():
        return member.name, 0, None
    if member.issym() or member.islnk():  # tarfile follows it within the archive, never on disk
        base = posixpath.dirname(member.name) if member.issym() else ""
        linked = posixpath.normpath(posixpath.join(base, member.linkname))
        if member.linkname.startswith("/") or linked.split("/")[0] == "..":
            raise UnpackError(f"{member.name!r} links to {member.linkname!r}, outside of the folder")
        try:
            size = tarred.getmember(linked).size
        except KeyError:
            raise UnpackError(f"{member.name!r} links to {member.linkname!r}, which is not in the archive") from None
        return member.name, size, lambda: tarred.extractfile(member)
    if not member.isreg():
        raise UnpackError(f"{member.name!r} is a device or pipe")
    return member.name, member.size, lambda: tarred.extractfile(member)


def _checked(name: str) -> str:
    parts = name.rstrip("/").split("/")
    if not name or name.startswith("/") or "\\" in name or ":" in parts[0] or "\0" in name or ".." in parts:
        raise UnpackError(f"{name!r} leaves the folder")
    return name


def _write(target: Path, name: str, opener: Callable[[], IO[bytes] | None], size: int, bar: Any) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    source = opener()
    if source is None:
        raise UnpackError(f"{name!r} is not a file")
    try:
        file = open(target, "xb")
    except FileExistsError:
        raise UnpackError(f"{name!r} stands twice") from None
    left = size
    with source, file:
        while block := source.read(BLOCK):
            left -= len(block)
            file.write(block)
            bar.update(len(block))
    if left:
        raise UnpackError(f"{name!r} does not have the {size} bytes that it is said to have")


def _holder(top: Path, names: Sequence[str], archive: Path) -> Path:
    """The highest folder that has all the names, at most four levels down."""
    level = [top]
    for _ in range(4):
        holder = next((folder for folder in level if all((folder / name).exists() for name in names)), None)
        if holder:
            return holder
        level = [path for folder in level for path in sorted(folder.iterdir()) if path.is_dir()]
    raise UnpackError(f"{archive} holds no folder with {', '.join(names)}; is it the right file?")
