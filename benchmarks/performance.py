"""Runs all benchmarks of time and memory, each in a process of its own, and writes docs/performance.md.

    python -m benchmarks.performance                       # measures and writes the page; leave the machine alone meanwhile
    python -m benchmarks.performance --into results        # keeps the figures of each benchmark (JSON) and what it printed
    python -m benchmarks.performance --from results        # the page again, from such a folder
    python -m benchmarks.performance --whole               # the tiny main job with all its epochs and pictures, not a quarter

Where a GPU is, the three benchmarks of speed run on it too, with autocast.
"""

import argparse
import dataclasses
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path

import torch

from benchmarks import harness
from dicap.files import write_text

PAGE = Path(__file__).parent.parent / "docs" / "performance.md"
GPU = ("--device", "cuda", "--precision", "amp")


@dataclasses.dataclass(frozen=True)
class Benchmark:
    """One command: its module below benchmarks/, its arguments, and what the page says of it."""

    module: str
    arguments: tuple[str, ...]
    about: str
    gpu: bool = False

    @property
    def name(self) -> str:
        """Of its files."""
        return self.module + ("-cuda" if self.gpu else "")

    @property
    def command(self) -> str:
        """As the page shows it."""
        return " ".join(("python -m", f"benchmarks.{self.module}", *self.arguments))


SPEED = (
    Benchmark(
        "text_tower",
        (),
        "Prompts to class features and logits, from cached image features. --coop names a clone of"
        " github.com/KaiyangZhou/CoOp, whose own module is timed beside.",
    ),
    Benchmark(
        "training_step",
        (),
        "A whole training step: image tower or cached view, prompt, text tower, loss, gradient, optimiser.",
    ),
    Benchmark(
        "evaluation",
        (),
        "Logits of test images: CoOp's classes are encoded once, CoCoOp's once an image. The image tower is timed"
        " once and added to both sides.",
    ),
)
REST = (
    Benchmark(
        "memory",
        (),
        "Under a budget (MODEL.TEXT_MEMORY) the tower goes through the classes in parts and computes each part again in"
        " the backward pass.",
    ),
    Benchmark("growth", (), "Time and memory against the size of the problem."),
    Benchmark("counterfactual_cost", (), "Stage 1 of DiCap: what its training costs beyond CoOp's."),
    Benchmark(
        "base_to_new",
        ("--shorten", "4"),
        "Whole runs: reading, encoding, training, tests, result files. They magnify rounding, so they are compared with how"
        " far DiCap gets from itself when it begins two roundings off.",
    ),
)

HEAD = """# Performance

    {command}

measures everything again and writes this page whole; do not edit it here.

**Textbook** is the published formula, written plainly (benchmarks/textbook.py): every prompt is padded to CLIP's 77 tokens, every block is
computed for every token, CoCoOp goes through its images one at a time, and image features are computed whenever they are asked for.
**DiCap** is what runs here: no padding, classes packed behind their shared context, the last block at the end-of-text tokens alone, all
images of a batch in one call, features kept.

Both sides start from the same numbers, on the same machine, in the same command. Before they are timed their results are compared, forward
and gradient, in fp32: a relative error above {same:g} stops the command. Timings alternate between the sides, after one round that does not
count, and are medians; whole runs are made once. Memory is the peak minus what was there before, in a fresh process. Sizes are those of
ViT-B/16, 4 context tokens and Caltech101's 50 base class names, where nothing else is said.

**Limit** is the ratio of tokens or multiply-adds of the two sides, **of the limit** how much of it is reached. Above 100 % the textbook
loses time beyond its own arithmetic, or DiCap keeps less than counts of tokens tell.

## What was not seen

- Weights: random ones of the true sizes. Equality on trained weights is shown on the embedded tiny CLIP alone.
- {gpu}
- Other processors and libraries, and data on slow disks: images are noise in memory, or the embedded datasets.
"""
SEEN = "A GPU was there; its tables say which."
NO_GPU = (
    "A GPU: none was there. The CUDA code ran in no table of this page, and its goal, a CoCoOp step with 50 and 500 classes at"
    " least 10 times faster, is not shown."
)


# ---- running


def measure(benchmark: Benchmark, folder: Path, more: Iterable[str]) -> None:
    """Run one command; its JSON and what it printed go into the folder.

    Raises:
        SystemExit: it failed, or its sides differ.
    """
    command = [
        sys.executable,
        "-m",
        f"benchmarks.{benchmark.module}",
        *benchmark.arguments,
        *more,
        "--json",
        str(folder / f"{benchmark.name}.json"),
    ]
    printed = []
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, encoding="utf-8") as process:
        assert process.stdout is not None
        for line in process.stdout:
            print(line, end="", flush=True)
            printed.append(line)
    write_text(folder / f"{benchmark.name}.txt", "".join(printed))
    if process.returncode:
        raise SystemExit(
            f"benchmarks.{benchmark.module} failed with {process.returncode}; the page is as it was, what was measured"
            f" is in {folder}"
        )


def benchmarks(gpu: bool, whole: bool = False) -> list[Benchmark]:
    """All, in the page's order; whole: nothing is shortened."""
    on_cpu = [
        dataclasses.replace(b, arguments=(*(() if whole else b.arguments), "--device", "cpu")) for b in (*SPEED, *REST)
    ]
    return on_cpu + [dataclasses.replace(b, arguments=GPU, gpu=True) for b in SPEED if gpu]


# ---- the page


