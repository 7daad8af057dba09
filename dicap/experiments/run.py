"""One run: seed, log file, trainer, training or a test of a trained prompt, and result.json in the output folder.

    result = run(cfg)                                             # train, then test
    result = run(cfg, eval_only=True, model_dir="output/...")     # test what another run has trained

Any trainer of the Dassl family works: without `outcomes` the evaluator's labels are measured, as a classification. A trainer may
add `task`, `outcomes` (of each test item in order), `extra_result() -> dict` ("method_record") and `weights_digest` (SHA-256).
"""

import contextlib
import functools
import gc
import hashlib
import importlib.metadata
import io
import logging
import os
import platform
import re
import sys
import time
import traceback
from collections.abc import Iterator
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Any

from dicap import results as store
from dicap.config import facts_of, method_of
from dicap.console import show_log
from dicap.experiments.finished import changed_settings
from dicap.files import FULL
from dicap.options import ConfigError

log = logging.getLogger(__name__)


def run(
    cfg: Any,
    *,
    eval_only: bool = False,
    model_dir: str = "",
    load_epoch: int | None = None,
    no_train: bool = False,
    protocol: str = "",
    dataset: str = "",
    recipe: str = "",
    trained_on: str = "",
) -> dict | None:
    """Train and test, or only test, one trainer on one dataset; write result.json atomically in cfg.OUTPUT_DIR.

    Args:
        cfg: frozen configuration; a SEED of 0 or more is set before anything is built.
        eval_only: load from `model_dir` ("" = nothing to load) at `load_epoch` (None = best, else last) and test.
        no_train: build everything, train nothing, return None.
        protocol, dataset, recipe: names for the result; dataset "" = DATASET.NAME.
        trained_on: name of the dataset that the tested prompt was trained on; "" = this one.
    Returns:
        the result as written, or None where nothing was tested (no_train, TEST.NO_TEST).
    Raises ResultError: the evaluator's labels are not those of the test set. ConfigError: OUTPUT_DIR holds another training.
    """
    from dassl.engine import build_trainer

    dataset = dataset or cfg.DATASET.NAME
    names = {"protocol": protocol, "dataset": dataset, "recipe": recipe, "trained_on": trained_on or dataset}
    if cfg.OUTPUT_DIR and not eval_only and not no_train:
        _check_folder(cfg)
    with _logged(cfg.OUTPUT_DIR):
        _prepare(cfg)
        start = time.perf_counter()
        trainer = build_trainer(cfg)
        seconds = {"build": time.perf_counter() - start}
        if no_train and not eval_only:
            return None
        try:
            _work(trainer, seconds, eval_only, model_dir, load_epoch)
            result = _result(trainer, cfg, names, seconds, eval_only)
        finally:
            trainer.close_writer()
        if result is not None and cfg.OUTPUT_DIR:
            log.info("Result written to %s", store.write_result(cfg.OUTPUT_DIR, result))
    del trainer
    free_memory()
    return result


_engine: list[str] = []  # the line of the first choice: later ones would only say that it is made


def engine_line(choice: str = "auto") -> str:
    """Choose the engine; one line says which runs and why. Raises EngineError where the choice cannot run."""
    from dicap.choose_engine import choose_engine

    name, reason = choose_engine(choice)
    if name == "builtin" and choice == "auto" and PathFinder.find_spec("dassl") is None:
        reason = "no Dassl is installed"  # importing dicap has seen this already, and chosen
    _engine.append(f"Engine: {name} ({reason})")
    return _engine[0]


def _prepare(cfg: Any) -> None:
    """Head of the log, seed, deterministic kernels; the measurement of memory begins."""
    import torch
    from dassl.utils import set_random_seed

    log.info(engine_line())
    if cfg.SEED >= 0:
        log.info("Setting fixed seed: %d", cfg.SEED)
        set_random_seed(cfg.SEED)
    log.info("***************\n** Command **\n***************\n%s", " ".join(sys.argv))
    log.info("************\n** Config **\n************\n%s", cfg)
    log.info("** System info **\n%s\n", _system_info())
    torch.backends.cudnn.benchmark = False  # the choice of kernels by timing would differ from run to run
    torch.backends.cudnn.deterministic = True
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    with contextlib.suppress(OSError):  # the kernel's high-water mark of this process, where there is one
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


@functools.cache
def _system_info() -> str:
    from dassl.utils import collect_env_info

    return collect_env_info()


