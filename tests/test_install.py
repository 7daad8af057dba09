"""Both install forms: only `dicap` is installed, with its data, and Hugging Face's `datasets` stays what it is.

A small stand-in distribution named `datasets` is enough: what is tested is which one an import finds.
"""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
WHERE = "(__import__('dicap').__file__, __import__('datasets').__version__)"
SCRIPT = f"""
import json, multiprocessing, sys
import dicap, datasets
if __name__ == "__main__":
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        print("FOUND", json.dumps([[dicap.__file__, datasets.__version__], pool.apply(eval, ({WHERE!r},))]))
"""
PLUGIN = f"""
import json, multiprocessing
import dicap, datasets
with multiprocessing.get_context("spawn").Pool(1) as pool:
    print("FOUND", json.dumps([[dicap.__file__, datasets.__version__], pool.apply(eval, ({WHERE!r},))]))
"""


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A copy of the repository, so that building leaves nothing behind in it."""
    copy = tmp_path_factory.mktemp("source") / "dicap"
    copy.mkdir()
    for name in ("dicap", "trainers", "datasets", "configs"):
        shutil.copytree(ROOT / name, copy / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("setup.py", "pyproject.toml", "train.py", "LICENSE", "NOTICE.md", "README.md", "MANIFEST.in"):
        if (ROOT / name).is_file():
            shutil.copy(ROOT / name, copy)
    return copy


@pytest.fixture(scope="module")
def wheel(source, tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    pip(sys.executable, "wheel", "--no-deps", "--no-build-isolation", "-w", str(folder), str(source))
    return next(folder.glob("*.whl"))


def pip(python, *args):
    command = [sys.executable, "-m", "pip", "--python", str(python), "-q", "--disable-pip-version-check", *args]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module", params=["plain", "editable"])
def python(request, source, wheel, tmp_path_factory):
    """The interpreter of an environment with dicap, a stand-in `datasets`, and this environment's packages."""
    folder = tmp_path_factory.mktemp(request.param)
    venv.create(folder, symlinks=True)
    site = next((folder / "lib").glob("python3*/site-packages"))
    others = tmp_path_factory.mktemp("others")  # torch and the rest, without a dicap that is installed there
    for entry in Path(sysconfig.get_paths()["purelib"]).iterdir():
        if not entry.name.startswith(("dicap", "__editable__")) and entry.suffix != ".pth":
            (others / entry.name).symlink_to(entry)
    (site / "zz_others.pth").write_text(f"{others}\n")
    (site / "datasets").mkdir()
    (site / "datasets" / "__init__.py").write_text('__version__ = "stand-in"\n')
    python = folder / "bin" / "python"
    what = [str(wheel)] if request.param == "plain" else ["-e", str(source)]
    pip(python, "install", "--no-deps", "--no-index", "--no-build-isolation", "--ignore-installed", *what)
    return python


def found(python, *args, cwd):
    env = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "DICAP_ENGINE"))}
    done = subprocess.run([str(python), *map(str, args)], cwd=cwd, capture_output=True, text=True, env=env, timeout=300)
    line = next((line for line in done.stdout.splitlines() if line.startswith("FOUND ")), None)
    assert line, done.stdout + done.stderr
    return json.loads(line.removeprefix("FOUND "))


def test_the_wheel_holds_dicap_alone_with_all_its_data(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0] for name in names if ".dist-info" not in name} == {"dicap"}
    files = {
        path.relative_to(ROOT).as_posix()
        for kind in ("yaml", "py")
        for top in ("configs", "trainers", "datasets")
        for path in (ROOT / top).rglob(f"*.{kind}")
    }
    assert {f"dicap/{name}" for name in files} <= set(names)
    assert {"dicap/backbones/tiny.safetensors", "dicap/backbones/tiny.md", "dicap/world/model_card.md"} <= set(names)
    assert "dicap/engine/config/defaults.yaml" in names
    modules = {path.relative_to(ROOT).as_posix() for path in (ROOT / "dicap").rglob("*.py")}
    assert modules <= set(names)


def test_outside_the_repository_both_import_also_in_a_spawned_worker(python, tmp_path, source):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    for dicap_file, datasets_version in found(python, script, cwd=tmp_path):
        assert datasets_version == "stand-in"
        assert str(python.parents[1]) in dicap_file or str(source) in dicap_file


def test_inside_the_repository_train_py_leaves_datasets_alone_also_in_a_spawned_worker(python, tmp_path, source):
    plugin = tmp_path / "plugin.py"
    plugin.write_text(PLUGIN)
    here = found(python, "train.py", "--plugin", plugin, "--trainer", "none", cwd=source)
    assert here == [[str(source / "dicap/__init__.py"), "stand-in"]] * 2


def test_the_command_is_installed(python, tmp_path):
    done = subprocess.run([str(python.parent / "dicap"), "--help"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0 and "base2new" in done.stdout


def test_ci_and_readme_run_the_same_command():
    readme = ROOT / "README.md"
    if not readme.is_file():
        pytest.skip("no README yet")
    first = "python -m pip install . && bash scripts/dicap/base2new.sh"
    second = 'python -m pip install ".[test]" && python -m pytest'
    assert first in readme.read_text(encoding="utf-8") and second in readme.read_text(encoding="utf-8")
    assert second in (ROOT / ".ci" / "run").read_text(encoding="utf-8")
