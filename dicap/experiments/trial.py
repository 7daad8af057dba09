"""A run cut short: the parts that preflight.py puts into a trainer to time it, knowing no more of it than its methods.

Training      trains whole epochs until SECONDS have passed, of a longer epoch LEAST steps behind a warm-up
Evaluation    tests batches until SECONDS have passed
Encoder       encodes images for SECONDS, at least a batch, and makes features of the others of those
"""

import contextlib
import math
import time
from collections.abc import Callable, Iterator
from statistics import mean
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Subset

from dicap import features
from dicap.experiments.estimate import Encoding, TrialError

SECONDS = 3.0  # of encoding, of training and of testing
WARM_UP = 1.0  # seconds of steps that do not count, at least one step
LEAST = 3  # steps that count


def clock() -> float:
    """Seconds; a GPU has done what it was given."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


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
        """Seconds, calls and items behind the warm-up; of all where all was warm-up. end: when the last call was over.

        Raises TrialError where there was no call.
        """
        if not self.count:
            raise TrialError(f"{self.method.__qualname__} is not called for a batch: nothing can be timed")
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

    def __init__(self, trainer: Any, test: "Evaluation", encoder: "Encoder") -> None:
        self.trainer, self.test, self.steps = trainer, test, Calls(trainer.forward_backward)
        self.epochs: list[tuple[float, int]] = []  # seconds of steps, steps
        self.starts, self.ends = (
            list[float](),
            list[float](),
        )  # seconds of an epoch before its first step, behind its last
        self._run_epoch, self._before_epoch = trainer.run_epoch, trainer.before_epoch
        trainer.forward_backward, trainer.run_epoch, trainer.before_epoch = (
            self.steps,
            self.run_epoch,
            self.before_epoch,
        )
        encoder.training, encoded, start = True, encoder.seconds, clock()
        self.began = self.ended = 0.0
        with contextlib.suppress(_Enough):
            trainer.train()
        self.before = self.began - start - (encoder.seconds - encoded)

    def before_epoch(self) -> None:
        """Trainer's; the epoch before this one has ended with its checkpoint and its validation."""
        now = clock()
        if self.epochs:
            self.ends.append(now - self.ended + self.test.take_left_out())
            if not self.whole or (len(self.epochs) > 1 and now - self.began > SECONDS):
                raise _Enough
        else:
            self.began = now
        self._before_epoch()

    def run_epoch(self) -> None:
        """Trainer's, cut short where it is long."""
        trainer, loader, steps, first = self.trainer, self.trainer.train_loader_x, self.steps, not self.epochs
        trainer.train_loader_x = few = Few(
            loader, lambda: not (first and steps.warm is None) and steps.counted(0)[1] >= LEAST
        )
        steps.restart(WARM_UP if first else math.inf)
        start = clock()
        try:
            self._run_epoch()
        finally:
            trainer.train_loader_x = loader
        self.ended, self.whole = clock(), few.whole
        self.epochs.append(steps.counted(self.ended)[:2])
        self.starts.append(steps.began - start)
        self.workers_stay = getattr(loader, "persistent_workers", False)

    def figures(self) -> dict[str, Any]:
        """The Trial's part; a first epoch that others follow was warm-up, and started workers that may stay."""
        kept = self.epochs[1:] or self.epochs
        steps = sum(number for _, number in kept)
        first, *later = self.starts
        start = mean(later) if later else 0.0 if self.workers_stay else first
        end = mean(self.ends[1:] or self.ends or [0.0])  # of an only epoch it is not seen
        return {
            "before": self.before + max(0.0, first - start),
            "epoch": start + end,
            "steps": steps,
            "step": sum(seconds for seconds, _ in kept) / steps,
        }


class Evaluation:
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
        self.found.append(Encoding(features.key_of(facts, views), number, seconds, self.training))
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
    return torch.cat(
        [rows, more + 0.1 * rows.std() * torch.randn(more.shape, generator=torch.Generator().manual_seed(0))]
    )


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
