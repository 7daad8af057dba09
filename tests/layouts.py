"""Writes a handful of tiny pictures in the layout of a dataset: the true one for each dataset of the benchmark.

    counts = write_layout(OxfordPets, tmp_path)           # tmp_path/oxford_pets/{images,annotations}/..., split JSON
    monkeypatch.setattr(OxfordPets, "counts", counts)     # a few classes instead of all

The official lists (.txt, .mat), the split file and the pictures agree with each other; the split made of the lists has
the counts of the split file. Names and forms are those of the real archives. Another dataset's layout is made of its
class's facts, where these say all: a split file in CoOp's form, or a shift of ImageNet. Imports nothing of dicap.
"""

import hashlib
import io
import itertools
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from scipy.io import savemat

Counts = tuple[int, int, int, int]  # classes, train, val, test
Rows = list[tuple[str, int, str]]

IMAGENET = {
    "n01440764": "tench",
    "n01443537": "goldfish",
    "n03773504": "missile",
    "n04008634": "missile",
    "n04355933": "sunglasses",
    "n04356056": "sunglasses",
}


def write_layout(cls: Any, root: Path, shots: int = 6) -> Counts:
    """Write a dataset below `root`, with `shots` (2 or more) training pictures a class.

    Args:
        cls: its class, or the stem of its file, for one of the benchmark.
    Returns:
        classes, train, val and test of what was written: the dataset's `counts` in a test.
    """
    if shots < 2:
        raise ValueError(f"shots is {shots}; the layouts need 2 or more")
    stem = cls if isinstance(cls, str) else cls.stem()
    return _WRITERS[stem](Path(root), shots) if stem in _WRITERS else _of_facts(cls, Path(root), shots)


def has_layout(cls: Any) -> bool:
    """Whether there is a layout for a dataset, or its facts say all that one needs."""
    facts = cls.read.__qualname__ in ("FewShotDataset.read", "ImageNetShift.read")
    return cls.stem() in _WRITERS or (bool(cls.folder) and facts and not cls.embedded)


def names_of(cls: Any) -> list[str]:
    """Class names of a layout that is made of facts, in label order, as prompts have them."""
    if cls.test_only:
        return list(IMAGENET.values())
    return [cls.rename.get(name, name) for name in _names_on_disk(cls)]


def _names_on_disk(cls: Any) -> list[str]:
    """At least five: those that the class renames, and others."""
    return sorted({*cls.rename, *(f"kind_{number}" for number in range(1, 6))})


def _of_facts(cls: Any, root: Path, shots: int) -> Counts:
    folder = root / cls.folder
    if cls.test_only:
        names = [str(label) for label in range(len(IMAGENET))] if cls.numbered else list(IMAGENET)
        return _shift(folder, cls.images, names, "{}.jpg")
    names = {name: name for name in _names_on_disk(cls)}
    return _class_folders(
        folder / cls.images, names, lambda _, number: f"{number:04d}.jpg", folder / cls.split_file, shots
    )


def _class_folders(
    root: Path, names: dict[str, str], image: Callable[[str, int], str], split: Path, shots: int
) -> Counts:
    """root/<folder>/<image> and a split of 50/20/30 %; names: class name by folder, in label order."""
    tree: dict[str, Rows] = {"train": [], "val": [], "test": []}
    total, n_val = 2 * shots, round(2 * shots * 0.2)
    for label, (folder, name) in enumerate(names.items()):
        rows = [(f"{folder}/{image(folder, number)}", label, name) for number in range(1, total + 1)]
        for path, _, _ in rows:
            _picture(root / path, name)
        random.Random(label).shuffle(rows)
        tree["train"] += rows[:shots]
        tree["val"] += rows[shots : shots + n_val]
        tree["test"] += rows[shots + n_val :]
    _json(split, tree)
    train, val, test = (len(rows) for rows in tree.values())
    return len(names), train, val, test


def _caltech101(root: Path, shots: int) -> Counts:
    folder = root / "caltech-101"
    names = {
        "Faces": "face",
        "Leopards": "leopard",
        "Motorbikes": "motorbike",
        "accordion": "accordion",
        "airplanes": "airplane",
    }
    for ignored in ("BACKGROUND_Google", "Faces_easy"):
        for number in range(1, 4):
            _picture(folder / "101_ObjectCategories" / ignored / f"image_{number:04d}.jpg", ignored)
    return _class_folders(
        folder / "101_ObjectCategories",
        names,
        lambda _, number: f"image_{number:04d}.jpg",
        folder / "split_zhou_Caltech101.json",
        shots,
    )


