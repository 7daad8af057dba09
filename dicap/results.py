"""Results: one result.json a run, its schema, and the digests that say whether two runs are the same run.

    write_result(folder, result)          # atomic: a reader never sees half a file
    read_result("output/.../seed1")       # checked; ResultError names the file and the field
    config_digest(cfg), data_digest(dataset)

A result says itself what was measured: `metrics` by name, which one is `primary`, and of each measure its label, unit and
which way is better. Tables are made from these files only, of any task, and never from logs.
"""

import dataclasses
import hashlib
import json
import os
import re
import reprlib
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dicap.files import write_text
from dicap.options import PLACES, flatten, plain

SCHEMA = 2
FILE = "result.json"
SPLITS = ("base", "new", "all")
BYTES, LEVELS, CHARACTERS = 2**22, 32, 255  # the most of a file, of its nesting, and of a name
LARGEST = 1e100  # no figure is as large; squares of figures can be summed

# kinds of fields, see `_check`
PER_CENT = "a figure in per cent, 0 to 100"
FIELDS: dict[str, Any] = {
    **dict.fromkeys("protocol task method backbone recipe dataset primary".split(), str),
    **dict.fromkeys("schema shots seed n".split(), int),
    **dict.fromkeys("metrics measures groups config versions method_record".split(), dict),
    "seconds": dict.fromkeys(("train", "test"), float),
    "digests": dict.fromkeys(("config", "data", "weights", "model"), str),
    **{"peak_memory_mib": float, "split": SPLITS, "status": ("complete",)},
}
OPTIONAL = {
    **dict.fromkeys(("test_set", "trained_on", "peak_memory_source"), str),
    **dict.fromkeys(("resumed_from_epoch", "trainable_parameters"), int),
}
MEASURE = {"label": str, "unit": str, "higher_is_better": bool}


def printable(text: str) -> str:
    """Text whose control characters, which a terminal would obey, and lone surrogates are spelled out: \\x1b."""
    return re.sub("[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]", lambda m: ascii(m[0])[1:-1], text)


class ResultError(ValueError):
    """A result file that cannot be used; the message names the file and the field."""

    def __init__(self, message: str) -> None:
        super().__init__(printable(message)[:5000])


@dataclasses.dataclass(frozen=True)
class Measure:
    """A figure of an evaluation.

    Args:
        name: its key in results and files. label: its heading in tables.
        unit: "%" for per cent (0 to 100); any other text, or "", for any finite number.
        higher_is_better: which way is better.
    """

    name: str
    label: str
    unit: str = "%"
    higher_is_better: bool = True

    def facts(self) -> dict[str, Any]:
        """What a result says of it."""
        return {"label": self.label, "unit": self.unit, "higher_is_better": self.higher_is_better}

    def best(self, values: Sequence[float]) -> float:
        """The best of some values."""
        return max(values) if self.higher_is_better else min(values)

    def worst(self, values: Sequence[float]) -> float:
        """The worst of some values."""
        return min(values) if self.higher_is_better else max(values)

    @property
    def combined_label(self) -> str:
        """Name of `combined`: H of a share that is better where it is higher, else Mean."""
        return "H" if self.unit == "%" and self.higher_is_better else "Mean"

    def combined(self, base: float, new: float) -> float:
        """One figure of base and new classes: their harmonic mean H (0 where both are 0), as published tables have it.

        Of a measure that is no share, or where lower is better, their mean.
        """
        if self.combined_label == "Mean":
            return (base + new) / 2
        return 2 * base * new / (base + new) if base + new else 0.0


def measure_of(result: dict, name: str = "") -> Measure:
    """A measure of a result; "" = its primary one."""
    name = name or result["primary"]
    return Measure(name, **{key: result["measures"][name][key] for key in MEASURE})


def primary(result: dict) -> float:
    """The primary metric of a result."""
    return float(result["metrics"][result["primary"]])


def worst_group(result: dict) -> float:
    """The primary metric of the group where it is worst. The result has groups."""
    return measure_of(result).worst([float(group["metrics"][result["primary"]]) for group in result["groups"].values()])


