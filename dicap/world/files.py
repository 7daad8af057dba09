"""The embedded datasets on disk: written once, as PNG files in the layout of the standard benchmark.

    <root>/causal_shapes/<digest of the knobs>/images/<class>/<split>_<number>.png, split.json, manifest.jsonl
    <root>/digits/<digest>/images/<class>/<number>.png, split.json

`manifest.jsonl` holds every picture's latents, so that the truth under any intervention can be rendered
(`latents_of`). A folder is written under a temporary name and renamed, so it is complete or absent; of two processes
that write at once, one wins and the other uses its result.
"""

import contextlib
import hashlib
import json
import logging
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import numpy as np
from PIL import Image

from dicap.world.captions import DIGITS
from dicap.world.causal import CLASSES, LATENTS, TIED_SCENE, VALUES, confound, sample, shift
from dicap.world.render import DOWNSTREAM, Domain, counterfactual, render

log = logging.getLogger(__name__)
SPLIT_FILE, MANIFEST = "split.json", "manifest.jsonl"
VERSION = 1  # of the pictures: raise it whenever the same knobs give other files
SEED_OFFSET = 2**32  # worlds of the benchmark are never those of the pretraining
DIGITS_TRAIN, DIGITS_VAL = 30, 10  # a class; the rest is the test split


@dataclass(frozen=True)
class Knobs:
    """What a set of CausalShapes pictures is; each value changes the folder's name.

    Args:
        rho: probability that a training or validation picture shows the scene tied to its class, [0, 1].
        contrast, noise: the domain gap (render.Domain).
        per_class_train, per_class_val, per_class_test: pictures a class.
        seed: another seed is another world of the same kind.
        shift: "scenes" or "colours": unseen ones (causal.shift), all else the same; "": none.
    """

    rho: float = 1.0
    contrast: float = DOWNSTREAM.contrast
    noise: float = DOWNSTREAM.noise
    per_class_train: int = 32
    per_class_val: int = 8
    per_class_test: int = 200
    seed: int = 0
    shift: str = ""

    def stated(self) -> dict[str, float | str]:
        """By name, as the folder's name and its file state them: without a shift where there is none."""
        return {name: value for name, value in asdict(self).items() if value != ""}


def data_root() -> Path:
    """Where the embedded datasets live when no root is given: $DICAP_DATA, else the user's data folder."""
    if os.environ.get("DICAP_DATA"):
        return Path(os.environ["DICAP_DATA"]).expanduser().absolute()
    home = Path.home()
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or home / "AppData" / "Local") / "dicap"
    if sys.platform == "darwin":
        return home / "Library" / "Application Support" / "dicap"
    return Path(os.environ.get("XDG_DATA_HOME") or home / ".local" / "share") / "dicap"


def write_causal_shapes(root: str | os.PathLike, knobs: Knobs = Knobs()) -> Path:
    """The folder of the pictures with these knobs below `root`; written if it is not there yet.

    Raises:
        ValueError: rho outside [0, 1], an unknown shift.
        OSError: the folder cannot be written.
    """
    return _once(Path(root) / "causal_shapes" / _digest(knobs.stated()), lambda folder: _write_shapes(folder, knobs))


def write_digits(root: str | os.PathLike) -> Path:
    """The folder of scikit-learn's 1,797 handwritten digits below `root`; written if it is not there yet."""
    return _once(Path(root) / "digits" / _digest({"train": DIGITS_TRAIN, "val": DIGITS_VAL}), _write_digits)


def split_latents(split: str, knobs: Knobs = Knobs()) -> np.ndarray:
    """(50 n,) latents of "train", "val" or "test", label by label; n pictures a class."""
    number = ("train", "val", "test").index(split)
    count = (knobs.per_class_train, knobs.per_class_val, knobs.per_class_test)[number]
    labels = np.repeat(np.arange(len(CLASSES)), count)
    # An own range for each split and class: more pictures of one leave the others as they are.
    index = number * 10**9 + labels * 10**6 + np.tile(np.arange(count), len(CLASSES))
    latents = sample(index, SEED_OFFSET + knobs.seed)
    latents["label"] = labels
    return shift(latents if split == "test" else confound(latents, knobs.rho), knobs.shift)