def read_figures(benchmark: Benchmark, folder: Path) -> dict | None:
    """What a benchmark wrote, and the lines in which it compared the sides; None where it has not run.

    Raises:
        SystemExit: a file that is not a benchmark's.
    """
    path, printed = folder / f"{benchmark.name}.json", folder / f"{benchmark.name}.txt"
    if not path.is_file():
        return None
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        found["rows"] = [
            harness.Row(**{f.name: row[f.name] for f in dataclasses.fields(harness.Row)}) for row in found["rows"]
        ]
    except (ValueError, KeyError, TypeError) as error:
        raise SystemExit(f"{path} is no benchmark's JSON ({error}); remove it, or measure again") from None
    text = printed.read_text(encoding="utf-8") if printed.is_file() else ""
    found["same"] = [line for line in text.splitlines() if line.startswith("same numbers")]
    return found


def goals(rows: Iterable[harness.Row]) -> list[str]:
    """A table of the figures that have a goal."""
    lines = []
    for row in rows:
        if row.goal is not None:
            figure, _, _, ratio, goal, *limit_and_reached, _ = row.cells()
            lines.append((figure, goal, ratio, *limit_and_reached, "met" if row.ratio >= row.goal else "**missed**"))
    return harness.markdown(("figure", "goal", "measured", "limit", "of the limit", ""), lines)


def _named(row: harness.Row, benchmark: Benchmark) -> harness.Row:
    """The row, told from those of other benchmarks."""
    what = " (GPU)" if benchmark.gpu else ", memory" if row.unit == "B" else ""
    return dataclasses.replace(row, figure=row.figure + what)


def _compared(line: str) -> str:
    """A table's row of what a benchmark printed: "same numbers, CoOp, text side: loss 7.1e-08 (relative error; ...)"."""
    what, _, errors = line.removeprefix("same numbers, ").partition(": ")
    return f"| {what} | {errors.partition(' (')[0]} |"


def section(benchmark: Benchmark, found: dict, machine: str = "") -> list[str]:
    """One benchmark's part of the page; machine: named above already."""
    measured = "" if machine else f"Measured {found['machine']}, "
    quick = ["", "Tiny sizes: this says that it runs, and nothing else."] if found["quick"] else []
    same = (
        ["", "| compared before | relative errors |", "|---|---|", *map(_compared, found["same"])]
        if found["same"]
        else []
    )
    notes = ["", *found["notes"]] if found["notes"] else []
    return [
        f"## {found['title']}",
        "",
        f"    {benchmark.command}",
        "",
        benchmark.about,
        *quick,
        "",
        f"{measured}{found['precision']}; median of {found['rounds']}.",
        *same,
        "",
        *harness.table(found["rows"]),
        *notes,
        "",
    ]


def page(measured: dict[Benchmark, dict], seconds: float | None) -> str:
    """The whole page."""
    gpu = any(benchmark.gpu for benchmark in measured)
    head = HEAD.format(command="python -m benchmarks.performance", same=harness.SAME, gpu=SEEN if gpu else NO_GPU)
    machines = {found["machine"] for found in measured.values()}
    machine = machines.pop() if len(machines) == 1 else ""
    where = [f"Measured {machine}.", ""] if machine else []
    took = [f"The command took {seconds / 60:.0f} minutes.", ""] if seconds else []
    lines = [
        head,
        *where,
        *took,
        "## The goals",
        "",
        "Ratios, textbook over DiCap; where something is allowed, allowed over spent.",
        "",
    ]
    lines += goals(_named(row, benchmark) for benchmark, found in measured.items() for row in found["rows"])
    for benchmark, found in measured.items():
        lines += ["", *section(benchmark, found, machine)]
    return "\n".join(lines).rstrip() + "\n"


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--from", dest="source", type=Path, help="make the page from this folder's files, measure nothing"
    )
    parser.add_argument("--into", type=Path, help="folder to keep the figures in")
    parser.add_argument("--page", type=Path, default=PAGE, help="default %(default)s")
    parser.add_argument(
        "--coop", type=Path, help="a clone of github.com/KaiyangZhou/CoOp, whose module is timed beside ours"
    )
    parser.add_argument("--whole", action="store_true", help="the whole tiny main job, one seed: some 20 minutes more")
    parser.add_argument("--quick", action="store_true", help="tiny sizes: does it run, no result")
    args = parser.parse_args(arguments)
    if args.quick and args.page == PAGE:
        parser.error(f"--quick is no result, and would replace {PAGE}: give it a --page of its own")
    began, all_of_them = time.perf_counter(), benchmarks(torch.cuda.is_available(), args.whole)
    with tempfile.TemporaryDirectory() as temporary:
        folder = args.source or args.into or Path(temporary)
        for benchmark in all_of_them if args.source is None else ():
            folder.mkdir(parents=True, exist_ok=True)
            measure(benchmark, folder, more_of(benchmark, args))
        known = [*all_of_them, *(b for b in benchmarks(True) if b.gpu and b not in all_of_them)]
        measured = {benchmark: found for benchmark in known if (found := read_figures(benchmark, folder))}
    if not measured:
        raise SystemExit(f"--from {args.source}: no figures there; a former run writes them with --into {args.source}")
    write_text(args.page, page(measured, None if args.source else time.perf_counter() - began))
    print(f"Written: {args.page}")
    return 0


def more_of(benchmark: Benchmark, args: argparse.Namespace) -> list[str]:
    """Arguments that this call adds."""
    coop = ["--coop", str(args.coop)] if args.coop and benchmark.module == "text_tower" else []
    return [*coop, *(["--quick"] if args.quick else [])]


if __name__ == "__main__":
    sys.exit(main())
