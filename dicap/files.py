"""Files that are whole or not there at all: written under a temporary name beside the real one, then renamed. Locks.

And the cache of things that can be made again: DICAP_CACHE names its folder (default: the user's), "off" keeps none.
"""

import contextlib
import errno
import logging
import os
import platform
import re
import secrets
import shutil
import stat
import time
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

log = logging.getLogger(__name__)

POLL, REMIND, WAIT, DAY = 0.2, 60, 7200, 86400  # seconds
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@contextmanager
def named(path: str | os.PathLike) -> Iterator[None]:
    """Make what fails in writing `path`, in torch and safetensors too, an OSError with its name and a way out."""
    try:
        yield
    except Exception as error:
        cause = error.__context__ if isinstance(error, RuntimeError) else error  # torch's writer fails after the file
        told = re.search(r"\(os error (\d+)\)", str(error))  # safetensors
        number = cause.errno if isinstance(cause, OSError) else int(told[1]) if told else 0
        if not number:
            raise
        place = str(getattr(cause, "filename2", None) or getattr(cause, "filename", None) or path)
        place = str(path) if f".{Path(path).name}." in place else place  # a temporary name
        if not str(path).startswith(place):  # a file that is read meanwhile
            raise
        way = "make room there" if number in FULL else "see that it can be written"
        raise OSError(number, f"{os.strerror(number)}; {way}, or choose another folder", place) from error