def _food101(root: Path, shots: int) -> Counts:
    folder = root / "food-101"
    names = {name: name for name in ("apple_pie", "baby_back_ribs", "baklava", "beef_carpaccio", "beef_tartare")}
    _text(folder / "meta/classes.txt", names)
    return _class_folders(
        folder / "images",
        names,
        lambda _, number: f"{1005649 + 7 * number}.jpg",
        folder / "split_zhou_Food101.json",
        shots,
    )


def _dtd(root: Path, shots: int) -> Counts:
    folder = root / "dtd"
    names = {name: name for name in ("banded", "blotchy", "braided", "bubbly", "polka-dotted")}
    _text(folder / "labels/labels_joint_anno.txt", ["banded/banded_0002.jpg banded"])
    return _class_folders(
        folder / "images",
        names,
        lambda name, number: f"{name}_{number:04d}.jpg",
        folder / "split_zhou_DescribableTextures.json",
        shots,
    )


def _eurosat(root: Path, shots: int) -> Counts:
    folder = root / "eurosat"
    names = {
        "AnnualCrop": "Annual Crop Land",
        "Forest": "Forest",
        "Highway": "Highway or Road",
        "River": "River",
        "SeaLake": "Sea or Lake",
    }
    return _class_folders(
        folder / "2750", names, lambda name, number: f"{name}_{number}.jpg", folder / "split_zhou_EuroSAT.json", shots
    )


