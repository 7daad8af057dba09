"""Every dataset is read from disk in its layout (tests/layouts.py: the true one, or one made of its facts), its split made anew."""

from collections import Counter

import layouts
import pytest
from layouts import has_layout, names_of, write_layout

from dicap.data.named import PUBLISHED, registered
from dicap.data.named import SHIFTS as PUBLISHED_SHIFTS
from dicap.data.split import PARTS, DatasetError, digest

CLASSES = registered()
STEMS = [stem for stem, cls in CLASSES.items() if has_layout(cls)]
SHIFTS = [stem for stem in STEMS if CLASSES[stem].test_only]
IMAGENET_SHIFTS = [stem for stem in SHIFTS if CLASSES[stem].read.__qualname__ == "ImageNetShift.read"]
SPLIT_FILE = [stem for stem in STEMS if CLASSES[stem].read.__qualname__ == "FewShotDataset.read"]
OWN_RULE = [stem for stem in STEMS if "official" in vars(CLASSES[stem])]
REMADE = [stem for stem in STEMS if CLASSES[stem].class_folders or (stem in OWN_RULE and stem in layouts.STEMS)]
BY_LISTS = ["oxford_pets", "stanford_cars", "sun397", "ucf101"]
NAMES = {  # class names in label order, as prompts have them
    **{stem: names_of(CLASSES[stem]) for stem in STEMS},
    "imagenet": ["tench", "goldfish", "missile", "missile", "sunglasses", "sunglasses"],
    "caltech101": ["face", "leopard", "motorbike", "accordion", "airplane"],
    "oxford_pets": ["abyssinian", "american_bulldog", "american_pit_bull_terrier", "bengal", "yorkshire_terrier"],
    "stanford_cars": [
        "2000 AM General Hummer SUV",
        "2012 Acura RL Sedan",
        "2012 Acura TL Sedan",
        "2012 Audi TTS Coupe",
        "2012 smart fortwo Convertible",
    ],
    "oxford_flowers": [
        "pink primrose",
        "hard-leaved pocket orchid",
        "canterbury bells",
        "sweet pea",
        "english marigold",
    ],
    "food101": ["apple_pie", "baby_back_ribs", "baklava", "beef_carpaccio", "beef_tartare"],
    "fgvc_aircraft": ["707-320", "727-200", "A340-600", "Cessna 172", "F-A-18"],
    "sun397": ["abbey", "airplane_cabin", "outdoor apartment_building", "indoor ice_skating_rink", "zoo"],
    "dtd": ["banded", "blotchy", "braided", "bubbly", "polka-dotted"],
    "eurosat": ["Annual Crop Land", "Forest", "Highway or Road", "River", "Sea or Lake"],
    "ucf101": ["Apply_Eye_Makeup", "Archery", "Handstand_Pushups", "Tai_Chi", "Yo_Yo"],
    "imagenetv2": ["tench", "goldfish", "missile", "missile", "sunglasses", "sunglasses"],
    "imagenet_sketch": ["tench", "goldfish", "missile", "missile", "sunglasses", "sunglasses"],
    "imagenet_a": ["goldfish", "missile", "sunglasses"],
    "imagenet_r": ["tench", "missile", "sunglasses"],
}


@pytest.fixture
def written(tmp_path, monkeypatch):
    """written(stem) -> the dataset's class, with its layout below tmp_path and the counts of that."""

    def write(stem):
        monkeypatch.setattr(CLASSES[stem], "counts", write_layout(CLASSES[stem], tmp_path))
        return CLASSES[stem]

    return write


def test_every_dataset_of_the_benchmark_has_its_true_layout():
    assert set(layouts.STEMS) == {*PUBLISHED, *PUBLISHED_SHIFTS} and set(layouts.STEMS) <= set(STEMS)


def test_other_datasets_have_a_layout_of_facts_or_need_none():
    """A dataset with a `read` of its own that is not ImageNet's can have its layout in tests/layouts.py; this names it."""
    without = [stem for stem, cls in CLASSES.items() if stem not in STEMS and not cls.embedded and stem != "folder"]
    if without:
        pytest.skip(f"no layout in tests/layouts.py for {', '.join(without)}: they are not read here")


