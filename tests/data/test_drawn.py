"""Few-shot draws of earlier runs: CoOp's pickles as that code wrote them, published index files; nothing of them runs."""

import functools
import json
import os
import pickle
import pickletools
import sys
import tracemalloc
import types

import pytest

from dicap import inert
from dicap.data import draw
from dicap.data.draw import few_shot

OLD = "/home/them/data/caltech-101/101_ObjectCategories"
SPLIT = {
    part: [
        (f"{name}/{part}_{i}.jpg", label, name)
        for label, name in enumerate(("face", "leopard", "ant"))
        for i in range(size)
    ]
    for part, size in (("train", 9), ("val", 5), ("test", 2))
}


@pytest.fixture
def datum(monkeypatch):
    """Dassl's Datum as far as a pickle knows it: its name and its attributes."""

    class Datum:
        def __init__(self, impath, label, classname):
            self._impath, self._label, self._domain, self._classname = impath, label, 0, classname

    Datum.__module__, Datum.__qualname__ = "dassl.data.datasets.base_dataset", "Datum"
    module = types.ModuleType(Datum.__module__)
    module.Datum = Datum
    monkeypatch.setitem(sys.modules, Datum.__module__, module)
    return Datum


@pytest.fixture
def old(datum, tmp_path):
    """old(drawn, shots, seed, root) writes CoOp's pickle of a draw below tmp_path and returns its path."""

    def write(drawn, shots=2, seed=1, root=OLD, change=lambda item: item):
        data = {
            part: [datum(f"{root}/{p}", y, name) for p, y, name in map(change, items)] for part, items in drawn.items()
        }
        file = tmp_path / f"shot_{shots}-seed_{seed}.pkl"
        file.write_bytes(pickle.dumps(data, protocol=pickle.HIGHEST_PROTOCOL))
        return file

    return write


def train_val(split):
    return {part: split[part] for part in ("train", "val")}


OTHER = train_val(few_shot(SPLIT, 2, 7))  # the samples of a run whose generator had another state
OURS = few_shot(SPLIT, 2, 1)


def test_the_two_draws_differ():
    assert OTHER["train"] != OURS["train"] and OTHER["val"] != OURS["val"]


@pytest.mark.parametrize("root", [OLD, "C:\\data\\caltech-101\\101_ObjectCategories", "."])
def test_an_old_draw_is_used_and_kept(old, tmp_path, caplog, root):
    file = old(OTHER, root=root)
    with caplog.at_level("INFO"):
        assert train_val(few_shot(SPLIT, 2, 1, tmp_path)) == OTHER
    assert f"{file}: these samples of an earlier CoOp run are used" in caplog.text
    kept = json.loads(file.with_suffix(".json").read_text())
    assert [tuple(item) for item in kept["train"]] == OTHER["train"]
    caplog.clear()
    with caplog.at_level("INFO"):
        assert train_val(few_shot(SPLIT, 2, 1, tmp_path)) == OTHER
    assert not caplog.text  # told once, unpickled once


def test_a_negative_seed_draws_anew_and_keeps_nothing(tmp_path):
    folder = tmp_path / "split_fewshot"
    draws = {json.dumps(few_shot(SPLIT, 2, -1, folder)) for _ in range(8)}
    assert len(draws) > 1 and not folder.exists()


def test_an_old_draw_wins_over_ours(old, tmp_path):
    assert few_shot(SPLIT, 2, 1, tmp_path) == OURS
    file = old(OTHER)
    assert train_val(few_shot(SPLIT, 2, 1, tmp_path)) == OTHER
    file.unlink()
    assert train_val(few_shot(SPLIT, 2, 1, tmp_path)) == OTHER  # what was imported stays


def test_another_pickle_is_read_again(old, tmp_path):
    old(OTHER)
    few_shot(SPLIT, 2, 1, tmp_path)
    third = train_val(few_shot(SPLIT, 2, 9))
    os.utime(old(third), ns=(1, 1))
    assert train_val(few_shot(SPLIT, 2, 1, tmp_path)) == third


def test_an_old_draw_that_fits_another_split_too_is_used_at_once(old, tmp_path):
    """Else the first run on the other split would draw anew, and the second one import the pickle."""
    old(OTHER)
    few_shot(SPLIT, 2, 1, tmp_path)
    other = {**SPLIT, "train": SPLIT["train"][::-1]}
    assert [train_val(few_shot(other, 2, 1, tmp_path)) for _ in range(2)] == [OTHER, OTHER]


