"""The embedded datasets on disk: written once, as PNG files in the layout of the standard benchmark.

    <root>/causal_shapes/<digest of the knobs>/images/<class>/<split>_<number>.png, split.json, manifest.jsonl, knobs.json
    <root>/digits/<digest>/images/<class>/<number>.png, split.json

`manifest.jsonl` holds every picture's latents, so that the truth under any intervention can be rendered
(`rendered_truth`). A folder is written under a temporary name and then renamed, so it is complete or absent; if two
processes write at once, the second uses the first one's folder.
"""

import functools
import hashlib
import json
import logging
import os
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import numpy as np
from PIL import Image

from dicap.files import replacing
from dicap.world.captions import DIGITS
from dicap.world.causal import CLASSES, LATENTS, TIED_SCENE, VALUES, VARIABLES, confound, sample, shift
from dicap.world.render import DOWNSTREAM, Domain, counterfactual, render

log = logging.getLogger(__name__)
SPLITS = ("train", "val", "test")
VERSION = 1  # of the pictures: raise it whenever the same knobs give other files
SEED_OFFSET = 2**32  # added to the benchmark's seeds, so that no pretraining draws its pictures
DIGITS_TRAIN, DIGITS_VAL = 30, 10  # a class; the rest is the test split


@dataclass(frozen=True)
class Knobs:
    """The settings of a set of CausalShapes pictures; other settings are another folder.

    Args:
        rho: probability that a training or validation picture shows the scene tied to its class, [0, 1].
        contrast, noise: the domain gap (render.Domain).
        per_class_train, per_class_val, per_class_test: pictures a class.
        seed: another seed is another world of the same kind.
        shift: the domain shift (causal.shift): "scenes", "colours" or "" for none.
    """

    rho: float = 1.0
    contrast: float = DOWNSTREAM.contrast
    noise: float = DOWNSTREAM.noise
    per_class_train: int = 32
    per_class_val: int = 8
    per_class_test: int = 200
    seed: int = 0
    shift: str = ""

    def to_dict(self) -> dict[str, float | str]:
        """Values by name as in knobs.json; an empty shift is left out."""
        return {name: value for name, value in asdict(self).items() if value != ""}


def data_root() -> Path:
    """The folder of the embedded datasets when no root is given: $DICAP_DATA, else below the user's data folder."""
    if os.environ.get("DICAP_DATA"):
        return Path(os.environ["DICAP_DATA"]).expanduser().absolute()
    home = Path.home()
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or home / "AppData" / "Local") / "dicap"
    if sys.platform == "darwin":
        return home / "Library" / "Application Support" / "dicap"
    return Path(os.environ.get("XDG_DATA_HOME") or home / ".local" / "share") / "dicap"


def write_causal_shapes(root: str | os.PathLike, knobs: Knobs = Knobs()) -> Path:
    """The folder below `root` of the pictures with these knobs; written if it does not exist.

    Raises:
        ValueError: rho outside [0, 1], an unknown shift.
        OSError: the folder cannot be written.
    """
    folder = Path(root) / "causal_shapes" / _digest(knobs.to_dict())
    return _write_once(folder, functools.partial(_write_shapes, knobs=knobs))


def write_digits(root: str | os.PathLike) -> Path:
    """The folder below `root` of scikit-learn's 1,797 handwritten digits; written if it does not exist."""
    return _write_once(Path(root) / "digits" / _digest({"train": DIGITS_TRAIN, "val": DIGITS_VAL}), _write_digits)


def split_latents(split: str, knobs: Knobs = Knobs()) -> np.ndarray:
    """(50 n,) latents of "train", "val" or "test", label by label; n pictures a class."""
    number = SPLITS.index(split)
    count = (knobs.per_class_train, knobs.per_class_val, knobs.per_class_test)[number]
    labels = np.repeat(np.arange(len(CLASSES)), count)
    # Each split and class has its own range of image numbers, so more pictures of one leave the others as they are.
    index = number * 10**9 + labels * 10**6 + np.tile(np.arange(count), len(CLASSES))
    latents = sample(index, SEED_OFFSET + knobs.seed)
    latents["label"] = labels
    return shift(latents if split == "test" else confound(latents, knobs.rho), knobs.shift)


