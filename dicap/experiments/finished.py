"""What of a plan is finished: a result is taken only where it is whole, of this run, and equal in every digest."""

import contextlib
import functools
import io
import logging
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dicap import results as store
from dicap.experiments.protocols import Job
from dicap.files import damage

log = logging.getLogger(__name__)

NOT_FINISHED = "not finished"
OTHER_WEIGHTS = "the backbone's weights changed"
STAMP = ".plan.json"  # in a run's folder: what the checkpoints there belong to

_DATA_DIGESTS: dict[str, str] = {}  # by DATASET section and seed
_SHOWN: set[str] = set()  # lines about data


def planned_digests(job: Job) -> dict[str, str]:
    """Digests of settings and data. Reads the dataset; an embedded one is written where it is missing."""
    from dassl.data.datasets import build_dataset
    from dassl.utils import set_random_seed

    cfg = job.cfg
    key = store.digest_of([store.plain(cfg.DATASET), cfg.SEED])
    if key not in _DATA_DIGESTS:
        with _data_log(), contextlib.redirect_stdout(io.StringIO()):
            set_random_seed(cfg.SEED)  # the few-shot draw uses Python's generator
            _DATA_DIGESTS[key] = store.data_digest(build_dataset(cfg))
    return {"config": store.config_digest(cfg), "data": _DATA_DIGESTS[key]}


@contextlib.contextmanager
def _data_log() -> Iterator[None]:
    """Show on stderr what the reading of data says, each line once: how far a long check is, images that are not used."""

    def is_new(record: logging.LogRecord) -> bool:
        line, before = record.getMessage(), len(_SHOWN)
        _SHOWN.add(line)
        return len(_SHOWN) > before

    handler, logger = logging.StreamHandler(), logging.getLogger("dicap.data")
    handler.addFilter(is_new)
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)


def why_run(job: Job, planned: dict[str, str] | None = None) -> str:
    """Why a run has to be made, "" where it is finished: whole, with the planned digests and names.

    planned: digests that must be equal; None = of settings and data, which are read if there is a result.
    """
    path = job.folder / store.FILE
    if not path.exists():
        return NOT_FINISHED
    try:
        result = store.read_result(path)
    except store.ResultError as error:
        return str(error)
    for key, value in {**job.names, "split": job.stage.split}.items():
        if (there := result.get(key)) != value:
            return f"its result says {key} {there!r}, not {value!r}"
    planned, digests = planned or planned_digests(job), result["digests"]
    if planned["config"] != digests["config"]:
        return changed_settings(result, job.cfg)
    if planned.get("data", digests["data"]) != digests["data"]:
        return "the data changed"
    if digests["weights"] and digests["weights"] != (_weights_digest(job.cfg) or digests["weights"]):
        return OTHER_WEIGHTS
    if job.depends_on:
        try:
            prompt = store.read_result(job.depends_on.folder)["digests"]["model"]
        except store.ResultError:
            return "waits for its training"
        return "" if prompt == digests["model"] else "the trained prompt changed"
    return _damaged_model(job.folder)


def changed_settings(result: dict, cfg: Any) -> str:
    """What of a configuration differs from that of a result."""
    before, after = (store.flatten(tree) for tree in (result["config"], store.plain(cfg)))
    keys = [key for key in after if key not in store.PLACES and before.get(key) != after[key]]
    return "settings changed" + "".join(f", {key} {before.get(key)!r} -> {after[key]!r}" for key in keys[:3])


def _damaged_model(folder: Path) -> str:
    """Which of a run's models is not whole, and why; "" where all are. Their text files `checkpoint` name the last ones."""
    paths = {*folder.glob("*/model*.pth.tar*")}
    paths |= {pointer.with_name(pointer.read_text(errors="replace").strip()) for pointer in folder.glob("*/checkpoint")}
    causes = ((path, damage(path)) for path in sorted(paths))
    return next((f"its trained model {path} is damaged ({cause})" for path, cause in causes if cause), "")


@functools.cache
def _weights(name: str, device: str, precision: str) -> str:
    from dicap.backbones import load_clip, weights_digest

    return weights_digest(load_clip(name, device, precision))


def _weights_digest(cfg: Any) -> str:
    """Digest of weights that can change under one name: the embedded CLIP and files. "" for published downloads."""
    import torch

    name, section = cfg.MODEL.BACKBONE.NAME, cfg.TRAINER.get(cfg.TRAINER.NAME.upper(), {})
    if name != "tiny" and not Path(name).expanduser().is_file():
        return ""
    return _weights(name, "cuda" if torch.cuda.is_available() and cfg.USE_CUDA else "cpu", section.get("PREC", "fp32"))


def make_way(job: Job, planned: dict[str, str], why: str) -> None:
    """Keep a folder whose checkpoints are whole and of this run (training resumes there), put any other aside, stamp it."""
    stamp, weights = job.folder / STAMP, {"weights": _weights_digest(job.cfg)}
    with contextlib.suppress(OSError, ValueError):
        if why != OTHER_WEIGHTS and store.read_json(stamp) == planned | weights and not _damaged_model(job.folder):
            return
    if job.folder.exists() and any(job.folder.iterdir()):
        aside = job.folder.parent / ".old" / f"{job.folder.name}-{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}"
        aside.parent.mkdir(exist_ok=True)
        os.replace(job.folder, aside)
        log.info("%s: what was in its folder is of another run, or damaged, and is now in %s", job.name, aside)
    store.write_json(stamp, planned | weights)