@pytest.mark.parametrize("stem", STEMS)
def test_reads_its_true_layout(written, make_cfg, tmp_path, stem):
    cls = written(stem)
    dataset = cls(make_cfg(cls, tmp_path, shots=-1))
    classes, train, val, test = cls.counts
    assert dataset.classnames == NAMES[stem] and dataset.num_classes == classes
    assert len(dataset.test) == test
    assert len(dataset.train_x) == (test if cls.test_only else train)
    assert len(dataset.val or []) == (test if cls.val_is_test else val)
    assert all(datum.impath.startswith(str(tmp_path / cls.folder)) for datum in dataset.test)


@pytest.mark.parametrize("stem", [stem for stem in STEMS if stem not in SHIFTS])
def test_draws_and_halves(written, make_cfg, tmp_path, stem):
    cls = written(stem)
    base, new = (cls(make_cfg(cls, tmp_path, 4, 1, half)) for half in ("base", "new"))
    assert base.classnames + new.classnames == NAMES[stem]
    assert set(Counter(datum.label for datum in base.train_x + new.train_x).values()) <= {4, 8}
    assert len(base.train_x) + len(new.train_x) == 4 * len(NAMES[stem])
    assert len(base.test) + len(new.test) == cls.counts[3]
    assert (tmp_path / cls.folder / "split_fewshot/shot_4-seed_1.json").is_file() == cls.keep_draws


@pytest.mark.parametrize("stem", STEMS)
def test_other_counts_are_refused(written, make_cfg, tmp_path, monkeypatch, stem):
    cls = written(stem)
    found, more = cls.counts, (*cls.counts[:3], cls.counts[3] + 1)
    monkeypatch.setattr(cls, "counts", more)
    with pytest.raises(DatasetError) as caught:
        cls(make_cfg(cls, tmp_path))
    assert all(part in str(caught.value) for part in (cls.__name__, str(found), f"expected {more}"))


@pytest.mark.parametrize("stem", SHIFTS)
@pytest.mark.parametrize("half", ["base", "new"])
def test_a_shift_has_no_halves(written, make_cfg, tmp_path, stem, half):
    cls = written(stem)
    with pytest.raises(
        DatasetError, match=f"SUBSAMPLE_CLASSES is '{half}', but {cls.__name__} is a test set of all classes"
    ):
        cls(make_cfg(cls, tmp_path, 4, 1, half))
    cfg = make_cfg(cls, tmp_path, 4, 1, "all")
    cfg.DATASET.HOLDOUT_FOLDS = 3
    with pytest.raises(DatasetError, match="HOLDOUT_FOLDS is 3, but"):
        cls(cfg)


@pytest.mark.parametrize("stem", SHIFTS)
def test_a_shift_keeps_no_draw(written, make_cfg, tmp_path, stem):
    cls = written(stem)
    cls(make_cfg(cls, tmp_path, 4))
    assert not (tmp_path / cls.folder / "split_fewshot").exists()


@pytest.mark.parametrize("stem", IMAGENET_SHIFTS)
def test_a_shift_takes_imagenets_names(written, make_cfg, tmp_path, stem):
    written("imagenet")
    cls = written(stem)
    (tmp_path / cls.folder / "classnames.txt").unlink()
    assert cls(make_cfg(cls, tmp_path)).classnames == NAMES[stem]
    (tmp_path / "imagenet/classnames.txt").unlink()
    with pytest.raises(DatasetError, match="class names not found: .*imagenet/classnames.txt"):
        cls(make_cfg(cls, tmp_path))


def test_known_duplicates_are_told(written, make_cfg, tmp_path, caplog):
    cls = written("imagenet")
    with caplog.at_level("INFO"):
        cls(make_cfg(cls, tmp_path))
    assert "classes [2, 3] share the name 'missile'; kept" in caplog.text
    assert "classes [4, 5] share the name 'sunglasses'; kept" in caplog.text


def test_other_duplicates_are_refused(written, make_cfg, tmp_path):
    cls = written("imagenet")
    file = tmp_path / "imagenet/classnames.txt"
    file.write_text(file.read_text().replace("goldfish", "tench"))
    with pytest.raises(DatasetError, match=r"the classes \[0, 1\] have one name, 'tench'"):
        cls(make_cfg(cls, tmp_path))
    split = written("dtd")
    file = tmp_path / "dtd" / split.split_file
    file.write_text(file.read_text().replace('"blotchy"', '"banded"'))
    with pytest.raises(DatasetError, match=r"dtd: the classes \[0, 1\] have one name, 'banded'"):
        split(make_cfg(split, tmp_path))


