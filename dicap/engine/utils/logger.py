"""The log: what the terminal shows also stands in OUTPUT_DIR/log.txt, where other repositories' parsers look for it.

Library messages go through `logging` (logger "dicap"); setup_logger shows them on standard output as plain lines, so
that they reach the log too. Progress bars go to the terminal alone.
"""

import logging
import os
import sys
from pathlib import Path
from typing import Any, TextIO

from dicap.console import StdoutHandler
from dicap.engine.utils.tools import mkdir_if_missing

__all__ = ["Logger", "setup_logger"]

_library = logging.getLogger("dicap")


class Logger:
    """Standard output and the file fpath (None: no file) at once; stands in for sys.stdout. A file that exists is
    continued: a resumed run has one log."""

    def __init__(self, fpath: str | os.PathLike[str] | None = None) -> None:
        self.console: TextIO = sys.stdout
        self.file: TextIO | None = None
        if fpath is not None:
            mkdir_if_missing(Path(fpath).parent)
            self.file = open(fpath, "a", buffering=1, encoding="utf-8")  # noqa: SIM115  closed by close()

    def write(self, msg: str) -> int:
        """Writes to both; returns the number of characters."""
        self.console.write(msg)
        if self.file is not None:
            self.file.write(msg)
        return len(msg)

    def flush(self) -> None:
        """Flushes both."""
        self.console.flush()
        if self.file is not None:
            self.file.flush()

    def close(self) -> None:
        """Closes the file; gives sys.stdout back to the console if this log stood in for it. May be called twice."""
        if self.file is not None:
            self.file.close()
            self.file = None
        if sys.stdout is self:
            sys.stdout = self.console

    def __enter__(self) -> "Logger":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def __getattr__(self, name: str) -> Any:  # isatty, encoding, fileno ... are the console's
        if name == "console":  # not yet set: no endless recursion while unpickling or in a failed __init__
            raise AttributeError(name)
        return getattr(self.console, name)


_active: Logger | None = None


def setup_logger(output: str | os.PathLike[str] | None = None) -> Logger | None:
    """Begins the log of a run; the log of the run before, if any, ends.

    output: a folder (the file is log.txt in it) or a file that ends in .txt or .log; None does nothing. Returns the log,
    which its close() or a with statement ends; None without output.
    """
    global _active
    if output is None:
        return None
    path = Path(output)
    if _active is not None:
        _active.close()
    _active = Logger(path if path.suffix in (".txt", ".log") else path / "log.txt")
    sys.stdout = _active  # type: ignore[assignment]
    if not any(isinstance(handler, StdoutHandler) for handler in _library.handlers):
        _library.addHandler(StdoutHandler())
    if _library.level == logging.NOTSET:
        _library.setLevel(logging.INFO)
    return _active
