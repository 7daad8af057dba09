"""`dicap select`: the grid, the folds, the number of steps, and that no test image and no new class is read."""

import builtins
import json
from pathlib import Path

import pytest

from dicap import cli
from dicap import results as store
from dicap.experiments.ablations import Cell, by_draw, line_of
from dicap.experiments.executor import execute
from dicap.experiments.protocols import Request
from dicap.experiments.selection import how_to_use, plan_points, read_grid
from dicap.options import ConfigError
from dicap.report.ablations import Line, best
from dicap.report.report import write_report
from dicap.results import Measure


def make_request(out, **values):
    return Request(
        **{
            "methods": ("CoOp",),
            "datasets": ("digits",),
            "seeds": (1,),
            "shots": 4,
            "out": str(out),
            "settings": ("OPTIM.WARMUP_EPOCH", "0"),
            **values,
        }
    )


def test_a_grid_is_a_product():
    assert read_grid(["OPTIM.MAX_EPOCH=5,10", "N_CTX=1,2"]) == [
        {"OPTIM.MAX_EPOCH": "5", "N_CTX": "1"},
        {"OPTIM.MAX_EPOCH": "5", "N_CTX": "2"},
        {"OPTIM.MAX_EPOCH": "10", "N_CTX": "1"},
        {"OPTIM.MAX_EPOCH": "10", "N_CTX": "2"},
    ]
    assert read_grid(["W=1, 1.5,1"]) == [{"W": "1"}, {"W": "1.5"}]


@pytest.mark.parametrize("grid", [["OPTIM.LR"], ["=1"], ["W="], ["W=1,,2"], ["W=1", "W=2"]])
def test_what_a_grid_may_not_be(grid):
    with pytest.raises(ConfigError, match="expected KEY=VALUE,VALUE"):
        read_grid(grid)


def test_every_point_has_every_fold_and_seed(tmp_path, embedded_data):
    jobs = plan_points(read_grid(["OPTIM.LR=0.1,0.2", "N_CTX=2"]), make_request(tmp_path, seeds=(1, 2)), 2)
    assert list(jobs) == ["OPTIM.LR=0.1 N_CTX=2", "OPTIM.LR=0.2 N_CTX=2"]
    for some in jobs.values():
        draws = by_draw(some)
        assert list(draws) == [(1, 1), (2, 1), (1, 2), (2, 2)]
        assert [pair[0].cfg.DATASET.HOLDOUT_FOLD for pair in draws.values()] == [1, 1, 2, 2]
        assert all([job.stage.split for job in pair] == ["base", "new"] for pair in draws.values())
    cfg = jobs["OPTIM.LR=0.2 N_CTX=2"][1].cfg
    assert (cfg.OPTIM.LR, cfg.TRAINER.COOP.N_CTX, cfg.DATASET.HOLDOUT_FOLDS) == (0.2, 2, 2)
    folders = [job.folder for some in jobs.values() for job in some]
    assert len(set(folders)) == len(folders) == 16


def test_a_fold_makes_the_steps_of_the_real_run(tmp_path, embedded_data):
    """5 classes x 4 shots in batches of 2: 10 steps an epoch. In a fold of 2 + 3 classes, one shot of 4 kept back: 2 x 3
    or 3 x 3 images, 3 or 4 steps."""
    request = make_request(tmp_path, settings=("DATALOADER.TRAIN_X.BATCH_SIZE", "2"))
    jobs = plan_points(read_grid(["OPTIM.MAX_EPOCH=1,6"]), request, 2)
    assert {job.cfg.OPTIM.MAX_EPOCH for job in jobs["OPTIM.MAX_EPOCH=6"]} == {15, 20}  # 60 steps each
    assert {job.cfg.OPTIM.MAX_EPOCH for job in jobs["OPTIM.MAX_EPOCH=1"]} == {2, 3}


@pytest.mark.parametrize(
    "values, folds, message",
    [
        ({}, 1, "--folds 1: expected 2 or more"),
        ({}, 3, "HOLDOUT_FOLDS is 3; with 5 base classes 2 to 2"),
        ({"shots": 1}, 2, "NUM_SHOTS must be 2"),
        ({"methods": ("coap",)}, 2, "unknown method 'coap'"),
        ({"datasets": ("mnist",)}, 2, "unknown dataset 'mnist'"),
    ],
)
def test_what_cannot_be_is_refused_before_any_work(tmp_path, embedded_data, values, folds, message):
    with pytest.raises(ConfigError, match=message):
        plan_points(read_grid(["N_CTX=2"]), make_request(tmp_path / "out", **values), folds)
    assert not (tmp_path / "out").exists()


def test_a_cell_has_one_dataset(tmp_path):
    """Else the base classes of one would be paired with the new ones of the other."""
    with pytest.raises(ConfigError, match="cell 'mixed': .*digits, causal_shapes.*one"):
        Cell("mixed", "x", make_request(tmp_path, datasets=("digits", "causal_shapes"), settings=())).jobs()


def make_line(name, facts, combined, measure=Measure("accuracy", "Accuracy")):  # noqa: B008  frozen
    values = {(1, 1): {"base": combined, "new": combined, "combined": combined}}
    return Line(
        name=name,
        group="",
        reference="",
        facts=facts,
        draws=((1, 1),),
        values=values,
        data={(1, 1): ""},
        measure=measure,
    )