@pytest.mark.parametrize("stem", SPLIT_FILE)
def test_no_split_is_made_silently(written, make_cfg, tmp_path, stem):
    cls = written(stem)
    (tmp_path / cls.folder / cls.split_file).unlink()
    with pytest.raises(DatasetError, match=f"split file not found: .*{cls.split_file}; get it with: dicap data"):
        cls(make_cfg(cls, tmp_path))


@pytest.mark.parametrize("stem", REMADE)
def test_a_split_made_anew_has_the_published_rule(written, tmp_path, stem):
    """Names, labels, sizes of each class in each part; where there is an official test list, that."""
    cls = written(stem)
    dataset = cls.unread(folder=tmp_path / cls.folder)
    made, published = dataset.official(), dataset.read(None)
    dataset.check_counts(made)
    for part in PARTS:
        assert Counter(item[1:] for item in made[part]) == Counter(item[1:] for item in published[part])
    assert sorted(item for part in PARTS for item in made[part]) == sorted(
        item for part in PARTS for item in published[part]
    )
    assert (made["test"] == published["test"]) == (stem in BY_LISTS)
    assert made == dataset.official() and made["train"] != published["train"]
    order = list(dict.fromkeys(label for _, label, _ in made["train"]))
    assert order == list(dict.fromkeys(label for _, label, _ in published["train"]))


@pytest.mark.parametrize("stem", [stem for stem in STEMS if stem not in (*REMADE, *OWN_RULE)])
def test_what_has_no_split_file_has_none_to_make(written, tmp_path, stem):
    cls = written(stem)
    with pytest.raises(DatasetError, match=f"{cls.__name__} has no split to be made anew"):
        cls.unread(folder=tmp_path / cls.folder).official()


@pytest.mark.parametrize(
    ("stem", "file"),
    [
        ("oxford_pets", "annotations/test.txt"),
        ("stanford_cars", "devkit/cars_meta.mat"),
        ("sun397", "ClassName.txt"),
        ("stanford_cars", "cars_test_annos_withlabels.mat"),
        ("oxford_flowers", "imagelabels.mat"),
        ("sun397", "Training_01.txt"),
        ("oxford_flowers", "cat_to_name.json"),
        ("ucf101", "ucfTrainTestlist/trainlist01.txt"),
    ],
)
@pytest.mark.parametrize("damage", ["missing", "empty", "other", "half"])
def test_a_damaged_list_is_named(written, tmp_path, stem, file, damage):
    cls = written(stem)
    path = tmp_path / cls.folder / file
    whole = path.read_bytes()
    if damage == "half" and file.endswith(".txt"):
        damage = "missing"  # half a list may be one
    path.unlink()
    if damage != "missing":
        path.write_bytes({"empty": b"", "other": b"\x00\xff 1 x y\n", "half": whole[: len(whole) // 2]}[damage])
    with pytest.raises(DatasetError) as caught:
        cls.unread(folder=tmp_path / cls.folder).official()
    assert cls.folder in str(caught.value)


def test_a_split_that_is_not_the_published_one_is_told(written, make_cfg, tmp_path, monkeypatch, caplog):
    cls = written("dtd")
    cls(make_cfg(cls, tmp_path))
    assert "split_zhou_DescribableTextures.json is not the published split" in caplog.text
    caplog.clear()
    monkeypatch.setattr(cls, "published", digest(cls.unread(folder=tmp_path / "dtd").read(None)))
    caplog.clear()
    cls(make_cfg(cls, tmp_path))
    assert "published split" not in caplog.text


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda text: text.replace("Cessna 172", "Cessna 173"),
            "images_variant_test.txt: class 'Cessna 173' is not in the list",
        ),
        (lambda text: "../../secret" + text[7:], "'../../secret.jpg' .* leaves the image folder"),
        (lambda text: text + text.splitlines()[0], "stands twice"),
        (lambda text: "", "images_variant_test.txt: 'no line'; 2 columns"),
    ],
)
def test_aircrafts_lists_are_checked_as_a_split_file(written, make_cfg, tmp_path, change, message):
    cls = written("fgvc_aircraft")
    file = tmp_path / "fgvc_aircraft/images_variant_test.txt"
    file.write_text(change(file.read_text()))
    with pytest.raises(DatasetError, match=message):
        cls(make_cfg(cls, tmp_path))
    file.unlink()
    with pytest.raises(DatasetError, match=f"official list {file} cannot be read"):
        cls(make_cfg(cls, tmp_path))
