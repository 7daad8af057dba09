"""The results store: schema, atomic writes, digests that tell runs apart and nothing else."""

import json
import os
from types import SimpleNamespace

import pytest

from dicap import results as store
from dicap.options import Option
from dicap.results import ResultError


def test_written_and_read_back(tmp_path, make_result):
    path = store.write_result(tmp_path, make_result())
    assert store.read_result(path) == store.read_result(tmp_path) == make_result()
    assert os.listdir(tmp_path) == ["result.json"]  # no temporary file is left


def test_a_failed_write_leaves_the_old_file(tmp_path, make_result):
    store.write_result(tmp_path, make_result())
    with pytest.raises(ValueError, match="not JSON compliant"):
        store.write_json(tmp_path / "result.json", {"accuracy": float("nan")})
    assert store.read_result(tmp_path) == make_result()
    assert os.listdir(tmp_path) == ["result.json"]


def test_a_measure_without_unit_may_be_any_finite_number(tmp_path, make_result):
    for value in (-3.0, 250.0):
        store.write_result(tmp_path, make_result(task="counting", value=value))
    with pytest.raises(ResultError, match=r"metrics.error.*finite"):
        store.write_result(tmp_path, make_result(task="counting", value=float("inf")))


def test_what_a_result_says_of_its_measures(make_result):
    result = make_result(value=60.0, groups={"aligned": 80.0, "conflicting": 40.0})
    assert (store.primary(result), store.worst_group(result)) == (60.0, 40.0)
    assert store.measure_of(result) == store.Measure("accuracy", "Accuracy")
    assert store.measure_of(result, "macro_f1").label == "Macro F1"
    result = make_result(task="counting", value=0.5, groups={"few": 0.4, "many": 0.9})
    assert store.worst_group(result) == 0.9 and not store.measure_of(result).higher_is_better


@pytest.mark.parametrize(
    "unit, higher, label, combined", [("%", True, "H", 48.0), ("%", False, "Mean", 50.0), ("", True, "Mean", 50.0)]
)
def test_one_figure_of_base_and_new(unit, higher, label, combined):
    measure = store.Measure("x", "X", unit, higher)
    assert measure.combined_label == label and measure.combined(60.0, 40.0) == pytest.approx(combined)
    assert measure.combined(0.0, 0.0) == 0.0
    assert (measure.best([1.0, 2.0]), measure.worst([1.0, 2.0])) == ((2.0, 1.0) if higher else (1.0, 2.0))


@pytest.mark.parametrize(
    "change, field",
    [
        ({"schema": 3}, "schema"),
        ({"schema": 1}, "schema 1, written by an older version.*Give the command that made it again"),
        ({"metrics": {"accuracy": None, "macro_f1": 50.0}}, "metrics.accuracy"),
        ({"metrics": {"accuracy": 100.1, "macro_f1": 50.0}}, "metrics.accuracy"),
        ({"metrics": {"accuracy": -0.1, "macro_f1": 50.0}}, "metrics.accuracy"),
        ({"metrics": {"accuracy": True, "macro_f1": 50.0}}, "metrics.accuracy"),
        ({"metrics": {"accuracy": 60.0, "macro_f1": float("nan")}}, "metrics.macro_f1"),
        ({"metrics": {"accuracy": 60.0}}, "metrics.*expected accuracy, macro_f1"),
        ({"primary": "recall"}, "primary.*recall"),
        (
            {"measures": {"accuracy": {"label": "Accuracy"}, "macro_f1": {"name": "x"}}},
            "measures.accuracy|measures.macro_f1",
        ),
        ({"measures": {"accuracy": {"label": [], "unit": "%", "higher_is_better": True}}}, "measures.accuracy"),
        ({"measures": {"accuracy": "Accuracy"}}, "measures.accuracy"),
        ({"split": "old"}, "split"),
        ({"n": 0}, "n"),
        ({"status": "running"}, "status"),
        ({"seed": "1"}, "seed"),
        ({"groups": {"aligned": 3}}, "groups.aligned"),
        (
            {"groups": {"aligned": {"n": 1, "metrics": {"accuracy": -1, "macro_f1": 1}}}},
            "groups.aligned.metrics.accuracy",
        ),
        ({"groups": {"aligned": {"metrics": {"accuracy": 1, "macro_f1": 1}}}}, "groups.aligned"),
        ({"digests": {"config": "", "data": "", "weights": ""}}, "digests.model"),
        ({"seconds": {"train": 1}}, "seconds.test"),
    ],
)
def test_a_field_that_does_not_fit_is_named(tmp_path, make_result, change, field):
    with pytest.raises(ResultError, match=field):
        store.write_result(tmp_path, {**make_result(), **change})
    (tmp_path / "result.json").write_text(json.dumps({**make_result(), **change}))
    with pytest.raises(ResultError, match=f"result.json.*{field}"):
        store.read_result(tmp_path)


