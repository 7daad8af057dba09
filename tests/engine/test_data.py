"""Few-shot draw, samplers, transforms, loaders; what is missing or damaged is named."""

import random
import types

import numpy as np
import pytest
import torch
from dassl.data import DataManager, DatasetWrapper
from dassl.data.data_manager import build_data_loader
from dassl.data.datasets import DATASET_REGISTRY, DatasetBase, Datum, build_dataset
from dassl.data.samplers import build_sampler
from dassl.data.transforms import build_transform
from dassl.utils import read_image
from PIL import Image
from torchvision import transforms as T


def items(labels, domains=None):
    domains = domains or [0] * len(labels)
    pairs = enumerate(zip(labels, domains))
    return [types.SimpleNamespace(label=label, domain=domain, n=i) for i, (label, domain) in pairs]


# -- datasets

LABELS = [2, 0, 2, 1, 0, 2, 2, 0, 1, 2]


def draw(num_shots, **options):
    base = DatasetBase.__new__(DatasetBase)
    random.seed(1)
    return base.generate_fewshot_dataset(items(LABELS), num_shots=num_shots, **options)


def test_few_shot_draw_is_dassls():
    """Labels in the order of their first item, random.sample in each; by hand from Python's generator with seed 1."""
    random.seed(1)
    expected = random.sample([0, 2, 5, 6, 9], 2) + random.sample([1, 4, 7], 2) + random.sample([3, 8], 2)
    assert [item.n for item in draw(2)] == expected
    short = draw(3)
    assert [item.n for item in short][-2:] == [3, 8] and len(short) == 8  # fewer than asked: all, in their order
    assert [sum(item.label == k for item in draw(4, repeat=True)) for k in range(3)] == [4, 4, 4]


def test_few_shot_draw_of_several_lists_and_of_none():
    base = DatasetBase.__new__(DatasetBase)
    one, two = items(LABELS), items([0, 1])
    assert base.generate_fewshot_dataset(one) is one
    assert base.generate_fewshot_dataset(one, two) == (one, two)
    drawn = base.generate_fewshot_dataset(one, two, num_shots=1)
    assert isinstance(drawn, list) and [len(d) for d in drawn] == [3, 2]


def test_dataset_facts(toy, pictures):
    dataset = build_dataset(toy.config(pictures, "out"))
    assert dataset.num_classes == 3 and dataset.classnames == ["red", "green", "blue"]
    assert dataset.lab2cname == {0: "red", 1: "green", 2: "blue"}
    assert (len(dataset.train_x), len(dataset.train_u), len(dataset.val), len(dataset.test)) == (18, 6, 12, 15)
    assert {k: len(v) for k, v in dataset.split_dataset_by_label(dataset.test).items()} == {0: 5, 1: 5, 2: 5}


def test_a_label_that_does_not_occur_counts_towards_the_number_of_classes():
    assert DatasetBase.get_num_classes(items([0, 4])) == 5


def test_what_is_missing_is_named(toy, pictures, tmp_path):
    with pytest.raises(FileNotFoundError, match="no image at /nowhere.png .class 'a'"):
        Datum("/nowhere.png", 0, 0, "a")
    with pytest.raises(TypeError, match="impath is a string"):
        Datum(3)
    with pytest.raises(ValueError, match="DatasetBase: no training item"):
        DatasetBase(train_x=[], test=[])
    with pytest.raises(ValueError, match=r"\[ToyColour\].*do you mean \[ToyColours\]"):
        build_dataset(toy.config(pictures, "out", "DATASET.NAME", "ToyColour"))
    cfg = toy.config(pictures, "out")
    with pytest.raises(ValueError, match="ToyColours: no items for validation or test"):
        build_data_loader(cfg, data_source=[], is_train=False)


def test_a_corrupt_image_is_named(pictures, tmp_path):
    whole = open(f"{pictures}/test/red/0.png", "rb").read()
    (tmp_path / "cut.png").write_bytes(whole[:100])
    (tmp_path / "text.png").write_text("no image")
    for name in ("cut.png", "text.png"):
        with pytest.raises(OSError, match=f"{name} cannot be read"):
            read_image(str(tmp_path / name))
    with pytest.raises(FileNotFoundError, match="no image at .*none.png"):
        read_image(str(tmp_path / "none.png"))


def test_a_corrupt_image_is_named_from_a_worker(toy, pictures, tmp_path):
    (tmp_path / "bad.png").write_text("no image")
    cfg = toy.config(pictures, "out", "DATALOADER.NUM_WORKERS", "1")
    loader = build_data_loader(cfg, data_source=[Datum(str(tmp_path / "bad.png"))], is_train=False)
    with pytest.raises(OSError, match="bad.png cannot be read"):
        list(loader)


