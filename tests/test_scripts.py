"""The wrappers in scripts/: identical, from anywhere, explained, and strict before any work."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
WRAPPERS = sorted((ROOT / "scripts").glob("*/*.sh"))
KNOBS = ("DATA", "OUT", "SEEDS", "SHOTS", "CFG", "BACKBONE", "ENGINE", "JOBS")
PROTOCOLS = ("base2new", "few_shot", "cross_dataset", "domain_generalization")
OTHERS = {**dict.fromkeys(PROTOCOLS, ("METHODS", "MISSING")), "ablations": (), "select": ()}
OF_PROTOCOL = [path for path in WRAPPERS if path.stem in PROTOCOLS]
BASE2NEW = [path for path in WRAPPERS if path.stem == "base2new"]


def bash(script, *args, cwd="/", **knobs):
    env = {key: value for key, value in os.environ.items() if key not in (*KNOBS, "METHODS", "MISSING")}
    return subprocess.run(
        ["bash", str(script), *args],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=300,
        env={**env, "PYTHON": sys.executable, **knobs},
    )


SMALL = [
    "--set",
    "OPTIM.MAX_EPOCH",
    "1",
    "TRAINER.DICAP.TRAIN_STEPS",
    "5",
    *(word for part in ("TRAIN", "VAL", "TEST") for word in (f"DATASET.CAUSALSHAPES.PER_CLASS_{part}", "2")),
    *(
        word
        for shift in ("SCENES", "COLOURS", "NOISE")
        for word in (f"DATASET.CAUSALSHAPES{shift}.PER_CLASS_TEST", "2")
    ),
]


@pytest.fixture(scope="module")
def echo(tmp_path_factory):
    """An interpreter that prints its arguments, one a line: what a script asks for, without starting Python."""
    path = tmp_path_factory.mktemp("echo") / "python"
    path.write_text('#!/usr/bin/env bash\nprintf "%s\\n" "$@"\n')
    path.chmod(0o755)
    return str(path)


def arguments_of(asked):
    """What the command line gets from a script that was run with `echo`."""
    assert asked.returncode == 0, asked.stderr
    script, *arguments = asked.stdout.splitlines()
    assert script == str(ROOT / "train.py")
    return arguments


def test_every_method_has_its_wrapper():
    from dassl.engine import TRAINER_REGISTRY

    from dicap import discover
    from dicap.experiments.protocols import find_method

    discover.load_all()
    ours = {
        name
        for name in TRAINER_REGISTRY.registered_names()
        if TRAINER_REGISTRY.get(name).__module__.startswith("dicap.trainers.")
    }
    assert {find_method(path.parent.name) for path in BASE2NEW} == ours
    learning = {path.parent.name for path in WRAPPERS if path.stem == "select"}
    assert (
        {"coop", "cocoop", "dicap", "clip_adapter", "feature_map"} <= learning < {path.parent.name for path in BASE2NEW}
    )  # zeroshot chooses nothing


def test_the_wrappers_are_identical():
    assert len(WRAPPERS) >= 4 and len({path.read_bytes() for path in WRAPPERS}) == 1


@pytest.mark.parametrize("wrapper", WRAPPERS, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_help(wrapper):
    done = bash(wrapper, "--help")
    assert done.returncode == 0 and done.stdout.startswith("Usage: ") and str(wrapper.relative_to(ROOT)) in done.stdout
    assert all(knob in done.stdout for knob in (*KNOBS, *OTHERS[wrapper.stem]))
    assert f"usage: dicap {wrapper.stem}" in done.stdout


@pytest.mark.parametrize("wrapper", OF_PROTOCOL, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_from_anywhere_its_plan_is_its_method(wrapper, tmp_path, embedded_data, echo, monkeypatch, caplog):
    from dicap import cli
    from dicap.experiments.protocols import METHODS, find_method

    monkeypatch.chdir(tmp_path)
    caplog.set_level("INFO", "dicap")
    asked = bash(
        wrapper, *([] if "domain" in wrapper.stem else ["digits"]), cwd=tmp_path, PYTHON=echo, SEEDS="1 2", SHOTS="3"
    )
    assert cli.main([*arguments_of(asked), "--dry-run", *SMALL]) == 0
    four = [*METHODS[:3], "DiCap:CoOp"]  # DiCap's compares them
    methods = four if wrapper.parent.name == "dicap" else [find_method(wrapper.parent.name)]
    runs = {"base2new": 2 * 2, "few_shot": 2, "cross_dataset": 2 * 2, "domain_generalization": 4 * 2}[wrapper.stem]
    assert f"{runs * len(methods)} to run, 0 finished" in caplog.text
    assert all(f"{method} (tiny), seed 2, " in caplog.text for method in methods)
    assert not list(tmp_path.iterdir())  # a plan writes nothing


@pytest.mark.parametrize(
    "args, knobs, message",
    [
        (["mnist"], {}, "allowed: causal_shapes"),
        (["digits", "one"], {}, "seed 'one'"),
        (["caltech101"], {}, "DATA="),
        (["--fast"], {}, "unrecognized arguments: --fast"),
        ([], {"SHOTS": "0"}, "SHOTS='0'"),
        ([], {"SEEDS": "a"}, "seed 'a'"),
        ([], {"SHOTS": "1 two"}, "SHOTS='1 two'"),
        (["digits"], {"MISSING": "no"}, "--missing"),
        ([], {"PYTHON": "/no/python"}, "/no/python"),
        ([], {"METHODS": "CoAp"}, "unknown method 'CoAp'"),
        (["all"], {"DATA": "/no/folder"}, "no folder '/no/folder'"),
        (["digits"], {"CFG": "vit"}, "no recipe vit"),
    ],
)
def test_a_bad_argument_stops_before_any_work(args, knobs, message, tmp_path, echo, monkeypatch, capfd):
    from dicap import cli

    monkeypatch.chdir(tmp_path)
    asked = bash(ROOT / "scripts/dicap/base2new.sh", *args, cwd=tmp_path, **{"PYTHON": echo, **knobs})
    code, error = asked.returncode, asked.stderr
    if code == 0:  # the script hands it on, and the command refuses it
        try:
            code = cli.main(arguments_of(asked))
        except SystemExit as usage:
            code = usage.code
        error = capfd.readouterr().err
    assert code == 2 and message in error and not list(tmp_path.iterdir())


def test_knobs_reach_the_plan(tmp_path):
    knobs = {"DATA": str(tmp_path), "SHOTS": "4", "SEEDS": "7", "OUT": "there", "CFG": "vit_b16_ep50"}
    script = ROOT / "scripts/coop/base2new.sh"
    done = bash(script, "all", "--dry-run", cwd=tmp_path, METHODS="CoOp CoCoOp", **knobs)
    assert done.returncode == 2 and "configs/trainers/CoCoOp has no recipe vit_b16_ep50" in done.stderr
    done = bash(script, "caltech101", "--dry-run", cwd=tmp_path, **knobs)
    assert "seeds 7; 4 shots) in there/base2new" in done.stdout and "CoOp (vit_b16_ep50); seeds 7" in done.stdout


def test_knobs_and_arguments_of_a_selection(tmp_path, embedded_data):
    knobs = {"SEEDS": "1-2", "SHOTS": "4", "OUT": "there", "JOBS": "2"}
    script = ROOT / "scripts/coop/select.sh"
    done = bash(script, "digits", "--folds", "2", "--grid", "N_CTX=2,4", "--dry-run", cwd=tmp_path, **knobs)
    assert done.returncode == 0, done.stderr
    assert "select: CoOp on digits, 2 points, 2 folds, seeds 1 2: 16 runs" in done.stdout
    assert not list(tmp_path.iterdir())
    done = bash(script, "digits", cwd=tmp_path, SEEDS="1 two")
    assert done.returncode == 2 and "seed 'two'" in done.stderr


def test_knobs_and_arguments_of_an_ablation(tmp_path):
    knobs = {"SEEDS": "101-103", "OUT": "there"}
    script = ROOT / "scripts/dicap/ablations.sh"
    done = bash(script, "causal_shapes", "--cells", "CoOp", "no-cf", "--dry-run", cwd=tmp_path, **knobs)
    assert done.returncode == 0, done.stderr
    assert "no-cf: causal_shapes, DiCap:CoOp (tiny), seed 103, new classes: to run" in done.stdout
    assert "12 to run, 0 finished" in done.stdout
    assert not list(tmp_path.iterdir())
    done = bash(script, "shapes", cwd=tmp_path)
    assert done.returncode == 2 and "no ablation 'shapes'" in done.stderr


def test_options_behind_the_arguments_reach_the_command(echo):
    script = ROOT / "scripts/coop/few_shot.sh"
    done = bash(
        script,
        "--dry-run",
        "digits",
        "7",
        "--set",
        "OPTIM.LR",
        "1",
        "--dry-run",
        PYTHON=echo,
        SHOTS="1 2",
        MISSING="skip",
    )
    assert done.stdout.split()[1:] == [
        "few_shot",
        "--dry-run",
        "--datasets",
        "digits",
        "--methods",
        "coop",
        "--missing",
        "skip",
        "--seeds",
        "7",
        "--shots",
        "1",
        "2",
        "--set",
        "OPTIM.LR",
        "1",
        "--dry-run",
    ]


# what keeps a script small: arguments, knobs, the table that it ends in
SMALLEST = {
    **dict.fromkeys(PROTOCOLS, (["digits", *SMALL], {"SEEDS": "1", "SHOTS": "1"}, "*.md")),
    "domain_generalization": (SMALL, {"SEEDS": "1", "SHOTS": "1"}, "*.md"),
    "ablations": (
        ["causal_shapes", "--cells", "DiCap", "CoOp", *SMALL],
        {"SEEDS": "1", "SHOTS": "1"},
        "ablations/*.md",
    ),
    "select": (["digits", "--folds", "2", "--grid", "OPTIM.MAX_EPOCH=1"], {"SEEDS": "1", "SHOTS": "2"}, "select/*.md"),
}


@pytest.mark.parametrize("wrapper", WRAPPERS, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_every_script_ends_in_its_table(wrapper, tmp_path, embedded_data, echo, monkeypatch):
    """The embedded default at its smallest, in this process; the next test starts four of them as users do."""
    from dicap import cli

    monkeypatch.chdir(tmp_path)
    args, knobs, table = SMALLEST[wrapper.stem]
    own = {"METHODS": wrapper.parent.name} if wrapper.stem in PROTOCOLS else {}
    assert cli.main(arguments_of(bash(wrapper, *args, cwd=tmp_path, PYTHON=echo, **knobs, **own))) == 0
    tables = list((tmp_path / "output").glob(table))
    assert tables and any("incomplete" not in path.read_text() for path in tables)
    assert list((tmp_path / "output").rglob("result.json"))


@pytest.mark.parametrize(
    "method, protocol, dataset, results",
    [
        ("zeroshot", "base2new", "digits", 2),
        ("coop", "few_shot", "digits", 2),
        ("cocoop", "cross_dataset", "digits", 2),
        ("dicap", "domain_generalization", "all", 4),
    ],
)
def test_each_protocol_from_its_script_to_its_table(method, protocol, dataset, results, tmp_path, embedded_data):
    """The embedded default at its smallest: one epoch, one seed, one or two shots."""
    names = [] if dataset == "all" else [dataset]
    knobs = {"SHOTS": "1 2" if protocol == "few_shot" else "1", "SEEDS": "1", "METHODS": method}
    done = bash(ROOT / f"scripts/{method}/{protocol}.sh", *names, *SMALL, cwd=tmp_path, **knobs)
    assert done.returncode == 0, done.stderr
    assert len(list((tmp_path / "output").rglob("result.json"))) == results
    assert (tmp_path / f"output/{protocol}.md").is_file() and done.stdout.count("100 %") < 9
    assert f"{results} runs in " in done.stdout and "0 failed" in done.stdout


def test_a_script_that_was_killed_goes_on_and_a_failure_is_told(tmp_path, embedded_data):
    script, knobs = ROOT / "scripts/coop/few_shot.sh", {"SHOTS": "1", "SEEDS": "1 2 3"}
    env = {**os.environ, "PYTHON": sys.executable, **knobs}
    process = subprocess.Popen(
        ["bash", str(script), "digits", *SMALL], cwd=tmp_path, env=env, stdout=subprocess.DEVNULL
    )
    while not (done := list(tmp_path.rglob("result.json"))):  # the first of three is there
        assert process.poll() is None
        time.sleep(0.005)
    process.kill()
    process.wait()
    stamps = {path: path.stat().st_mtime_ns for path in done}
    (tmp_path / "output/few_shot/train/digits/shots_1/CoOp/tiny/seed3").write_text("a file where a folder should be")
    again = bash(script, "digits", *SMALL, cwd=tmp_path, **knobs)
    assert again.returncode == 1 and "1 of 3 runs failed:\n- digits, CoOp (tiny), seed 3, 1 shot: " in again.stderr
    assert " finished before\n" in again.stdout and "Traceback" not in again.stderr and "few_shot.md" in again.stdout
    assert {path: path.stat().st_mtime_ns for path in stamps} == stamps
    assert len(list(tmp_path.rglob("result.json"))) == 2
