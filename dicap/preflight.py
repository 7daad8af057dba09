"""Short trials: what a planned run will take, measured before it is started (`dicap PROTOCOL --dry-run --measure`).

    with Preflight() as measure:
        trial = measure(job)              # dicap.estimate.Trial: seconds of a step, an epoch, a test image ..., peak memory

A trial is the run itself, cut short. In a process of its own the trainer is built of the job's configuration and trains
until there is enough to go by: whole epochs for 3 seconds, of a longer epoch at least 3 steps behind the warm-up; then it
tests a batch or more. Images are encoded for 3 seconds, at least a batch; features of the others are made of those, so that
all tensors have their true sizes. What a method does before its first epoch is done whole. Features in the cache are
read. Nothing is written in OUT or in the cache: the trial has a folder of its own, and a cache of links.
"""
import concurrent.futures
import contextlib
import dataclasses
import hashlib
import io
import json
import math
import multiprocessing
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Subset

from dicap import discover, features
from dicap.cache import cache_folder
from dicap.estimate import Encoding, Trial, TrialError, work_of
from dicap.protocols import Job, learns

SECONDS = 3.0  # of encoding, of training and of testing
WARM_UP = 1.0  # seconds of steps that do not count, at least one step
LEAST = 3  # steps that count


class Preflight:
    """Makes trials, one for what is alike, in one process; call it with a job. Close it, or use it in a `with`."""

    def __init__(self) -> None:
        self._pool: concurrent.futures.ProcessPoolExecutor | None = None
        self._found: dict[tuple, Trial | TrialError] = {}

    def __call__(self, job: Job) -> Trial:
        """The trial of a job. Raises TrialError with what went wrong."""
        key = alike(job)
        if key not in self._found:
            self._found[key] = self._measure(job)
        found = self._found[key]
        if isinstance(found, TrialError):
            raise found
        return found

    def _measure(self, job: Job) -> Trial | TrialError:
        self._pool = self._pool or _start_process()
        try:
            found = self._pool.submit(try_out, _bare(job)).result()
        except concurrent.futures.process.BrokenProcessPool:
            self.close()
            return TrialError("its process died (out of memory? killed?)")
        return TrialError(found) if isinstance(found, str) else found

    def close(self) -> None:
        if self._pool is not None:
            self._pool.shutdown()
            self._pool = None

    def __enter__(self) -> "Preflight":
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()


def alike(job: Job) -> tuple:
    """Jobs with an equal key share a trial: seeds always; numbers of shots where batches are as large and nothing but steps
    depends on how many images there are."""
    from dassl.engine import TRAINER_REGISTRY

    from dicap.trainer import PromptTrainer

    work = work_of(job)
    cls = TRAINER_REGISTRY.get(job.method)
    own_stage = work.steps and getattr(cls, "before_train", None) is not PromptTrainer.before_train
    return job.method, job.recipe, job.data, job.stage.split, job.prompt is None, work.batch, own_stage and work.train


def _bare(job: Job) -> Job:
    """Without the configurations that it remembers."""
    return dataclasses.replace(job, prompt=job.prompt and dataclasses.replace(job.prompt))


def _start_process() -> concurrent.futures.ProcessPoolExecutor:
    from dicap.cells import start_worker

    engine = os.environ.get("DICAP_ENGINE") or "auto"
    return concurrent.futures.ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), start_worker,
                                                  (engine, tuple(discover.PLUGINS)))


# --- in that process ---------------------------------------------------------------------------------------------


def try_out(job: Job) -> Trial | str:
    """The trial of a job, or what went wrong."""
    from dicap.run import free_memory

    try:
        with tempfile.TemporaryDirectory(prefix="dicap-trial-") as folder, linked_cache(Path(folder, "cache")), \
                contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            return _try_out(job, str(Path(folder, "run")))
    except Exception as error:
        return f"{type(error).__name__}: {str(error).strip() or 'no message'}".splitlines()[0]
    finally:
        free_memory()


def _try_out(job: Job, folder: str) -> Trial:
    from dassl.utils import set_random_seed

    from dicap.run import build, peak_memory

    cfg = job.cfg.clone()
    cfg.defrost()
    cfg.OUTPUT_DIR, cfg.RESUME = folder, ""
    cfg.freeze()
    if cfg.SEED >= 0:
        set_random_seed(cfg.SEED)  # the images of the run, whose features may be in the cache
    with some_encoded() as encoder:
        start = clock()
        trainer = build(cfg)
        built = clock() - start - encoder.seconds
        test = Testing(trainer)
        try:
            training = Training(trainer, test, encoder) if learns(job.method) and not job.prompt else None
            test.until_warm()
        finally:
            trainer.close_writer()
    memory, _ = peak_memory(trainer)
    return Trial(build=built, **(training.figures() if training else {}), **test.figures(), encodings=tuple(encoder.found),
                 memory=memory, capacity=capacity(trainer.device), device=device_name(trainer.device))


