"""The command line: help without torch, train.py's flags, one clear message and an exit code for what goes wrong."""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from dicap import cli
from dicap import results as store
from dicap.experiments.protocols import PROTOCOLS
from dicap.files import locked

ROOT = Path(__file__).resolve().parents[1]
DIGITS, TINY = str(ROOT / "configs/datasets/digits.yaml"), str(ROOT / "configs/trainers/CoOp/tiny.yaml")
QUICK = ["DATASET.NUM_SHOTS", "1", "OPTIM.MAX_EPOCH", "1"]


def train(*args):
    return cli.main(["train", "--dataset-config-file", DIGITS, "--config-file", TINY, *args])


@pytest.mark.parametrize(
    "command",
    [(), ("train",), *((name,) for name in PROTOCOLS), ("ablations",), ("select",), ("report",), ("options",)],
)
def test_help_answers_without_torch(command):
    args = [*command, "--help"]
    code = f"import sys\nfrom dicap.cli import main\ntry: main({args})\nfinally: print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.startswith("usage: dicap") and done.stdout.rstrip().endswith("False")


def test_train_py_takes_the_familys_flags():
    done = subprocess.run([sys.executable, ROOT / "train.py", "--help"], capture_output=True, text=True, check=True)
    for flag in (
        "root",
        "output-dir",
        "resume",
        "seed",
        "source-domains",
        "target-domains",
        "transforms",
        "config-file",
        "dataset-config-file",
        "trainer",
        "backbone",
        "head",
        "eval-only",
        "model-dir",
        "load-epoch",
        "no-train",
    ):
        assert f"--{flag} " in done.stdout or f"--{flag}]" in done.stdout, flag
    assert done.stdout.startswith("usage: train.py")


def test_a_run_by_its_flags(tmp_path, embedded_data, capsys):
    """Seed 0 works, names come from the files, and the family's paths put a run by hand into the table."""
    base, new = tmp_path / "base2new/train_base/x/seed0", tmp_path / "base2new/test_new/x/seed0"
    assert (
        train(
            "--trainer", "CoOp", "--seed", "0", "--output-dir", str(base), *QUICK, "DATASET.SUBSAMPLE_CLASSES", "base"
        )
        == 0
    )
    assert capsys.readouterr().out.startswith("Engine: builtin (")
    assert (
        train(
            "--trainer",
            "CoOp",
            "--seed",
            "0",
            "--output-dir",
            str(new),
            "--model-dir",
            str(base),
            "--eval-only",
            "--load-epoch",
            "1",
            *QUICK,
            "DATASET.SUBSAMPLE_CLASSES",
            "new",
        )
        == 0
    )
    result = store.read_result(base)
    assert [result[key] for key in ("protocol", "dataset", "recipe", "seed")] == ["base2new", "digits", "tiny", 0]
    capsys.readouterr()
    assert cli.main(["report", str(tmp_path)]) == 0
    assert "digits" in capsys.readouterr().out and json.loads((tmp_path / "base2new.json").read_text())["complete"]


@pytest.mark.parametrize("flags", [(), ("--eval-only",), ("--no-train",)])
def test_a_folder_that_another_process_is_at_is_left_to_it(tmp_path, capsys, flags):
    pytest.importorskip("fcntl")
    with locked(tmp_path / ".o.lock"):
        assert train("--trainer", "CoOp", "--output-dir", str(tmp_path / "o"), *flags, *QUICK) == cli.FAILURE
    said = capsys.readouterr().err
    assert f"another process is at work on it (process {os.getpid()} on" in said and str(tmp_path / ".o.lock") in said
    assert list(tmp_path.iterdir()) == []


def test_a_run_of_a_trainer_and_a_learner_is_stored_as_the_pair(tmp_path, embedded_data):
    """Plain DiCap is the pair that its recipe names; the file's name without the learner is the recipe."""
    config = str(ROOT / "configs/trainers/DiCap/tiny.yaml")
    steps = ["TRAINER.DICAP.TRAIN_STEPS", "5"]
    for name in ("DiCap", "DiCap:CoOp"):
        args = ["train", "--dataset-config-file", DIGITS, "--config-file", config, "--trainer", name, "--seed", "0"]
        assert cli.main([*args, "--output-dir", str(tmp_path / name), *QUICK, *steps]) == 0
        result = store.read_result(tmp_path / name)
        assert (result["method"], result["recipe"]) == ("DiCap:CoOp", "tiny")


