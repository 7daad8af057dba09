"""Reads the tensors and plain values of files, without running anything that is in them.

The only reader of weights here, on every torch: `torch.load(weights_only=True)` has published flaws before torch 2.10, and
refuses what published CoOp and CoCoOp checkpoints hold, pickled optimisers and schedulers. Every global of a pickle becomes
an inert Placeholder that only notes what it was given; the exceptions are the few functions that put a tensor together, and
those are this file's own. torch's formats are read, the zip archive (torch >= 1.6), the stream before it and TorchScript
(its tensors alone), and safetensors. What is read takes no more memory than the file is long, and some for its structure.
"""

import collections
import io
import math
import os
import pickle
import pickletools
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO, cast

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from dicap.options import ConfigError

__all__ = ["AGAIN", "Placeholder", "check_finite", "check_pickle", "named_tensors", "read_checkpoint", "read_weights"]

OPCODES = 1_000_000  # of one pickle: a CLIP with its optimiser has 50,000, ImageNet's draw of 16 shots 400,000
NAMES = 10_000  # of classes and functions in a pickle; each takes a kilobyte
STRUCTURE = 64 * 2**20  # bytes of a zip archive's pickle, which holds no tensor's values
AGAIN = "; fetch or make that file again"
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


def _tensor(storage: Tensor, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *more: Any) -> Tensor:
    if offset < 0 or min((*size, *stride), default=0) < 0:
        raise ValueError("a tensor with a negative size or stride")
    if math.prod(size) > len(storage):
        raise ValueError("a tensor larger than its storage")
    if any(more[2:]):  # after requires_grad and hooks
        raise ValueError("a tensor that is to be conjugated or negated")
    return storage.as_strided(size, stride, offset)  # refuses what reaches beyond the storage


_SAFE: dict[tuple[str, str], type] = {
    ("collections", "OrderedDict"): collections.OrderedDict,
    ("collections", "Counter"): collections.Counter,
    ("__builtin__", "complex"): complex,
    ("torch", "Size"): torch.Size,
}
_REBUILD: dict[tuple[str, str], Callable[..., Tensor]] = {
    ("torch._utils", "_rebuild_tensor"): _tensor,
    ("torch._utils", "_rebuild_tensor_v2"): _tensor,
    ("torch._utils", "_rebuild_tensor_v3"): lambda storage, offset, size, stride, grad, hooks, dtype, *more: _tensor(
        storage.view(dtype), offset, size, stride, grad, hooks, *more
    ),
    ("torch._utils", "_rebuild_parameter"): lambda data, *_: data,
    ("torch._utils", "_rebuild_parameter_with_state"): lambda data, *_: data,
}
_DTYPES = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "ComplexDoubleStorage": torch.complex128,
    "ComplexFloatStorage": torch.complex64,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "UntypedStorage": torch.uint8,
    "BoolStorage": torch.bool,
}


def check_pickle(file: BinaryIO) -> None:
    """Walks the next pickle of a file without building anything, and goes back to its start.

    A few bytes can ask for gigabytes: place 2^31 of the memo takes a table of that length.
    Raises ValueError: truncated, more than OPCODES opcodes or NAMES names, or a place in the memo beyond OPCODES.
    """
    start, names = file.tell(), 0
    for number, (opcode, argument, _) in enumerate(pickletools.genops(file)):
        names += opcode.name in ("GLOBAL", "STACK_GLOBAL", "INST")
        place = (argument or 0) if opcode.name in ("PUT", "BINPUT", "LONG_BINPUT") else 0
        if max(number, place) > OPCODES or names > NAMES:
            raise ValueError("a pickle that asks for more memory than a file of tensors or items does")
    file.seek(start)


class _InertUnpickler(pickle.Unpickler):
    """Unpickles plain values and tensors; every other global is a Placeholder class."""

    def __init__(self, file: BinaryIO, load_storage: Callable[[Any], Tensor] | None = None) -> None:
        check_pickle(file)
        super().__init__(file, encoding="latin1")
        self.load_storage = load_storage

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in _SAFE:
            return _SAFE[module, name]
        if (module, name) in _REBUILD:
            rebuild = _REBUILD[module, name]
            return lambda *args: rebuild(*args)  # new each time: a pickle may set attributes of what it gets
        if module in ("torch", "torch.cuda", "torch.storage") and name in _DTYPES:
            return _DTYPES[name]
        if module == "torch" and isinstance(getattr(torch, name, None), torch.dtype):
            return getattr(torch, name)
        return type("Placeholder", (Placeholder,), {"origin": f"{module}.{name}"})

    def persistent_load(self, pid: Any) -> Tensor:
        if self.load_storage is None:
            raise ValueError("a reference to a storage outside a checkpoint")
        return self.load_storage(pid)


def read_weights(path: str | os.PathLike[str]) -> dict[str, Tensor]:
    """The tensors of a file by name, on the CPU: safetensors, by its suffix, or a state dict, or a TorchScript archive.

    Raises ConfigError, with the file's name, for a damaged file or one that holds something else.
    """
    if Path(path).suffix != ".safetensors":
        content = read_checkpoint(path)
        script = _module_tensors(content) if isinstance(content, Placeholder) else {}
        return script or named_tensors(content, path)
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise _damaged(path, error) from error


