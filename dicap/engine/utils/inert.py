"""Reads the tensors and plain values of files written by others with pickle, without running anything that is in them.

Published CoOp and CoCoOp checkpoints hold pickled optimiser and scheduler objects, which
`torch.load(weights_only=True)` refuses. Here every global of the pickle becomes an inert Placeholder that only notes
what it was given; the exceptions are the few functions that put a tensor together, and those are this file's own. Both
of torch's formats are read: the zip archive (torch >= 1.6) and the stream before it.
"""

import collections
import io
import os
import pickle
import struct
import zipfile
from collections.abc import Callable
from typing import Any, BinaryIO, cast

import torch

from dicap.options import ConfigError

__all__ = ["Placeholder", "read_checkpoint"]

_MAGIC = 0x1950A86A20F9469CFC6C  # the first pickle of a stream-format file


class Placeholder:
    """Stands for an object of another class. `origin` is that class's name, `state` the object's attributes."""

    origin = ""
    args: tuple[Any, ...]
    items: list[Any]

    def __new__(cls, *args: Any, **kwargs: Any) -> "Placeholder":
        self = super().__new__(cls)
        self.args, self.items, self.state = args, [], {}
        return self

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def append(self, item: Any) -> None:
        """Keeps what the pickle appends or adds."""
        self.items.append(item)

    add = append

    def extend(self, items: Any) -> None:
        """Keeps what the pickle appends in a row."""
        self.items.extend(items)

    def __setitem__(self, key: Any, value: Any) -> None:
        self.items.append((key, value))

    def __repr__(self) -> str:
        return f"<placeholder of {self.origin}>"


def _tensor(
    storage: torch.Tensor, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *_: Any
) -> torch.Tensor:
    if offset < 0 or min((*size, *stride), default=0) < 0:
        raise ValueError("a tensor with a negative size or stride")
    return storage.as_strided(size, stride, offset)  # refuses what reaches beyond the storage


_SAFE: dict[tuple[str, str], type] = {
    ("collections", "OrderedDict"): collections.OrderedDict,
    ("torch", "Size"): torch.Size,
}
_REBUILD: dict[tuple[str, str], Callable[..., torch.Tensor]] = {
    ("torch._utils", "_rebuild_tensor"): _tensor,
    ("torch._utils", "_rebuild_tensor_v2"): _tensor,
    ("torch._utils", "_rebuild_parameter"): lambda data, *_: data,
}
_DTYPES = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}


class _InertUnpickler(pickle.Unpickler):
    """Unpickles plain values and tensors; every other global is a Placeholder class."""

    def __init__(self, file: BinaryIO, load_storage: Callable[[Any], torch.Tensor] | None = None) -> None:
        super().__init__(file, encoding="latin1")
        self.load_storage = load_storage

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in _SAFE:
            return _SAFE[module, name]
        if (module, name) in _REBUILD:
            rebuild = _REBUILD[module, name]
            return lambda *args: rebuild(*args)  # new each time: a pickle may set attributes of what it gets
        if module in ("torch", "torch.cuda") and name in _DTYPES:
            return _DTYPES[name]
        return type("Placeholder", (Placeholder,), {"origin": f"{module}.{name}"})

    def persistent_load(self, pid: Any) -> torch.Tensor:
        if self.load_storage is None:
            raise ValueError("a reference to a storage outside a checkpoint")
        return self.load_storage(pid)


def read_checkpoint(path: str | os.PathLike[str]) -> Any:
    """The content of a file of torch.save, on the CPU; objects other than tensors and plain values are Placeholders.

    Raises ConfigError, with the file's name, for a damaged file or another format.
    """
    try:
        return _read_zip(path) if zipfile.is_zipfile(path) else _read_stream(path)
    except Exception as error:  # a damaged pickle may fail in any way; nothing of it has run
        cause = f"{type(error).__name__}: {error}"
        way = "fetch the file again, or train again where it is a run's"
        raise ConfigError(f"{path} is damaged, truncated or of an unknown format ({cause}): {way}") from error


def _read_zip(path: str | os.PathLike[str]) -> Any:
    """archive/data.pkl holds the structure, archive/data/<key> the bytes of each storage."""
    with zipfile.ZipFile(path) as archive:
        root = next((name[: -len("data.pkl")] for name in archive.namelist() if name.endswith("/data.pkl")), None)
        if root is None:
            raise ValueError("an archive without data.pkl")
        if f"{root}byteorder" in archive.namelist() and archive.read(f"{root}byteorder") != b"little":
            raise ValueError("written on a big-endian machine")
        storages: dict[str, torch.Tensor] = {}

        def load_storage(pid: Any) -> torch.Tensor:  # ("storage", dtype, key, location, elements)
            _, dtype, key, _, _ = pid
            if key not in storages:
                data = bytearray(archive.read(f"{root}data/{key}"))
                storages[key] = torch.frombuffer(data, dtype=dtype) if data else torch.empty(0, dtype=dtype)
            return storages[key]

        return _InertUnpickler(io.BytesIO(archive.read(f"{root}data.pkl")), load_storage).load()


def _read_stream(path: str | os.PathLike[str]) -> Any:
    """Four pickles (magic number, version, machine, structure), the storage keys, then each storage with its length."""
    limit = os.path.getsize(path)
    storages: dict[str, torch.Tensor] = {}

    def load_storage(pid: Any) -> torch.Tensor:  # ("storage", dtype, key, location, elements, view)
        _, dtype, key, _, elements, view = pid
        if key not in storages:
            if not 0 <= elements * dtype.itemsize <= limit:
                raise ValueError("a storage larger than the file")
            storages[key] = torch.zeros(elements, dtype=dtype)
        if view is None:
            return storages[key]
        _, offset, length = view
        return storages[key][offset : offset + length]

    with open(path, "rb") as file:
        if _InertUnpickler(file).load() != _MAGIC:
            raise ValueError("no checkpoint of torch.save")
        _InertUnpickler(file).load(), _InertUnpickler(file).load()
        content = _InertUnpickler(file, load_storage).load()
        for key in _InertUnpickler(file).load():
            _fill(cast(BinaryIO, file), storages[key])
    return content


def _fill(file: BinaryIO, storage: torch.Tensor) -> None:
    (elements,) = struct.unpack("<q", file.read(8))
    data = bytearray(file.read(elements * storage.dtype.itemsize))
    if elements != len(storage) or len(data) != elements * storage.dtype.itemsize:
        raise EOFError("a storage ends early")
    if elements:
        storage.copy_(torch.frombuffer(data, dtype=storage.dtype))