def clock() -> float:
    """Seconds; a GPU has done what it was given."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def capacity(device: torch.device) -> float:
    """MiB of memory that the device has, free or not; 0 where it does not say."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory / 2**20
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**20
    except (AttributeError, ValueError, OSError):
        return 0.0


def device_name(device: torch.device) -> str:
    """As result files have it."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


@contextlib.contextmanager
def linked_cache(folder: Path) -> Iterator[None]:
    """DICAP_CACHE is `folder`, where links lead to what the cache has: it is read, and nothing is written to it."""
    real, before = cache_folder(""), os.environ.get("DICAP_CACHE")
    if real is None:
        yield
        return
    for path in real.rglob("*"):
        if path.is_file() and path.suffix not in (".lock", ".tmp"):
            link = folder / path.relative_to(real)
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(path.absolute())
    os.environ["DICAP_CACHE"] = str(folder)
    try:
        yield
    finally:
        os.environ.pop("DICAP_CACHE")
        os.environ.update({"DICAP_CACHE": before} if before is not None else {})


class Calls:
    """Stands in for a method that takes a batch: counts calls and items, and when the warm-up was over.

    Args:
        method: of a trainer, called with a dict of tensors or a tensor (B, ...) first.
    """

    def __init__(self, method: Callable) -> None:
        self.method = method
        self.restart()

    def restart(self, warm_up: float = 0.0) -> None:
        """Count anew; warm_up: seconds that do not count, at least one call."""
        self.warm_up = warm_up
        self.count = self.items = 0
        self.began = 0.0  # the first call
        self.warm: tuple[float, int, int] | None = None  # when, after how many calls and items

    def __call__(self, batch: Any, *args: Any, **kwargs: Any) -> Any:
        if not self.count:
            self.began = clock()
        elif self.warm is None and time.perf_counter() - self.began > self.warm_up:
            self.warm = clock(), self.count, self.items
        self.count += 1
        self.items += len(batch["label"] if isinstance(batch, dict) else batch)
        return self.method(batch, *args, **kwargs)

    def counted(self, end: float) -> tuple[float, int, int]:
        """Seconds, calls and items behind the warm-up; of all where all was warm-up. end: when the last call was over."""
        start, calls, items = self.warm or (self.began, 0, 0)
        return end - start, self.count - calls, self.items - items


class Few:
    """A loader that ends early: once `enough()` after SECONDS. used, whole: whether it was read, to its end."""

    used = whole = False

    def __init__(self, loader: Any, enough: Callable[[], bool] = lambda: True) -> None:
        self.loader, self.enough = loader, enough

    def __len__(self) -> int:
        return len(self.loader)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.loader, name)

    def __iter__(self) -> Iterator[Any]:
        start, self.used, self.whole = time.perf_counter(), True, False
        for number, batch in enumerate(self.loader, 1):
            yield batch
            self.whole = number == len(self.loader)
            if time.perf_counter() - start > SECONDS and self.enough():
                return


class _Enough(Exception):
    """Ends a training."""


class Training:
    """Trains until there is enough to go by, and tells seconds before the first epoch, of a step, of an epoch beside."""

    def __init__(self, trainer: Any, test: "Testing", encoder: "Encoder") -> None:
        self.trainer, self.test, self.steps = trainer, test, Calls(trainer.forward_backward)
        self.epochs: list[tuple[float, int]] = []  # seconds of steps, steps
        self.beside: list[float] = []  # seconds of an epoch's start and end
        self._run_epoch, self._before_epoch = trainer.run_epoch, trainer.before_epoch
        trainer.forward_backward, trainer.run_epoch, trainer.before_epoch = self.steps, self.run_epoch, self.before_epoch
        encoder.training, encoded, start = True, encoder.seconds, clock()
        self.began = self.ended = self.loading = 0.0
        with contextlib.suppress(_Enough):
            trainer.train()
        self.before = self.began - start - (encoder.seconds - encoded)

    def before_epoch(self) -> None:
        """Trainer's; the epoch before this one has ended with its checkpoint and its validation."""
        now = clock()
        if self.epochs:
            self.beside.append(self.loading + now - self.ended + self.test.take_left_out())
            if not self.whole or (len(self.epochs) > 1 and now - self.began > SECONDS):
                raise _Enough
        else:
            self.began = now
        self._before_epoch()

    def run_epoch(self) -> None:
        """Trainer's, cut short where it is long."""
        trainer, loader, steps, first = self.trainer, self.trainer.train_loader_x, self.steps, not self.epochs
        trainer.train_loader_x = few = Few(loader, lambda: steps.counted(0)[1] >= LEAST and not (first and steps.warm is None))
        steps.restart(WARM_UP if first else math.inf)
        start = clock()
        try:
            self._run_epoch()
        finally:
            trainer.train_loader_x = loader
        self.ended, self.whole, self.loading = clock(), few.whole, steps.began - start
        self.epochs.append(steps.counted(self.ended)[:2])

    def figures(self) -> dict[str, Any]:
        """The Trial's part; a first epoch that others follow was warm-up."""
        kept = self.epochs[1:] or self.epochs
        beside = self.beside[1:] or self.beside or [self.loading]
        steps = sum(number for _, number in kept)
        return {"before": self.before, "epoch": sum(beside) / len(beside), "steps": steps,
                "step": sum(seconds for seconds, _ in kept) / steps}


