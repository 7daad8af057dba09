"""The cache of frozen features: encoded once, by one process; nothing on the disk, or missing there, changes a run's numbers."""

import os
import random
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch.utils.data import DataLoader

from dicap import discover
from dicap.backbones.package import clip_package
from dicap.config import build_cfg, config_path
from dicap.features import Features, Views, as_batch, describe, encode

discover.load_all()
from dassl.engine import TRAINER_REGISTRY, build_trainer  # noqa: E402
from dassl.utils import set_random_seed  # noqa: E402

from dicap.experiments.run import model_digest  # noqa: E402

TRAINERS = sorted(
    n for n in TRAINER_REGISTRY.registered_names() if TRAINER_REGISTRY.get(n).__module__.startswith("dicap.")
)
QUICK = {"DiCap": ["TRAINER.DICAP.TRAIN_STEPS", "20", "TRAINER.DICAP.STEPS", "8"]}
FEW = [x for part in ("TRAIN", "VAL", "TEST") for x in (f"DATASET.CAUSALSHAPES.PER_CLASS_{part}", "2")]


class Counting(torch.nn.Module):
    """encode_image sums the pixels, and counts its calls."""

    calls = 0

    def encode_image(self, image):
        self.calls += 1
        return image.flatten(1).sum(1, keepdim=True)


@pytest.fixture
def encoded(tmp_path, monkeypatch):
    """(model, a call that encodes three images in two views)."""
    monkeypatch.setenv("DICAP_CACHE", str(tmp_path / "cache"))
    images = torch.arange(1, 7.0)[:, None, None, None].expand(6, 3, 2, 2)
    model, loader = Counting(), DataLoader([{"img": image} for image in images], 6)
    return model, lambda seed=1: encode(model.encode_image, loader, torch.device("cpu"), 2, {"seed": seed})


def test_features_are_encoded_once(encoded, tmp_path):
    model, features = encoded
    first = features()
    assert torch.equal(first, 12 * torch.arange(1, 7.0).view(3, 2, 1))
    assert torch.equal(features(), first) and model.calls == 1
    features(2)
    assert model.calls == 2 and len(list((tmp_path / "cache/features").iterdir())) == 2  # and nothing temporary


def test_cached_features_are_the_mapped_file(encoded, tmp_path):
    model, features = encoded
    features()
    (file,) = (tmp_path / "cache/features").iterdir()
    whole, again = file.read_bytes(), features()
    if Path("/proc/self/maps").is_file():
        assert str(file) in Path("/proc/self/maps").read_text()
    again.zero_()
    assert file.read_bytes() == whole and features().any() and model.calls == 1


@pytest.mark.parametrize(
    "damage",
    [
        lambda whole, other: b"",
        lambda whole, other: b"cut short",
        lambda whole, other: whole[:-1],
        lambda whole, other: b"\x02\x00\x00\x00\x00\x00\x00\x00{}",
        lambda whole, other: whole[:-3] + bytes([whole[-3] ^ 1]) + whole[-2:],
        lambda whole, other: whole.replace(b"[3,2,1]", b"[2,3,1]"),
        lambda whole, other: whole.replace(b"F32", b"I32"),
        lambda whole, other: other,
    ],
    ids=["empty", "no header", "cut", "no features", "one bit", "shape", "type", "of another key"],
)
def test_a_damaged_file_is_named_encoded_and_written_again(encoded, tmp_path, caplog, damage):
    model, features = encoded
    features(2)
    (other,) = (tmp_path / "cache/features").iterdir()
    first = features()
    file = next(file for file in (tmp_path / "cache/features").iterdir() if file != other)
    whole = file.read_bytes()
    damaged = damage(whole, other.read_bytes())
    assert damaged != whole
    file.write_bytes(damaged)
    again = features()
    assert torch.equal(again, first) and again.dtype == first.dtype and model.calls == 3
    assert file.read_bytes() == whole and caplog.text.count(f"cached features {file} cannot be read") == 1


def test_a_cache_that_cannot_be_written_is_a_warning(encoded, tmp_path, caplog):
    (tmp_path / "cache").write_text("a file where a folder should be")
    assert encoded[1]().shape == (3, 2, 1)
    assert "features are not cached" in caplog.text and "cache" in caplog.text


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), 0.0])
def test_features_that_tell_nothing_are_refused_and_not_cached(encoded, tmp_path, bad):
    model, features = encoded
    whole = model.encode_image
    model.encode_image = lambda image: whole(image).index_fill(0, torch.tensor([2, 4]), bad)
    for _ in range(2):
        with pytest.raises(FloatingPointError, match="features of 2 of 6 images, the first being number 2, are NaN"):
            features()
    assert not [*(tmp_path / "cache").rglob("*.safetensors")]