def test_a_plugin_with_recipes_is_a_method_of_protocols_alone_and_in_a_pair(
    tmp_path, embedded_data, monkeypatch, caplog
):
    """Its recipes stand beside its file, also those of DiCap with it."""
    from dassl.engine import TRAINER_REGISTRY

    from dicap import discover
    from dicap.config import CONFIGS
    from dicap.learner import LEARNERS

    discover.load_all()
    monkeypatch.setattr(discover, "PLUGINS", {})
    monkeypatch.setitem(LEARNERS, "Nudge", None)  # both are undone at the end
    del LEARNERS["Nudge"]
    monkeypatch.setattr(TRAINER_REGISTRY, "_obj_map", dict(TRAINER_REGISTRY._obj_map))
    plugin = tmp_path / "nudge.py"
    plugin.write_text(
        "from dicap.learner import Learner\nfrom dicap.trainer import register\n"
        "from torch import nn, zeros\nfrom torch.nn.functional import normalize\n"
        "@register\nclass Nudge(Learner):\n    IMAGE = 'features'\n"
        "    def __init__(self, clip, *args):\n        super().__init__(clip, *args)\n"
        "        self.nudge = nn.Parameter(zeros(clip.text_projection.shape[1]))\n"
        "    def image(self, x):\n        return normalize(x + self.nudge, dim=-1)\n"
    )
    for recipe, like in (("Nudge/tiny", "CLIPAdapter/tiny"), ("DiCap/tiny_Nudge", "DiCap/tiny_CLIPAdapter")):
        file = tmp_path / "configs" / "trainers" / f"{recipe}.yaml"
        file.parent.mkdir(parents=True)
        text = (CONFIGS / "trainers" / f"{like}.yaml").read_text().replace("CLIPAdapter", "Nudge")
        file.write_text(re.sub(r"(TRAINER:\n)?  CLIPADAPTER:.*", "", text, flags=re.DOTALL))
    command = ["base2new", "--methods", "nudge", "dicap:nudge", "--datasets", "digits", "--seeds", "1", "--shots", "1"]
    command += ["--set", "OPTIM.MAX_EPOCH", "1", "--out", str(tmp_path / "out")]
    caplog.set_level("INFO", "dicap")
    assert cli.main([*command, "--plugin", str(plugin), "--dry-run"]) == 0
    assert "Nudge (tiny), DiCap:Nudge (tiny)" in caplog.text and "4 to run, 0 finished" in caplog.text
    assert cli.main([*command[:2], "nudge", *command[4:], "--plugin", str(plugin)]) == 0
    assert len(list((tmp_path / "out").rglob("result.json"))) == 2


def test_a_plugin_trains(tmp_path, embedded_data):
    plugin = tmp_path / "mine.py"
    plugin.write_text(
        "from dassl.engine import TRAINER_REGISTRY\nfrom dicap.trainer import LearnerTrainer\n"
        "from dicap.options import Option\nfrom dicap.trainers.coop import CoOp\n"
        "@TRAINER_REGISTRY.register()\nclass Mine(LearnerTrainer):\n"
        "    OPTIONS = {**CoOp.OPTIONS, 'LEARNER': Option('CoOp', 'what is trained'), 'EXTRA': Option(1, 'why')}\n"
    )
    assert (
        train(
            "--trainer",
            "Mine",
            "--plugin",
            str(plugin),
            "--output-dir",
            str(tmp_path / "out"),
            *QUICK,
            "TRAINER.MINE.EXTRA",
            "2",
        )
        == 0
    )
    assert store.read_result(tmp_path / "out")["config"]["TRAINER"]["MINE"]["EXTRA"] == 2