class Testing:
    """Cuts a trainer's tests short, and tells seconds of a whole one: of an image, and beside."""

    def __init__(self, trainer: Any) -> None:
        self.trainer, self._test, self._left_out = trainer, trainer.test, 0.0
        self.calls, self.loaders = Calls(trainer.model_inference), list[Few]()
        trainer.test, trainer.model_inference = self.test, self.calls
        for name in ("val_loader", "test_loader"):
            if getattr(trainer, name) is not None:
                self.loaders.append(Few(getattr(trainer, name)))
                setattr(trainer, name, self.loaders[-1])

    def test(self, *args: Any, **kwargs: Any) -> Any:
        """Trainer's."""
        self.calls.restart()
        for loader in self.loaders:
            loader.used = False
        start = clock()
        value = self._test(*args, **kwargs)
        end = clock()
        seconds, _, images = self.calls.counted(end)
        self.seconds, self.image = end - start, seconds / images
        self.beside = max(0.0, self.seconds - self.calls.items * self.image)
        left = sum(len(loader.dataset) for loader in self.loaders if loader.used) - self.calls.items
        self._left_out += left * self.image
        return value

    def take_left_out(self) -> float:
        """Seconds that the tests so far did not take because they were cut short; asked again, those since then."""
        seconds, self._left_out = self._left_out, 0.0
        return seconds

    def until_warm(self) -> None:
        """Test, and once more where that took so little time that what a first test alone pays would count."""
        self.trainer.test()
        if self.seconds < SECONDS:
            self.trainer.test()

    def figures(self) -> dict[str, Any]:
        """The Trial's part."""
        return {"test": self.beside, "image": self.image, "images": self.calls.items}


class _NotCached(Exception):
    """Somebody wants to read images to encode them."""


class _Unread(Few):
    """A loader that must not be read."""

    def __iter__(self) -> Iterator[Any]:
        raise _NotCached


class Encoder:
    """Stands in for dicap.features.encode: what the cache has is read; of other images some are encoded."""

    def __init__(self, encode: Callable) -> None:
        self.encode, self.seconds, self.training = encode, 0.0, False
        self.found: list[Encoding] = []

    def __call__(self, model: Any, loader: DataLoader, device: torch.device, views: int, facts: dict) -> Tensor:
        """As dicap.features.encode; seconds since then are counted."""
        start = clock()
        try:
            return self.encode(model, _Unread(loader), device, views, facts)
        except _NotCached:
            return self._some(model, loader, device, views, facts)
        finally:
            self.seconds += clock() - start

    @torch.no_grad()
    def _some(self, model: Any, loader: DataLoader, device: torch.device, views: int, facts: dict) -> Tensor:
        def encode(batch: dict) -> Tensor:
            return model.encode_image(batch["img"].to(device)).float().cpu()

        number = len(loader.dataset)  # type: ignore[arg-type]
        rows, seconds = encode_some(encode, loader)
        key = hashlib.sha256(json.dumps({**facts, "views": views}, sort_keys=True).encode()).hexdigest()
        self.found.append(Encoding(key, number, seconds, self.training))
        return like(rows, number).unflatten(0, (-1, views))


def encode_some(encode: Callable[[dict], Tensor], loader: DataLoader) -> tuple[Tensor, float]:
    """Features (n, e) of the first images, and seconds an image.

    One batch first, without workers, which would load many. Where that is not slow, the loader follows as it is: it shows
    what workers deliver.
    """
    size = min(loader.batch_size or 1, len(loader.dataset))  # type: ignore[arg-type]
    start = clock()
    batch = next(iter(DataLoader(Subset(loader.dataset, range(size)), size)))
    loaded = clock()
    rows = [encode(batch)]
    end = clock()
    if end - loaded > SECONDS:
        return rows[0], (end - loaded + (loaded - start) / (loader.num_workers + 1)) / size
    rows, start = [], clock()
    for batch in Few(loader):
        rows.append(encode(batch))
    found = torch.cat(rows)
    return found, (clock() - start) / len(found)


def like(rows: Tensor, number: int) -> Tensor:
    """(number, e): the rows, and where there are too few, more that scatter about them."""
    if len(rows) == number:
        return rows
    more = rows[torch.arange(number - len(rows)) % len(rows)]
    return torch.cat([rows, more + 0.1 * rows.std() * torch.randn(more.shape, generator=torch.Generator().manual_seed(0))])


@contextlib.contextmanager
def some_encoded() -> Iterator[Encoder]:
    """dicap.features.encode is an Encoder."""
    real = features.encode
    encoder = Encoder(real)
    features.encode = encoder  # type: ignore[assignment]
    try:
        yield encoder
    finally:
        features.encode = real
