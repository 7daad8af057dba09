"""Attack the toolkit: kills, damaged files, changed and senseless settings, hostile files. Nothing may end in a wrong number.

    python -m benchmarks.attack [--kills 240] [--seed 0] [--only kill rot ...]

An attempt survives if it ends as an untouched run does, in the same numbers, or is refused: an exit code other than 0 and
a line that names what is wrong, without a traceback. All else is wrong. Prints a row for each attack and the first wrong
attempts in full; exit code 1 where there is one. Needs Linux, no network, about 15 minutes on 2 cores.

Processes are forked from this one, which has imported everything and computed nothing, so that a start costs no import.
"""

import argparse
import bz2
import contextlib
import hashlib
import io
import json
import os
import pickle
import random
import resource
import shutil
import signal
import sys
import tarfile
import tempfile
import time
import traceback
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from dicap.choose_engine import choose_engine
from dicap.cli import main as dicap
from dicap.data import draw
from dicap.data.download import fetch
from dicap.data.sources import Source
from dicap.data.unpack import unpack
from dicap.engine.utils import load_checkpoint, read_image
from tests.bad_results import BAD
from tests.file_server import File, FileServer

EPOCHS = 12
LIMIT = 120  # seconds, twenty times what the longest attempt takes
GIGABYTE = 2**20  # in KiB, as the system counts a process's memory
SETTINGS = {  # a run of each kind of training: what is learned, which model is tested, where images come from
    "CoOp": "TRAIN.CHECKPOINT_FREQ 1",
    "CoCoOp": "TEST.FINAL_MODEL best_val TRAIN.CHECKPOINT_FREQ 2",
    "DiCap": "TRAINER.DICAP.TRAIN_STEPS 20",
    "CLIPAdapter": "INPUT.VIEWS 0 TEST.FINAL_MODEL best_val",
}


@dataclass
class Row:
    """What came of an attack."""

    name: str
    tried: int = 0
    same: int = 0  # ended as if nothing had been
    refused: int = 0
    wrong: list[str] = field(default_factory=list)

    def note(self, outcome: str, what: str) -> None:
        """Count an attempt: outcome is "same", "refused" or the reason why it is wrong."""
        self.tried += 1
        self.same += outcome == "same"
        self.refused += outcome == "refused"
        if outcome not in ("same", "refused"):
            self.wrong.append(f"{what}: {outcome}")


# ---- processes


def start(work: Callable[[], object], log: Path, kill_at: int = 0, **environment: str) -> int:
    """Fork a process, the leader of its group, that does the work; returns its number. Its output goes to the log.

    kill_at: it kills itself at the so many-th writing of a file to disk, or its renaming; 0: it does not.
    """
    process = os.fork()
    if process:
        return process
    code = 1
    try:
        os.setsid()
        handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(handle, 1)
        os.dup2(handle, 2)
        sys.stdout, sys.stderr = (io.TextIOWrapper(io.FileIO(place, "w"), write_through=True) for place in (1, 2))
        os.environ.update(environment)
        if kill_at:
            _kill_at_save(kill_at)
        code = work() or 0  # type: ignore[assignment]
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else 1
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def _kill_at_save(left: int) -> None:
    """Kill this process just before or after the so many-th fsync or renaming."""

    def watched(real: Callable) -> Callable:
        def call(*args, **kwargs):
            nonlocal left
            left -= 1
            if left == 0:
                os.killpg(0, signal.SIGKILL)
            return real(*args, **kwargs)

        return call

    os.fsync, os.replace, os.rename = watched(os.fsync), watched(os.replace), watched(os.rename)


def wait(process: int) -> int:
    """Its exit code, negative for a signal; it is killed where it does not end in LIMIT seconds."""
    end = time.monotonic() + LIMIT
    while not (ended := os.waitpid(process, os.WNOHANG))[0]:
        if time.monotonic() > end:
            os.killpg(process, signal.SIGKILL)
        time.sleep(0.005)
    return os.waitstatus_to_exitcode(ended[1])


