"""Checkpoints: ours hold no objects; others' are read without running them; damage and absence are named."""

import collections
import os
import pickle
import re

import pytest
import torch
from dassl.optim import ConstantWarmupScheduler
from dassl.utils import load_checkpoint, load_pretrained_weights, resume_from_checkpoint, save_checkpoint
from torch import nn

from dicap import inert
from dicap.engine.utils.torchtools import write_tensors
from dicap.inert import Placeholder, read_checkpoint
from dicap.options import ConfigError


class PickledSchedule:
    """What Dassl's state dict of a warm-up schedule holds: a live object with an optimiser in it."""

    def __init__(self, optimizer):
        self.optimizer, self.last_epoch, self.base_lrs = optimizer, 7, [0.002]


class Hostile:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


def published(tmp_path, extra=None, name="model.pth.tar-50", legacy=False):
    """A checkpoint as CoOp's authors published theirs."""
    ctx = nn.Parameter(torch.arange(12.0).reshape(4, 3))
    optimizer = torch.optim.SGD([ctx], lr=0.002, momentum=0.9)
    ctx.sum().backward()
    optimizer.step()
    suffix = torch.randn(2, 5, 3).half()
    state = collections.OrderedDict(
        ctx=ctx.detach(), token_prefix=torch.ones(2, 1, 3).half(), token_suffix=suffix[:, 1:].mT
    )
    checkpoint = {
        "state_dict": state,
        "epoch": 50,
        "optimizer": optimizer.state_dict(),
        "val_result": None,
        "scheduler": {"successor": PickledSchedule(optimizer), "last_epoch": 1},
        "extra": extra,
    }
    torch.save(checkpoint, tmp_path / name, _use_new_zipfile_serialization=not legacy)
    return tmp_path / name, state


@pytest.mark.parametrize("legacy", [False, True])
def test_published_checkpoints_give_their_tensors_and_run_nothing(tmp_path, legacy):
    path, state = published(tmp_path, legacy=legacy)
    with pytest.raises(pickle.UnpicklingError):
        torch.load(path, weights_only=True)
    loaded = load_checkpoint(str(path))
    assert loaded["epoch"] == 50 and loaded["val_result"] is None
    for name, value in state.items():
        assert loaded["state_dict"][name].dtype == value.dtype
        assert torch.equal(loaded["state_dict"][name], value), name
    momentum = loaded["optimizer"]["state"][0]["momentum_buffer"]
    assert torch.equal(momentum, torch.ones(4, 3))
    successor = loaded["scheduler"]["successor"]
    assert isinstance(successor, Placeholder) and "PickledSchedule" in successor.origin
    assert successor.state["last_epoch"] == 7 and isinstance(successor.state["optimizer"], Placeholder)


@pytest.mark.parametrize("legacy", [False, True])
def test_a_hostile_checkpoint_runs_nothing(tmp_path, legacy):
    victim = tmp_path / "owned"
    path, state = published(tmp_path, Hostile(victim), legacy=legacy)
    loaded = load_checkpoint(str(path))
    assert not victim.exists()
    assert torch.equal(loaded["state_dict"]["ctx"], state["ctx"])
    assert isinstance(loaded["extra"], Placeholder) and loaded["extra"].origin.endswith(".system")


@pytest.mark.parametrize(
    "program",
    [
        b"cos\nsystem\n(S'touch {0}'\ntR.",
        b'cbuiltins\neval\n(S\'open("{0}", "w")\'\ntR.',
        b"(S'touch {0}'\nios\nsystem\n.",
        b"\x80\x04\x8c\x08builtins\x8c\x04exec\x93\x8c\x04pass\x85R.",
        b"ctorch._utils\n_rebuild_tensor_v2\n}S'__globals__'\nN\x86b.",
        b"ctorch\nload\n(S'{0}'\ntR.",
    ],
)
def test_hostile_pickles_run_nothing(tmp_path, program):
    victim = tmp_path / "owned"
    (tmp_path / "p").write_bytes(program.replace(b"{0}", str(victim).encode()))
    try:
        read_checkpoint(tmp_path / "p")
    except ValueError as error:
        assert str(tmp_path / "p") in str(error)
    assert not victim.exists()


