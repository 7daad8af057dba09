"""Files that are whole or not there at all: written under a temporary name beside the real one, then renamed. Locks.

And the cache of things that can be made again: DICAP_CACHE names its folder (default: the user's), "off" keeps none.
"""

import contextlib
import logging
import os
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

log = logging.getLogger(__name__)

POLL = 0.2  # seconds between two looks at a lock


@contextmanager
def replacing(path: str | os.PathLike) -> Iterator[Path]:
    """A temporary file to be written in place of `path`, which it replaces when the block ends; an error leaves `path` as it was.

    Folders are made. Raises OSError where the folder cannot be written.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    os.close(handle)
    try:
        yield Path(name)
        with open(name, "rb") as file:
            os.fsync(file.fileno())
        os.chmod(name, 0o644)
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def write_text(path: str | os.PathLike, text: str) -> None:
    """Write text (UTF-8, line ends as they are) by `replacing`."""
    with replacing(path) as temporary:
        temporary.write_bytes(text.encode())


def damage(path: str | os.PathLike) -> str:
    """What is wrong with an archive of torch.save by its checksums, which torch.load passes over; "" where it is whole."""
    try:
        with zipfile.ZipFile(path) as archive:
            marked = [
                entry.filename for entry in archive.infolist() if entry.external_attr
            ]  # torch takes it for a folder
            broken = archive.testzip() or "".join(marked[:1])
    except Exception as error:  # zipfile meets damage in many ways
        return f"{type(error).__name__}: {error}"
    return broken and f"{broken} is not what was written"


@contextmanager
def locked(path: str | os.PathLike) -> Iterator[bool]:
    """Hold a lock file while the block runs; False where another process holds it.

    The system gives it up with the process that holds it, so that a kill leaves none. True, and nothing is held, where
    the system or the file system has no such locks.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a", encoding="utf-8") as file:
        mine = _lock(file, path)
        try:
            yield mine
        finally:
            if mine:
                with contextlib.suppress(OSError):
                    path.unlink()


def _lock(file: Any, path: Path) -> bool:
    try:
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return os.path.samestat(os.fstat(file.fileno()), path.stat())  # not if its holder has removed it meanwhile
    except (BlockingIOError, FileNotFoundError):
        return False
    except (ImportError, OSError):
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
    except (SafetensorError, OSError) as error:
        log.warning('%s are not cached (%s); DICAP_CACHE names another folder, or "off"', what, error)


@contextlib.contextmanager
def one_at_a_time(path: Path | None, what: str) -> Iterator[None]:
    """Hold the lock beside a cached file while it is made: others that want it wait here until it is there.

    The lock ends with its holder: one that is killed leaves nobody waiting, and the next makes the file. Nothing is held
    where there is no cache, or its folder cannot be written, or has no locks: then each makes its own, which is as right.
    """
    with contextlib.ExitStack() as held:
        if path is not None:
            with contextlib.suppress(OSError):  # `keep` tells that the folder cannot be written
                held.enter_context(_wait_for(path.with_suffix(".lock"), what))
        yield


def _wait_for(lock: Path, what: str) -> contextlib.ExitStack:
    told = False
    while True:
        with contextlib.ExitStack() as taken:
            if taken.enter_context(locked(lock)):
                return taken.pop_all()
        if not told:
            log.info("another process makes the same %s (it holds %s): waiting for it", what, lock)
        told = True
        time.sleep(POLL)