@pytest.mark.parametrize(
    "args, code, message",
    [
        (["train", "--trainer", "CoAp", "--dataset-config-file", DIGITS], 2, "TRAINER.NAME is 'CoAp'; registered: "),
        (
            ["train", "--trainer", "CoOp", "--dataset-config-file", DIGITS, "OPTIM.LRR", "1"],
            2,
            "did you mean OPTIM.LR?",
        ),
        (["train", "--trainer", "CoOp", "--dataset-config-file", "no.yaml"], 2, "no.yaml"),
        (["train", "--engine", "dassl", "--trainer", "CoOp"], 2, "EngineError"),
        (["train", "--plugin", "no.py", "--trainer", "CoOp"], 2, "no.py"),
        (["base2new", "--datasets", "mnist"], 2, "unknown dataset 'mnist'; allowed: causal_shapes"),
        (["report", "/no/such/folder"], 1, "/no/such/folder: no such folder"),
        (["options", "nothing"], 2, "there are: "),
        (["base2new", "--methods", "DiCap:Nothing"], 2, "unknown method 'DiCap:Nothing'; allowed: CLIPAdapter, "),
        (["base2new", "--jobs", "0"], 2, "--jobs 0: expected 1 or more"),
        (["few_shot", "--jobs", "2", "--verbose"], 2, "lest the logs mix"),
        (
            [
                "train",
                "--trainer",
                "CoOp",
                "--dataset-config-file",
                str(ROOT / "configs/datasets/caltech101.yaml"),
                "--config-file",
                TINY,
            ],
            1,
            "--root",
        ),
    ],
)
def test_errors_are_one_message(args, code, message, capfd):
    assert cli.main(args) == code
    err = capfd.readouterr().err
    assert message in err and "Traceback" not in err and err.startswith("dicap: ")


@pytest.mark.parametrize(
    "key, value, message",
    [
        *(
            (f"DATALOADER.{part}.BATCH_SIZE", "0", "is 0; the least allowed is 1")
            for part in ("TRAIN_X", "TRAIN_U", "TEST")
        ),
        ("DATALOADER.TEST.SAMPLER", "nope", "is 'nope'; allowed: 'RandomSampler', 'SequentialSampler', "),
        ("DATALOADER.NUM_WORKERS", "-1", "is -1; the least allowed is 0"),
        ("TRAIN.PRINT_FREQ", "0", "is 0; the least allowed is 1"),
        ("TRAIN.COUNT_ITER", "nope", "is 'nope'; allowed: 'train_x', 'train_u', 'smaller_one'"),
        ("OPTIM.LR", "-1", "is -1.0; the least allowed is 0"),
        ("OPTIM.LR", "1e999", "is inf; expected a finite number"),
        ("OPTIM.LR", "nan", "is 'nan' (str); expected float"),
        ("OPTIM.WEIGHT_DECAY", "-1", "is -1.0; the least allowed is 0"),
        ("OPTIM.MAX_EPOCH", "0", "is 0; the least allowed is 1"),
        ("OPTIM.MAX_EPOCH", "-1", "is -1; the least allowed is 1"),
        ("OPTIM.NAME", "nope", "is 'nope'; allowed: 'adam', "),
        ("OPTIM.LR_SCHEDULER", "nope", "is 'nope'; allowed: 'single_step', "),
        ("OPTIM.WARMUP_TYPE", "nope", "is 'nope'; allowed: 'constant', 'linear'"),
        ("SEED", "4294967296", "is 4294967296; the most allowed is 4294967295"),
        ("SEED", "-2", "is -2; the least allowed is -1"),
        ("TEST.SPLIT", "nope", "is 'nope'; allowed: 'val', 'test'"),
        ("TEST.FINAL_MODEL", "nope", "is 'nope'; allowed: 'last_step', 'best_val'"),
        ("INPUT.INTERPOLATION", "nope", "is 'nope'; allowed: 'bilinear', "),
        ("INPUT.VIEWS", "-1", "is -1; the least allowed is 0"),
    ],
)
def test_a_setting_that_makes_no_sense_is_named_before_any_work(tmp_path, capsys, key, value, message):
    for command in (
        ["train", "--dataset-config-file", DIGITS, "--config-file", TINY, "--trainer", "CoOp", "--output-dir"],
        ["base2new", "--datasets", "digits", "--methods", "coop", "--out"],
    ):
        flag = ["--set"] if command[0] == "base2new" else []
        assert cli.main([*command, str(tmp_path / "out"), *flag, key, value]) == 2
        err = capsys.readouterr().err
        assert err == f"dicap: ConfigError: {key} {message}" + err[err.index(message) + len(message) :]
        assert len(err.splitlines()) == 1 and not (tmp_path / "out").exists()


