"""The cache on disk: things that can be made again. DICAP_CACHE names its folder (default: the user's), "off" keeps none."""

import contextlib
import logging
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from safetensors import SafetensorError

from dicap.files import locked

log = logging.getLogger(__name__)

POLL = 0.2  # seconds between two looks at a lock


def cache_folder(kind: str) -> Path | None:
    """The folder of one kind of cached things, None where DICAP_CACHE is "off"."""
    root = os.environ.get("DICAP_CACHE") or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "dicap"
    return None if root == "off" else Path(root) / kind


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