def test_a_pickle_cannot_reach_this_readers_own_functions(tmp_path):
    before = dict(inert._tensor.__dict__), inert._tensor.__defaults__
    (tmp_path / "p").write_bytes(b"(lp0\nctorch._utils\n_rebuild_tensor_v2\nN(dS'__defaults__'\n(I1\ntstbba.")
    try:
        read_checkpoint(tmp_path / "p")
    except ValueError:
        pass
    assert (dict(inert._tensor.__dict__), inert._tensor.__defaults__) == before


def test_a_tensor_that_reaches_beyond_its_storage_is_refused(tmp_path):
    path, _ = published(tmp_path)
    import zipfile

    with zipfile.ZipFile(path) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(tmp_path / "short", "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data[:4] if name.endswith("data/0") else data)
    with pytest.raises(ValueError, match="short is damaged"):
        load_checkpoint(tmp_path / "short")


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("share", [0.0, 0.3, 0.9])
def test_truncated_files_are_named(tmp_path, legacy, share):
    path, _ = published(tmp_path, legacy=legacy)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(ValueError, match="model.pth.tar-50 is damaged, truncated or of an unknown format"):
        load_checkpoint(path)


def same(a, b):
    """Whether two trees of plain values are equal to the last bit."""
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return isinstance(b, dict) and list(a) == list(b) and all(same(a[key], b[key]) for key in a)
    return type(a) is type(b) and a == b


def test_a_flipped_bit_is_noticed_or_changes_nothing(tmp_path):
    """Among them the bit that makes torch's reader take a record for a folder and give what happens to be in memory."""
    path = tmp_path / "model.pth.tar-3"
    state = {"state_dict": {"ctx": torch.randn(4, 8)}, "epoch": 3, "optimizer": {"lr": 0.1, "m": torch.randn(3)}}
    write_tensors(state, path)
    whole, noticed = path.read_bytes(), 0
    attributes = [entry.start() + 38 for entry in re.finditer(b"PK\x01\x02", whole)]
    flips = [(place, 4) for place in attributes] + [(place, place % 8) for place in range(0, len(whole), 5)]
    for place, bit in flips:
        path.write_bytes(whole[:place] + bytes([whole[place] ^ (1 << bit)]) + whole[place + 1 :])
        try:
            assert same(load_checkpoint(path), state), place
        except ConfigError as error:
            noticed += 1
            assert str(path) in str(error)
    assert noticed > len(flips) / 4  # the rest is padding, names and times


def test_missing_and_foreign_files_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="no checkpoint at .*nowhere"):
        load_checkpoint(tmp_path / "nowhere")
    (tmp_path / "text").write_text("hello")
    with pytest.raises(ValueError, match="text is damaged"):
        load_checkpoint(tmp_path / "text")


def test_ours_hold_no_objects_and_drop_what_data_parallel_adds(tmp_path, caplog, capsys):
    state = {
        "state_dict": {"module.ctx": torch.ones(2)},
        "epoch": 3,
        "optimizer": None,
        "val_result": torch.ones(()).numpy()[()],
        "scheduler": {"successor": PickledSchedule(None), "last_epoch": 2},
    }
    save_checkpoint(state, str(tmp_path / "a"), is_best=True)
    loaded = torch.load(tmp_path / "a" / "model.pth.tar-3", weights_only=True)
    assert list(loaded["state_dict"]) == ["ctx"] and loaded["val_result"] == 1.0
    assert loaded["scheduler"] == {"last_epoch": 2} and "PickledSchedule, which is not saved" in caplog.text
    assert (tmp_path / "a" / "checkpoint").read_text() == "model.pth.tar-3\n"
    assert (tmp_path / "a" / "model-best.pth.tar").read_bytes() == (tmp_path / "a" / "model.pth.tar-3").read_bytes()
    assert f"Checkpoint saved to {tmp_path}/a/model.pth.tar-3" in capsys.readouterr().out
    assert list(state["state_dict"]) == ["module.ctx"]  # the caller's dict is left alone


