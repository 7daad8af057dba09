"""Running averages of what a training loop reports. Tensors stay where they are until a number is asked for.

Reading a tensor makes the host wait for the GPU. So a step only keeps its tensors, copied and in double precision, and
one transfer brings all of them when somebody looks.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import torch

__all__ = ["AverageMeter", "MetricMeter"]


class AverageMeter:
    """The latest value and the average of a series.

    Args:
        ema: average exponentially, with 0.1 for the newest value, instead of over all values.
    """

    def __init__(self, ema: bool = False) -> None:
        self.ema = ema
        self.reset()

    def reset(self) -> None:
        """Forgets everything."""
        self._val: Any = 0.0
        self._avg: Any = 0.0
        self._sum: Any = 0.0
        self.count = 0

    def update(self, val: float | torch.Tensor, n: int = 1) -> None:
        """Adds a value that stands for n items; a tensor of one element is summed on its device."""
        self._val = detached(val)
        self._sum = self._sum + self._val * n
        self.count += n
        self._avg = 0.9 * self._avg + 0.1 * self._val if self.ema else self._sum / self.count

    @property
    def val(self) -> float:
        """The latest value."""
        return float(self._val)

    @property
    def avg(self) -> float:
        """The average."""
        return float(self._avg)

    @property
    def sum(self) -> float:
        """The sum over all items."""
        return float(self._sum)


class MetricMeter:
    """An AverageMeter for each named metric; as text, `name latest (average)` for each, joined by the delimiter."""

    def __init__(self, delimiter: str = " ") -> None:
        self._meters: defaultdict[str, AverageMeter] = defaultdict(AverageMeter)
        self._unread: list[dict[str, Any]] = []
        self.delimiter = delimiter

    @property
    def meters(self) -> "defaultdict[str, AverageMeter]":
        """The meters by name, with all updates in them."""
        self.read()
        return self._meters

    def update(self, input_dict: Mapping[str, Any] | None) -> None:
        """Adds one value to each named metric; None is a step without a report. TypeError for what is no mapping."""
        input_dict = {} if input_dict is None else input_dict
        if not isinstance(input_dict, Mapping):
            raise TypeError(f"metrics are a dict of name to number, not a {type(input_dict).__name__}: {input_dict!r}")
        self._unread.append({name: detached(value) for name, value in input_dict.items()})

    def read(self) -> list[dict[str, float]]:
        """Takes in all new updates, in one transfer; returns for each of them the averages after it."""
        updates, self._unread = self._unread, []
        numbers = iter(read_numbers([value for update in updates for value in update.values()]))
        averages = []
        for update in updates:
            for name in update:
                self._meters[name].update(next(numbers))
            averages.append({name: meter.avg for name, meter in self._meters.items()})
        return averages

    def __str__(self) -> str:
        return self.delimiter.join(f"{name} {m.val:.4f} ({m.avg:.4f})" for name, m in self.meters.items())


def detached(value: Any) -> Any:
    """A tensor of one element as a copy () in double precision on its device, where nothing waits; else the value."""
    if not isinstance(value, torch.Tensor):
        return value
    if value.numel() != 1:
        raise TypeError(f"a metric is one number, not a tensor of shape {tuple(value.shape)}")
    return value.detach().reshape(()).to(torch.float64, copy=True)


def read_numbers(values: Sequence[Any]) -> list[Any]:
    """The values with tensors () replaced by their numbers: one transfer for each device that holds some."""
    numbers = list(values)
    places: defaultdict[torch.device, list[int]] = defaultdict(list)
    for place, value in enumerate(values):
        if isinstance(value, torch.Tensor):
            places[value.device].append(place)
    for device in places:
        read = torch.stack([values[place] for place in places[device]]).tolist()
        for place, number in zip(places[device], read):
            numbers[place] = number
    return numbers