@pytest.mark.parametrize("facts", [{}, {"console": None}])
def test_a_log_of_a_forks_own_needs_no_isatty(encoded, monkeypatch, facts):
    own = type("Logger", (), {"write": lambda self, text: len(text), "flush": lambda self: None, **facts})
    monkeypatch.setattr(sys, "stdout", own())
    assert encoded[1]().shape == (3, 2, 1)


WORKER = """
import logging, sys, torch
from torch.utils.data import DataLoader
from dicap.features import encode
logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout, force=True)
class Model(torch.nn.Module):
    def encode_image(self, image):
        print("at work", sys.stdin.readline(), flush=True)
        return image.flatten(1)
loader = DataLoader([{"img": torch.full((3, 1, 1), i)} for i in (1, 2)], 2)
print(encode(Model().encode_image, loader, torch.device("cpu"), 1, {}).tolist(), flush=True)
"""


@pytest.mark.skipif(os.name == "nt", reason="no locks there: each process encodes")
def test_of_several_processes_one_encodes_and_when_it_dies_the_next(tmp_path):
    environment = {**os.environ, "DICAP_CACHE": str(tmp_path)}
    started = [
        subprocess.Popen(
            [sys.executable, "-c", WORKER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )
        for _ in range(3)
    ]
    try:
        first_lines = [next(line for line in worker.stdout if "features" in line) for worker in started]
        (holder,) = (worker for worker, line in zip(started, first_lines) if line.startswith("encoding"))
        others = [worker for worker in started if worker is not holder]
        assert sum("another process makes the same features" in line for line in first_lines) == 2
        holder.kill()
        for worker in others:
            worker.stdin.write("go\n")
            worker.stdin.flush()
        told = [worker.communicate(timeout=60)[0] for worker in others]
    finally:
        for worker in started:
            worker.kill()
            worker.communicate()
    assert sorted(text.count("at work go") for text in told) == [0, 1]
    assert all(text.endswith("[[[1.0, 1.0, 1.0]], [[2.0, 2.0, 2.0]]]\n") for text in told)
    assert [file.suffix for file in (tmp_path / "features").iterdir()] == [".safetensors"]


# -- what is seen of them ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("views", [1, 3])
def test_batches_are_those_of_one_item_after_the_other(views):
    items = [SimpleNamespace(label=i % 3, domain=i % 2, impath=f"{i}.png") for i in range(10)]
    dataset = Features(torch.arange(10.0 * views * 2).view(10, views, 2), items)
    torch.manual_seed(1)
    batches = list(DataLoader(dataset, 4, shuffle=True, drop_last=True, collate_fn=as_batch))
    after = torch.get_rng_state()
    torch.manual_seed(1)
    plain = DataLoader(range(10), 4, shuffle=True, drop_last=True, collate_fn=list)
    for batch, indices in zip(batches, plain, strict=True):
        view = [int(torch.randint(views, ())) if views > 1 else 0 for _ in indices]
        assert batch["index"].tolist() == indices and batch["view"].tolist() == view
        assert torch.equal(batch["img"], torch.stack([dataset.features[i, v] for i, v in zip(indices, view)]))
        for key in ("label", "domain"):
            assert batch[key].tolist() == [getattr(items[i], key) for i in indices]
        assert batch["impath"] == [items[i].impath for i in indices]
    assert torch.equal(torch.get_rng_state(), after)
    assert dataset[7]["img"].shape == (2,) and dataset[7]["label"] == 1 and dataset[7]["impath"] == "7.png"


def test_a_view_depends_on_seed_image_and_number_alone():
    pictures = [torch.full((2, 2, 3), i, dtype=torch.uint8).numpy() for i in range(2)]

    def transform(image):
        return float(torch.rand(())), random.random(), image.getpixel((0, 0))[0]

    state = torch.get_rng_state(), random.getstate()
    views = Views([None, None], transform, 3, 1, pictures)
    seen = [views[i]["img"] for i in range(6)]
    assert [views[i]["img"] for i in (5, 0, 3, 1)] == [seen[i] for i in (5, 0, 3, 1)]
    of_torch, of_python, pixel = zip(*seen)
    assert pixel == (0, 0, 0, 1, 1, 1) and len({*of_torch}) == len({*of_python}) == 6
    assert not {*of_torch, *of_python} & {*Views([None, None], transform, 3, 2, pictures)[0]["img"]}
    assert torch.equal(torch.get_rng_state(), state[0]) and random.getstate() == state[1]


def test_files_are_told_apart_by_name_size_time_and_content_not_by_place(tmp_path):
    def described(folder):
        return describe([SimpleNamespace(impath=str(path)) for path in sorted(folder.glob("*/*"))], str)["files"]

    for name in ("a/1.png", "b/2.png"):
        (tmp_path / "here" / name).parent.mkdir(parents=True)
        (tmp_path / "here" / name).write_text(name)
    first = described(tmp_path / "here")
    there = shutil.copytree(tmp_path / "here", tmp_path / "there")
    assert described(there) == first
    file, seen = there / "a/1.png", {first}
    time = file.stat().st_mtime_ns

    def changed(content, name="a/1.png", later=0):
        path = there / name
        file.unlink(missing_ok=True)
        path.write_text(content)
        os.utime(path, ns=(time, time + later))
        found = described(there)
        path.unlink()
        return found

    assert changed("a/1.png") == first
    seen |= {changed("A/1.png"), changed("longer.."), changed("a/1.png", later=1000), changed("a/1.png", "a/3.png")}
    assert len(seen) == 5


# -- whole runs -------------------------------------------------------------------------------------------------------


def built(name, split="base", opts=()):
    cfg = build_cfg(
        config_path("datasets", "causal_shapes"),
        config_path(f"trainers/{name}", "tiny"),
        name,
        output_dir=split,
        seed=1,
        opts=[
            "DATASET.NUM_SHOTS",
            "1",
            "OPTIM.MAX_EPOCH",
            "1",
            "DATASET.SUBSAMPLE_CLASSES",
            split,
            *FEW,
            *QUICK.get(name, []),
            *opts,
        ],
    )
    set_random_seed(1)
    return build_trainer(cfg)


def base_to_new(name, folder, monkeypatch):
    """Digest of what was learned and all predictions, of base and new classes; what is said of the views."""
    folder.mkdir()
    monkeypatch.chdir(folder)
    base, new = built(name), built(name, "new")
    base.train()
    if base._models:
        new.load_model("base")
    new.test()
    views = [trainer.extra_result()["views"] for trainer in (base, new)]
    return model_digest(base), base.evaluator._y_pred, model_digest(new), new.evaluator._y_pred, views


@pytest.fixture(scope="module")
def seen_by_coop(embedded_data, tmp_path_factory):
    """A cache in which another method has left its features."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DICAP_CACHE", str(tmp_path_factory.mktemp("seen")))
        base_to_new("CoOp", tmp_path_factory.mktemp("filled") / "run", patch)
        return os.environ["DICAP_CACHE"]


@pytest.mark.parametrize("name", TRAINERS)
def test_a_run_is_the_same_without_a_cache_with_an_empty_and_with_a_full_one(name, seen_by_coop, tmp_path, monkeypatch):
    """Bit for bit; and a dataset that another method has seen is not encoded again, neither test nor training images."""
    monkeypatch.setenv("DICAP_CACHE", "off")
    without = base_to_new(name, tmp_path / "off", monkeypatch)
    monkeypatch.setenv("DICAP_CACHE", str(tmp_path / "empty"))
    assert base_to_new(name, tmp_path / "first", monkeypatch) == without
    monkeypatch.setenv("DICAP_CACHE", seen_by_coop)
    monkeypatch.setattr(clip_package().model.CLIP, "encode_image", lambda *images: pytest.fail("encoded again"))
    assert base_to_new(name, tmp_path / "second", monkeypatch) == without
    assert without[-1] == [None if name == "ZeroshotCLIP" else 4, None]  # views are of a training, not of a test


@pytest.mark.parametrize(
    "split, final, of_val, of_test",
    [("test", "last_step", False, True), ("test", "best_val", True, True), ("val", "last_step", True, False)],
)
def test_what_is_not_tested_is_not_encoded(split, final, of_val, of_test, seen_by_coop, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    trainer = built("CoOp", opts=["TEST.SPLIT", split, "TEST.FINAL_MODEL", final, "INPUT.VIEWS", "0"])
    loaders = trainer.val_loader, trainer.test_loader
    assert [isinstance(loader.dataset, Features) for loader in loaders] == [of_val, of_test]
    trainer.before_train()
    assert trainer.extra_result()["views"] == 0
    trainer.close_writer()


def test_another_seed_sees_other_views_of_the_same_images(embedded_data, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    trainer = built("CoOp")
    trainer._transform = trainer.train_loader_x.dataset.transform
    first = trainer.train_views()
    trainer.cfg = trainer.cfg.clone()
    trainer.cfg.defrost()
    trainer.cfg.SEED = 2
    second = trainer.train_views()
    assert second.shape == first.shape and not torch.isclose(second, first).all(dim=-1).any()