def test_the_default_settings_of_dassl_are_allowed():
    from dassl.config import get_cfg_default
    from dassl.data.transforms import INTERPOLATION_MODES
    from dassl.optim.lr_scheduler import AVAI_SCHEDS
    from dassl.optim.optimizer import AVAI_OPTIMS

    from dicap.config import DASSL
    from dicap.results import flatten

    values = flatten(get_cfg_default())
    assert {key: option.check(values[key], key) for key, option in DASSL.items()} == {key: values[key] for key in DASSL}
    for key, known in (("NAME", AVAI_OPTIMS), ("LR_SCHEDULER", AVAI_SCHEDS)):
        assert set(DASSL[f"OPTIM.{key}"].choices) == set(known)
    assert set(DASSL["INPUT.INTERPOLATION"].choices) == set(INTERPOLATION_MODES)


@pytest.mark.parametrize("content", [b"", b"hello"])
@pytest.mark.parametrize("args", [("MODEL.BACKBONE.NAME",), ("MODEL.INIT_WEIGHTS",), ("--eval-only", "--model-dir")])
def test_a_damaged_file_of_weights_is_one_message(args, content, tmp_path, embedded_data, capfd):
    path = tmp_path / "prompt_learner" / "model-best.pth.tar"
    path.parent.mkdir()
    path.write_bytes(content)
    value = str(tmp_path if "--model-dir" in args else path)
    code = train("--trainer", "CoOp", "--output-dir", str(tmp_path / "out"), *args, value, *QUICK)
    err = capfd.readouterr().err
    assert code == 2 and err.startswith(f"dicap: ConfigError: {path} is damaged") and "Traceback" not in err


def test_debug_shows_the_traceback(capfd):
    assert cli.main(["report", "/no/such/folder", "--debug"]) == 1
    assert "Traceback" in capfd.readouterr().err


@pytest.mark.parametrize("args", [[], ["nothing"], ["base2new", "--seeds", "one"], ["train", "--engine", "other"]])
def test_a_command_line_that_cannot_be_is_a_usage_error(args, capsys):
    with pytest.raises(SystemExit) as exit_code:
        cli.main(args)
    assert exit_code.value.code == 2 and "usage: " in capsys.readouterr().err