def test_imagenets_pickles_hold_only_train(old, tmp_path):
    split = {**SPLIT, "val": []}
    for held in (OTHER, {"train": OTHER["train"]}):  # a val of others, made of training images, is left out
        old(held)
        assert few_shot(split, 2, 1, tmp_path) == {"train": OTHER["train"], "val": [], "test": SPLIT["test"]}


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda item: (f"elsewhere_{item[0].replace('/', '_')}", *item[1:]), "is no image of the split's train"),
        (lambda item: (item[0], item[1] + 1, item[2]), "is class 1 'face' there and 0 'face' in the split"),
        (lambda item: (item[0], item[1], item[2].title()), "is class 0 'Face' there and 0 'face' in the split"),
        (lambda item: OTHER["train"][0] if item in OTHER["train"] else item, "an image stands twice in train"),
    ],
)
def test_a_draw_of_other_data_is_refused(old, tmp_path, caplog, change, reason):
    file = old(OTHER, change=change)
    assert few_shot(SPLIT, 2, 1, tmp_path) == OURS
    assert f"{file} is not used: " in caplog.text and reason in caplog.text


def test_a_draw_of_another_size_is_refused(old, tmp_path, caplog):
    old(train_val(few_shot(SPLIT, 3, 1)))
    assert few_shot(SPLIT, 2, 1, tmp_path) == OURS
    assert "train has 3 images of class 0, a draw has 2" in caplog.text
    old({"train": OTHER["train"]})
    assert few_shot(SPLIT, 2, 1, tmp_path) == OURS
    assert "val has 0 images of class 0" in caplog.text


@pytest.mark.parametrize(
    "program",
    [
        b"cos\nsystem\n(S'touch {0}'\ntR.",
        b'cbuiltins\neval\n(S\'open("{0}", "w")\'\ntR.',
        b"(S'touch {0}'\nios\nsystem\n.",
        b"\x80\x04\x8c\x08builtins\x8c\x04exec\x93\x8c\x04pass\x85R.",
        b"ccollections\nOrderedDict\n)R.",
        b"cdassl\nDatum\n(S'touch {0}'\ntR.",
        b"cdassl\nDatum.__init__.__globals__\n.",
        b"",
        b"\x80\x05]\x94.",
        b"I3\n.",
    ],
)
def test_hostile_and_damaged_pickles_run_nothing(tmp_path, caplog, program):
    victim = tmp_path / "owned"
    (tmp_path / "shot_2-seed_1.pkl").write_bytes(program.replace(b"{0}", str(victim).encode()))
    assert few_shot(SPLIT, 2, 1, tmp_path) == OURS
    assert not victim.exists()
    if b"system" in program:
        assert "a draw holds nothing but Datum" in caplog.text
    assert "shot_2-seed_1.pkl is not used: no pickled draw of CoOp" in caplog.text