def done(work: Callable[[], object], log: Path, **environment: str) -> int:
    """Do the work in a process of its own, to its end; returns the exit code."""
    return wait(start(work, log, **environment))


def refusal(code: int, log: Path, *named: str) -> str:
    """ "refused" where a process ended with an error that a user can read, which names one of these; else what is amiss."""
    text = log.read_text(errors="replace")
    if code < 0 or "Traceback" in text:
        return f"exit {code}: " + " / ".join(text.strip().splitlines()[-3:])
    last = text.strip().rpartition("\n")[2]
    return "refused" if not named or any(name in text for name in named) else f"the error names none of {named}: {last}"


# ---- runs


def training(out: Path, trainer: str = "CoOp", settings: str = "", *flags: str) -> Callable[[], int]:
    """A training on the drawn digits, a few seconds long."""
    files = f"--dataset-config-file configs/datasets/digits.yaml --config-file configs/trainers/{trainer}/tiny.yaml"
    common = f"DATASET.NUM_SHOTS 4 DATASET.SUBSAMPLE_CLASSES base OPTIM.MAX_EPOCH {EPOCHS}"
    line = ["train", "--seed", "1", "--trainer", trainer, "--output-dir", str(out), *files.split(), *flags]
    return partial(dicap, [*line, *common.split(), *SETTINGS.get(trainer, "").split(), *settings.split()])


def protocol(out: Path) -> Callable[[], int]:
    """Base-to-new of two methods, three runs that depend on each other."""
    line = f"base2new --methods ZeroshotCLIP CoOp --datasets digits --seeds 1 --shots 4 --out {out} --set"
    return partial(dicap, [*line.split(), "OPTIM.MAX_EPOCH", str(EPOCHS)])


def numbers(out: Path) -> str:
    """What the runs below a folder say: labels of the test, learned tensors and data, by result file."""
    found = {}
    for path in sorted(out.rglob("result.json")):
        if ".old" not in path.parts:
            result = json.loads(path.read_text())
            digests = {key: result["digests"].get(key) for key in ("config", "data", "model")}
            found[str(path.relative_to(out))] = [result["metrics"], result["n"], digests]
    return json.dumps(found, sort_keys=True)


