"""The library's log on the terminal."""

import logging
import sys
from typing import Any


class StdoutHandler(logging.StreamHandler):
    """Writes to whatever sys.stdout is at the moment, so that a run's log.txt gets the lines of the library too."""

    def __init__(self) -> None:
        logging.Handler.__init__(self)
        self.setFormatter(logging.Formatter("%(message)s"))

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802  logging's name
        if isinstance(sys.exc_info()[1], BrokenPipeError):  # `dicap base2new --dry-run | head`
            raise
        super().handleError(record)

    @property
    def stream(self) -> Any:
        return sys.stdout

    @stream.setter
    def stream(self, value: Any) -> None:
        pass


def show_log() -> None:
    """Let the library's log appear on stdout, unless the application has set up logging of its own."""
    logger = logging.getLogger("dicap")
    if not logger.hasHandlers():
        logger.addHandler(StdoutHandler())
    if logger.level == logging.NOTSET:
        logger.setLevel(logging.INFO)