def write_json(path: str | os.PathLike, value: Any) -> None:
    """Write JSON through a temporary name in the same folder, so that the file is whole or not there at all."""
    write_text(path, json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: str | os.PathLike) -> Any:
    """Read a JSON file. Raises OSError; ResultError: no plain file, larger than BYTES, or not whole JSON."""
    if not stat.S_ISREG(os.stat(path).st_mode):  # a pipe would never end
        raise ResultError(f"{path}: not a plain file")
    with open(path, "rb") as file:
        data = file.read(BYTES + 1)
    if len(data) > BYTES:
        raise ResultError(f"{path}: larger than {BYTES} bytes")
    try:
        return json.loads(data.decode())
    except (ValueError, RecursionError) as error:
        raise ResultError(f"{path}: not complete JSON ({error}); delete it and run again") from None


def write_result(folder: str | os.PathLike, result: dict) -> Path:
    """Check a result and write it as result.json in its run's folder. Raises ResultError where a field does not fit."""
    path = Path(folder) / FILE
    write_json(path, checked(result, str(path)))
    return path


def read_result(path: str | os.PathLike) -> dict:
    """Read a result file, or the one in a run's folder.

    Raises OSError; ResultError: no such file, none that `read_json` reads, another schema, or a field that is missing or
    does not fit.
    """
    path = Path(path)
    path = path / FILE if path.is_dir() else path
    try:
        return checked(read_json(path), str(path))
    except FileNotFoundError:
        raise ResultError(f"{path}: no such result file") from None


def checked(result: Any, path: str) -> dict:
    """A complete result of this schema, its texts `printable`. Raises ResultError: names the file and the field."""
    schema = result.get("schema") if isinstance(result, dict) else type(result).__name__
    if isinstance(schema, int) and schema < SCHEMA:
        raise ResultError(
            f"{path}: schema {schema}, written by an older version of dicap; this one reads schema {SCHEMA}. Give the"
            " command that made it again: it makes the run anew and puts the old folder aside"
        )
    result = _safe(path, result)
    if schema != SCHEMA:
        raise ResultError(f"{path}: schema is {reprlib.repr(schema)}; this version reads schema {SCHEMA}")
    _check(path, "", result, FIELDS | {key: kind for key, kind in OPTIONAL.items() if key in result})
    if result["n"] < 1:
        raise ResultError(f"{path}: field 'n' is {result['n']}; a result needs at least one test item")
    measures = result["measures"]
    _check(path, "", result, {"measures": dict.fromkeys(measures, MEASURE), "primary": tuple(measures)})
    figures = {name: PER_CENT if facts["unit"] == "%" else float for name, facts in measures.items()}
    groups = dict.fromkeys(result["groups"], {"n": int, "metrics": figures})
    _check(path, "", result, {"metrics": figures, "groups": groups})
    return result


def _safe(path: str, value: Any, *field: str) -> Any:
    """A value whose texts are `printable`. Raises ResultError: too deep, or a number that no table can hold."""
    if isinstance(value, (int, float)) and not abs(value) < LARGEST:
        raise ResultError(f"{path}: field {'.'.join(field)!r} is {reprlib.repr(value)}; expected a finite number")
    if len(field) > LEVELS:
        raise ResultError(f"{path}: field {'.'.join(field)!r} is nested deeper than {LEVELS} levels")
    if isinstance(value, dict):
        return {printable(str(key)): _safe(path, one, *field, str(key)) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_safe(path, one, *field, str(i)) for i, one in enumerate(value)]
    return printable(value) if isinstance(value, str) else value


