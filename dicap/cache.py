"""The cache on disk: things that can be made again. DICAP_CACHE names its folder (default: the user's), "off" keeps none."""
import logging
import os
from collections.abc import Callable
from pathlib import Path

from safetensors import SafetensorError

log = logging.getLogger(__name__)


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
        log.warning("%s are not cached (%s); DICAP_CACHE names another folder, or \"off\"", what, error)