def test_a_grey_or_transparent_image_becomes_rgb(tmp_path):
    for mode in ("L", "RGBA", "P"):
        Image.new(mode, (4, 3)).save(tmp_path / "a.png")
        assert read_image(str(tmp_path / "a.png")).mode == "RGB"


@pytest.mark.parametrize("mode", ["I;16", "I", "F"])
def test_an_image_of_more_than_8_bits_is_refused(tmp_path, mode):
    """Pillow would make it white."""
    Image.new(mode, (4, 3), 30_000).save(tmp_path / "a.tiff")
    with pytest.raises(OSError, match="a.tiff cannot be read .pixels of more than 8 bits"):
        read_image(str(tmp_path / "a.tiff"))


# -- samplers


def test_random_and_sequential():
    data = items([0] * 9)
    assert list(build_sampler("SequentialSampler", data_source=data)) == list(range(9))
    torch.manual_seed(3)
    first = list(build_sampler("RandomSampler", data_source=data))
    torch.manual_seed(3)
    assert first == list(build_sampler("RandomSampler", data_source=data)) and sorted(first) == list(range(9))


def test_domain_samplers():
    data = items([0] * 20, [0] * 8 + [1] * 6 + [2] * 6)
    order = list(build_sampler("RandomDomainSampler", data_source=data, batch_size=4, n_domain=2))
    batches = [order[i : i + 4] for i in range(0, len(order), 4)]
    for batch in batches:
        domains = [data[i].domain for i in batch]
        assert domains[0] == domains[1] != domains[2] == domains[3]
    assert len(set(order)) == len(order)
    sampler = build_sampler("SeqDomainSampler", data_source=data, batch_size=6)
    assert [data[i].domain for i in sampler] == [0, 0, 1, 1, 2, 2] * 3 and len(sampler) == 18
    with pytest.raises(ValueError, match="multiple"):
        build_sampler("SeqDomainSampler", data_source=data, batch_size=4)


def test_class_sampler():
    data = items([0] * 6 + [1] * 5 + [2] * 1 + [3] * 4)
    sampler = build_sampler("RandomClassSampler", data_source=data, batch_size=4, n_ins=2)
    order = list(sampler)
    for i in range(0, len(order), 4):
        labels = [data[j].label for j in order[i : i + 4]]
        assert labels[0] == labels[1] != labels[2] == labels[3]
    with pytest.raises(ValueError, match="takes 5 classes; the dataset has 4"):
        build_sampler("RandomClassSampler", data_source=data, batch_size=10, n_ins=2)
    with pytest.raises(ValueError, match="sampler Sequential: there are"):
        build_sampler("Sequential", data_source=data)


# -- transforms


def steps(cfg, is_train=True, choices=None):
    return [type(step) for step in build_transform(cfg, is_train, choices).transforms]


def test_transforms_come_in_dassls_order(toy, pictures):
    cfg = toy.config(pictures, "out")
    assert steps(cfg) == [T.RandomResizedCrop, T.RandomHorizontalFlip, T.ToTensor, T.Normalize]
    few = ["normalize", "random_flip"]
    assert steps(cfg, choices=few) == [T.Resize, T.RandomHorizontalFlip, T.ToTensor, T.Normalize]
    many = ["gaussian_blur", "randomgrayscale", "colorjitter", "randaugment", "svhn_policy", "random_flip"]
    assert steps(cfg, choices=[*many, "random_crop"]) == [
        T.RandomCrop,
        T.RandomHorizontalFlip,
        T.AutoAugment,
        T.RandAugment,
        T.ColorJitter,
        T.RandomGrayscale,
        T.RandomApply,
        T.ToTensor,
    ]
    assert steps(cfg, is_train=False) == [T.Resize, T.CenterCrop, T.ToTensor, T.Normalize]
    assert steps(cfg, is_train=False, choices=()) == [T.Resize, T.CenterCrop, T.ToTensor]


def test_transform_options(toy, pictures):
    cfg = toy.config(pictures, "out", "INPUT.INTERPOLATION", "bicubic", "INPUT.SIZE", (16, 12))
    crop = build_transform(cfg).transforms[0]
    assert crop.scale == (0.08, 1.0) and tuple(crop.size) == (16, 12)
    assert crop.interpolation == T.InterpolationMode.BICUBIC
    resize, centre = build_transform(cfg, is_train=False).transforms[:2]
    assert resize.size == 16 and resize.interpolation == T.InterpolationMode.BICUBIC and tuple(centre.size) == (16, 12)
    image = Image.new("RGB", (30, 20))
    assert build_transform(cfg)(image).shape == build_transform(cfg, is_train=False)(image).shape == (3, 16, 12)
    assert build_transform(toy.config(pictures, "out", "INPUT.NO_TRANSFORM", "True")) is None


