"""Unpacks archives that nobody vouches for: zip and tar, into a temporary folder, then renamed into place.

Nothing that an archive says is obeyed but names below the folder and bytes of regular files: absolute names, `..`, devices,
names that stand twice and links that lead outside are refused, and so is more than the archive's size can explain. A link
inside a tar becomes a copy of what it names. Permissions and owners are not taken over, so nothing comes out setuid.
"""

import errno
import io
import lzma
import os
import posixpath
import shutil
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import IO, Any

from dicap.data.sources import Source, filled, progress
from dicap.data.split import DatasetError
from dicap.files import holder, locked, move

RATIO, SLACK = 20, 1 << 28  # pictures do not shrink; lists and annotations do, and are small
ENTRIES = 250_000  # SUN397 has 108,754 files; ImageNet is not unpacked here
EXTRA, EXTRAS = 1 << 16, 1 << 26  # bytes of a long name or extended header in a tar, of all of them
LIST = 1 << 25  # bytes of a zip's list of files
BLOCK = 1 << 20
# what the standard library raises at broken, encrypted or unknown archives
BROKEN = (tarfile.TarError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError)
FAULTS = (*BROKEN, OSError, ValueError, KeyError, RuntimeError, MemoryError)
Entry = tuple[str, int, Callable[[], IO[bytes] | None] | None]  # name, bytes, opener (None: a folder)


class UnpackError(DatasetError):
    """An archive that cannot be unpacked, or must not be; the message names archive and member."""


def unpack(archive: Path, folder: Path, source: Source) -> list[str]:
    """Put what the source takes out of its archive into the folder; what is there already stays, unless it is empty.

    Args:
        archive: zip or tar, plain or compressed, told by its bytes; its names may stand in any folder of it, together.
        folder: made where it does not exist; half of an archive is never seen there.
    Returns:
        The names that were put there.
    Raises UnpackError: see above; also where the archive is broken or does not hold the names.
    """
    theirs = {ours: name for name, ours in source.rename.items()}
    temporary = folder / f".{archive.name}.unpack"
    lock = folder / f".{archive.name}.lock"
    with locked(lock) as mine:
        if not mine:
            raise UnpackError(f"another process is at work on {archive} ({holder(lock)[0]}); wait for it")
        shutil.rmtree(temporary, ignore_errors=True)  # of a killed run
        temporary.mkdir(parents=True)
        try:
            top = _extracted(archive, temporary / "top")
            if source.inner:
                top = _extracted(_holder(top, [source.inner], archive) / source.inner, temporary / "inner")
            top = _holder(top, [theirs.get(name, name) for name in source.unpack], archive)
            places = {name: top / theirs.get(name, name) for name in (*source.unpack, *source.also)}
            new = [name for name, place in places.items() if place.exists() and not filled(folder / name)]
            for name in new:
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                move(places[name], folder / name)
            return new
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def _extracted(archive: Path, into: Path) -> Path:
    """The new folder `into` with all of an archive. Raises UnpackError."""
    into.mkdir()
    packed, written = archive.stat().st_size, 0
    limit, free = RATIO * packed + SLACK, shutil.disk_usage(into).free
    try:
        with progress(f"unpacking {archive.name}") as bar:
            for number, (name, size, opener) in enumerate(_entries(archive)):
                parts = name.rstrip("/").split("/")
                if not name or name.startswith("/") or "\\" in name or ":" in parts[0] or "\0" in name or ".." in parts:
                    raise UnpackError(f"{name!r} leaves the folder")
                written += size
                if written > limit or number >= ENTRIES:
                    raise UnpackError(f"more than {limit} bytes or {ENTRIES} files come out of {packed} bytes")
                if written > free:
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(into.parent))
                if opener is None:
                    (into / name).mkdir(parents=True, exist_ok=True)
                else:
                    _write(into / name, name, opener(), size)
                    bar.update(size)
        return into
    except UnpackError as error:
        raise UnpackError(f"{archive} was not unpacked: {error}; do not use it") from None
    except FAULTS as error:
        no_room = getattr(error, "errno", None) == errno.ENOSPC
        advice = "make room and try again" if no_room else "delete it and get it again"
        reason = " ".join(f"{type(error).__name__}: {error}".split())  # tarfile's has several lines
        raise UnpackError(f"{archive} cannot be unpacked: {reason}; {advice}") from error