def test_the_command_that_uses_the_choice_can_be_pasted():
    facts = {
        "method": "CoOp",
        "dataset": "digits",
        "shots": 4,
        "recipe": "tiny",
        "settings": {"TRAINER.COOP.CTX_INIT": "a b"},
    }
    command = how_to_use([make_line("one", facts, 1.0)], Request(data="/my data"))
    assert command == (
        "dicap base2new --methods CoOp --datasets digits --shots 4 --config tiny --data '/my data' --set "
        "TRAINER.COOP.CTX_INIT 'a b'"
    )


def test_the_point_with_the_best_measure_is_taken_where_lower_is_better(tmp_path, embedded_data):
    """By the direction that the results state; the command names the pair."""
    error = Measure("error", "Error", unit="", higher_is_better=False)
    grid = {name: {"OPTIM.LR": name} for name in ("0.1", "0.2", "0.3")}
    shared = {"method": "DiCap:CoOp", "dataset": "digits", "shots": 4, "recipe": "tiny"}
    values = {"0.1": 0.5, "0.2": 0.2, "0.3": 0.9}
    lines = [make_line(name, {**shared, "settings": grid[name]}, values[name], error) for name in grid]
    assert best(lines).name == "0.2" and "--methods DiCap:CoOp " in how_to_use(lines, Request())
    assert how_to_use(lines, Request()).endswith("--set OPTIM.LR 0.2")


def test_a_line_has_the_measure_of_its_results(tmp_path, embedded_data):
    jobs = Cell("one", "select/x", make_request(tmp_path)).jobs()
    assert line_of("one", jobs, {}).measure.name == "accuracy"  # nothing has run: the dataset's task
    for job in jobs:
        assert execute([job]) == []
        result = store.read_result(job.folder)
        facts = {"label": "Error", "unit": "", "higher_is_better": False}
        groups = {"primary": "error", "metrics": {"error": 0.5}, "measures": {"error": facts}, "groups": {}}
        store.write_result(job.folder, {**result, **groups})
    line = line_of("one", jobs, {}, "g", "r")
    assert (line.measure.name, line.measure.higher_is_better) == ("error", False)
    assert line.values == {(1,): {"base": 0.5, "new": 0.5, "combined": 0.5}} and line.complete


@pytest.fixture
def opened(monkeypatch):
    """Every picture that is opened, in whatever way."""
    import PIL.Image

    paths, real_open, real_image = [], builtins.open, PIL.Image.open

    def record(path):
        if str(path).endswith(".png"):
            paths.append(Path(str(path)))

    def text_or_binary(path, *args, **kwargs):
        record(path)
        return real_open(path, *args, **kwargs)

    def image(path, *args, **kwargs):
        record(path)
        return real_image(path, *args, **kwargs)

    monkeypatch.setattr(builtins, "open", text_or_binary)
    monkeypatch.setattr(PIL.Image, "open", image)
    return paths


def test_it_selects_without_a_test_image_or_a_new_class(tmp_path, embedded_data, monkeypatch, capsys, caplog, opened):
    from dicap.world import data_root

    caplog.set_level("INFO", "dicap")
    monkeypatch.setenv("DICAP_CACHE", str(tmp_path / "cache"))  # what is read is not in a cache
    args = [
        "select",
        "--method",
        "coop",
        "--dataset",
        "digits",
        "--grid",
        "OPTIM.MAX_EPOCH=1,4",
        "--folds",
        "2",
        "--seeds",
        "3",
        "--shots",
        "4",
        "--out",
        str(tmp_path),
        "--set",
        "INPUT.VIEWS",
        "1",
    ]
    assert cli.main(args) == 0
    (folder,) = (data_root() / "digits").iterdir()
    split = json.loads((folder / "split.json").read_text())
    allowed = {folder / "images" / path for path, label, _ in split["train"] if label < 5}
    assert opened and set(opened) <= allowed and len(set(opened)) == 5 * 4

    out = capsys.readouterr().out
    table = json.loads((tmp_path / "select/digits_CoOp_tiny_shots_4.json").read_text())
    by_name = {row["cell"]: row for row in table["rows"]}
    best = max(by_name.values(), key=lambda cell: cell["h"]["mean"])
    assert table["complete"] and best["h"]["n"] == 2 and table["chosen"] == best["settings"]
    epochs = best["settings"]["OPTIM.MAX_EPOCH"]
    assert f"Chosen: OPTIM.MAX_EPOCH {epochs}" in out
    assert table["command"] == (
        "dicap base2new --methods CoOp --datasets digits --shots 4 --config tiny --set INPUT.VIEWS 1 "
        f"OPTIM.MAX_EPOCH {epochs}"
    )
    results = [store.read_result(path) for path in sorted(tmp_path.rglob(store.FILE))]
    assert len(results) == 2 * 2 * 2 and all(r["protocol"].startswith("select/digits/CoOp/") for r in results)
    values = {(tuple(value["draw"]), name): value for name, cell in by_name.items() for value in cell["values"]}
    for r in results:
        point, fold = r["protocol"].split("/")[3:]
        assert values[(3, int(fold[4])), point][r["split"]] == store.primary(r)

    with pytest.raises(store.ResultError, match="no result.json of base2new"):
        write_report(tmp_path)  # no base-to-new table takes them
    assert cli.main(args) == 0 and "0 of 8 runs to make, 8 finished before" in caplog.text
    assert cli.main([*args, "--dry-run"]) == 0 and "0 to run, 8 finished" in caplog.text
