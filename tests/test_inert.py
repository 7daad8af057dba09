"""Files of weights: damage is named with a way out, sizes that a file only claims take no memory."""

import copy
import io
import pickle
import random
import zipfile

import pytest
import torch
from safetensors.torch import save_file

from dicap import inert
from dicap.backbones import tiny
from dicap.inert import check_pickle, read_checkpoint, read_weights
from dicap.options import ConfigError

STATE = {"ctx": torch.arange(12.0).reshape(4, 3), "half": torch.ones(5).half(), "count": torch.tensor(3)}
TINY = {"token_embedding.weight": torch.ones(9, 4), "logit_scale": torch.ones(())}
WRITE = {
    "archive.pt": lambda path: torch.save({"state_dict": STATE, "epoch": 3}, path),
    "model.pth.tar-3": lambda path: torch.save({"state_dict": STATE}, path, _use_new_zipfile_serialization=False),
    "script.pt": lambda path: torch.jit.trace(torch.nn.Linear(3, 4), torch.ones(1, 3)).save(str(path)),
    "weights.safetensors": lambda path: save_file(STATE, path),
    "tiny.safetensors": lambda path: tiny.save(TINY, path, [1, 5], {}),
}
DAMAGE = {
    "nothing in it": lambda whole: b"",
    "a tenth": lambda whole: whole[: len(whole) // 10],
    "half": lambda whole: whole[: len(whole) // 2],
    "all but the end": lambda whole: whole[:-1],
    "text": lambda whole: b"<!DOCTYPE html><title>Sign in</title>\n" * 30,
    "zeros": lambda whole: bytes(len(whole)),
    "another pickle": lambda whole: pickle.dumps([1, 2]),
    "its own start twice": lambda whole: whole[: len(whole) // 2] * 2,
}
pytestmark = pytest.mark.filterwarnings("ignore")  # TorchScript is deprecated


def read(path):
    return (tiny.state_dict if path.name.startswith("tiny") else read_weights)(path)


@pytest.fixture(scope="module", params=WRITE)
def whole(request, tmp_path_factory):
    path = tmp_path_factory.mktemp("whole") / request.param
    WRITE[request.param](path)
    return path


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_file_is_named_with_a_way_out(whole, tmp_path, damage):
    path = tmp_path / whole.name
    path.write_bytes(DAMAGE[damage](whole.read_bytes()))
    with pytest.raises(
        ConfigError, match=f"{path} is damaged, truncated or of an unknown format .*: fetch the file again"
    ):
        read(path)


def test_a_folder_in_place_of_a_file_is_named(whole, tmp_path):
    path = tmp_path / whole.name
    path.mkdir()
    with pytest.raises((ConfigError, FileNotFoundError), match=str(path)):
        read(path)


def test_a_flipped_bit_is_named_and_in_an_archive_never_taken(whole, tmp_path):
    path, rng, data, expected = tmp_path / whole.name, random.Random(1), whole.read_bytes(), read(whole)
    for _ in range(150):
        flipped, place = bytearray(data), rng.randrange(len(data))
        flipped[place] ^= 1 << rng.randrange(8)
        path.write_bytes(flipped)
        try:
            found = read(path)
        except ConfigError as error:
            assert str(path) in str(error)
        else:
            if zipfile.is_zipfile(whole):
                assert found.keys() == expected.keys() and all(torch.equal(found[key], expected[key]) for key in found)


@pytest.mark.parametrize(
    "content, message",
    [
        ({"state_dict": {"ctx": torch.ones(1), "rest": [1]}}, "rest is none"),
        ({"state_dict": {"ctx": torch.nn.Linear(1, 1)}}, "ctx is none"),
        ({"epoch": 3}, "epoch is none"),
        (torch.nn.Linear(1, 1), "it holds Placeholder"),
        ([torch.ones(1)], "it holds list"),
        (torch.ones(1), "it holds Tensor"),
    ],
)
def test_a_file_of_something_else_is_named(tmp_path, content, message):
    torch.save(content, tmp_path / "file.pt")
    with pytest.raises(ConfigError, match=f"file.pt holds no state dict of tensors .{message}.: name a model's"):
        read_weights(tmp_path / "file.pt")


# -- sizes


@pytest.mark.parametrize(
    "program",
    [
        b"\x80\x02]r\xff\xff\xff\x3f.",  # nine bytes; the memo's table would take 17 GB
        b"]p1000000000\n.",
        b"]0" * 60 + b"N.",
        b"ca\nb\n0" * 20 + b"N.",
    ],
)
def test_a_pickle_that_asks_for_more_than_a_file_of_tensors_is_not_built(tmp_path, monkeypatch, program):
    monkeypatch.setattr(inert, "OPCODES", 100)
    monkeypatch.setattr(inert, "NAMES", 10)
    (tmp_path / "p").write_bytes(program)
    with pytest.raises(ConfigError, match="p is damaged.*asks for more memory"):
        read_checkpoint(tmp_path / "p")


def test_the_check_leaves_a_stream_where_it_was():
    file = io.BytesIO(b"..." + pickle.dumps([1, "a"]) + b"rest")
    file.seek(3)
    check_pickle(file)
    assert pickle.load(file) == [1, "a"] and file.read() == b"rest"


def rewritten(tmp_path, compression=zipfile.ZIP_STORED, copies=0):
    """A checkpoint's archive, written again; with copies, its members stand that often in the directory."""
    torch.save({"a": torch.ones(10_000)}, tmp_path / "whole.pt")
    with (
        zipfile.ZipFile(tmp_path / "whole.pt") as source,
        zipfile.ZipFile(tmp_path / "a.pt", "w", compression) as target,
    ):
        for name in source.namelist():
            target.writestr(name, source.read(name))
        for _ in range(copies):
            target.filelist += [copy.copy(entry) for entry in target.filelist[: len(source.namelist())]]
    return tmp_path / "a.pt"


def test_members_are_stored_as_torch_stores_them_and_not_longer_than_the_file(tmp_path, monkeypatch):
    assert read_weights(rewritten(tmp_path))["a"].sum() == 10_000
    with pytest.raises(ConfigError, match="a.pt is damaged.*byteorder is compressed or too long"):
        read_weights(rewritten(tmp_path, zipfile.ZIP_DEFLATED))
    with pytest.raises(ConfigError, match="a.pt is damaged.*members are longer than itself"):
        read_weights(rewritten(tmp_path, copies=50))
    monkeypatch.setattr(inert, "STRUCTURE", 100)
    with pytest.raises(ConfigError, match="a.pt is damaged.*data.pkl is compressed or too long"):
        read_weights(rewritten(tmp_path))


def test_a_tensor_that_a_file_only_claims_is_refused(tmp_path):
    torch.save({"a": torch.ones(1).expand(10**12)}, tmp_path / "a.pt")
    with pytest.raises(ConfigError, match="a.pt is damaged.*a tensor larger than its storage"):
        read_weights(tmp_path / "a.pt")


@pytest.mark.parametrize("elements, keys, cause", [(10**12, ["0"], "larger than the file"), (2, [], "without values")])
def test_a_stream_holds_every_storage_that_it_names(tmp_path, elements, keys, cause):
    class Pickler(pickle.Pickler):
        def persistent_id(self, value):
            return ("storage", torch.FloatStorage, "0", "cpu", elements, None) if value is Ellipsis else None

    file = io.BytesIO()
    for value in (inert._MAGIC, 1001, {}, {"a": ...}, keys):
        Pickler(file, 2).dump(value)
    (tmp_path / "a.pt").write_bytes(file.getvalue())
    with pytest.raises(ConfigError, match=f"a.pt is damaged.*{cause}"):
        read_checkpoint(tmp_path / "a.pt")
