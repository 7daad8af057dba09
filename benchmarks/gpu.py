"""Checks DiCap on an NVIDIA GPU, times it there, and writes docs/gpu.md: in ten minutes at most, without a network.

    python -m benchmarks.gpu

1. Tests with the marker gpu (tests/test_gpu.py): numbers of the CPU, no waiting in a step, exact resume.
2. Training steps of CoOp and CoCoOp against the textbook formula: ViT-B/16 sizes, random weights, 50 and 500 classes.
3. The peak of memory of a step against the textbook's, and against what the text tower's budget says.

A new check is a test with that marker; what it gives to `record_property` stands on the page. Exit code 0: nothing failed;
1: something did, the page says what; 2: no GPU, nothing was run and the page is as it was.
"""

import argparse
import dataclasses
import gc
import os
import signal
import subprocess
import sys
import tempfile
import time
from argparse import Namespace
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar
from xml.etree import ElementTree

import torch
from torch import Tensor, nn

from benchmarks import harness, memory, performance, sides, training_step
from dicap.files import write_text
from dicap.learner import LearnedCLIP
from dicap.text_tower import MEMORY, pack_classes

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "gpu.md"
GOALS = {"CoCoOp": 10}  # a step at least so many times faster than the textbook's
PRECISIONS = ("fp32", "amp")  # of the steps that are timed
TESTS, WHOLE = 330, 540  # seconds: then tests are interrupted; then no measurement begins
BUDGETS = (0.25, MEMORY)  # GiB
IMAGES = 8  # of a step under a budget: CoCoOp's 500 classes need more than the default then
OVER = 1.25  # a peak is at most so many times what is planned
T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class Check:
    """One check: passed, failed or not run; what it measured, its seconds, and why it did not pass."""

    name: str
    result: str
    measured: str = ""
    seconds: float | None = None
    reason: str = ""


@dataclasses.dataclass(frozen=True)
class Peak:
    """Bytes that the text tower plans with in a step, and the step's peak."""

    step: str
    planned: float
    measured: float

    @property
    def check(self) -> Check:
        result = "passed" if self.measured <= OVER * self.planned else "failed"
        name = f"memory at most {OVER:g} times what is planned [{self.step}]"
        return Check(name, result, f"{self.measured / self.planned:.2f} times")


# ---- tests


def run_tests(folder: Path, tests: str = "tests", seconds: float = TESTS) -> list[Check]:
    """The tests with the marker gpu, in a process of their own, interrupted after so many seconds."""
    path = folder / "tests.xml"
    command = [sys.executable, "-m", "pytest", tests, "-m", "gpu", "-q", "--continue-on-collection-errors"]
    command += ["-o", "junit_family=xunit1", f"--junitxml={path}"]
    environment = {**os.environ, "CUBLAS_WORKSPACE_CONFIG": ":4096:8"}  # matrix products that repeat
    reason = "pytest ran none; its output says why"
    with subprocess.Popen(command, cwd=ROOT, env=environment) as process:
        for limit, stop in ((seconds, signal.SIGINT), (20, signal.SIGKILL)):  # interrupted, pytest writes what it has
            try:
                process.wait(limit)
                break
            except subprocess.TimeoutExpired:
                reason = f"not done after {seconds:g} s"
                process.send_signal(stop)
    checks = read_tests(path) if path.is_file() else []
    if not checks or reason.startswith("not done"):
        checks.append(Check("all tests marked gpu", "failed", reason=reason))
    return checks


def read_tests(path: Path) -> list[Check]:
    """From pytest's JUnit file."""
    checks = []
    for case in ElementTree.parse(path).iter("testcase"):
        problems = [child for child in case if child.tag in ("failure", "error", "skipped")]
        result = "passed" if not problems else "not run" if problems[0].tag == "skipped" else "failed"
        name = case.get("name", "").removeprefix("test_").replace("_", " ")
        measured = "; ".join(f"{p.get('name')}: {p.get('value')}" for p in case.iter("property"))
        reason = " ".join(problem.get("message", "") for problem in problems)
        checks.append(Check(name, result, measured, float(case.get("time", 0)), reason))
    return checks


# ---- time and memory