def _entries(archive: Path) -> Iterator[Entry]:
    with open(archive, "rb") as file:
        is_zip = file.read(2) == b"PK"
    if is_zip:
        with _Zip(io.FileIO(archive)) as file, zipfile.ZipFile(file) as zipped:
            for info in zipped.infolist():
                if stat.S_IFMT(info.external_attr >> 16) not in (0, stat.S_IFREG, stat.S_IFDIR):
                    raise UnpackError(f"{info.filename!r} is a link or device")
                yield info.filename, info.file_size, None if info.is_dir() else partial(zipped.open, info)
    else:
        with tarfile.open(archive, tarinfo=_Member) as tarred:
            for member in tarred:
                if not (member.isreg() or member.isdir() or member.issym() or member.islnk()):
                    raise UnpackError(f"{member.name!r} is a device or pipe")
                size = 0 if member.isdir() else (member if member.isreg() else _linked(tarred, member)).size
                yield member.name, size, None if member.isdir() else partial(tarred.extractfile, member)


class _Zip(io.BufferedReader):
    """A zip of which a long list of files is not read: zipfile reads it in one piece."""

    def read(self, size: int | None = -1) -> bytes:
        if size and size > LIST:
            raise UnpackError(f"its list of files has {size} bytes, more than {LIST}")
        return super().read(size)


class _Member(tarfile.TarInfo):
    """A header of a tar, looked at before tarfile reads what it announces. `_proc_*` are tarfile's hooks for subclasses."""

    def _proc_member(self, tar: Any) -> Any:
        extra = self.size if self.type in b"LKxgX" else 0  # long names and extended headers, which are read whole
        tar.extra = getattr(tar, "extra", 0) + extra
        if self.size < 0 or extra > EXTRA or tar.extra > EXTRAS or len(tar.members) > ENTRIES:
            limits = f"{EXTRA} bytes in a header, {EXTRAS} in all, or {ENTRIES} files"
            raise UnpackError(f"{self.name!r:.99} asks for more than {limits}")
        member = super()._proc_member(tar)  # type: ignore[misc]
        member.pax_headers = {}  # else each has a copy of what stands for all
        return member

    def _refuse(self, *_: Any) -> None:
        raise UnpackError(f"{self.name!r:.99} is a sparse file")

    _proc_sparse = _proc_gnusparse_10 = _refuse


def _linked(tarred: tarfile.TarFile, member: tarfile.TarInfo) -> tarfile.TarInfo:
    """What a link names, which tarfile reads in its place: within the archive, never on disk."""
    base = posixpath.dirname(member.name) if member.issym() else ""
    name = posixpath.normpath(posixpath.join(base, member.linkname))
    if member.linkname.startswith("/") or name.split("/")[0] == "..":
        raise UnpackError(f"{member.name!r} links to {member.linkname!r}, outside of the folder")
    try:
        return tarred.getmember(name)
    except KeyError:
        raise UnpackError(f"{member.name!r} links to {member.linkname!r}, which is not in the archive") from None


def _write(target: Path, name: str, source: IO[bytes] | None, size: int) -> None:
    if source is None or target.exists():
        raise UnpackError(f"{name!r} is not a file" if source is None else f"{name!r} stands twice")
    target.parent.mkdir(parents=True, exist_ok=True)
    with source, open(target, "xb") as file:
        shutil.copyfileobj(source, file, BLOCK)
        if file.tell() != size:
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