def _work(trainer: Any, seconds: dict[str, float], eval_only: bool, model_dir: str, load_epoch: int | None) -> None:
    """Train and test, or load and test; notes the seconds of training, of its part before the first epoch ("fit"), of the test."""
    _time(trainer, "test", seconds, "test")
    _time(trainer, "before_train", seconds, "fit")
    start = time.perf_counter()
    if eval_only:
        if model_dir:
            trainer.load_model(model_dir, epoch=load_epoch)
            if load_epoch is None and hasattr(trainer, "learner"):
                _check_measured(trainer, model_dir)
        trainer.test()
    elif getattr(trainer.dm.dataset, "test_only", False) and facts_of(trainer.cfg).fit != "none":
        raise ConfigError(
            f"{type(trainer.dm.dataset).__name__} is a test set of another dataset's classes: nothing is trained on"
            " it; test a prompt with --eval-only --model-dir, or run dicap domain_generalization"
        )
    else:
        trainer.train()
    seconds["train"] = 0.0 if eval_only else time.perf_counter() - start - seconds["test"]


def _check_folder(cfg: Any) -> None:
    """Raises ConfigError: OUTPUT_DIR holds a model that was trained with other settings, and its result."""
    with contextlib.suppress(store.ResultError):
        there = store.read_result(cfg.OUTPUT_DIR)
        trained = there["digests"]["model"] and there["seconds"]["train"]
        if trained and there["digests"]["config"] != store.config_digest(cfg):
            what = f"{cfg.OUTPUT_DIR} holds a finished run ({changed_settings(there, cfg)})"
            raise ConfigError(f"{what}: choose another OUTPUT_DIR (--output-dir), or delete it")


def _check_measured(trainer: Any, model_dir: str) -> None:
    """Raises ResultError: the loaded model is not the one that the result.json of its folder measured."""
    try:
        measured = store.read_result(model_dir)
    except store.ResultError:  # a published model, or an interrupted run's
        return
    if measured["method"] == method_of(trainer.cfg) and measured["digests"]["model"] != model_digest(trainer):
        raise store.ResultError(
            f"{model_dir}: the model there is not the one that its {store.FILE} measured; train it again in another folder, or"
            " name one of its epochs by --load-epoch"
        )


def _time(trainer: Any, name: str, seconds: dict[str, float], part: str) -> None:
    """Let a method of this trainer note in seconds[part] how long its last call took; 0 until it is called."""
    method, seconds[part] = getattr(trainer, name), 0.0

    def timed(*args: Any, **kwargs: Any) -> Any:
        start = time.perf_counter()
        value = method(*args, **kwargs)
        seconds[part] = time.perf_counter() - start
        return value

    setattr(trainer, name, timed)


def _result(trainer: Any, cfg: Any, names: dict[str, str], seconds: dict[str, float], eval_only: bool) -> dict | None:
    """The result of the schema, or None where nothing was tested."""
    measured = _evaluation(trainer, cfg)
    if measured is None:
        return None
    peak, source = _peak_memory(trainer)
    # of a whole training, before a resumed one too
    steps = not eval_only and facts_of(cfg).fit == "steps" and hasattr(trainer, "train_loader_x")
    return {
        "schema": store.SCHEMA,
        **names,
        "method": method_of(cfg),
        "backbone": cfg.MODEL.BACKBONE.NAME,
        "shots": cfg.DATASET.NUM_SHOTS,
        "seed": cfg.SEED,
        "split": cfg.DATASET.get("SUBSAMPLE_CLASSES", "all"),
        "test_set": cfg.TEST.SPLIT,
        **measured,
        "trainable_parameters": sum(value.numel() for value in _parameters(trainer).values()),
        "steps": len(trainer.train_loader_x) * getattr(trainer, "max_epoch", 0) if steps else 0,
        "seconds": {part: round(seconds[part], 3) for part in ("build", "fit", "train", "test")},
        "resumed_from_epoch": int(getattr(trainer, "start_epoch", 0)),
        "peak_memory_mib": peak,
        "peak_memory_source": source,
        "config": store.plain(cfg),
        "digests": {
            "config": store.config_digest(cfg),
            "data": store.data_digest(trainer.dm.dataset),
            "weights": getattr(trainer, "weights_digest", ""),
            "model": model_digest(trainer),
        },
        "versions": _versions(trainer),
        "method_record": store.plain(getattr(trainer, "extra_result", dict)()),
        "status": "complete",
    }


