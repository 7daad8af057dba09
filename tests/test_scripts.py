"""The wrappers in scripts/: identical, from anywhere, explained, and strict before any work."""
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
WRAPPERS = sorted((ROOT / "scripts").glob("*/*.sh"))
KNOBS = ("DATA", "OUT", "SEEDS", "SHOTS", "CFG", "BACKBONE", "ENGINE")
OF_PROTOCOL = {"base2new": "METHODS", "ablations": "JOBS", "select": "JOBS"}
BASE2NEW = [path for path in WRAPPERS if path.stem == "base2new"]


def bash(script, *args, cwd="/", **knobs):
    env = {key: value for key, value in os.environ.items() if key not in (*KNOBS, *OF_PROTOCOL.values())}
    return subprocess.run(["bash", str(script), *args], cwd=cwd, capture_output=True, text=True, timeout=300,
                          env={**env, "PYTHON": sys.executable, **knobs})


def test_every_method_has_its_wrapper():
    from dassl.engine import TRAINER_REGISTRY

    from dicap import discover
    from dicap.protocols import find_method

    discover.load_all()
    ours = {name for name in TRAINER_REGISTRY.registered_names()
            if TRAINER_REGISTRY.get(name).__module__.startswith("dicap.trainers.")}
    assert {find_method(path.parent.name) for path in BASE2NEW} == ours
    learning = {path.parent.name for path in WRAPPERS if path.stem == "select"}
    assert {"coop", "cocoop", "dicap"} <= learning < {path.parent.name for path in BASE2NEW}  # zeroshot chooses nothing


def test_the_wrappers_are_identical():
    assert len(WRAPPERS) >= 4 and len({path.read_bytes() for path in WRAPPERS}) == 1


@pytest.mark.parametrize("wrapper", WRAPPERS, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_help(wrapper):
    done = bash(wrapper, "--help")
    assert done.returncode == 0 and done.stdout.startswith("Usage: ") and str(wrapper.relative_to(ROOT)) in done.stdout
    assert all(knob in done.stdout for knob in (*KNOBS, OF_PROTOCOL[wrapper.stem]))
    assert wrapper.stem == "base2new" or f"usage: dicap {wrapper.stem}" in done.stdout


@pytest.mark.parametrize("wrapper", BASE2NEW, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_from_anywhere_its_plan_is_its_method(wrapper, tmp_path):
    from dicap.protocols import find_method

    done = bash(wrapper, "digits", "1", "2", "--dry-run", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    method = find_method(wrapper.parent.name)
    assert f"digits, {method} (tiny), seed 2, new classes: to run" in done.stdout
    assert f"\n{16 if method == 'DiCap' else 4} to run" in done.stdout  # DiCap's compares the four methods
    assert not list(tmp_path.iterdir())  # a plan writes nothing


@pytest.mark.parametrize("args, knobs, message", [
    (["mnist"], {}, "allowed: causal_shapes"), (["digits", "one"], {}, "seed 'one'"), (["caltech101"], {}, "DATA="),
    (["--fast"], {}, "unknown option --fast"), ([], {"SHOTS": "0"}, "SHOTS='0'"), ([], {"SEEDS": "a"}, "seed 'a'"),
    ([], {"PYTHON": "/no/python"}, "/no/python"), ([], {"METHODS": "CoAp"}, "unknown method 'CoAp'"),
    (["all"], {"DATA": "/no/folder"}, "no folder '/no/folder'"), (["digits"], {"CFG": "vit"}, "no recipe vit")])
def test_a_bad_argument_stops_before_any_work(args, knobs, message, tmp_path):
    done = bash(ROOT / "scripts/dicap/base2new.sh", *args, cwd=tmp_path, **knobs)
    assert done.returncode == 2 and message in done.stderr and not list(tmp_path.iterdir())


def test_knobs_reach_the_plan(tmp_path):
    knobs = {"DATA": str(tmp_path), "SHOTS": "4", "SEEDS": "7", "OUT": "there", "CFG": "vit_b16_ep50"}
    script = ROOT / "scripts/coop/base2new.sh"
    done = bash(script, "all", "--dry-run", cwd=tmp_path, METHODS="CoOp CoCoOp", **knobs)
    assert done.returncode == 2 and "configs/trainers/CoCoOp has no recipe vit_b16_ep50" in done.stderr
    done = bash(script, "caltech101", "--dry-run", cwd=tmp_path, **knobs)
    assert "seeds 7; 4 shots) in there/base2new" in done.stdout and "CoOp (vit_b16_ep50), seed 7" in done.stdout


def test_knobs_and_arguments_of_a_selection(tmp_path, embedded_data):
    knobs = {"SEEDS": "1-2", "SHOTS": "4", "OUT": "there", "JOBS": "2"}
    script = ROOT / "scripts/coop/select.sh"
    done = bash(script, "digits", "--folds", "2", "--grid", "N_CTX=2,4", "--dry-run", cwd=tmp_path, **knobs)
    assert done.returncode == 0, done.stderr
    assert "select: CoOp on digits, 2 points, 2 folds, seeds 1 2: 8 runs" in done.stdout
    assert not list(tmp_path.iterdir())
    done = bash(script, "digits", cwd=tmp_path, SEEDS="1 two")
    assert done.returncode == 2 and "seed 'two'" in done.stderr


def test_knobs_and_arguments_of_an_ablation(tmp_path):
    knobs = {"SEEDS": "101-103", "OUT": "there"}
    script = ROOT / "scripts/dicap/ablations.sh"
    done = bash(script, "causal_shapes", "--cells", "CoOp", "no-cf", "--dry-run", cwd=tmp_path, **knobs)
    assert done.returncode == 0, done.stderr
    assert "no-cf, seed 103: to run" in done.stdout and "6 to run, 0 finished" in done.stdout
    assert not list(tmp_path.iterdir())
    done = bash(script, "shapes", cwd=tmp_path)
    assert done.returncode == 2 and "no ablation 'shapes'" in done.stderr


def test_a_run_from_a_script_ends_with_the_table_and_a_failure_stops_it(tmp_path, embedded_data):
    """The embedded default at its smallest: zero-shot on digits."""
    done = bash(ROOT / "scripts/zeroshot/base2new.sh", "digits", "1", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "ZeroshotCLIP" in done.stdout and (tmp_path / "output/base2new.md").is_file()
    (tmp_path / "blocked").write_text("a file where a folder should be")
    done = bash(ROOT / "scripts/zeroshot/base2new.sh", "digits", "1", cwd=tmp_path, OUT="blocked")
    assert done.returncode == 1 and "blocked" in done.stderr and "Traceback" not in done.stderr
