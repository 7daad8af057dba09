"""`dicap ablations`: what a file of cells may say, and that the driver skips, goes on, compares and lists failures."""

import json

import pytest

import dicap.experiments.run
from dicap import cli
from dicap import results as store
from dicap.config import CONFIGS
from dicap.experiments.ablations import (
    ablation_path,
    by_draw,
    choose,
    numbers,
    own_settings,
    read_ablation,
    run_ablations,
    slug,
)
from dicap.experiments.executor import RunError
from dicap.experiments.protocols import Request
from dicap.options import ConfigError

FILE = """
dataset: digits
seeds: 1-2
shots: 1
method: CoOp
reference: long
settings: {OPTIM.MAX_EPOCH: 1}
groups:
  Length:
    long: {OPTIM.MAX_EPOCH: 2}
    short:
  Prompts:
    two tokens: {CTX_INIT: "", N_CTX: 2, seeds: 1}
    CoCoOp: {method: cocoop, shots: 2}
"""


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(FILE)
    return path


def complete(row):
    return row["complete"] in (True, "yes")


def read(path, **request):
    return read_ablation(path, Request(**{"seeds": (), "shots": 0, **request}))


@pytest.fixture
def ran(monkeypatch):
    """The (cell, seed, split) that are really run, in order."""
    made, real = [], dicap.experiments.run.run

    def run(cfg, **kwargs):
        made.append((kwargs["protocol"].split("/")[-1], cfg.SEED, cfg.DATASET.SUBSAMPLE_CLASSES))
        return real(cfg, **kwargs)

    monkeypatch.setattr(dicap.experiments.run, "run", run)
    return made


def test_a_file_becomes_cells(file):
    cells = read(file)
    by_name = {cell.name: cell for cell in cells}
    assert list(by_name) == ["long", "short", "two tokens", "CoCoOp"]
    cfg = {name: cell.jobs()[0].cfg for name, cell in by_name.items()}
    assert [cfg[name].OPTIM.MAX_EPOCH for name in by_name] == [2, 1, 1, 1]  # a cell's own setting wins
    assert (cfg["two tokens"].TRAINER.COOP.N_CTX, cfg["two tokens"].TRAINER.COOP.CTX_INIT) == (
        2,
        "",
    )  # no dot: its own section
    assert by_name["CoCoOp"].request.methods == ("CoCoOp",) and cfg["CoCoOp"].DATASET.NUM_SHOTS == 2
    assert [len(cell.jobs()) for cell in cells] == [4, 4, 2, 4]  # base and new classes
    assert {cell.group for cell in cells} == {"Length", "Prompts"}


def test_the_command_line_wins(file):
    cells = read(file, seeds=(7, 8, 9), shots=4, settings=("OPTIM.MAX_EPOCH", "3"))
    jobs = [cell.jobs() for cell in cells]
    assert all(list(by_draw(some)) == [(7,), (8,), (9,)] for some in jobs)
    assert {some[0].cfg.OPTIM.MAX_EPOCH for some in jobs} == {3}
    assert [some[0].cfg.DATASET.NUM_SHOTS for some in jobs] == [4, 4, 4, 2]  # a cell's own shots stay


def test_where_a_cell_writes(file, tmp_path):
    job = read(file, out=str(tmp_path))[2].jobs()[0]
    assert slug("two tokens") == "two-tokens"
    assert str(job.folder).endswith("ablations/mine/two-tokens/train_base/digits/shots_1/CoOp/tiny/seed1")
    assert (
        read_ablation(file, Request(seeds=()), "../else where")[0].folder == "ablations/else-where/long"
    )  # stays below OUT/ablations


def test_cells_and_groups_can_be_chosen(file):
    cells = read(file)
    assert [cell.name for cell in choose(cells, ["Prompts", "long"])] == ["long", "two tokens", "CoCoOp"]
    assert len(choose(cells, [])) == 4
    with pytest.raises(ConfigError, match="no cell or group 'logn'; there are: long, short"):
        choose(cells, ["logn"])


