"""`dassl` is answered by one copy of each module, in this process and in its children."""

import ast
import functools
import graphlib
import importlib
import pickle
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FORKS = [
    line.split()[:2]
    for line in (Path(__file__).parent / "fork_imports.txt").read_text(encoding="utf-8").splitlines()
    if line and line[0] not in "#-"
]
NAMES = {
    "dassl.config": "get_cfg_default clean_cfg",
    "dassl.engine": "TRAINER_REGISTRY build_trainer TrainerBase SimpleTrainer TrainerX TrainerXU",
    "dassl.engine.trainer": "TrainerX",
    "dassl.engine.build": "TRAINER_REGISTRY",
    "dassl.data": "DataManager DatasetWrapper",
    "dassl.data.data_manager": "DataManager DatasetWrapper build_data_loader",
    "dassl.data.datasets": "DATASET_REGISTRY DatasetBase Datum build_dataset",
    "dassl.data.datasets.base_dataset": "DatasetBase Datum",
    "dassl.data.datasets.build": "DATASET_REGISTRY build_dataset",
    "dassl.data.transforms": "build_transform INTERPOLATION_MODES",
    "dassl.data.transforms.transforms": "build_transform INTERPOLATION_MODES",
    "dassl.data.samplers": "build_sampler RandomDomainSampler SeqDomainSampler RandomClassSampler RandomSampler",
    "dassl.optim": "build_optimizer build_lr_scheduler RAdam ConstantWarmupScheduler LinearWarmupScheduler",
    "dassl.optim.optimizer": "build_optimizer",
    "dassl.optim.lr_scheduler": "build_lr_scheduler ConstantWarmupScheduler",
    "dassl.optim.radam": "RAdam",
    "dassl.metrics": "compute_accuracy",
    "dassl.metrics.accuracy": "compute_accuracy",
    "dassl.evaluation": "build_evaluator EVALUATOR_REGISTRY EvaluatorBase Classification",
    "dassl.evaluation.evaluator": "EvaluatorBase Classification",
    "dassl.evaluation.build": "EVALUATOR_REGISTRY",
    "dassl.modeling": "build_backbone build_head BACKBONE_REGISTRY HEAD_REGISTRY",
    "dassl.utils": "Registry check_availability check_isfile collect_env_info count_num_param "
    "listdir_nohidden load_checkpoint save_checkpoint resume_from_checkpoint load_pretrained_weights "
    "mkdir_if_missing read_image read_json write_json set_random_seed setup_logger tolist_if_not "
    "AverageMeter MetricMeter",
    "dassl.utils.tools": "set_random_seed read_image",
    "dassl.utils.torchtools": "load_checkpoint save_checkpoint load_pretrained_weights",
    "dassl.utils.meters": "AverageMeter MetricMeter",
    "dassl.utils.logger": "setup_logger Logger",
    "dassl.utils.registry": "Registry",
}


@pytest.mark.parametrize("module", NAMES)
def test_name_resolves_to_the_one_module(module):
    alias = importlib.import_module(module)
    real = importlib.import_module("dicap.engine" + module.removeprefix("dassl"))
    assert alias is real and sys.modules[module] is real
    assert alias.__spec__.name == alias.__name__ == real.__name__
    for name in NAMES[module].split():
        assert hasattr(alias, name), name


@pytest.mark.parametrize("module, name", FORKS)
def test_what_forks_import_is_there(module, name):
    functools.reduce(getattr, name.split("."), importlib.import_module(module))


def test_identity_isinstance_and_pickle():
    import dassl.data.datasets
    from dassl.data.datasets.base_dataset import Datum

    import dicap.engine.data.datasets

    assert dassl.data.datasets is dicap.engine.data.datasets
    assert dassl.data.datasets.Datum is dicap.engine.data.datasets.Datum is Datum
    item = pickle.loads(pickle.dumps(Datum(__file__, 2, 1, "a")))
    assert isinstance(item, dicap.engine.data.datasets.Datum)
    assert (item.impath, item.label, item.domain, item.classname) == (__file__, 2, 1, "a")


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_pickled_datum_is_dassls(tmp_path, protocol):
    """A few-shot draw that a fork pickles on this engine can be read where Dassl is installed and dicap is not."""
    from dassl.data.datasets import Datum

    (tmp_path / "a").touch()
    data = pickle.dumps({"train": [Datum(str(tmp_path / "a"))]}, protocol)
    assert b"dassl.data.datasets.base_dataset" in data and b"dicap" not in data