@pytest.mark.parametrize("choice", ["random_crop", "imagenet_policy", "cifar10_policy", "randaugment", "gaussian_blur"])
def test_every_policy_runs(toy, pictures, choice):
    cfg = toy.config(pictures, "out")
    assert build_transform(cfg, choices=[choice])(Image.new("RGB", (20, 20))).shape == (3, 16, 16)


def test_transforms_that_are_not_there_are_refused(toy, pictures):
    cfg = toy.config(pictures, "out")
    with pytest.raises(ValueError, match="TRANSFORMS cutout: the built-in engine has.*custom_tfm_train"):
        build_transform(cfg, choices=["random_flip", "cutout"])
    with pytest.raises(ValueError, match="INTERPOLATION cubic: there are"):
        build_transform(toy.config(pictures, "out", "INPUT.INTERPOLATION", "cubic"))


# -- loaders


def test_batches_and_last_batch(toy, pictures):
    manager = DataManager(toy.config(pictures, "out"))
    batch = next(iter(manager.train_loader_x))
    assert set(batch) == {"img", "label", "domain", "impath", "index"}
    assert batch["img"].shape == (4, 3, 16, 16) and batch["img"].dtype == torch.float32
    assert [manager.dataset.train_x[i].impath for i in batch["index"]] == batch["impath"]
    assert len(manager.train_loader_x) == 4  # 18 items, batches of 4: the last one is dropped
    assert [len(b["label"]) for b in manager.test_loader] == [6, 6, 3]
    assert [b["label"].tolist() for b in manager.test_loader][0] == [0] * 5 + [1]
    small = DataManager(toy.config(pictures, "out", "DATALOADER.TRAIN_X.BATCH_SIZE", "50"))
    assert [len(b["label"]) for b in small.train_loader_x] == [18]
    assert manager.train_loader_u is not None and manager.num_classes == 3 and manager.num_source_domains == 0


def test_options_of_unlabelled_data_are_read_only_where_there_are_such_data(toy, pictures):
    class ToyLabelled(toy.ToyColours):
        train_u = None

    DATASET_REGISTRY.register(ToyLabelled, force=True)
    cfg = toy.config(pictures, "out", "DATASET.NAME", "ToyLabelled")
    cfg.defrost()
    del cfg.DATALOADER["TRAIN_U"]
    assert DataManager(cfg).train_loader_u is None


def test_test_images_are_what_torchvision_makes_of_them(toy, pictures):
    cfg = toy.config(pictures, "out")
    batch = next(iter(DataManager(cfg).test_loader))
    image = Image.open(batch["impath"][0]).convert("RGB")
    tensor = T.ToTensor()(T.CenterCrop(16)(T.Resize(16)(image)))
    expected = T.Normalize(cfg.INPUT.PIXEL_MEAN, cfg.INPUT.PIXEL_STD)(tensor)
    assert torch.equal(batch["img"][0], expected)


def test_views_several_transforms_and_the_plain_image(toy, pictures):
    cfg = toy.config(pictures, "out", "DATALOADER.K_TRANSFORMS", "2", "DATALOADER.RETURN_IMG0", "True")
    source = build_dataset(cfg).train_x
    item = DatasetWrapper(cfg, source, build_transform(cfg), is_train=True)[0]
    assert len(item["img"]) == 2 and not torch.equal(*item["img"]) and item["img0"].shape == (3, 16, 16)
    item = DatasetWrapper(cfg, source, [build_transform(cfg), T.ToTensor()], is_train=False)[0]
    assert item["img"].shape == (3, 16, 16) and item["img2"].shape == (3, 20, 20)
    with pytest.raises(ValueError, match="K_TRANSFORMS 2 needs a transform"):
        DatasetWrapper(cfg, source, None, is_train=True)
    assert DatasetWrapper(cfg, source, None)[0]["img"].size == (20, 20)


def test_custom_transform_and_wrapper(toy, pictures):
    class Flat(DatasetWrapper):
        def __getitem__(self, index):
            return {"img": super().__getitem__(index)["img"].flatten(), "label": 0}

    manager = DataManager(
        toy.config(pictures, "out"), custom_tfm_train=T.ToTensor(), custom_tfm_test=T.ToTensor(), dataset_wrapper=Flat
    )
    assert next(iter(manager.train_loader_x))["img"].shape == (4, 1200)


@pytest.mark.parametrize("workers", [0, 2])
def test_order_and_augmentation_follow_the_seed(toy, pictures, workers):
    def epochs():
        toy.set_random_seed(5)  # the few-shot draw, too
        manager = DataManager(toy.config(pictures, "out", "DATALOADER.NUM_WORKERS", str(workers)))
        batches = [list(manager.train_loader_x) for _ in range(2)]
        return [torch.cat([b["img"] for b in e]).numpy() for e in batches]

    one, two = epochs(), epochs()
    assert np.array_equal(one[0], two[0]) and np.array_equal(one[1], two[1])
    assert not np.array_equal(one[0], one[1])  # each epoch is drawn anew