@pytest.mark.parametrize(
    "old, new, message",
    [
        ("shots: 1\n", "shot: 1\n", "unknown key 'shot'; allowed: dataset, seeds"),
        ("seeds: 1}", "sedes: 1}", "cell 'two tokens': unknown key 'sedes'"),
        ("seeds: 1-2", "seeds: 2-1", "seeds '2-1': expected whole numbers"),
        ("reference: long", "reference: lang", "reference 'lang' of 'long' is no cell"),
        ("method: cocoop", "method: kokoop", "unknown method 'kokoop'"),
        ("two tokens:", "short!:", "share a name or a folder"),
        ("groups:\n", "groups: [\n", "not a file of cells"),
        ("short:\n", "short: 3\n", "cell 'short' is 3"),
        ("seeds: 1-2", "seeds:", "seeds 'None': expected whole"),
        ("seeds: 1-2", "seeds: 1.5", "seeds '1.5': expected whole"),
        ("shots: 1\n", "shots: few\n", "shots 'few': expected a whole"),
        ("settings: {OPTIM.MAX_EPOCH: 1}", "settings: [1]", "`settings` is \\[1\\]; expected KEY"),
        ("  Prompts:\n", "  Nothing:\n  Prompts:\n", "group 'Nothing' is None; expected KEY"),
        ("dataset: digits", "dataset: \xff", "utf-8"),
    ],
)
def test_what_a_file_may_not_say(file, old, new, message):
    assert old in FILE
    file.write_text(FILE.replace(old, new), encoding="latin-1")
    with pytest.raises(ConfigError, match=message) as error:
        read(file)
    assert str(file) in str(error.value)


@pytest.mark.parametrize(
    "old, new, message",
    [
        ("N_CTX: 2", "N_CXT: 2", "cell 'two tokens': .*N_CXT"),
        ("dataset: digits", "dataset: digit", "unknown dataset 'digit'"),
        ("method: CoOp", "method: CoOp\nrecipe: tini", "no recipe tini"),
        (
            "{OPTIM.MAX_EPOCH: 2}",
            "{method: DiCap, TRAIN_ON: minimal}",
            "cell 'long': TRAIN_ON minimal contradicts L_CF",
        ),
    ],
)
def test_every_cell_is_checked_before_any_runs(file, tmp_path, ran, old, new, message):
    assert old in FILE
    file.write_text(FILE.replace(old, new))
    with pytest.raises(ConfigError, match=message):
        run_ablations(str(file), Request(seeds=(), shots=0, out=str(tmp_path / "out")), cells=["short"])
    assert ran == [] and not (tmp_path / "out").exists()


def test_numbers():
    assert numbers([1, "4-6", 5]) == (1, 4, 5, 6) and numbers("3") == (3,) and numbers(7) == (7,)
    assert numbers("1 2 8-9") == (1, 2, 8, 9)
    with pytest.raises(ConfigError, match="seeds '-1'"):
        numbers(["-1"])


def test_the_shipped_files_plan(tmp_path):
    files = sorted((CONFIGS / "ablations").glob("*.yaml"))
    assert files
    for path in files:
        cells = read(ablation_path(path.stem), out=str(tmp_path))
        jobs = [job for cell in cells for job in cell.jobs()]
        assert len(jobs) > 2 * len(cells) and not list(tmp_path.iterdir())
    with pytest.raises(ConfigError, match="no ablation 'shapes'; .*causal_shapes"):
        ablation_path("shapes")


def test_it_runs_compares_skips_and_goes_on_after_a_failure(
    file, tmp_path, embedded_data, ran, monkeypatch, capsys, caplog
):
    from dicap.trainer import LearnerTrainer

    real = LearnerTrainer.loss

    def fail(self, batch):
        if type(self).__name__ == "CoCoOp":
            raise ValueError("the cause")
        return real(self, batch)

    caplog.set_level("INFO", "dicap")
    out = tmp_path / "out"
    monkeypatch.setattr(LearnerTrainer, "loss", fail)
    assert cli.main(["ablations", str(file), "--out", str(out)]) == 1
    text = capsys.readouterr()
    assert "4 of 14 runs failed:\n- CoCoOp: digits, CoCoOp (tiny), seed 1, base classes; CoCoOp: " in text.err
    assert text.err.count("ValueError: the cause") == 1  # one cause of two runs stands once
    assert [run[:2] for run in ran if run[2] == "base"] == [  # seed by seed, and on after the failures
        ("long", 1),
        ("short", 1),
        ("two-tokens", 1),
        ("CoCoOp", 1),
        ("long", 2),
        ("short", 2),
        ("CoCoOp", 2),
    ]
    table = json.loads((out / "ablations/mine.json").read_text())
    by_name = {row["cell"]: row for row in table["rows"]}
    assert by_name["short"]["h_gain"]["n"] == 2 and by_name["long"]["base"]["n"] == 2
    assert by_name["CoCoOp"]["base"] is None and not complete(by_name["CoCoOp"])
    base = store.read_result(out / "ablations/mine/short/train_base/digits/shots_1/CoOp/tiny/seed2")
    assert by_name["short"]["values"][1]["base"] == store.primary(base) and base["protocol"] == "ablations/mine/short"

    ran.clear()
    assert cli.main(["ablations", str(file), "--out", str(out), "--cells", "Length"]) == 0
    assert ran == [] and "0 of 8 runs to make, 8 finished before" in caplog.text
    assert cli.main(["ablations", str(file), "--out", str(out), "--dry-run"]) == 0
    assert "CoCoOp: digits, CoCoOp (tiny), seed 2, base classes: to run (not finished)" in caplog.text and ran == []

    # results of other settings are not taken for this table's
    changed = ["--cells", "short", "--set", "OPTIM.LR", "0.1"]
    assert cli.main(["ablations", str(file), "--out", str(out), *changed]) == 0
    assert {cell for cell, *_ in ran} == {"short"}
    by_name = {row["cell"]: row for row in json.loads((out / "ablations/mine.json").read_text())["rows"]}
    assert complete(by_name["short"]) and by_name["short"]["h_gain"] is None and "long" not in by_name