def read_manifest(folder: str | os.PathLike) -> list[dict]:
    """One record a picture: path (relative to images/), split, class, scene, aligned, colour and all latents."""
    with open(Path(folder) / "manifest.jsonl", encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def latents_of(folder: str | os.PathLike, paths: list[str]) -> np.ndarray:
    """(B,) latents of the pictures at `paths` (absolute, or relative to the folder's images/).

    Raises KeyError: a path that the manifest does not list.
    """
    images = Path(folder).absolute() / "images"
    by_path = {record["path"]: tuple(record["latents"][name] for name in VARIABLES) for record in read_manifest(folder)}
    relative = [Path(path).relative_to(images) if os.path.isabs(path) else Path(path) for path in paths]
    return np.array([by_path[path.as_posix()] for path in relative], LATENTS)


def read_knobs(folder: str | os.PathLike) -> Knobs:
    """The knobs of a folder of CausalShapes, from its knobs.json."""
    stored = json.loads((Path(folder) / "knobs.json").read_text(encoding="utf-8"))
    return Knobs(**{field.name: stored[field.name] for field in fields(Knobs) if field.name in stored})


def rendered_truth(folder: str | os.PathLike, paths: list[str], action: Mapping[str, object]) -> np.ndarray:
    """(B, 64, 64, 3) uint8: the pictures at `paths` under an intervention (causal.do), by the same camera."""
    knobs = read_knobs(folder)
    return counterfactual(latents_of(folder, paths), action, Domain(knobs.contrast, knobs.noise))


def _write_shapes(folder: Path, knobs: Knobs) -> None:
    split: dict[str, list] = {}
    domain = Domain(knobs.contrast, knobs.noise)
    with open(folder / "manifest.jsonl", "w", encoding="utf-8") as manifest:
        for part in SPLITS:
            latents, split[part] = split_latents(part, knobs), []
            for start in range(0, len(latents), 256):
                chunk = latents[start : start + 256]
                records = [_record(part, row) for row in chunk]
                _save_pictures(folder, [record["path"] for record in records], render(chunk, domain))
                split[part] += [[r["path"], r["latents"]["label"], r["class"]] for r in records]
                manifest.writelines(json.dumps(record) + "\n" for record in records)
    (folder / "knobs.json").write_text(json.dumps({**knobs.to_dict(), "version": VERSION}), encoding="utf-8")
    (folder / "split.json").write_text(json.dumps(split), encoding="utf-8")


def _record(split: str, row: np.void) -> dict:
    """A picture's line of the manifest."""
    latents = {name: row[name].tolist() for name in VARIABLES}
    label, scene = latents["label"], latents["scene"]
    return {
        "path": f"{CLASSES[label].replace(' ', '_')}/{split}_{latents['noise_index'] % 10**6:04d}.png",
        "split": split,
        "class": CLASSES[label],
        "scene": VALUES["scene"][scene],
        "aligned": bool(TIED_SCENE[label] == scene),
        "colour": VALUES["colour"][latents["colour"]],
        "latents": latents,
    }


def _write_digits(folder: Path) -> None:
    from dicap.world.glyphs import handwritten_digits  # needs torch, which the rest of this module does not

    pictures, labels = handwritten_digits()
    paths = [f"{DIGITS[label]}/{number:04d}.png" for number, label in enumerate(labels)]
    _save_pictures(folder, paths, pictures.transpose(0, 2, 3, 1), compress_level=6)
    order = np.random.Generator(np.random.Philox(key=1797)).permutation(len(paths))
    split: dict[str, list] = {part: [] for part in SPLITS}
    for label, name in enumerate(DIGITS):
        rows = [[paths[i], label, name] for i in order if labels[i] == label]
        split["train"] += rows[:DIGITS_TRAIN]
        split["val"] += rows[DIGITS_TRAIN : DIGITS_TRAIN + DIGITS_VAL]
        split["test"] += rows[DIGITS_TRAIN + DIGITS_VAL :]
    (folder / "split.json").write_text(json.dumps(split), encoding="utf-8")


def _save_pictures(folder: Path, paths: list[str], pictures: np.ndarray, compress_level: int = 0) -> None:
    """PNG files, by default without compression: it gains nothing on sensor noise and makes reading slower."""
    for path, picture in zip(paths, pictures):
        target = folder / "images" / path
        target.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture).save(target, compress_level=compress_level)


def _write_once(folder: Path, write: Callable[[Path], None]) -> Path:
    """Let `write` fill `folder`, under a temporary name until it is complete; do nothing where `folder` exists."""
    if folder.is_dir():
        return folder
    log.info("writing %s", folder)
    began = time.monotonic()
    try:
        with replacing(folder) as temporary:
            temporary.mkdir()
            write(temporary)
    except OSError:
        if not folder.is_dir():  # else another process was first
            raise
    log.info("wrote %s in %.1f s", folder, time.monotonic() - began)
    return folder


def _digest(settings: dict) -> str:
    return hashlib.sha256(json.dumps({**settings, "version": VERSION}, sort_keys=True).encode()).hexdigest()[:12]