def test_a_datum_pickled_under_dassls_name_is_read():
    frozen = (
        b"cdassl.data.datasets.base_dataset\nDatum\n)\x81}(U\x07_impathU\x01aU\x06_labelK\x03"
        b"U\x07_domainK\x00U\x0a_classnameU\x01bub."
    )
    item = pickle.loads(b"\x80\x02" + frozen)
    assert (item.impath, item.label, item.classname) == ("a", 3, "b")


def test_a_module_that_the_engine_lacks_is_named_with_the_way_out():
    with pytest.raises(ModuleNotFoundError, match="no module dassl.engine.da.*DICAP_ENGINE=dassl"):
        importlib.import_module("dassl.engine.da")
    with pytest.raises(ImportError):
        from dassl.engine import FixMatch  # noqa: F401


def imports(path, name):
    """The modules of dicap that a file's import statements name, `from` a package: also its members that are modules."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        named = [alias.name for alias in node.names] if isinstance(node, (ast.Import, ast.ImportFrom)) else []
        if isinstance(node, ast.ImportFrom):
            named = [node.module, *(f"{node.module}.{member}" for member in named)]
        yield from (module for module in named if module.split(".")[0] == "dicap" and module != name)


def modules(*patterns):
    """Name to file."""
    files = [file for pattern in patterns for file in (ROOT / "dicap").glob(pattern)]
    return {".".join(f.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): f for f in files}


def test_the_engine_imports_of_dicap_only_its_reader_of_tensors_its_writer_its_error_and_its_log():
    for name, file in modules("engine/**/*.py").items():
        for module in imports(file, name):
            allowed = "dicap.engine", "dicap.inert", "dicap.files", "dicap.options", "dicap.console"
            assert module == "dicap" or module.startswith(allowed), f"{name} imports {module}"


def test_no_import_circles():
    files = modules("engine/**/*.py", "backbones/*.py", "choose_engine.py")
    graph = {name: [module for module in imports(file, name) if module in files] for name, file in files.items()}
    graphlib.TopologicalSorter(graph).prepare()  # raises CycleError


def test_importing_the_engine_is_cheap(python):
    code = "import dicap.engine, sys; print([m for m in ('torch', 'numpy', 'yacs', 'torchvision') if m in sys.modules])"
    assert python("-c", code).strip() == "[]"


def test_a_foreign_dassl_in_the_process_stops_it(python, tmp_path):
    (tmp_path / "dassl.py").write_text("")
    code = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); import dassl; import dicap.engine"
    done = python("-c", code, ok=False)
    assert done.returncode
    assert "another dassl is imported already" in done.stderr and "DICAP_ENGINE=dassl" in done.stderr


WORKERS = """
import sys
from dassl.data.datasets import Datum
from dassl.config import get_cfg_default
from dassl.data import DatasetWrapper
from torch.utils.data import DataLoader
from torchvision.transforms import ToTensor

class Mine(DatasetWrapper):
    def __getitem__(self, index):
        import dicap.engine.data.datasets
        assert isinstance(self.data_source[index], dicap.engine.data.datasets.Datum)
        return {**super().__getitem__(index), "where": __name__}

if __name__ == "__main__":
    data = Mine(get_cfg_default(), [Datum(sys.argv[1], 4)], ToTensor())
    for method in ("spawn", "forkserver"):
        for batch in DataLoader(data, num_workers=1, multiprocessing_context=method):
            print(method, batch["label"].item(), batch["where"])
    print(sys.argv[1:], sys.path[0])
"""


def test_another_repositorys_script_runs_unmodified_also_in_its_workers(python, pictures, tmp_path):
    (tmp_path / "script.py").write_text(WORKERS)
    out = python("-m", "dicap.engine", tmp_path / "script.py", f"{pictures}/test/red/0.png")
    assert "spawn 4 ['__mp_main__']" in out and "forkserver 4 ['__mp_main__']" in out
    assert out.splitlines()[-1] == f"{[pictures + '/test/red/0.png']} {tmp_path}"


def test_runner_says_how_it_is_used(python):
    assert "usage: python -m dicap.engine SCRIPT" in python("-m", "dicap.engine", "--help")
    done = python("-m", "dicap.engine", "/nowhere.py", ok=False)
    assert done.returncode == 1 and "no script at /nowhere.py" in done.stderr


def test_a_script_finds_its_own_folder_and_pkg_resources(python, tmp_path):
    (tmp_path / "datasets").mkdir()
    (tmp_path / "datasets" / "__init__.py").write_text("here = 'the fork'")
    (tmp_path / "train.py").write_text("""
import datasets, dassl
from pkg_resources import packaging
print(datasets.here, packaging.version.parse("1") and dassl.__name__, __name__)
""")
    out = python("-m", "dicap.engine", Path("train.py"), cwd=tmp_path)
    assert out.split() == ["the", "fork", "dicap.engine", "__main__"]