def test_plain_containers_survive(tmp_path):
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    milestones = torch.optim.lr_scheduler.MultiStepLR(optimizer, [2, 2, 5]).state_dict()["milestones"]
    state = {"milestones": milestones, "list": [1, (2.0, "a"), torch.Size([2])], "none": None, "flag": True}
    write_tensors({**state, "set": {1}, "array": torch.ones(2).numpy(), "type": torch.bfloat16}, tmp_path / "a")
    for loaded in (torch.load(tmp_path / "a", weights_only=True), load_checkpoint(tmp_path / "a")):
        assert loaded.pop("set") == [1] and loaded.pop("array").tolist() == [1, 1]
        assert loaded.pop("type") is torch.bfloat16
        assert loaded == state and type(loaded["milestones"]) is collections.Counter
        assert type(loaded["list"][2]) is torch.Size


@pytest.mark.parametrize("dtype", ["float64", "bfloat16", "complex64", "uint8", "float8_e4m3fn", "int8", "bool"])
def test_tensors_of_every_kind_survive(tmp_path, dtype):
    tensor = torch.arange(6).reshape(2, 3).to(getattr(torch, dtype))
    write_tensors({"a": tensor, "view": tensor.T[1:], "empty": tensor[:0], "scalar": tensor[0, 1]}, tmp_path / "a")
    loaded, plain = load_checkpoint(tmp_path / "a"), torch.load(tmp_path / "a", weights_only=True)
    for name, value in plain.items():
        assert loaded[name].dtype == value.dtype and loaded[name].shape == value.shape
        assert loaded[name].tolist() == value.tolist() == loaded[name].clone().tolist()


def test_resuming_from_a_dassl_checkpoint_steers_the_new_optimiser(tmp_path):
    """Dassl pickles the inner schedule with its optimiser: after loading, Dassl steps one that nobody uses."""

    def build(lr=0.002):
        model = nn.Linear(1, 1)
        optimizer = torch.optim.SGD(model.parameters(), lr=lr)
        cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 8)
        return model, optimizer, ConstantWarmupScheduler(optimizer, cosine, 1, 1e-5)

    model, optimizer, scheduler = build()
    for _ in range(3):
        optimizer.step()
        scheduler.step()
    pickled = {**{k: v for k, v in scheduler.__dict__.items() if k != "optimizer"}}
    torch.save(
        {
            "state_dict": model.state_dict(),
            "epoch": 3,
            "optimizer": optimizer.state_dict(),
            "scheduler": pickled,
            "val_result": None,
        },
        tmp_path / "model.pth.tar-3",
    )
    (tmp_path / "checkpoint").write_text("model.pth.tar-3\n")
    again = build()
    assert resume_from_checkpoint(str(tmp_path), *again) == 3
    rates = []
    for each in ((optimizer, scheduler), again[1:]):
        each[0].step()
        each[1].step()
        rates.append(each[0].param_groups[0]["lr"])
    assert rates[0] == rates[1] == pytest.approx(0.00138268, rel=1e-5)  # epoch 4 of N = 8, W = 1


def test_pretrained_weights_take_what_fits(tmp_path, capsys):
    model = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 4))
    torch.save(
        {"state_dict": {"module.0.weight": torch.ones(3, 2), "1.weight": torch.ones(9, 9), "x": torch.ones(1)}},
        tmp_path / "w",
    )
    load_pretrained_weights(model, str(tmp_path / "w"))
    assert model[0].weight.eq(1).all() and not model[1].weight.eq(1).any()
    assert "['1.weight', 'x']" in capsys.readouterr().out
    torch.save({"y": torch.ones(1)}, tmp_path / "w")
    with pytest.warns(UserWarning, match="nothing in .*w fits"):
        load_pretrained_weights(model, str(tmp_path / "w"))
