"""Kill a training run at random moments, some of them inside a save, start it again, and compare what it has learned.

    python -m benchmarks.kill_and_resume --kills 20 --inside 3 --trainer DiCap

A run that was never killed gives the reference. Then one run is killed with SIGKILL `--kills` times (`--inside` of them
between the writing of a file and its renaming), continued each time, and finished. Prints both SHA-256 of the learned
prompt; exit code 1 where they differ. Needs no network; about 6 seconds a kill.
"""

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

CHILD = """
import os, signal, sys
nth = int(os.environ.get("KILL_AT_SAVE", "0"))
fsync = os.fsync
def count(handle):  # a file is whole on disk, and not yet renamed
    global nth
    fsync(handle)
    nth -= 1
    if nth == 0:
        os.kill(os.getpid(), signal.SIGKILL)
os.fsync = count
from dicap.cli import main
sys.exit(main(sys.argv[1:]))
"""


def start(trainer: str, out: Path, epochs: int, **environment: str) -> subprocess.Popen:
    """One training process that writes into out."""
    files = f"--dataset-config-file configs/datasets/digits.yaml --config-file configs/trainers/{trainer}/tiny.yaml"
    settings = f"DATASET.NUM_SHOTS 16 DATASET.SUBSAMPLE_CLASSES base OPTIM.MAX_EPOCH {epochs}"
    arguments = ["train", "--seed", "1", "--trainer", trainer, "--output-dir", str(out), *files.split()]
    arguments += [*settings.split(), "DATALOADER.TRAIN_X.BATCH_SIZE", "8"]
    return subprocess.Popen(
        [sys.executable, "-c", CHILD, *arguments],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        env={**os.environ, "OMP_WAIT_POLICY": "PASSIVE", **environment},
    )


def finish(process: subprocess.Popen, out: Path) -> str:
    """SHA-256 of the prompt of a run that ends by itself."""
    error = process.communicate()[1].decode()
    if process.returncode != 0:
        sys.exit(f"the run failed with {process.returncode}: {error[-800:]}")
    return json.loads((out / "result.json").read_text())["digests"]["model"]


def newest(out: Path) -> int:
    """Epochs that the newest resume file holds, 0 where there is none."""
    return max((int(p.stem.split("-")[1]) for p in out.glob("resume/epoch-*.pt")), default=0)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--inside", type=int, default=3, help="how many of them inside a save")
    parser.add_argument("--trainer", default="DiCap")
    parser.add_argument("--epochs", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    args = parser.parse_args()
    rng = random.Random(args.seed)
    with tempfile.TemporaryDirectory() as folder:
        whole, cut = Path(folder, "whole"), Path(folder, "cut")
        reference = finish(start(args.trainer, whole, args.epochs), whole)
        inside = set(rng.sample(range(args.kills), args.inside))
        for kill in range(args.kills):
            if kill in inside:
                process = start(args.trainer, cut, args.epochs, KILL_AT_SAVE=str(rng.randint(1, 6)))
            else:
                process = start(args.trainer, cut, args.epochs)
                goal = newest(cut) + rng.uniform(0, 2 * args.epochs / (args.kills + 2))
                while newest(cut) < goal and process.poll() is None:
                    time.sleep(0.002)
                time.sleep(rng.uniform(0, 0.1))
                process.send_signal(signal.SIGKILL)
            code = process.wait()
            process.stderr.close()
            where = "inside a save" if kill in inside else "at a random moment"
            print(f"kill {kill + 1}/{args.kills} {where}: exit {code}, {newest(cut)} epochs done", flush=True)
            if code != -signal.SIGKILL:
                sys.exit("the run ended before its kill; give it more --epochs")
        killed = finish(start(args.trainer, cut, args.epochs), cut)
        resumed = json.loads((cut / "result.json").read_text())["resumed_from_epoch"]
    print(
        f"never killed {reference}\nkilled {args.kills} times {killed} (the last start resumed after epoch {resumed})"
    )
    return int(reference != killed)


if __name__ == "__main__":
    sys.exit(main())