def test_options_tells_every_setting_of_a_method(capsys):
    from dicap.trainers.dicap import DiCap

    assert cli.main(["options", "dicap"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("TRAINER.DICAP") and all(key in out for key in DiCap.OPTIONS)
    assert cli.main(["options"]) == 0
    assert "TRAINER.COOP" in capsys.readouterr().out
    assert cli.main(["options", "dicap:coop+featuremap"]) == 0
    out = capsys.readouterr().out
    assert all(section in out for section in ("TRAINER.DICAP", "TRAINER.COOP", "TRAINER.FEATUREMAP"))


def test_the_world_has_its_own_command_line(capsys):
    with pytest.raises(SystemExit) as exit_code:
        cli.main(["world", "--help"])
    assert exit_code.value.code == 0 and "pretrain" in capsys.readouterr().out


def test_an_interrupt_is_no_traceback(monkeypatch, capsys):
    def interrupted(args):
        raise KeyboardInterrupt

    monkeypatch.setitem(cli.COMMANDS, "report", interrupted)
    assert cli.main(["report", "x"]) == 130
    assert "goes on from here" in capsys.readouterr().err


def test_sigterm_ends_as_an_interrupt_does_and_only_while_a_command_runs(monkeypatch, capsys):
    ended, before = [], signal.getsignal(signal.SIGTERM)

    def terminated(args):
        try:
            signal.raise_signal(signal.SIGTERM)
        finally:
            ended.append("in order")

    monkeypatch.setitem(cli.COMMANDS, "report", terminated)
    signal.signal(signal.SIGTERM, lambda *_: None)  # so that this test ends, whatever the command does
    try:
        assert cli.main(["report", "x"]) == 143 and ended == ["in order"]
        err = capsys.readouterr().err
        assert "goes on from here" in err and "Traceback" not in err
        assert signal.raise_signal(signal.SIGTERM) is None
    finally:
        signal.signal(signal.SIGTERM, before)


@pytest.mark.parametrize("key", ["INPUT.TRANSFORMS", "TEST.EVALUATOR"])
def test_a_name_that_the_engine_does_not_know_is_no_traceback(key, capfd, tmp_path, embedded_data):
    value = "['nope']" if key == "INPUT.TRANSFORMS" else "nope"
    files = "--dataset-config-file configs/datasets/digits.yaml --config-file configs/trainers/ZeroshotCLIP/tiny.yaml"
    code = cli.main(["train", "--trainer", "ZeroshotCLIP", "--output-dir", str(tmp_path), *files.split(), key, value])
    error = capfd.readouterr().err
    assert code == 1 and "nope" in error and "Traceback" not in error


def test_numbers_that_blew_up_are_no_traceback(monkeypatch, capsys):
    def blown_up(args):
        raise FloatingPointError("the loss is nan in epoch 1")

    monkeypatch.setitem(cli.COMMANDS, "report", blown_up)
    assert cli.main(["report", "x"]) == 1
    assert capsys.readouterr().err == "dicap: FloatingPointError: the loss is nan in epoch 1\n"


def test_an_interpreter_without_the_requirements_is_told_what_to_do(monkeypatch, capsys):
    def needs(name):
        def command(args):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

        return command

    monkeypatch.setitem(cli.COMMANDS, "report", needs("yacs.config"))
    assert cli.main(["report", "x"]) == 2
    err = capsys.readouterr().err
    assert (
        "Traceback" not in err
        and "No module named 'yacs.config'" in err
        and "pip install" in err
        and sys.executable in err
    )
    monkeypatch.setitem(cli.COMMANDS, "report", needs("dicap.nothing"))  # a bug of ours
    assert cli.main(["report", "x"]) == 1 and "Traceback" in capsys.readouterr().err


@pytest.mark.parametrize("module", ["dicap", "dicap.cli"])
def test_python_m(module, tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", module, "report", str(tmp_path)],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 1 and "scripts/dicap/base2new.sh" in done.stderr


def test_a_prompt_tested_by_hand_says_what_it_was_trained_on(tmp_path, embedded_data):
    source, target = tmp_path / "source/train/x/seed0", tmp_path / "cross_dataset/test/x/seed0"
    small = [word for part in ("TRAIN", "VAL", "TEST") for word in (f"DATASET.CAUSALSHAPES.PER_CLASS_{part}", "2")]
    assert train("--trainer", "CoOp", "--seed", "0", "--output-dir", str(source), *QUICK) == 0
    assert (
        cli.main(
            [
                "train",
                "--dataset-config-file",
                str(ROOT / "configs/datasets/causal_shapes.yaml"),
                "--config-file",
                TINY,
                "--trainer",
                "CoOp",
                "--seed",
                "0",
                "--output-dir",
                str(target),
                "--model-dir",
                str(source),
                "--eval-only",
                *QUICK,
                *small,
            ]
        )
        == 0
    )
    result = store.read_result(target)
    assert [result[key] for key in ("protocol", "dataset", "trained_on")] == [
        "cross_dataset",
        "causal_shapes",
        "digits",
    ]
    assert store.read_result(source)["protocol"] == "source" and result["steps"] == 0