class Session:
    """What has been measured until a time (of time.monotonic), and checks, also of what could not be measured."""

    def __init__(self, until: float):
        self.until = until
        self.checks: list[Check] = []
        self.rows: list[harness.Row] = []
        self.peaks: list[Peak] = []

    def attempt(self, kept: list[T], title: str, work: Callable[..., list[T]], *given: object) -> None:
        """Keeps what work returns; a check says so where time or memory is not enough, or both sides differ."""
        result, reason = "not run", "the time was up"
        try:
            if time.monotonic() < self.until:
                kept += work(*given)
                return
        except torch.cuda.OutOfMemoryError:
            reason = "not enough memory on this GPU"
        except SystemExit as error:  # of harness.compare
            result, reason = "failed", str(error)
        finally:
            gc.collect()
            torch.cuda.empty_cache()
        self.checks.append(Check(title, result, reason=reason))

    def measure(self, args: Namespace) -> None:
        """Rows of time and memory, and peaks under budgets."""
        clip, classes = sides.start(args)
        for method in sides.METHODS:
            for names in classes:
                what = f"{method}, {len(names)} classes"
                for precision in args.precisions:
                    self.attempt(self.rows, f"time, {what}, {precision}", timed, method, clip, names, args, precision)
                self.attempt(self.rows, f"memory, {what}", both_peaks, method, clip, names, args)
        for method in sides.METHODS:
            for budget in BUDGETS:
                title = f"memory, {method}, budget {budget:g} GiB"
                self.attempt(self.peaks, title, budgeted_peak, method, clip, classes[-1], args, budget)
        self.checks += [one.check for one in self.peaks]


def timed(method: str, clip: nn.Module, names: list[str], args: Namespace, precision: str) -> list[harness.Row]:
    """Rows of a training step in a precision."""
    rows = training_step.measure(method, clip, names, Namespace(**{**vars(args), "precision": precision}))
    return [dataclasses.replace(row, figure=f"{row.figure}, {precision}", goal=GOALS.get(method)) for row in rows]


def both_peaks(method: str, clip: nn.Module, names: list[str], args: Namespace) -> list[harness.Row]:
    """A row of the peaks of the text side's step."""
    batch = sides.BATCH[method]
    f, label = sides.random_features(clip, batch), sides.random_labels(clip, batch, len(names))
    both = [peak(sides.make_step(model, f, label), args.device) for model in sides.make_sides(method, clip, names)]
    figure = f"{method} step, text side, batch {batch}, {len(names)} classes, fp32, peak of memory"
    limit = memory.PADDED * len(names) / memory.tokens_of(names)
    return [harness.Row(figure, both[0], max(both[1], 1), limit=limit, unit="B")]


def budgeted_peak(method: str, clip: nn.Module, names: list[str], args: Namespace, budget: float) -> list[Peak]:
    """The peak of our step under a budget in GiB."""
    f, label = sides.random_features(clip, IMAGES), sides.random_labels(clip, IMAGES, len(names))
    model = LearnedCLIP(clip, sides.make_learner(method, clip, names, text_memory=budget))
    step = f"{method}, batch {IMAGES}, {len(names)} classes, budget {budget:g} GiB"
    return [Peak(step, planned(model, f), peak(sides.make_step(model, f, label), args.device))]


def planned(model: LearnedCLIP, f: Tensor) -> float:
    """Bytes of activations in a step on features f (B, e): the text tower's budget, or all tokens where they take less."""
    tower, prompts = model.learner.text_tower, model.learner.prompts(f)
    count, n_prefix, d = prompts.prefix.shape
    mask = pack_classes(prompts.lens, n_prefix, d, f.device).mask
    tokens = count * len(mask) * mask.shape[-1]
    return tower.memory * memory.GIB * min(1, tokens / tower.tokens_at_once(True, f.device))


def peak(step: Callable[[], object], device: str) -> int:
    """Bytes on a GPU at the peak of a step, minus before. A first step, which is not counted, makes what stays after it."""
    step()
    torch.cuda.synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    step()
    torch.cuda.synchronize(device)
    return torch.cuda.max_memory_allocated(device) - before


# ---- the page