def contents(folder: Path) -> str:
    """Digests of all files below a folder."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return json.dumps({str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files})


def leftovers(folder: Path) -> list[str]:
    """Temporary files, which a run that ended leaves none of."""
    return [str(path) for path in folder.rglob(".*.tmp")]


# ---- kills


def kill(
    work: Callable[[], object], seen: Callable[[], str], count: int, folder: Path, rng: random.Random, row: Row
) -> None:
    """Kill work over and over in one folder, at random moments or inside a save, let it end, and compare.

    seen: what it has made. The folder, made anew for each chain of up to 6 kills, is all that work writes to.
    """
    log = folder.with_suffix(".log")
    began = time.monotonic()
    if code := done(work, log):
        raise SystemExit(f"{row.name}: the untouched run failed with {code}: {log.read_text()[-800:]}")
    whole, length = seen(), time.monotonic() - began
    while row.tried < count:
        shutil.rmtree(folder, ignore_errors=True)
        chain = rng.randint(1, min(6, count - row.tried))
        moments = []
        for _ in range(chain):
            inside = rng.random() < 0.5
            kill_at, moment = (rng.randint(1, 40), length) if inside else (0, rng.uniform(0, length))
            process = start(work, log, kill_at)
            end = time.monotonic() + moment
            while (ended := os.waitpid(process, os.WNOHANG)[0]) == 0 and time.monotonic() < end:
                time.sleep(0.002)
            if not ended:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process, signal.SIGKILL)
                os.waitpid(process, 0)
            moments.append(f"save {kill_at}" if inside else f"{moment:.2f} s")
        code = done(work, log)
        outcome = "same" if code == 0 and seen() == whole else f"exit {code}, other numbers than an untouched run's"
        if code == 0 and (left := leftovers(folder)):
            outcome = f"left {left[0]}"
        for _ in range(chain):
            row.note(outcome, f"killed at {', '.join(moments)}")
            outcome = "same" if outcome == "same" else "refused"  # a wrong end counts once
        if row.wrong:
            return


def kills(folder: Path, rng: random.Random, count: int) -> Iterator[Row]:
    """Trainings, a protocol, caches, data that is written, a download."""
    share = max(2, count // 8)
    for trainer in SETTINGS:
        row, out = Row(f"kill a training of {trainer}"), folder / trainer
        kill(training(out, trainer), partial(numbers, out), share, out, rng, row)
        yield row
    row, out = Row("kill a protocol"), folder / "protocol"
    kill(protocol(out), partial(numbers, out), share, out, rng, row)
    yield row

    def with_own(name: str, place: Path, out: Path) -> int:
        os.environ[name] = str(place)
        return training(out, "DiCap")()

    row, out = Row("kill while caches are made"), folder / "cached"
    kill(partial(with_own, "DICAP_CACHE", out / "cache", out / "o"), partial(numbers, out), share, out, rng, row)
    yield row
    row, out = Row("kill while data is written"), folder / "data"
    made = partial(with_own, "DICAP_DATA", out / "data", out / "o")
    kill(made, lambda: numbers(out) + contents(out / "data"), share, out, rng, row)
    yield row
    row, out = Row("kill a download"), folder / "download"
    with FileServer() as server:
        server.files["a.bin"] = File(rng.randbytes(60_000_000))
        source = Source("a.bin", url=server.url("a.bin"), sha256=hashlib.sha256(server.files["a.bin"].data).hexdigest())
        kill(lambda: fetch(source, out) and 0, lambda: contents(out / "a.bin"), share, out, rng, row)
    yield row


# ---- damage


def flip(path: Path, rng: random.Random) -> str:
    """Flip one bit of a file; returns which."""
    data = bytearray(path.read_bytes())
    place, bit = rng.randrange(len(data)), rng.randrange(8)
    data[place] ^= 1 << bit
    path.write_bytes(data)
    return f"{path.name}, bit {bit} of byte {place}"


def rot(folder: Path, rng: random.Random, count: int) -> Iterator[Row]:
    """One flipped bit in what is read back: resume files, models, results, cached features and generators."""
    tries = max(2, count // 12)
    out, log, cut = folder / "whole", folder / "log", folder / "cut"
    cache = {"DICAP_CACHE": str(folder / "cache")}
    work = training(out, "DiCap")
    assert done(work, log, **cache) == 0, log.read_text()
    whole = numbers(out)

    row = Row("rot in a resume file")
    shutil.copytree(out, cut)
    for path in [cut / "result.json", *cut.glob("*/model.pth.tar*"), *cut.glob("*/checkpoint")]:
        path.unlink()  # as if killed in the last save
    kept = folder / "kept"
    shutil.copytree(cut, kept)
    for _ in range(tries):
        _again(kept, cut)
        what = flip(rng.choice(list(cut.glob("resume/*.pt"))), rng)
        code = done(training(cut, "DiCap"), log, **cache)
        row.note(_same_or_refused(code, log, numbers(cut) == whole, "resume"), what)
    yield row

    row, tested = Row("rot in a model, tested"), folder / "tested"
    load = training(tested, "DiCap", "", "--eval-only", "--model-dir", str(cut))
    _again(out, cut)
    assert done(load, log, **cache) == 0, log.read_text()
    right = numbers(tested)
    for _ in range(tries):
        _again(out, cut)
        shutil.rmtree(tested)
        what = flip(rng.choice(list(cut.glob("*/model.pth.tar*"))), rng)
        code = done(load, log, **cache)
        row.note(_same_or_refused(code, log, code == 0 and numbers(tested) == right, "model.pth.tar"), what)
    yield row

    row = Row("rot in caches")
    keep = folder / "cache-kept"
    shutil.copytree(folder / "cache", keep)
    files = [path.relative_to(keep) for path in keep.rglob("*") if path.is_file()]
    for _ in range(tries):
        _again(keep, folder / "cache")
        shutil.rmtree(cut)
        what = flip(folder / "cache" / rng.choice(files), rng)
        code = done(training(cut, "DiCap"), log, **cache)
        row.note(_same_or_refused(code, log, code == 0 and numbers(cut) == whole), what)
    yield row

    row, runs = Row("rot in a finished protocol"), folder / "runs"
    assert done(protocol(runs), log) == 0, log.read_text()
    right, kept_runs = numbers(runs), folder / "runs-kept"
    shutil.copytree(runs, kept_runs)
    files = [p.relative_to(runs) for p in runs.rglob("*") if p.name == "result.json" or ".pth.tar" in p.name]
    for _ in range(tries):
        _again(kept_runs, runs)
        what = flip(runs / rng.choice(files), rng)
        code = done(protocol(runs), log)
        row.note(_same_or_refused(code, log, code == 0 and numbers(runs) == right), what)
    yield row


def _again(kept: Path, place: Path) -> None:
    shutil.rmtree(place, ignore_errors=True)
    shutil.copytree(kept, place)


def _same_or_refused(code: int, log: Path, same: bool, *named: str) -> str:
    return refusal(code, log, *named) if code else "same" if same else "exit 0, other numbers than an untouched run's"


# ---- settings

CHANGED = (
    "OPTIM.LR 0.5|OPTIM.MAX_EPOCH 14|DATALOADER.TRAIN_X.BATCH_SIZE 16|TRAINER.COOP.CTX_INIT a_photo|TRAINER.COOP.PREC bf16"
    "|INPUT.VIEWS 2|OPTIM.WARMUP_EPOCH 2|INPUT.RRCROP_SCALE (0.8,1.0)|OPTIM.WEIGHT_DECAY 0.1|TEST.FINAL_MODEL best_val"
)
SENSELESS = (
    "DATALOADER.TRAIN_X.BATCH_SIZE 0|DATALOADER.TEST.BATCH_SIZE 0|DATALOADER.NUM_WORKERS -1|TRAIN.PRINT_FREQ 0|OPTIM.LR -1"
    "|OPTIM.LR inf|OPTIM.LR nan|SEED 4294967296|OPTIM.MAX_EPOCH 0|OPTIM.MAX_EPOCH -1|TEST.SPLIT nope|TEST.FINAL_MODEL nope"
    "|OPTIM.NAME nope|OPTIM.LR_SCHEDULER nope|DATASET.NUM_SHOTS -2|DATASET.SUBSAMPLE_CLASSES nope|INPUT.VIEWS -1"
    "|TRAINER.COOP.PREC nope|MODEL.BACKBONE.NAME nope|OPTIM.NOPE 1"
)


def settings(folder: Path, rng: random.Random, count: int) -> Iterator[Row]:
    """Other settings in the folder of a run, senseless settings, a blown-up update, other numbers of workers."""
    log, first = folder / "log", folder / "first"
    assert done(training(first), log) == 0, log.read_text()
    row = Row("changed settings, same folder")
    for change in CHANGED.split("|"):
        place, fresh = folder / "place", folder / "fresh"
        _again(first, place)
        change = change.replace("a_photo", "photo")
        code = done(training(place, "CoOp", change), log)
        if code == 0:
            shutil.rmtree(fresh, ignore_errors=True)
            assert done(training(fresh, "CoOp", change), log) == 0, log.read_text()
        row.note(_same_or_refused(code, log, code == 0 and numbers(place) == numbers(fresh), change.split()[0]), change)
    yield row
    row = Row("senseless settings")
    for change in SENSELESS.split("|"):
        place = folder / "senseless"
        shutil.rmtree(place, ignore_errors=True)
        flags = ("--seed", change.split()[1]) if change.startswith("SEED") else ()
        code = done(training(place, "CoOp", "" if flags else change, *flags), log)
        named = change.split()[0].rpartition(".")[2]
        row.note(refusal(code, log, named, named.lower()) if code else "exit 0", change)
        if place.is_dir() and list(place.rglob("*.pth.tar*")):
            row.wrong.append(f"{change}: a model was written")
    yield row
    row, blown = Row("an update that blows up"), folder / "blown"
    for change in ("OPTIM.LR 1e30 OPTIM.MAX_EPOCH 1 OPTIM.WARMUP_EPOCH -1", "OPTIM.LR 1e30 OPTIM.WARMUP_EPOCH -1"):
        for trainer in ("CoOp", "CoCoOp", "DiCap", "CLIPAdapter"):
            shutil.rmtree(blown, ignore_errors=True)
            code = done(training(blown, trainer, change), log)
            row.note(refusal(code, log, "not finite", "nan", "inf") if code else "exit 0", f"{trainer} {change}")
    yield row
    row = Row("0, 1 and 2 workers")
    for trainer in ("CoOp", "CLIPAdapter"):
        seen = []
        for workers in (0, 1, 2):
            out = folder / f"workers-{trainer}-{workers}"
            code = done(training(out, trainer, f"INPUT.VIEWS 0 DATALOADER.NUM_WORKERS {workers}"), log)
            seen.append(numbers(out))
            row.note(
                "same" if code == 0 and seen[0] == seen[-1] else f"exit {code}, other numbers", f"{trainer} {workers}"
            )
    yield row
    row = Row("two processes in one folder")
    whole, out = numbers(first), folder / "both"
    for _ in range(max(2, count // 40)):
        shutil.rmtree(out, ignore_errors=True)
        both = [start(training(out), folder / f"log{number}") for number in (1, 2)]
        codes = [wait(process) for process in both]
        same = numbers(out) == whole and not leftovers(out)
        for number, code in enumerate(codes, 1):
            clear = refusal(code, folder / f"log{number}", str(both[2 - number]), str(out)) if code else "same"
            row.note(clear if same and 0 in codes else f"exits {codes}, other numbers", "together")
    yield row


# ---- hostile files


def hostile(folder: Path, rng: random.Random, count: int) -> Iterator[Row]:
    """Models and archives that are damaged or made to harm, pictures of odd modes, results that are none."""
    log, out = folder / "log", folder / "out"
    row, model = Row("a backbone or model that is none"), folder / "model"
    assert done(training(model, "CoOp", "TRAIN.CHECKPOINT_FREQ 0"), log) == 0, log.read_text()
    (path,) = model.glob("*/model.pth.tar*")
    good = path.read_bytes()
    for name, data in _bad_models(good, rng):
        path.write_bytes(data)
        shutil.rmtree(out, ignore_errors=True)
        code = done(training(out, "CoOp", "", "--eval-only", "--model-dir", str(model)), log)
        row.note(refusal(code, log, path.name) if code else "exit 0", f"a checkpoint: {name}")
        other = folder / "backbone.pt"
        other.write_bytes(data)
        code = done(training(out, "CoOp", f"MODEL.BACKBONE.NAME {other}"), log)
        row.note(refusal(code, log, other.name) if code else "exit 0", f"a backbone: {name}")
    path.write_bytes(good)
    (model / "result.json").unlink()
    for file in model.glob("resume/*.pt"):
        file.write_bytes(b"nothing")
    code = done(training(out, "CoOp", "", "--resume", str(model / "none")), log)
    row.note(refusal(code, log, "none") if code else "exit 0", "--resume of a folder that is not there")
    shutil.rmtree(model / "prompt_learner")
    shutil.rmtree(out, ignore_errors=True)
    code = done(training(out, "CoOp", "", "--resume", str(model)), log)
    row.note(refusal(code, log, "resume", str(model)) if code else "exit 0", "--resume of nothing but damage")
    yield row

    row = Row("files that ask for much memory")
    for name, work in _bombs(folder):
        process = start(work, log)
        _, status, used = os.wait4(process, 0)
        code = os.waitstatus_to_exitcode(status)
        outcome = refusal(code, log) if code else "exit 0"
        over = used.ru_maxrss > resource.getrusage(resource.RUSAGE_SELF).ru_maxrss + GIGABYTE
        row.note(f"took {used.ru_maxrss / GIGABYTE:.1f} GiB" if over else outcome, name)
    yield row

    row = Row("pictures and folders of one's own")
    for mode in ("I;16", "I", "F"):
        code, grey = _own_folder(folder / "grey", mode, out, log)
        row.note(_same_or_refused(code, log, code == 0 and grey, "a0.tif", "a0.png"), f"{mode} pictures")
    code, _ = _own_folder(folder / "two", "L", out, log, classes=2)
    row.note(refusal(code, log, "class") if code else "exit 0", "base-to-new of two classes")
    yield row

    row, runs = Row("results that are none, in a report"), folder / "runs"
    assert done(protocol(runs), log) == 0, log.read_text()
    table, first = runs / "base2new.csv", next(runs.rglob("result.json"))
    if not table.exists():
        table = next(runs.rglob("base2new*.csv"))
    right, bad = table.read_bytes(), runs / "base2new" / "bad"
    for name, make in _bad_results(first.read_text()):
        shutil.rmtree(bad, ignore_errors=True)
        bad.mkdir(parents=True)
        make(bad / "result.json")
        code = done(partial(dicap, ["report", str(runs)]), log)
        escapes = "\x1b]" in log.read_text(errors="replace")
        same = code == 0 and table.read_bytes() == right and not escapes
        row.note("same" if same else f"exit {code}, escapes {escapes}: {log.read_text()[-300:]}", name)
    yield row


def _bad_models(good: bytes, rng: random.Random) -> Iterator[tuple[str, bytes]]:
    yield "empty", b""
    yield "text", b"<html>not found</html>"
    yield "noise", rng.randbytes(5000)
    for share in (0.1, 0.5, 0.9, 0.99):
        yield f"cut to {share:.0%}", good[: int(len(good) * share)]
    for name, value in (
        ("a list", [1]),
        ("a number", 3),
        ("no state_dict", {"epoch": 1}),
        ("state_dict 3", {"state_dict": 3}),
    ):
        file = io.BytesIO()
        torch.save(value, file)
        yield name, file.getvalue()
    yield "other tensors", _saved({"epoch": 1, "state_dict": {"ctx": torch.zeros(9, 9)}})
    yield "not finite", _saved({"epoch": 1, "state_dict": {"ctx": torch.full((4, 128), float("nan"))}})
    yield "a pickle that runs code", pickle.dumps(_Evil())
    yield "a header of safetensors", (2**62).to_bytes(8, "little") + b"{}"


class _Evil:
    def __reduce__(self):
        return print, ("Traceback: this ran",)


def _saved(value: object) -> bytes:
    file = io.BytesIO()
    torch.save(value, file)
    return file.getvalue()


def _bombs(folder: Path) -> Iterator[tuple[str, Callable[[], object]]]:
    """Files of some bytes or kilobytes, and a reading of each."""
    draws, packed, model = folder / "shot_4-seed_1.pkl", folder / "long.tar.bz2", folder / "model.pth.tar"
    zeros = bytes(2**24)
    draws.write_bytes(b"\x80\x04Nr\xff\xff\xff\x7f.")  # puts None at place 2^31 of the memo
    yield "a pickle of draws of 9 bytes", partial(_read, draw._unpickle, draws)
    info = tarfile.TarInfo("././@LongLink")
    info.type, info.size = tarfile.GNUTYPE_LONGNAME, 2**31
    with bz2.open(packed, "wb") as file:
        file.write(info.tobuf(tarfile.GNU_FORMAT))
        for _ in range(info.size // len(zeros)):
            file.write(zeros)
    source = Source(packed.name, unpack=("images",))
    yield "a tar with a name of 2 GiB", partial(_read, unpack, packed, folder / "unpacked", source)
    with zipfile.ZipFile(model, "w", zipfile.ZIP_DEFLATED) as archive:
        with archive.open("a/data.pkl", "w", force_zip64=True) as member:
            for _ in range(3 * 2**30 // len(zeros)):
                member.write(zeros)
    yield "a checkpoint with 3 GiB of pickle", partial(_read, load_checkpoint, str(model))


def _read(function: Callable, *args: object) -> int:
    """Call a reader; its refusal is printed as the command line does."""
    try:
        function(*args)
    except (ValueError, OSError) as error:
        print(f"{type(error).__name__}: {error}")
        return 1
    return 0


def _own_folder(place: Path, mode: str, out: Path, log: Path, classes: int = 4) -> tuple[int, bool]:
    """Base-to-new zero-shot on a folder of pictures; and whether a picture of this mode looks as it should."""
    shutil.rmtree(place, ignore_errors=True)
    ramp = np.tile(np.linspace(0, 1, 64), (64, 1))
    names = ["red circle", "blue square", "green star", "red cross"][:classes]
    for split in ("train", "test"):
        for number, name in enumerate(names):
            for image in range(6):
                file = place / split / name / f"a{image}.{'tif' if mode in ('I', 'F') else 'png'}"
                file.parent.mkdir(parents=True, exist_ok=True)
                values = {"L": 255, "F": 255.0}.get(mode, 65535) * ramp ** (1 + number)
                kind = {"L": np.uint8, "I;16": np.uint16, "I": np.int32, "F": np.float32}[mode]
                Image.fromarray(values.astype(kind)).save(file)
    shutil.rmtree(out, ignore_errors=True)
    line = f"base2new --methods ZeroshotCLIP --config tiny --backbone tiny --datasets {place} --seeds 1 --shots 2 --out {out}"
    code = done(partial(dicap, line.split()), log)
    try:
        seen = np.asarray(read_image(str(next(place.rglob("a0.*")))).convert("L"), float)
    except (OSError, ValueError):
        return code, False
    return code, bool(np.abs(seen - 255 * ramp).max() < 3)


def _bad_results(good: str) -> Iterator[tuple[str, Callable[[Path], object]]]:
    """The tests' bad files, made of a good result, and what only a folder can hold."""
    for name, (write, _) in BAD.items():
        result = json.loads(good)
        result["metrics"]["accuracy"] = 60.0  # which some of them look for
        yield name, partial(_written, write, result)
    escape = json.dumps({**json.loads(good), "schema": "\x1b]0;x\x07"})
    yield "an escape sequence", lambda path: path.write_text(escape)
    yield "noise", lambda path: path.write_bytes(bytes(range(256)))
    yield "folders in a circle", lambda path: (path.parent / "again").symlink_to(path.parent)


