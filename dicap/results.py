"""Results: one result.json a run, its schema, and the digests that say whether two runs are the same run.

    write_result(folder, result)          # atomic: a reader never sees half a file
    read_result("output/.../seed1")       # validated; ResultError names the file and the field
    config_digest(cfg), data_digest(dataset)

A result says itself what was measured: `metrics` by name, which one is `primary`, and of each measure its label, unit and
which way is better. Tables are made from these files only, of any task, and never from logs.
"""

import dataclasses
import hashlib
import json
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dicap.files import write_text
from dicap.options import PLACES, flatten, plain

SCHEMA = 2
FILE = "result.json"
SPLITS = ("base", "new", "all")

_NUMBER = (int, float)
_KINDS = {
    "protocol task method backbone recipe dataset split primary status": str,
    "schema shots seed n": int,
    "metrics measures groups seconds config digests versions method_record": dict,
    "peak_memory_mib": _NUMBER,
}
FIELDS: dict[str, Any] = {field: kind for fields, kind in _KINDS.items() for field in fields.split()}


class ResultError(ValueError):
    """A result file that cannot be used; the message names the file and the field."""


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
    return Measure(name, **result["measures"][name])


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
    """Read a JSON file. Raises OSError and ValueError as they come."""
    return json.loads(Path(path).read_text(encoding="utf-8"))


def write_result(folder: str | os.PathLike, result: dict) -> Path:
    """Check a result and write it as result.json in its run's folder. Raises ResultError where a field does not fit."""
    path = Path(folder) / FILE
    check_result(result, str(path))
    write_json(path, result)
    return path


def read_result(path: str | os.PathLike) -> dict:
    """Read a result file, or the one in a run's folder.

    Raises ResultError: no such file, not JSON (cut short), another schema, or a field that is missing or does not fit.
    """
    path = Path(path)
    path = path / FILE if path.is_dir() else path
    try:
        result = read_json(path)
    except FileNotFoundError:
        raise ResultError(f"{path}: no such result file") from None
    except ValueError as error:
        raise ResultError(f"{path}: not complete JSON ({error}); delete it and run again") from None
    check_result(result, str(path))
    return result


def check_result(result: Any, path: str) -> None:
    """Raises ResultError with file and field unless this is a complete result of this schema."""
    schema = result.get("schema") if isinstance(result, dict) else type(result).__name__
    if isinstance(schema, int) and schema < SCHEMA:
        raise ResultError(
            f"{path}: schema {schema}, written by an older version of dicap; this one reads schema {SCHEMA}. Give the"
            " command that made it again: it makes the run anew and puts the old folder aside"
        )
    if schema != SCHEMA:
        raise ResultError(f"{path}: schema is {schema!r}; this version reads schema {SCHEMA}")
    for field, kind in FIELDS.items():
        if field not in result:
            raise ResultError(f"{path}: field {field!r} is missing")
        value = result[field]
        if not isinstance(value, kind) or isinstance(value, bool):
            expected = "number" if kind is _NUMBER else kind.__name__
            raise ResultError(f"{path}: field {field!r} is {value!r}; expected {expected}")
    for field, allowed in {"status": ("complete",), "split": SPLITS}.items():
        if result[field] not in allowed:
            raise ResultError(f"{path}: field {field!r} is {result[field]!r}; allowed: {', '.join(allowed)}")
    if result["n"] < 1:
        raise ResultError(f"{path}: field 'n' is {result['n']}; a result needs at least one test item")
    for section, keys in {"digests": ("config", "data", "weights", "model"), "seconds": ("train", "test")}.items():
        if lacks := [key for key in keys if key not in result[section]]:
            raise ResultError(f"{path}: field '{section}.{lacks[0]}' is missing")
    _check_metrics(result, path)


def _check_metrics(result: dict, path: str) -> None:
    """Every measure is described, and has a finite value everywhere; in per cent it is one from 0 to 100."""
    measures: dict[str, Measure] = {}
    for name, facts in result["measures"].items():
        try:
            measures[name] = measure = Measure(name, **facts)
            if not isinstance(measure.label + measure.unit, str) or not isinstance(measure.higher_is_better, bool):
                raise TypeError
        except TypeError:
            keys = ", ".join(field.name for field in dataclasses.fields(Measure)[1:])
            raise ResultError(f"{path}: field 'measures.{name}' is {facts!r}; expected {keys}") from None
    if result["primary"] not in measures:
        raise ResultError(f"{path}: field 'primary' is {result['primary']!r}, which is none of `measures`")
    metrics = {"metrics": result["metrics"]}
    for name, group in result["groups"].items():
        if not isinstance(group, dict) or not isinstance(group.get("metrics"), dict) or "n" not in group:
            raise ResultError(f"{path}: field 'groups.{name}' is {group!r}; expected n and metrics")
        metrics[f"groups.{name}.metrics"] = group["metrics"]
    for where, values in metrics.items():
        if values.keys() != measures.keys():
            raise ResultError(f"{path}: field {where!r} has {', '.join(values)}; expected {', '.join(measures)}")
        for name, value in values.items():
            _check_value(measures[name], value, f"{path}: field '{where}.{name}'")


def _check_value(measure: Measure, value: Any, where: str) -> None:
    number = isinstance(value, _NUMBER) and not isinstance(value, bool) and math.isfinite(value)
    if not number or (measure.unit == "%" and not 0 <= value <= 100):
        allowed = "per cent, 0 to 100" if measure.unit == "%" else "a finite number"
        raise ResultError(f"{where} is {value!r}; expected {allowed}")


def find_results(root: str | os.PathLike) -> list[Path]:
    """All result files below a folder, sorted; hidden folders (runs put aside) are passed over.

    Raises ResultError: the folder does not exist.
    """
    root = Path(root)
    if not root.is_dir():
        raise ResultError(f"{root}: no such folder; give the output folder of a protocol, such as `output`")
    found = []
    for folder, folders, files in os.walk(root, followlinks=True):
        folders[:] = [name for name in folders if not name.startswith(".")]
        found += [Path(folder, FILE)] if FILE in files else []
    return sorted(found)


def config_digest(cfg: Any, leave_out: tuple[str, ...] = ()) -> str:
    """SHA-256 of what a configuration computes (64 hex digits).

    Left out: PLACES, `leave_out` (dotted keys), and general keys and those of *other* methods' and datasets' sections
    that stand at their default, so that a new key or a new file in trainers/ leaves finished runs finished.
    """
    leaves = flatten(plain(cfg))
    own = {f"{top}.{str(leaves.get(f'{top}.NAME', '')).upper()}" for top in ("TRAINER", "DATASET")}
    learner = leaves.get(f"TRAINER.{str(leaves.get('TRAINER.NAME', '')).upper()}.LEARNER", "")
    own |= {f"TRAINER.{name.upper()}" for name in learner.split("+")}
    defaults, left_out = _section_defaults().items(), {*PLACES, *leave_out}
    left_out |= {pair[0] for pair in leaves.items() if pair[0].rpartition(".")[0] not in own and pair in defaults}
    return digest_of({key: value for key, value in leaves.items() if key not in left_out})


def _section_defaults() -> dict[str, Any]:
    from dicap.config import GENERAL
    from dicap.discover import classes_with_options

    return {key: plain(option.default) for key, option in GENERAL.items()} | {
        f"{section}.{key}": plain(option.default)
        for section, cls in classes_with_options().items()
        for key, option in cls.OPTIONS.items()  # type: ignore[attr-defined]
    }


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