HEAD = """# On a GPU

    python -m benchmarks.gpu

made this page: it checks and measures everything again and writes the page whole. Text and tables come from the command.

Measured {where}. TF32 off. The command took {minutes:.1f} minutes. **{counts}.**

## Checks

Numbers are compared with those of fp32 on the CPU, by relative error: at most 1e-4 in fp32, and in bf16, amp and fp16 what
`LIMITS` in tests/test_gpu.py allows. Where a run is killed and resumed, "default" beside "deterministic" means PyTorch's
algorithms as they are: with them a GPU need not repeat its own run.
"""
STEPS = """
## Time and memory against the textbook formula

What is compared, and what the limit is: [performance](performance.md). Sizes of ViT-B/16, random weights; median of {rounds}.
"""
BUDGET = """
## Memory against the text tower's budget

Planned is the budget (MODEL.TEXT_MEMORY), or what the activations of all tokens take where that is less. Measured is the peak of
a whole step with cached features, minus before. Allowed: {over:g} times.
"""
NOT_SEEN = """
## What was not seen

Trained weights (these are random, of the true sizes), other GPUs, several GPUs at once, data loading.
"""


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Markdown lines."""
    clean = [[" ".join(cell.replace("|", "/").split())[:300] for cell in row] for row in rows]
    return ["| " + " | ".join(row) + " |" for row in [list(head), ["---"] * len(head), *clean]]


def page(session: Session, where: str, rounds: int, seconds: float) -> str:
    """The whole page. where: what measured, and when."""
    results = [check.result for check in session.checks]
    counts = ", ".join(f"{results.count(result)} {result}" for result in ("passed", "failed", "not run"))
    checks = [
        (c.name, c.result if c.result != "failed" else "**failed**", c.measured, _seconds(c.seconds), c.reason)
        for c in sorted(session.checks, key=lambda check: check.result == "passed")
    ]
    peaks = [
        (p.step, harness.amount(p.planned, "B"), harness.amount(p.measured, "B"), f"{p.measured / p.planned:.2f}")
        for p in session.peaks
    ]
    goals = performance.goals(session.rows)
    lines = [HEAD.format(where=where, minutes=seconds / 60, counts=f"Checks: {counts}")]
    lines += table(("check", "result", "measured", "seconds", "why"), checks)
    lines += [STEPS.format(rounds=rounds), *harness.table(session.rows), "", *goals]
    lines += [BUDGET.format(over=OVER), *table(("step", "planned", "measured", "times"), peaks), NOT_SEEN]
    return "\n".join(lines)


def _seconds(value: float | None) -> str:
    return "" if value is None else f"{value:.1f}"


def describe() -> str:
    """The GPU and the software."""
    gpu = torch.cuda.get_device_properties(0)
    size, capability = harness.amount(gpu.total_memory, "B"), f"{gpu.major}.{gpu.minor}"
    return f"{harness.machine('cuda')}; {size}, compute capability {capability}, cuDNN {torch.backends.cudnn.version()}"


def why_not() -> str:
    """Why there is no GPU to check, "" where there is one."""
    if torch.cuda.is_available():
        return ""
    if torch.version.cuda is None:
        return f"torch {torch.__version__} is built without CUDA"
    return f"torch {torch.__version__} finds no CUDA device (nvidia-smi and CUDA_VISIBLE_DEVICES say more)"


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--page", type=Path, default=PAGE, help="default %(default)s")
    parser.add_argument("--rounds", type=int, default=5, help="rounds of each timing (default %(default)s)")
    args = parser.parse_args(arguments)
    if args.rounds < 1:
        parser.error(f"--rounds {args.rounds}: at least 1")
    if reason := why_not():
        print(f"python -m benchmarks.gpu needs an NVIDIA GPU: {reason}; nothing was run", file=sys.stderr)
        return 2
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    began = time.monotonic()
    session = Session(began + WHOLE)
    with tempfile.TemporaryDirectory() as folder:
        session.checks += run_tests(Path(folder))
    session.measure(Namespace(device="cuda", rounds=args.rounds, quick=False, classes=None, precisions=PRECISIONS))
    write_text(args.page, page(session, describe(), args.rounds, time.monotonic() - began))
    print(f"Written: {args.page}")
    return int(any(check.result == "failed" for check in session.checks))


if __name__ == "__main__":
    sys.exit(main())