@contextmanager
def replacing(path: str | os.PathLike, lasting: bool = True) -> Iterator[Path]:
    """A temporary path: the file or folder written there replaces `path` at the end, unless there is an error.

    Folders are made. A replaced file keeps its mode, a new one gets the umask's. What killed writers left is removed.

    Args:
        lasting: after a power cut the old file is there or the new one, whole. What can be made again need not last.
    Raises OSError, with the file's name, where it cannot be written.
    """
    path = Path(path)
    with named(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        _sweep(path.parent)
        with contextlib.ExitStack() as held:
            folder = _private_folder(path, held)
            new = folder / "new"
            yield new
            if lasting:
                _to_disk(new)
            if new.is_file():  # safetensors makes files that only their owner can read
                mode = path.lstat().st_mode if os.path.lexists(path) else 0
                new.chmod(stat.S_IMODE(mode) if stat.S_ISREG(mode) else folder.stat().st_mode & 0o666)
            os.replace(new, path)
        if lasting:
            _to_disk(path.parent, names=True)


def write_text(path: str | os.PathLike, text: str) -> None:
    """Write text (UTF-8, line ends as they are) by `replacing`."""
    with replacing(path) as temporary:
        temporary.write_bytes(text.encode())


def damage(path: str | os.PathLike) -> str:
    """What is wrong with an archive of torch.save by its checksums; "" where it is whole."""
    try:
        with zipfile.ZipFile(path) as archive:
            broken = archive.testzip()
    except Exception as error:  # zipfile meets damage in many ways
        return f"{type(error).__name__}: {error}"
    return f"{broken} is not what was written" if broken else ""


def move(source: Path, target: Path) -> None:
    """Rename a complete file or folder; after a power cut it is whole under its new name, or not there."""
    _to_disk(source)
    os.replace(source, target)
    _to_disk(target.parent, names=True)


def _to_disk(path: Path, names: bool = False) -> None:
    """Wait until a file, a folder with all below it, or only a folder's names are on the disk."""
    if path.is_dir() and not names and hasattr(os, "sync"):
        os.sync()  # one by one, thousands of pictures would take minutes
        return
    with contextlib.suppress(*[OSError] * path.is_dir()):  # not all systems can
        handle = os.open(path, os.O_RDONLY if names else os.O_RDWR)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _private_folder(path: Path, held: contextlib.ExitStack) -> Path:
    """A new folder beside `path`, locked while it is in use and then removed."""
    while True:
        folder = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
        folder.mkdir()
        held.callback(shutil.rmtree, folder, ignore_errors=True)
        with contextlib.suppress(FileNotFoundError):  # another process took it for a leftover before it was locked
            if held.enter_context(_lock(folder / "lock", os.O_CREAT)) is not False:
                return folder


def _sweep(folder: Path) -> None:
    """Remove what killed writers left there: what nobody has locked, or is a day old where there are no locks."""
    for left in folder.glob(f".*.{'[0-9a-f]' * 16}.tmp"):
        if left.is_symlink():
            continue
        with contextlib.suppress(OSError):
            left.rmdir()  # of one that was killed before it had a lock
        with contextlib.suppress(OSError), _lock(left / "lock") as mine:
            if mine or (mine is None and time.time() - left.stat().st_mtime > DAY):
                shutil.rmtree(left)


# -- locks


@contextmanager
def locked(path: str | os.PathLike) -> Iterator[bool]:
    """Hold a lock file while the block runs; False where another process holds it, and `holder` says which.

    The system gives it up with the process that holds it, so that a kill leaves none. True, and nothing is held, where
    the system or the file system has no such locks.
    """
    path = Path(path)
    with named(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    with _lock(path, os.O_CREAT) as mine:
        try:
            yield mine is not False
        finally:
            if mine is not False:
                with contextlib.suppress(OSError):
                    path.unlink()


def holder(path: str | os.PathLike) -> tuple[str, bool]:
    """Which process holds a lock, in words, and whether it is stopped, so that it will not end by itself."""
    number, host, state = "", "", ""
    with contextlib.suppress(OSError, ValueError):
        number, host = (re.findall(r"^(\d+) ([\w.-]+)\n", Path(path).read_text(encoding="utf-8")) or [("", "")])[0]
        stat_file = Path("/proc", number if host == platform.node() else "-", "stat")
        state = stat_file.read_text(encoding="utf-8").rpartition(") ")[2][:1]
    stopped = state in ("T", "t")
    way = f" and is stopped: `kill -CONT {number}` lets it go on, `kill -KILL {number}` ends it" if stopped else ""
    return f"process {number} on {host} holds {path}{way}" if host else f"it holds {path}", stopped


_held: set[int] = set()  # handles


def _let_go() -> None:
    """A forked child gives up its copies of the locks, which would outlive a parent that is killed."""
    while _held:
        os.close(_held.pop())


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_let_go)


@contextmanager
def _lock(path: Path, flags: int = 0) -> Iterator[bool | None]:
    """Lock a file, not through a link: False where another process has it, None where there are no locks."""
    with named(path):
        handle = os.open(path, os.O_RDWR | getattr(os, "O_NOFOLLOW", 0) | flags, 0o666)
    _held.add(handle)
    try:
        yield _taken(handle, path)
    finally:
        if handle in _held:
            _held.remove(handle)
            os.close(handle)


def _taken(handle: int, path: Path) -> bool | None:
    try:
        import fcntl

        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if not os.path.samestat(os.fstat(handle), path.stat()):  # its holder has removed it meanwhile
            return False
    except (BlockingIOError, FileNotFoundError):
        return False
    except (ImportError, OSError):
        return None
    with contextlib.suppress(OSError):  # a full disk
        os.pwrite(handle, f"{os.getpid()} {platform.node()}\n".encode(), 0)
    return True


# -- the cache


def cache_folder(kind: str) -> Path | None:
    """The folder of one kind of cached things, None where DICAP_CACHE is "off"."""
    root = os.environ.get("DICAP_CACHE") or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache", "dicap")
    return None if root == "off" else Path(root).expanduser() / kind


def keep(path: Path | None, write: Callable[[Path], None], what: str) -> None:
    """Write into the cache, where there is one; one that cannot be written is a warning that names what is lost."""
    try:
        if path is not None:
            write(path)
    except OSError as error:
        log.warning('%s are not cached (%s); DICAP_CACHE names another folder, or "off"', what, error)


@contextmanager
def one_at_a_time(path: Path | None, what: str) -> Iterator[None]:
    """Hold the lock beside a cached file while it is made: others that want it wait here until it is there.

    The lock ends with its holder: one that is killed leaves nobody waiting, and the next makes the file. Nothing is
    held where there is no cache, or its folder cannot be written or has no locks, where the holder is stopped, and
    after WAIT: then each makes its own, which is as right.
    """
    with contextlib.ExitStack() as held:
        if path is not None:
            with contextlib.suppress(OSError):  # `keep` tells that the folder cannot be written
                held.enter_context(_wait_for(path.with_suffix(".lock"), what))
        yield


def _wait_for(lock: Path, what: str) -> contextlib.ExitStack:
    began = told = time.monotonic()
    while True:
        with contextlib.ExitStack() as taken:
            if taken.enter_context(locked(lock)):
                return taken.pop_all()
        (who, stopped), now = holder(lock), time.monotonic()
        if stopped or now - began > WAIT:
            log.warning("another process makes the same %s (%s): not waiting for it any longer", what, who)
            return contextlib.ExitStack()
        if told == began or now - told > REMIND:
            log.info("another process makes the same %s (%s): waiting for it", what, who)
            told = now
        time.sleep(POLL)