def test_a_missing_field_and_a_cut_file_are_named(tmp_path, make_result):
    path = store.write_result(tmp_path, make_result())
    whole = path.read_text()
    path.write_text(whole[: len(whole) // 2])
    with pytest.raises(ResultError, match="not complete JSON"):
        store.read_result(tmp_path)
    path.write_text(json.dumps({key: value for key, value in make_result().items() if key != "backbone"}))
    with pytest.raises(ResultError, match="'backbone' is missing"):
        store.read_result(tmp_path)
    path.unlink()
    with pytest.raises(ResultError, match="no such result file"):
        store.read_result(tmp_path)


def test_results_are_found_but_not_those_put_aside(tmp_path, make_result):
    for folder in ("a/seed2", "a/seed1", "a/.old/seed1-x"):
        store.write_result(tmp_path / folder, make_result())
    assert [path.parent.name for path in store.find_results(tmp_path)] == ["seed1", "seed2"]
    with pytest.raises(ResultError, match="no such folder"):
        store.find_results(tmp_path / "nowhere")


def config(**changes):
    tree = {
        "SEED": 1,
        "OUTPUT_DIR": "a",
        "DATASET": {"NAME": "Digits", "ROOT": ""},
        "OPTIM": {"LR": 0.002},
        "DATALOADER": {"NUM_WORKERS": 0},
        "TRAINER": {"NAME": "CoOp", "COOP": {"N_CTX": 16}, "DICAP": {"M": 3}},
    }
    for key, value in changes.items():
        *sections, last = key.split("__")
        node = tree
        for name in sections:
            node = node[name]
        node[last] = value
    return tree


@pytest.fixture
def defaults(monkeypatch):
    options = {"TRAINER.COOP.N_CTX": Option(16, "why"), "TRAINER.DICAP.M": Option(3, "why")}
    monkeypatch.setattr("dicap.config.every_option", lambda: options)


@pytest.mark.parametrize(
    "changes",
    [
        {"OUTPUT_DIR": "b"},
        {"DATASET__ROOT": "/elsewhere"},
        {"DATALOADER__NUM_WORKERS": 8},
        {"SEED": 1.0},
        {"TRAINER__DICAP": {}},  # a method that is not installed
    ],
)
def test_config_digest_is_the_same_for_the_same_computation(defaults, changes):
    assert store.config_digest(config(**changes)) == store.config_digest(config())


@pytest.mark.parametrize(
    "changes",
    [
        {"SEED": 2},
        {"OPTIM__LR": 0.01},
        {"TRAINER__COOP": {"N_CTX": 4}},
        {"TRAINER__NAME": "DiCap"},
        {"TRAINER__DICAP": {"M": 4}},  # another method's section, but somebody set it: this method may read it
        {"TRAINER__COOP": {}},
    ],
)
def test_config_digest_tells_settings_apart(defaults, changes):
    assert store.config_digest(config(**changes)) != store.config_digest(config())


def test_config_digest_of_a_dict_is_that_of_its_yacs_node(defaults):
    from yacs.config import CfgNode

    assert store.config_digest(CfgNode(config(OPTIM__LR=(1, 2)))) == store.config_digest(config(OPTIM__LR=[1, 2]))


def make_dataset(folder, rows):
    items = []
    for name, label, text in rows:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
        items.append(SimpleNamespace(impath=str(folder / name), label=label, classname=f"class {label}"))
    return SimpleNamespace(train_x=items[:1], val=None, test=items[1:], dataset_dir=str(folder))


ROWS = [("images/a.png", 0, "12"), ("images/b.png", 0, "345"), ("images/c.png", 1, "6")]


def test_data_digest_does_not_depend_on_the_place(tmp_path):
    here, there = (store.data_digest(make_dataset(tmp_path / place, ROWS)) for place in "xy")
    assert here == there


@pytest.mark.parametrize("change", [("images/d.png", 1, "6"), ("images/c.png", 0, "6"), ("images/c.png", 1, "67")])
def test_data_digest_tells_items_apart(tmp_path, change):
    other = store.data_digest(make_dataset(tmp_path / "y", [*ROWS[:2], change]))
    assert store.data_digest(make_dataset(tmp_path / "x", ROWS)) != other
