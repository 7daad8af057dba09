"""Files that are whole or not there at all: written under a temporary name beside the real one, then renamed; and locks."""

import contextlib
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


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