def test_processes_side_by_side_give_the_same_numbers_and_list_their_failures(
    file, tmp_path, embedded_data, monkeypatch
):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    one, two = (Request(seeds=(1,), shots=0, out=str(tmp_path / name)) for name in ("one", "two"))
    run_ablations(str(file), one, cells=["Length"])
    blocked = tmp_path / "two/ablations/mine/two-tokens"
    blocked.parent.mkdir(parents=True)
    blocked.write_text("a file where a folder should be")
    with pytest.raises(RunError, match=r"(?s)2 of 6 runs failed:\n- two tokens: digits, CoOp .*mine/two-tokens"):
        run_ablations(str(file), two, cells=["Length", "two tokens"], parallel=2)
    found = [json.loads((tmp_path / name / "ablations/mine.json").read_text())["rows"] for name in ("one", "two")]
    assert [cell["values"] for cell in found[0]] == [cell["values"] for cell in found[1][:2]]
    assert len(found[0]) == 2 and not complete(found[1][2])
    results = sorted((tmp_path / "two").rglob(store.FILE))
    assert len(results) == 4 and {store.read_result(path)["versions"]["threads"] for path in results} == {1}


@pytest.mark.parametrize(
    "args, message",
    [
        (["--jobs", "0"], "--jobs 0"),
        (["--jobs", "2", "--verbose"], "lest the logs mix"),
        (["--seeds", "a"], "seeds 'a'"),
    ],
)
def test_a_bad_argument_is_one_message(file, args, message, capsys):
    assert cli.main(["ablations", str(file), *args]) == 2
    assert message in capsys.readouterr().err


def test_a_key_without_a_dot_belongs_to_the_trainer_or_else_to_the_learner():
    settings = {"W": 2, "N_CTX": 4, "OPTIM.LR": 0.1}
    found = ("TRAINER.DICAP.W", "2", "TRAINER.COOP.N_CTX", "4", "OPTIM.LR", "0.1")
    assert own_settings(settings, "DiCap:CoOp") == found
    assert own_settings({"RATIO": 1}, "DiCap:CLIPAdapter") == ("TRAINER.CLIPADAPTER.RATIO", "1")
    assert own_settings({"RATIO": 1}, "CLIPAdapter") == ("TRAINER.CLIPADAPTER.RATIO", "1")
    both = {"N_CTX": 1, "LR_SCALE": 2}
    found = ("TRAINER.COOP.N_CTX", "1", "TRAINER.FEATUREMAP.LR_SCALE", "2")
    assert own_settings(both, "DiCap:CoOp+FeatureMap") == found
    with pytest.raises(
        ConfigError, match="DiCap:CoOp has no setting RATIO; .*TRAINER.DICAP: .* W, .*TRAINER.COOP: N_CTX"
    ):
        own_settings({"RATIO": 1}, "DiCap:CoOp")


def test_the_learner_is_named_as_the_method(file):
    file.write_text(FILE.replace("{method: cocoop, shots: 2}", "{method: dicap, LEARNER: CoCoOp}"))
    cells = read(file)
    with pytest.raises(
        ConfigError, match="cell 'CoCoOp': .*TRAINER.DICAP.LEARNER CoCoOp contradicts the method's name"
    ):
        cells[3].jobs()