def _check(path: str, field: str, value: Any, kind: Any) -> None:
    """Raises ResultError unless a value is of a kind.

    A kind is a type (float: any number), PER_CENT, a tuple of what is allowed, or a dictionary: the kinds of keys that it
    must have.
    """
    cls = dict if isinstance(kind, dict) else float if kind is PER_CENT else kind
    if isinstance(kind, tuple):
        fits, expected = value in kind, ", ".join(kind)
    else:
        fits = isinstance(value, (int, float) if cls is float else cls) and isinstance(value, bool) == (cls is bool)
        names = {float: "a finite number", str: f"text of at most {CHARACTERS} characters"}
        expected = kind if kind is PER_CENT else names.get(cls, cls.__name__)
    if not fits or (kind is PER_CENT and not 0 <= value <= 100) or (cls is str and len(value) > CHARACTERS):
        raise ResultError(f"{path}: field {field!r} is {reprlib.repr(value)}; expected {expected}")
    for key, one in kind.items() if isinstance(kind, dict) else ():
        name = f"{field}.{key}".lstrip(".")
        if key not in value:
            raise ResultError(f"{path}: field {name!r} is missing")
        _check(path, name, value[key], one)


def find_results(root: str | os.PathLike) -> list[Path]:
    """All result files below a folder, sorted, and of folders that cannot be listed the one that may be there.

    Hidden folders (runs put aside) are passed over; one that several links lead to is taken once. Raises ResultError: the
    folder does not exist.
    """
    root = Path(root)
    if not root.is_dir():
        raise ResultError(f"{root}: no such folder; give the output folder of a protocol, such as `output`")
    found, seen = [], set()
    walk = os.walk(root, followlinks=True, onerror=lambda error: found.append(Path(error.filename, FILE)))
    for folder, folders, files in walk:
        new = (real := os.path.realpath(folder)) not in seen
        seen.add(real)
        found += [Path(folder, FILE)] if new and FILE in (*folders, *files) else []
        folders[:] = sorted(name for name in folders if new and not name.startswith("."))
    return sorted(found)


def config_digest(cfg: Any) -> str:
    """SHA-256 of what a configuration computes (64 hex digits).

    Left out: PLACES, and general keys and those of *other* methods' and datasets' sections that stand at their default,
    so that a new key or a new file in trainers/ leaves finished runs finished.
    """
    from dicap.config import every_option

    leaves = flatten(plain(cfg))
    own = {f"{top}.{str(leaves.get(f'{top}.NAME', '')).upper()}" for top in ("TRAINER", "DATASET")}
    learner = leaves.get(f"TRAINER.{str(leaves.get('TRAINER.NAME', '')).upper()}.LEARNER", "")
    own |= {f"TRAINER.{name.upper()}" for name in learner.split("+")}
    defaults = {key: plain(option.default) for key, option in every_option().items()}.items()
    left_out = {pair[0] for pair in leaves.items() if pair[0].rpartition(".")[0] not in own and pair in defaults}
    return digest_of({key: value for key, value in leaves.items() if key not in left_out and key not in PLACES})


def digest_of(value: Any) -> str:
    """SHA-256 (64 hex digits) of a JSON value, keys sorted; 1 and 1.0 are the same number."""
    same = json.loads(json.dumps(value), parse_float=_number)
    return hashlib.sha256(json.dumps(same, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def _number(text: str) -> float:
    return int(float(text)) if float(text).is_integer() else float(text)


def data_digest(dataset: Any) -> str:
    """SHA-256 over every train, val and test item of a Dassl dataset: relative path, label, class name, size in bytes.

    The bytes themselves are not read: a path and a size tell apart every case but an image edited in place.
    """
    splits = {"train": dataset.train_x, "val": dataset.val or [], "test": dataset.test}
    folder = getattr(dataset, "dataset_dir", None) or os.path.commonpath(
        [os.path.dirname(os.path.abspath(item.impath)) for items in splits.values() for item in items] or ["/"]
    )
    total, inside = hashlib.sha256(), folder.rstrip(os.sep) + os.sep
    for name, items in splits.items():
        for item in items:
            path = item.impath
            path = path[len(inside) :] if path.startswith(inside) else os.path.relpath(path, folder)  # which is slow
            row = (name, path.replace(os.sep, "/"), item.label, item.classname, os.path.getsize(item.impath))
            total.update((json.dumps(row, ensure_ascii=False) + "\n").encode())
    return total.hexdigest()