def read_manifest(folder: str | os.PathLike) -> list[dict]:
    """One record a picture: path (relative to images/), split, class, scene, aligned, colour and all latents."""
    with open(Path(folder) / MANIFEST, encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def latents_of(folder: str | os.PathLike, paths: list[str]) -> np.ndarray:
    """(B,) latents of pictures, given by their paths (absolute, or relative to the folder's images/).

    Raises:
        KeyError: a path that the manifest does not list.
    """
    images = Path(folder).absolute() / "images"
    by_path = {record["path"]: record for record in read_manifest(folder)}
    out = np.zeros(len(paths), LATENTS)
    for row, path in enumerate(paths):
        relative = Path(path).relative_to(images) if os.path.isabs(path) else Path(path)
        record = by_path[relative.as_posix()]["latents"]
        for name in LATENTS.names or ():
            out[name][row] = record[name]
    return out


def read_knobs(folder: str | os.PathLike) -> Knobs:
    """The knobs that a folder of CausalShapes was written with."""
    stored = json.loads((Path(folder) / "knobs.json").read_text(encoding="utf-8"))
    return Knobs(**{field.name: stored[field.name] for field in fields(Knobs) if field.name in stored})


def rendered_truth(folder: str | os.PathLike, paths: list[str], action: Mapping[str, object]) -> np.ndarray:
    """(B, 64, 64, 3) uint8: the pictures at `paths` under an intervention (causal.do), by the same camera."""
    knobs = read_knobs(folder)
    return counterfactual(latents_of(folder, paths), action, Domain(knobs.contrast, knobs.noise))


def _write_shapes(folder: Path, knobs: Knobs) -> None:
    split: dict[str, list] = {}
    domain = Domain(knobs.contrast, knobs.noise)
    with open(folder / MANIFEST, "w", encoding="utf-8") as manifest:
        for part in ("train", "val", "test"):
            latents, split[part] = split_latents(part, knobs), []
            for start in range(0, len(latents), 256):
                chunk = latents[start : start + 256]
                names = [CLASSES[label] for label in chunk["label"]]
                numbers = (chunk["noise_index"] % 10**6).tolist()
                paths = [f"{_slug(name)}/{part}_{number:04d}.png" for name, number in zip(names, numbers)]
                _save_pictures(folder, paths, render(chunk, domain))
                split[part] += [list(item) for item in zip(paths, chunk["label"].tolist(), names)]
                manifest.writelines(json.dumps(_record(p, part, row)) + "\n" for p, row in zip(paths, chunk))
    _write_json(folder / "knobs.json", {**knobs.stated(), "version": VERSION})
    _write_json(folder / SPLIT_FILE, split)


def _record(path: str, split: str, row: np.void) -> dict:
    label, scene = int(row["label"]), int(row["scene"])
    latents = {name: row[name].tolist() for name in LATENTS.names or ()}
    return {
        "path": path,
        "split": split,
        "class": CLASSES[label],
        "scene": VALUES["scene"][scene],
        "aligned": bool(TIED_SCENE[label] == scene),
        "colour": VALUES["colour"][row["colour"]],
        "latents": latents,
    }


def _write_digits(folder: Path) -> None:
    import torch
    from sklearn.datasets import load_digits

    from dicap.world.glyphs import enlarge

    data = load_digits()
    ink = (enlarge(torch.tensor(data.images / 16, dtype=torch.float32)).numpy() * 255 + 0.5).astype(np.uint8)
    paths = [f"{DIGITS[label]}/{number:04d}.png" for number, label in enumerate(data.target)]
    _save_pictures(folder, paths, np.repeat(ink[..., None], 3, -1), level=6)
    order = np.random.Generator(np.random.Philox(key=1797)).permutation(len(paths))
    split: dict[str, list] = {"train": [], "val": [], "test": []}
    for label, name in enumerate(DIGITS):
        rows = [[paths[i], label, name] for i in order if data.target[i] == label]
        split["train"] += rows[:DIGITS_TRAIN]
        split["val"] += rows[DIGITS_TRAIN : DIGITS_TRAIN + DIGITS_VAL]
        split["test"] += rows[DIGITS_TRAIN + DIGITS_VAL :]
    _write_json(folder / SPLIT_FILE, split)


def _save_pictures(folder: Path, paths: list[str], pictures: np.ndarray, level: int = 0) -> None:
    """Level 0, no compression: sensor noise does not shrink, and reading is faster."""
    for path, picture in zip(paths, pictures):
        target = folder / "images" / path
        target.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture).save(target, compress_level=level)


def _once(folder: Path, write: Callable[[Path], None]) -> Path:
    """Fill `folder` under a temporary name and rename it; do nothing where it exists."""
    if folder.is_dir():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with _temporary(folder) as temporary:
        log.info("writing %s", folder)
        began = time.monotonic()
        write(temporary)
        try:
            temporary.rename(folder)
        except OSError:
            if not folder.is_dir():  # else another process was first
                raise
        log.info("wrote %s in %.1f s", folder, time.monotonic() - began)
    return folder


@contextlib.contextmanager
def _temporary(folder: Path) -> Iterator[Path]:
    """A new folder beside `folder`, removed at the end; also removes what killed processes left a day ago."""
    for old in folder.parent.glob(f".{folder.name}.*"):
        with contextlib.suppress(OSError):
            if time.time() - old.stat().st_mtime > 86400:
                shutil.rmtree(old, ignore_errors=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    temporary.chmod(0o755)
    try:
        yield temporary
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _digest(knobs: dict) -> str:
    text = json.dumps({**knobs, "version": VERSION}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _slug(name: str) -> str:
    return name.replace(" ", "_")


def _write_json(path: Path, tree: dict) -> None:
    path.write_text(json.dumps(tree), encoding="utf-8")