def _written(write: Callable[[Path, dict], object], result: dict, path: Path) -> None:
    write(path, result)


# ---- the command

ATTACKS = {"kill": kills, "rot": rot, "settings": settings, "hostile": hostile}


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=240, help="other attacks grow with it (default %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of all that is random")
    parser.add_argument("--only", nargs="+", default=list(ATTACKS), choices=ATTACKS)
    args = parser.parse_args(arguments)
    choose_engine()
    torch.set_num_threads(1)
    rows: list[Row] = []
    with tempfile.TemporaryDirectory(prefix="dicap-attack-") as folder:
        os.environ["DICAP_CACHE"] = str(Path(folder, "shared-cache"))
        os.environ.setdefault("DICAP_DATA", str(Path(folder, "shared-data")))
        for name in args.only:
            place = Path(folder, name)
            place.mkdir()
            for row in ATTACKS[name](place, random.Random(args.seed), args.kills):
                rows.append(row)
                print(f"{row.name}: {row.tried} tried, {len(row.wrong)} wrong", flush=True)
    print("\n| attack | tried | survived | of them refused | wrong |\n|---|---|---|---|---|")
    for row in rows:
        print(f"| {row.name} | {row.tried} | {row.same + row.refused} | {row.refused} | {len(row.wrong)} |")
    for row in rows:
        for line in row.wrong[:5]:
            print(f"WRONG: {row.name}: {line}")
    return int(any(row.wrong for row in rows))


if __name__ == "__main__":
    sys.exit(main())