def _evaluation(trainer: Any, cfg: Any) -> dict[str, Any] | None:
    """What was measured on the test items, None where nothing was tested. Raises ResultError: outcomes of other items."""
    from dicap.tasks.classification import Classification
    from dicap.tasks.task import evaluation

    data = trainer.dm.dataset
    items = data.val if cfg.TEST.SPLIT == "val" and data.val else data.test
    outcomes = getattr(trainer, "outcomes", None)
    fits = outcomes is not None and len(outcomes) == len(items)
    if outcomes is None:  # the trainer does not say: labels, as Dassl's evaluator keeps them
        y_true, y_pred = list(trainer.evaluator._y_true), list(trainer.evaluator._y_pred)
        outcomes, fits = list(zip(y_true, y_pred)), y_true == [item.label for item in items]
    if cfg.TEST.NO_TEST and not outcomes:
        return None
    if not fits:
        raise store.ResultError(
            f"{cfg.OUTPUT_DIR}: there are {len(outcomes)} labels or outcomes that are not those of the {len(items)} "
            f"{cfg.TEST.SPLIT} items in order; no result.json can be written"
        )
    groups, task = getattr(data, "groups", {}), getattr(trainer, "task", None) or Classification()
    return evaluation(task, outcomes, [groups.get(item.impath) for item in items])


def model_digest(trainer: Any) -> str:
    """SHA-256 of everything that the trainer has learned, "" where it learns nothing.

    The state of a learner. Of another model the parameters that take a gradient, and the buffers that FITTED names:
    other tensors, such as a prompt's class tokens, may differ between base and new classes.
    """
    import torch

    from dicap.learner import Learner

    learned = _parameters(trainer)
    for name, model in getattr(trainer, "_models", {}).items():
        fitted = ((key, x) for key, x in model.named_buffers() if key in getattr(model, "FITTED", ()))
        state = model.state_dict().items() if isinstance(model, Learner) else fitted
        learned |= {f"{name}.{key}": value for key, value in state}
    total = hashlib.sha256()
    for key, value in sorted(learned.items()):
        data = value.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
        total.update(f"{key} {value.dtype} {tuple(value.shape)} ".encode() + data.numpy().tobytes())
    return total.hexdigest() if learned else ""


def _parameters(trainer: Any) -> dict[str, Any]:
    """Those that take a gradient, by model and name."""
    models = getattr(trainer, "_models", {}).items()
    return {f"{name}.{key}": x for name, model in models for key, x in model.named_parameters() if x.requires_grad}


def _versions(trainer: Any) -> dict[str, Any]:
    """What ran: package versions, engine, device (a GPU's model, else "cpu"), threads."""
    import torch

    import dicap

    device = torch.device(getattr(trainer, "device", "cpu"))
    return {
        "dicap": dicap.__version__,
        "torch": torch.__version__,
        **{name: _version(name) for name in ("torchvision", "numpy")},
        "clip": _version("clip-anytorch", "openai-clip", "clip"),
        "python": platform.python_version(),
        "engine": os.environ.get("DICAP_ENGINE", "dassl"),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "threads": torch.get_num_threads(),
    }


def _version(*names: str) -> str:
    for name in names:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            return f"{name} {importlib.metadata.version(name)}" if len(names) > 1 else importlib.metadata.version(name)
    return ""


def _peak_memory(trainer: Any) -> tuple[float, str]:
    """Peak memory of the run in MiB, and where the figure comes from."""
    import torch

    if torch.device(getattr(trainer, "device", "cpu")).type == "cuda":
        return round(torch.cuda.max_memory_allocated() / 2**20, 1), "CUDA allocator"
    with contextlib.suppress(OSError):
        status = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
        if peak := re.search(r"VmHWM:\s+(\d+)", status):
            return round(int(peak[1]) / 2**10, 1), "process, VmHWM"
    import resource

    unit = 2**20 if sys.platform == "darwin" else 2**10  # ru_maxrss: bytes there, KiB elsewhere
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit, 1), "process since its start, ru_maxrss"


@contextlib.contextmanager
def _logged(folder: str) -> Iterator[None]:
    """Copy stdout to folder/log.txt while a run lasts; on an error its traceback goes to the file only."""
    from dassl.utils import setup_logger

    show_log()
    library, before = logging.getLogger("dicap"), sys.stdout
    handlers = list(library.handlers)
    setup_logger(folder or None)
    logger: Any = sys.stdout
    try:
        yield
    except BaseException as error:
        with contextlib.suppress(OSError):  # the disk is full
            if logger is not before:
                traceback.print_exc(file=logger.file)
        if isinstance(error, OSError) and error.errno in FULL and not error.filename:  # of the log or TensorBoard
            raise OSError(error.errno, f"{error.strerror}; make room there", folder) from error
        raise
    finally:
        library.handlers, sys.stdout = handlers, before
        if logger is not before:  # Dassl's own Logger closes the console too, even when collected
            with contextlib.suppress(OSError):
                logger.flush()
                logger.file.close()
            logger.file, logger.console = None, io.StringIO()


def free_memory() -> None:
    """Give a finished run's memory back before the next one starts."""
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