def read_checkpoint(path: str | os.PathLike[str]) -> Any:
    """The content of a file of torch.save, on the CPU; objects other than tensors and plain values are Placeholders.

    Raises FileNotFoundError, and ConfigError for a damaged file or another format; both name the file.
    """
    if not os.path.isfile(path):
        raise FileNotFoundError(f"no checkpoint at {path}: check --model-dir and --load-epoch, or train first")
    try:
        return _read_zip(path) if zipfile.is_zipfile(path) else _read_stream(path)
    except Exception as error:  # a damaged pickle may fail in any way; nothing of it has run
        raise _damaged(path, error) from error


def named_tensors(checkpoint: Any, path: str | os.PathLike[str]) -> dict[str, Tensor]:
    """What a checkpoint holds under "state_dict", or else the whole of it. Raises ConfigError where that is no state dict."""
    state = checkpoint.get("state_dict", checkpoint) if isinstance(checkpoint, dict) else checkpoint
    if isinstance(state, dict):
        others = (key for key, value in state.items() if not (isinstance(key, str) and isinstance(value, Tensor)))
        what = next((f"{key!s:.80} is none" for key in others), "")
    else:
        what = f"it holds {type(state).__name__}"
    if what:
        way = "name a model's checkpoint, or save its state_dict()"
        raise ConfigError(f"{path} holds no state dict of tensors ({what}): {way}")
    return state


def check_finite(tensors: dict[str, Tensor], what: str, way: str = "") -> None:
    """Raises FloatingPointError, with the name of the tensor, where one holds NaN or Inf."""
    for name, value in tensors.items():
        if not value.isfinite().all():
            raise FloatingPointError(f"{what}: {name} holds NaN or Inf{way}")


def _module_tensors(root: Placeholder) -> dict[str, Tensor]:
    """A TorchScript module's tensors by name; each of its modules once, however a file ties them together."""
    found, seen, left = {}, set(), [("", root)]
    while left:
        prefix, module = left.pop()
        if id(module) in seen or not isinstance(module.state, dict) or len(prefix) > 1000:
            continue
        seen.add(id(module))
        for name, value in module.state.items():
            if isinstance(value, Tensor):
                found[f"{prefix}{name}"] = value
            elif isinstance(value, Placeholder):
                left.append((f"{prefix}{name}.", value))
    return found


def _damaged(path: str | os.PathLike[str], error: Exception) -> ConfigError:
    cause = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
    way = "fetch the file again, or train again where it is a run's"
    return ConfigError(f"{path} is damaged, truncated or of an unknown format ({cause}): {way}")


def _read_zip(path: str | os.PathLike[str]) -> Any:
    """archive/data.pkl holds the structure, archive/data/<key> the bytes of each storage; torch compresses neither."""
    with zipfile.ZipFile(path) as archive:
        root = next((name[: -len("data.pkl")] for name in archive.namelist() if name.endswith("/data.pkl")), None)
        if root is None:
            raise ValueError("an archive without data.pkl")
        if sum(entry.compress_size for entry in archive.infolist()) > os.path.getsize(path):
            raise ValueError("an archive whose members are longer than itself")

        def read(name: str, most: float = math.inf) -> bytes:
            entry = archive.getinfo(root + name)
            if entry.compress_type != zipfile.ZIP_STORED or not entry.file_size == entry.compress_size <= most:
                raise ValueError(f"{name} is compressed or too long ({entry.file_size} bytes)")
            return archive.read(entry)

        if f"{root}byteorder" in archive.namelist() and read("byteorder") != b"little":
            raise ValueError("written on a big-endian machine")
        storages: dict[str, Tensor] = {}

        def load_storage(pid: Any) -> Tensor:  # ("storage", dtype, key, location, elements)
            _, dtype, key, _, _ = pid
            name = f"data/{key}"
            if name not in storages:
                data = bytearray(read(name))
                storages[name] = torch.frombuffer(data, dtype=dtype) if data else torch.empty(0, dtype=dtype)
            return storages[name]

        return _InertUnpickler(io.BytesIO(read("data.pkl", STRUCTURE)), load_storage).load()


def _read_stream(path: str | os.PathLike[str]) -> Any:
    """Four pickles (magic number, version, machine, structure), the storage keys, then each storage with its length."""
    left = os.path.getsize(path)
    storages: dict[str, Tensor] = {}

    def load_storage(pid: Any) -> Tensor:  # ("storage", dtype, key, location, elements, view)
        nonlocal left
        _, dtype, key, _, elements, view = pid
        if key not in storages:
            left -= elements * dtype.itemsize
            if elements < 0 or left < 0:
                raise ValueError("storages larger than the file")
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
        keys = _InertUnpickler(file).load()
        if set(keys) != storages.keys():
            raise ValueError("a storage without values")
        for key in keys:
            _fill(cast(BinaryIO, file), storages[key])
    return content


def _fill(file: BinaryIO, storage: Tensor) -> None:
    (elements,) = struct.unpack("<q", file.read(8))
    if elements != len(storage):
        raise ValueError("a storage of another length")
    data = bytearray(file.read(elements * storage.dtype.itemsize))
    if len(data) != elements * storage.dtype.itemsize:
        raise EOFError("a storage ends early")
    if elements:
        storage.copy_(torch.frombuffer(data, dtype=storage.dtype))
