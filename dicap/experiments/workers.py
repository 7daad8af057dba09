"""Processes beside this one that make runs: engine and plugins are loaded as here, and they end with it."""

import logging
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any

from dicap import discover

DIED = "its process died (out of memory? killed?); run the same command again"


def workers(number: int) -> Executor:
    """What makes `number` tasks at a time: this process where it is 1, else processes that compute on one thread each."""
    return ThisProcess() if number == 1 else Processes(number)


class ThisProcess(Executor):
    """Makes each task at once, here; its errors come through as they are."""

    def submit(self, task: Callable, /, *args: Any, **kwargs: Any) -> Future:
        future: Future = Future()
        future.set_result(task(*args, **kwargs))
        return future


class Processes(Executor):
    """Spawned processes; where one dies, what they were at fails with BrokenProcessPool, and new ones do the rest."""

    def __init__(self, number: int) -> None:
        self._number = number
        self._pool = self._start()

    def _start(self) -> ProcessPoolExecutor:
        arguments = (os.environ.get("DICAP_ENGINE") or "auto", tuple(discover.PLUGINS), self._number > 1)
        return ProcessPoolExecutor(self._number, multiprocessing.get_context("spawn"), _start_worker, arguments)

    def submit(self, task: Callable, /, *args: Any, **kwargs: Any) -> Future:
        try:
            return self._pool.submit(task, *args, **kwargs)
        except BrokenProcessPool:
            self.shutdown()
            self._pool = self._start()
            return self._pool.submit(task, *args, **kwargs)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = True) -> None:
        self._pool.shutdown(wait, cancel_futures=cancel_futures)


def _start_worker(engine: str, plugins: tuple[str, ...], one_thread: bool) -> None:
    """Prepare a process: engine, plugins; it ends with the one that started it."""
    from dicap.choose_engine import choose_engine

    if one_thread:
        os.environ["OMP_NUM_THREADS"] = "1"  # of what is imported from here on
        import torch

        torch.set_num_threads(1)  # where the main module has imported it
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C ends it at once and without a traceback of its own
    threading.Thread(target=_end_with_parent, daemon=True).start()
    choose_engine(engine)
    discover.load_all()
    logging.getLogger("dicap").setLevel(logging.INFO)  # of the runs' log.txt; the terminal belongs to the parent
    for path in plugins:
        discover.load_plugin(path)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