def test_no_module_is_imported(tmp_path, monkeypatch):
    """Also not for a name that is allowed: an import runs the module."""
    (tmp_path / "trap.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nclass Datum: pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "shot_2-seed_1.pkl").write_bytes(b"ctrap\nDatum\n.")
    assert few_shot(SPLIT, 2, 1, tmp_path) == OURS
    assert "trap" not in sys.modules and not (tmp_path / "ran").exists()


def test_a_pickle_cannot_change_the_reader(tmp_path):
    """It sets an attribute of the class that it gets: of its own one."""
    program = b"(dp0\nS'train'\n(lp1\ncdassl\nDatum\nN(dS'_impath'\nS'x'\nstbas."
    (tmp_path / "shot_2-seed_1.pkl").write_bytes(program)
    before = dict(vars(draw._DrawUnpickler))
    assert few_shot(SPLIT, 2, 1, tmp_path) == OURS
    assert dict(vars(draw._DrawUnpickler)) == before


def test_truncated_and_huge_pickles(old, tmp_path, caplog, monkeypatch):
    file = old(OTHER)
    whole = file.read_bytes()
    for share in (0.1, 0.5, 0.9):
        file.write_bytes(whole[: int(len(whole) * share)])
        assert few_shot(SPLIT, 2, 1, tmp_path) == OURS
    file.write_bytes(whole)
    monkeypatch.setattr(draw, "LARGEST", len(whole) - 1)
    caplog.clear()
    assert few_shot(SPLIT, 2, 1, tmp_path) == OURS
    assert "larger than a draw can be" in caplog.text


HUNGRY = {
    "a place in the memo": b"\x80\x02Nr\x00\x00\x40\x00.",  # the table would have 2^23 entries
    "a place in words": b"Np4194304\n.",
    "many small things": b"\x80\x04(" + b"\x8f" * 20_000 + b"l.",
    "a promise": b"\x80\x05\x96" + (1 << 24).to_bytes(8, "little") + b".",
}


@pytest.mark.parametrize("name", HUNGRY)
def test_a_small_pickle_takes_little_memory(tmp_path, caplog, monkeypatch, name):
    monkeypatch.setattr(inert, "OPCODES", 1000)
    (tmp_path / "shot_2-seed_1.pkl").write_bytes(HUNGRY[name])
    tracemalloc.start()
    try:
        assert few_shot(SPLIT, 2, 1, tmp_path) == OURS
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()
    assert "shot_2-seed_1.pkl is not used: " in caplog.text


@pytest.mark.parametrize("label", [functools.reduce(lambda label, _: [label, label], range(12), []), "0", None])
def test_a_label_that_is_no_number_is_refused_unprinted(old, tmp_path, caplog, label):
    """Lists within lists, each twice, are few bytes in a pickle and many in a message."""
    file = old(OTHER, change=lambda item: (item[0], label, item[2]))
    assert few_shot(SPLIT, 2, 1, tmp_path) == OURS
    assert f"{file} is not used: " in caplog.text and len(caplog.text) < 2000


@pytest.mark.parametrize("module", ["dicap.engine.data.datasets.base_dataset", "dassl.data.datasets"])
def test_an_old_draw_may_name_its_datum_otherwise(old, datum, monkeypatch, tmp_path, module):
    file = old(OTHER)
    there, here = (b"\x8c" + bytes([len(name)]) + name.encode() for name in (datum.__module__, module))
    assert file.read_bytes().count(there) == 1
    tree = pickletools.optimize(file.read_bytes()).replace(there, here)
    file.write_bytes(b"\x80\x04" + tree[tree.index(b"}") :])  # without the frame, which has a length
    assert train_val(few_shot(SPLIT, 2, 1, tmp_path)) == OTHER


def published(draw, **change):
    return {
        part: {
            "data": [{"impath": f"./data/x/{p}", "label": y, "classname": name, **change} for p, y, name in items],
            "indices": list(range(len(items))),
        }
        for part, items in draw.items()
    }


def test_a_published_index_file_counts(tmp_path):
    file = tmp_path / "shot_2-seed_1.json"
    file.write_text(json.dumps(published(OTHER)))
    before = file.read_bytes()
    assert train_val(few_shot(SPLIT, 2, 1, tmp_path)) == OTHER
    assert file.read_bytes() == before


@pytest.mark.parametrize(
    "tree", [published(OTHER, label=5), published(OTHER, impath=3), {"train": {}, "val": {}}, {"train": 3}, {}]
)
def test_a_wrong_index_file_does_not_and_stays(tmp_path, caplog, tree):
    file = tmp_path / "shot_2-seed_1.json"
    file.write_text(json.dumps(tree))
    assert few_shot(SPLIT, 2, 1, tmp_path) == OURS
    assert "is not used" in caplog.text
    assert json.loads(file.read_text()) == tree


def test_an_old_draw_wins_over_an_index_file_which_stays(old, tmp_path):
    file = tmp_path / "shot_2-seed_1.json"
    file.write_text(json.dumps(published(OURS)))
    before = file.read_bytes()
    old(OTHER)
    assert train_val(few_shot(SPLIT, 2, 1, tmp_path)) == OTHER
    assert file.read_bytes() == before


@pytest.mark.parametrize("text", ["[1]", "{", "[" * 200_000, '{"split": "another", "train": []}'])
def test_a_broken_draw_of_ours_is_written_again(tmp_path, caplog, text):
    file = tmp_path / "shot_2-seed_1.json"
    file.write_text(text)
    assert few_shot(SPLIT, 2, 1, tmp_path) == OURS
    assert "is not used" in caplog.text and json.loads(file.read_text())["seed"] == 1
