"""auto takes an installed Dassl that can run here, and passes over one that cannot, with the cause."""

import json

import pytest

WORKING = {
    "__init__.py": "",
    "data.py": "",
    "engine.py": "",
    "evaluation.py": "",
    "config.py": "from types import SimpleNamespace as N\ndef get_cfg_default(): return N(OPTIM=N(LR=1.0))",
    "optim.py": """
import torch
def build_optimizer(model, cfg): return torch.optim.SGD(model.parameters(), lr=cfg.LR)
def build_lr_scheduler(optimizer, cfg): return torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 3)
""",
    "utils.py": """
import os, torch
def save_checkpoint(state, folder): torch.save(state, os.path.join(folder, "model.pth.tar-1"))
def load_checkpoint(path): return torch.load(path)
""",
}
AS_UPSTREAM = """
import torch
from torch.optim.lr_scheduler import LRScheduler
def build_optimizer(model, cfg): return torch.optim.SGD(model.parameters(), lr=1.0)
class Warmup(LRScheduler):
    def __init__(self, optimizer): super().__init__(optimizer, -1, gone=False)
def build_lr_scheduler(optimizer, cfg): return Warmup(optimizer)
"""
PICKLED = """
import torch
from torch.optim.lr_scheduler import CosineAnnealingLR
def build_optimizer(model, cfg): return torch.optim.SGD(model.parameters(), lr=1.0)
class Holder(CosineAnnealingLR):
    def state_dict(self): return {"successor": self}
def build_lr_scheduler(optimizer, cfg): return Holder(optimizer, 3)
"""
REFUSING = WORKING["utils.py"].replace("torch.load(path)", "torch.load(path, weights_only=True)")  # torch >= 2.6


@pytest.fixture
def choose(python, tmp_path):
    """Calls choose_engine in a child that sees a fake Dassl; gives each answer as [name, reason] or an error's text."""

    def run(files, *choices, before="", **environment):
        if files is not None:
            (tmp_path / "dassl").mkdir()
            for name, text in files.items():
                (tmp_path / "dassl" / name).write_text(text)
        code = f"""
import json, os, sys
sys.path.insert(0, {str(tmp_path)!r})
{before}
from dicap.choose_engine import EngineError, choose_engine
for choice in {choices!r}:
    try: print("ANSWER", json.dumps(choose_engine(choice)))
    except EngineError as error: print("ANSWER", json.dumps(str(error)))
import dassl
print("RUNS", dassl.__name__, os.environ.get("DICAP_ENGINE"))
"""
        lines = python("-c", code, **environment).splitlines()
        return [json.loads(line[7:]) for line in lines if line.startswith("ANSWER")], lines[-1]

    return run


def test_a_dassl_that_can_run_is_taken(choose):
    (first, second), runs = choose(WORKING, "auto", "auto")
    assert first[0] == second[0] == "dassl" and "can run here" in first[1]
    assert runs == "RUNS dassl dassl"


def test_warnings_and_progress_stay_on_with_a_dassl_that_switches_them_off(choose):
    off = {"engine.py": "import logging; logging.disable(logging.WARNING)"}
    told = "atexit.register(lambda: (__import__('dassl.engine'), print(logging.root.manager.disable)))"
    assert choose({**WORKING, **off}, "auto", before=f"import atexit, logging; {told}")[1] == "0"


def test_builtin_is_taken_where_it_is_asked_for(choose):
    (first, again), runs = choose(WORKING, "builtin", "builtin")
    assert first == again == ["builtin", "as asked"]
    assert runs == "RUNS dicap.engine builtin"


def test_the_environment_decides_for_auto(choose):
    (first,), runs = choose(WORKING, "auto", DICAP_ENGINE="builtin")
    assert first == ["builtin", "as DICAP_ENGINE says"] and runs == "RUNS dicap.engine builtin"


@pytest.mark.parametrize(
    "change, cause",
    [
        ({"optim.py": AS_UPSTREAM}, "building a schedule with warm-up failed with TypeError"),
        ({"optim.py": PICKLED, "utils.py": REFUSING}, "saving and loading a checkpoint failed with UnpicklingError"),
        ({"data.py": "import wilds_is_missing"}, "importing it failed with ModuleNotFoundError"),
        ({"engine.py": "import os; os._exit(3)"}, "ended Python with code 3"),
    ],
)
def test_a_dassl_that_cannot_run_is_passed_over_with_the_cause(choose, change, cause):
    (refused, chosen), runs = choose({**WORKING, **change}, "dassl", "auto")
    assert cause in refused and "--engine builtin" in refused
    assert chosen[0] == "builtin" and cause in chosen[1]
    assert runs == "RUNS dicap.engine builtin"
    if "wilds_is_missing" in change.get("data.py", ""):
        assert "pip install wilds_is_missing" in refused


def test_no_dassl_at_all(choose):
    (refused, chosen, unknown), runs = choose(None, "dassl", "auto", "mine")
    assert "no Dassl is installed" in refused and "pip install --no-deps" in refused
    assert chosen == ["builtin", "no Dassl is installed"] and runs == "RUNS dicap.engine builtin"
    assert "engine mine: there are auto, dassl, builtin" in unknown


def test_an_engine_in_use_stays(choose):
    (kept, refused), runs = choose(WORKING, "auto", "builtin", before="import dassl")
    assert kept[0] == "dassl" and "already imported" in kept[1]
    assert "DICAP_ENGINE=builtin" in refused and runs.startswith("RUNS dassl")
