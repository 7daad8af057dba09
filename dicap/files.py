"""Files that are whole or not there at all: written under a temporary name beside the real one, then renamed."""
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


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