def _oxford_flowers(root: Path, shots: int) -> Counts:
    """Labels stand in imagelabels.mat, image by image; classes appear out of label order, as in the real one."""
    folder, total, n_val = root / "oxford_flowers", 2 * shots, round(2 * shots * 0.2)
    names = ["pink primrose", "hard-leaved pocket orchid", "canterbury bells", "sweet pea", "english marigold"]
    order = [3, 1, 5, 2, 4]
    labels = [order[number // total] for number in range(total * len(order))]
    savemat(_parent(folder / "imagelabels.mat"), {"labels": np.array([labels], dtype=np.uint8)})
    _json(folder / "cat_to_name.json", {str(number): names[number - 1] for number in (2, 1, 4, 3, 5)})
    tree: dict[str, Rows] = {"train": [], "val": [], "test": []}
    for label in order:
        rows = [(f"image_{i + 1:05d}.jpg", label - 1, names[label - 1]) for i, y in enumerate(labels) if y == label]
        for path, _, name in rows:
            _picture(folder / "jpg" / path, name)
        random.Random(label).shuffle(rows)
        tree["train"] += rows[:shots]
        tree["val"] += rows[shots : shots + n_val]
        tree["test"] += rows[shots + n_val :]
    _json(folder / "split_zhou_OxfordFlowers.json", tree)
    return len(names), len(tree["train"]), len(tree["val"]), len(tree["test"])


def _oxford_pets(root: Path, shots: int) -> Counts:
    folder = root / "oxford_pets"
    names = ["Abyssinian", "american_bulldog", "american_pit_bull_terrier", "Bengal", "yorkshire_terrier"]
    lists: dict[str, list[str]] = {"trainval": [], "test": []}
    rows: dict[str, Rows] = {"trainval": [], "test": []}
    for label, name in enumerate(names):
        for part, number in _numbered(shots):
            image = f"{name}_{number}"
            lists[part].append(f"{image} {label + 1} {1 if name[0].isupper() else 2} 1")
            rows[part].append((f"{image}.jpg", label, name.lower()))
    _text(folder / "annotations/trainval.txt", lists["trainval"])
    _text(folder / "annotations/test.txt", lists["test"])
    return _official(folder / "images", folder / "split_zhou_OxfordPets.json", rows, shots)


def _stanford_cars(root: Path, shots: int) -> Counts:
    """Annotations are MATLAB structures; the pictures' order has nothing to do with their classes."""
    folder = root / "stanford_cars"
    names = [
        "AM General Hummer SUV 2000",
        "Acura RL Sedan 2012",
        "Acura TL Sedan 2012",
        "Audi TTS Coupe 2012",
        "smart fortwo Convertible 2012",
    ]
    cells = np.empty((1, len(names)), dtype=object)
    cells[0, :] = names
    savemat(_parent(folder / "devkit/cars_meta.mat"), {"class_names": cells})
    rows: dict[str, Rows] = {}
    files = {
        "trainval": ("cars_train", "devkit/cars_train_annos.mat"),
        "test": ("cars_test", "cars_test_annos_withlabels.mat"),
    }
    for part, (images, annotations) in files.items():
        labels = [label for label in range(len(names)) for some, _ in _numbered(shots) if some == part]
        random.Random(5).shuffle(labels)
        fields = [(name, object) for name in ("bbox_x1", "bbox_y1", "bbox_x2", "bbox_y2", "class", "fname")]
        table = np.empty((1, len(labels)), dtype=fields)
        rows[part] = []
        for i, label in enumerate(labels):
            table[0, i] = (1, 1, 20, 24, label + 1, f"{i + 1:05d}.jpg")
            words = names[label].split(" ")
            rows[part].append((f"{images}/{i + 1:05d}.jpg", label, " ".join(words[-1:] + words[:-1])))
        savemat(_parent(folder / annotations), {"annotations": table})
    return _official(folder, folder / "split_zhou_StanfordCars.json", rows, shots)


def _sun397(root: Path, shots: int) -> Counts:
    folder = root / "sun397"
    names = {
        "a/abbey": "abbey",
        "a/airplane_cabin": "airplane_cabin",
        "a/apartment_building/outdoor": "outdoor apartment_building",
        "i/ice_skating_rink/indoor": "indoor ice_skating_rink",
        "z/zoo": "zoo",
    }
    _text(folder / "ClassName.txt", [f"/{name}" for name in names])
    rows: dict[str, Rows] = {"trainval": [], "test": []}
    for label, (place, name) in enumerate(names.items()):
        for part, number in _numbered(shots):
            rows[part].append((f"{place}/sun_aa{number:06d}.jpg", label, name))
    for part, file in (("trainval", "Training_01.txt"), ("test", "Testing_01.txt")):
        _text(folder / file, [f"/{path}" for path, _, _ in rows[part]])
    return _official(folder / "SUN397", folder / "split_zhou_SUN397.json", rows, shots)


def _ucf101(root: Path, shots: int) -> Counts:
    """The lists name videos by CamelCase classes; the pictures are middle frames in folders of separated words."""
    folder = root / "ucf101"
    names = {
        "ApplyEyeMakeup": "Apply_Eye_Makeup",
        "Archery": "Archery",
        "HandstandPushups": "Handstand_Pushups",
        "TaiChi": "Tai_Chi",
        "YoYo": "Yo_Yo",
    }
    _text(folder / "ucfTrainTestlist/classInd.txt", [f"{i} {name}" for i, name in enumerate(names, 1)])
    rows: dict[str, Rows] = {"trainval": [], "test": []}
    lists: dict[str, list[str]] = {"trainval": [], "test": []}
    for label, (action, name) in enumerate(names.items()):
        for part, number in _numbered(shots):
            video = f"v_{action}_g{number:02d}_c01"
            rows[part].append((f"{name}/{video}.jpg", label, name))
            lists[part].append(f"{action}/{video}.avi" + (f" {label + 1}" if part == "trainval" else ""))
    _text(folder / "ucfTrainTestlist/trainlist01.txt", lists["trainval"])
    _text(folder / "ucfTrainTestlist/testlist01.txt", lists["test"])
    return _official(folder / "UCF-101-midframes", folder / "split_zhou_UCF101.json", rows, shots)


def _fgvc_aircraft(root: Path, shots: int) -> Counts:
    """No split file: the official lists are the split."""
    folder, sizes = root / "fgvc_aircraft", {"train": shots, "val": 2, "test": 3}
    names = ["707-320", "727-200", "A340-600", "Cessna 172", "F-A-18"]
    _text(folder / "variants.txt", names)
    numbers = itertools.count(1025794, 11)
    for part, size in sizes.items():
        rows = [(f"{next(numbers):07d}", name) for name in names for _ in range(size)]
        _text(folder / f"images_variant_{part}.txt", [f"{image} {name}" for image, name in rows])
        for image, name in rows:
            _picture(folder / "images" / f"{image}.jpg", name)
    return len(names), len(names) * shots, len(names) * 2, len(names) * 3


def _imagenet(root: Path, shots: int) -> Counts:
    folder = root / "imagenet"
    _classnames(folder)
    numbers = itertools.count(1)
    for wnid in IMAGENET:
        for number in range(shots):
            _picture(folder / "images/train" / wnid / f"{wnid}_{number}.JPEG", wnid)
        for _ in range(3):
            _picture(folder / "images/val" / wnid / f"ILSVRC2012_val_{next(numbers):08d}.JPEG", wnid)
    return len(IMAGENET), len(IMAGENET) * shots, 0, len(IMAGENET) * 3


def _imagenetv2(root: Path, shots: int) -> Counts:
    """Folders are label numbers."""
    folder = root / "imagenetv2"
    _classnames(folder)
    for label, wnid in enumerate(IMAGENET):
        for number in range(3):
            name = hashlib.sha1(f"{label} {number}".encode()).hexdigest()
            _picture(folder / "imagenetv2-matched-frequency-format-val" / str(label) / f"{name}.jpeg", wnid)
    return len(IMAGENET), 0, 0, len(IMAGENET) * 3


def _imagenet_sketch(root: Path, shots: int) -> Counts:
    return _shift(root / "imagenet-sketch", "images", list(IMAGENET), "sketch_{}.JPEG", readme=False)


def _imagenet_a(root: Path, shots: int) -> Counts:
    return _shift(
        root / "imagenet-adversarial", "imagenet-a", list(IMAGENET)[1::2], "0.00{}_lens cap _ lens cap_0.9.jpg"
    )


def _imagenet_r(root: Path, shots: int) -> Counts:
    return _shift(root / "imagenet-rendition", "imagenet-r", list(IMAGENET)[::2], "art_{}.jpg")


_WRITERS: dict[str, Callable[[Path, int], Counts]] = {
    "imagenet": _imagenet,
    "caltech101": _caltech101,
    "oxford_pets": _oxford_pets,
    "stanford_cars": _stanford_cars,
    "oxford_flowers": _oxford_flowers,
    "food101": _food101,
    "fgvc_aircraft": _fgvc_aircraft,
    "sun397": _sun397,
    "dtd": _dtd,
    "eurosat": _eurosat,
    "ucf101": _ucf101,
    "imagenetv2": _imagenetv2,
    "imagenet_sketch": _imagenet_sketch,
    "imagenet_a": _imagenet_a,
    "imagenet_r": _imagenet_r,
}
STEMS = tuple(_WRITERS)


def _shift(folder: Path, images: str, wnids: list[str], name: str, readme: bool = True) -> Counts:
    _classnames(folder)
    for wnid in wnids:
        for number in range(3):
            _picture(folder / images / wnid / name.format(number), wnid)
    if readme:
        _text(folder / images / "README.txt", ["about these pictures"])
    return len(wnids), 0, 0, 3 * len(wnids)


def _classnames(folder: Path) -> None:
    _text(folder / "classnames.txt", [f"{wnid} {name}" for wnid, name in IMAGENET.items()])


def _numbered(shots: int) -> list[tuple[str, int]]:
    """(part, image number) of one class: a training list of which a fifth, rounded, leaves `shots`; three for the test."""
    size = next(size for size in itertools.count(shots + 1) if size - round(size * 0.2) == shots)
    return [("trainval", number) for number in range(1, size + 1)] + [("test", size + number) for number in (1, 2, 3)]


def _official(images: Path, split: Path, rows: dict[str, Rows], shots: int) -> Counts:
    """The pictures of the official lists, and the split file: `shots` of each class train, the rest of its list validate."""
    for path, _, name in rows["trainval"] + rows["test"]:
        _picture(images / path, name)
    of_label: dict[int, Rows] = {}
    for row in rows["trainval"]:
        of_label.setdefault(row[1], []).append(row)
    for label, some in of_label.items():
        random.Random(label).shuffle(some)
    train = [row for some in of_label.values() for row in some[-shots:]]
    val = [row for some in of_label.values() for row in some[:-shots]]
    _json(split, {"train": train, "val": val, "test": rows["test"]})
    return len(of_label), len(train), len(val), len(rows["test"])


def _picture(path: Path, name: str) -> None:
    """A JPEG, 20 x 24 pixels, RGB: a colour of its class with noise of its own."""
    path.parent.mkdir(parents=True, exist_ok=True)
    colour = np.frombuffer(hashlib.sha256(name.encode()).digest()[:3], dtype=np.uint8) * (200 / 255)
    seed = int.from_bytes(hashlib.sha256(path.name.encode()).digest()[:4], "big")
    noise = np.random.default_rng(seed).integers(0, 55, (24, 20, 3))
    file = io.BytesIO()
    Image.fromarray((colour + noise).astype(np.uint8)).save(file, "JPEG")
    path.write_bytes(file.getvalue())


def _parent(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def _text(path: Path, lines: list[str] | dict[str, str]) -> None:
    _parent(path).write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def _json(path: Path, tree: object) -> None:
    _parent(path).write_text(json.dumps(tree), encoding="utf-8")
