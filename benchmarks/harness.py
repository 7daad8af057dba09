"""What the benchmarks share: a random CLIP, class names, the check that both sides agree, timing, memory, counts, the table.

A benchmark compares two callables that compute the same thing: the textbook formula (benchmarks/textbook.py) and DiCap's.
It checks that they agree, times them in turn, and prints a row a figure: both times, their ratio, the goal, the limit (the
ratio of what each has to compute) and how much of the limit is reached. Random weights serve: time does not depend on them.
"""

import argparse
import concurrent.futures
import dataclasses
import datetime
import gc
import itertools
import json
import math
import multiprocessing
import os
import platform
import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

import dicap
from dicap.backbones import tokenize
from dicap.backbones.package import clip_package
from dicap.files import write_text
from dicap.wording import readable

WORDS = "a photo of a"  # 4 context tokens
SAME = 1e-5  # relative error in fp32, forward and gradient, that is still rounding
SAME_ON_GPU = 1e-4  # whose kernels add up in an order that differs from size to size
# positional arguments of clip.model.CLIP: embed_dim, resolution, vision layers, width, patch, then context, vocabulary,
# text width, heads, layers
VIT_B16 = (512, 224, 12, 768, 16, 77, 49408, 512, 8, 12)
QUICK = (32, 32, 2, 64, 16, 77, 49408, 128, 2, 3)

# Caltech101's base classes: the first half of its 100, in the order of the family's split (folders as they sort)
CALTECH101_BASE = (
    "face leopard motorbike accordion airplane anchor ant barrel bass beaver binocular bonsai brain brontosaurus buddha "
    "butterfly camera cannon car_side ceiling_fan cellphone chair chandelier cougar_body cougar_face crab crayfish crocodile "
    "crocodile_head cup dalmatian dollar_bill dolphin dragonfly electric_guitar elephant emu euphonium ewer ferry flamingo "
    "flamingo_head garfield gerenuk gramophone grand_piano hawksbill headphone hedgehog helicopter"
).split()
# tokens of a name -> how many of ImageNet's 1,000 names, spelled as for CLIP's zero-shot test, have so many
IMAGENET_LENGTHS = {1: 246, 2: 508, 3: 155, 4: 49, 5: 24, 6: 9, 7: 7, 8: 1, 11: 1}

# ---- what is measured on


def make_clip(quick: bool = False, device: str | torch.device = "cpu") -> nn.Module:
    """A frozen random CLIP in fp32, of ViT-B/16 sizes or tiny. Attention is sharper than CLIP's own start makes it, so that
    classes differ as a trained CLIP's do (mean cosine about 0.7), and logits have CLIP's trained scale of 100."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        clip = clip_package().model.CLIP(*(QUICK if quick else VIT_B16)).float()
    clip.requires_grad_(False).eval()
    clip.logit_scale.fill_(math.log(100))
    for block in clip.transformer.resblocks:
        block.attn.in_proj_weight[: 2 * block.attn.embed_dim] *= 2  # queries and keys
    return clip.to(device)


def synthetic_names(count: int) -> list[str]:
    """count different names of common words, as long as ImageNet's are: 2.2 tokens in the mean, up to 11 in 1,000."""
    encoder = clip_package().clip._tokenizer.encoder
    whole = (token.removesuffix("</w>") for token in encoder if token.endswith("</w>"))
    words = (word for word in whole if word.isascii() and word.isalpha() and len(word) >= 4)
    lengths = [length for length, times in IMAGENET_LENGTHS.items() for _ in range(times)]
    n = len(lengths)
    return [" ".join(itertools.islice(words, lengths[k * 619 % n])) for k in range(count)]  # 619: lengths well mixed


def prompt_tokens(names: Iterable[str], device: str | torch.device = "cpu") -> tuple[Tensor, list[int]]:
    """What the textbook formula takes: tokens (C, 77) of "a photo of a NAME.", and tokens of each name."""
    spelled = [readable(name) for name in names]
    lens = (tokenize(spelled).argmax(dim=-1) - 1).tolist()
    return tokenize([f"{WORDS} {name}." for name in spelled]).to(device), lens


# ---- do both sides agree


def relative(got: Tensor, expected: Tensor) -> float:
    """Length of the difference over the length of what is expected."""
    return float((got - expected).norm() / expected.norm())


def compare(title: str, got: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    """Prints the relative error of each named tensor.

    Raises:
        SystemExit: one is above SAME, on a GPU SAME_ON_GPU, or not a number: what differs is not timed.
    """
    limit = SAME if all(value.device.type == "cpu" for value in expected.values()) else SAME_ON_GPU
    errors = {name: relative(got[name].float(), value.float()) for name, value in expected.items()}
    print(
        f"same numbers, {title}: "
        + ", ".join(f"{name} {error:.1e}" for name, error in errors.items())
        + f" (relative error; at most {limit:g})",
        flush=True,
    )
    wrong = [name for name, error in errors.items() if not error <= limit]
    if wrong:
        raise SystemExit(
            f"{title}: {', '.join(wrong)} differ from the textbook formula by more than {limit:g}; nothing is timed"
        )


def outcome(loss: Tensor, named: Iterable[tuple[str, Tensor]], /, **values: Tensor) -> dict[str, Tensor]:
    """values, and the gradient of the loss in each named parameter, as `compare` takes them."""
    named = list(named)
    gradients = torch.autograd.grad(loss, [parameter for _, parameter in named])
    return {**values, **{f"gradient of {name}": g for (name, _), g in zip(named, gradients)}}


# ---- time and memory


@dataclasses.dataclass(frozen=True)
class Timing:
    """Seconds: median, fastest and slowest round."""

    median: float
    low: float
    high: float

    def times(self, factor: float) -> "Timing":
        """Of so much more work."""
        return Timing(self.median * factor, self.low * factor, self.high * factor)

    def plus(self, other: "Timing") -> "Timing":
        """Of both, one behind the other."""
        return Timing(self.median + other.median, self.low + other.low, self.high + other.high)


def interleaved(
    sides: dict[str, Callable[[], object]],
    rounds: int,
    clock: Callable[[], float] = time.perf_counter,
    device: torch.device | str = "cpu",
) -> dict[str, Timing]:
    """Times callables in turn: one warm-up each, then rounds in which each runs once, every other round in reverse order."""
    for side in sides.values():
        side()
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for k in range(rounds):
        for name in list(sides)[:: -1 if k % 2 else 1]:
            synchronize(device)
            began = clock()
            sides[name]()
            synchronize(device)
            seconds[name].append(clock() - began)
    return {name: Timing(statistics.median(spent), min(spent), max(spent)) for name, spent in seconds.items()}


def synchronize(device: torch.device | str) -> None:
    """Waits for a GPU's work."""
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)


def peak_memory(prepare: Callable[..., Callable[[], object]], *args) -> int:
    """Bytes that the step prepare(*args) needs on top of what is there before: peak minus before, in a fresh process.

    Args:
        prepare: a function at the top level of a module; it returns the step, which runs once, on the CPU: what counts is the
            process's resident memory (Linux alone).
    """
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(_peak, prepare, args, torch.get_num_threads()).result()


def _peak(prepare: Callable[..., Callable[[], object]], args: tuple, threads: int) -> int:
    torch.set_num_threads(threads)
    step = prepare(*args)
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
    before = _resident("VmRSS")
    step()
    return _resident("VmHWM") - before


def _resident(field: str) -> int:
    """Bytes: VmRSS now, VmHWM at the peak."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field + ":")) * 1024


# ---- what there is to compute


def block_counts(tokens: float, pairs: float, d: int, queries: float | None = None, backward: bool = False) -> float:
    """Multiply-adds of one block of width d.

    Args:
        tokens: tokens that give keys and values.
        pairs: pairs (query, key) that attention looks at.
        queries: tokens that the block is computed for; None = all.
        backward: with the gradient in the block's input (weights are frozen): matrices once more, attention twice more.
    """
    queries = tokens if queries is None else queries
    matrices = tokens * 2 * d * d + queries * 10 * d * d  # keys and values; query, output 2 d^2, feed-forward 8 d^2
    return matrices * (2 if backward else 1) + pairs * 2 * d * (3 if backward else 1)


def textbook_counts(clip: nn.Module, prompts: int, backward: bool) -> float:
    """Multiply-adds of the textbook formula for so many prompts: every block, 77 tokens, 77 x 77 pairs."""
    n, d = clip.positional_embedding.shape
    return len(clip.transformer.resblocks) * block_counts(prompts * n, prompts * n * n, d, backward=backward)


def shortest_counts(clip: nn.Module, prefixes: int, prefix: int, suffixes: list[int], backward: bool) -> float:
    """Multiply-adds that are left: each prefix once, no padding, causal pairs, the last block at end-of-text alone.

    Args:
        prefixes: 1, or one an image.
        prefix: tokens of a prefix, start-of-text included.
        suffixes: tokens of each class behind it, end-of-text included.
    """
    d, layers, classes = clip.positional_embedding.shape[1], len(clip.transformer.resblocks), len(suffixes)
    tokens = prefix + sum(suffixes)
    pairs = prefix * (prefix + 1) / 2 + sum(n * prefix + n * (n + 1) / 2 for n in suffixes)
    last = sum(prefix + n for n in suffixes)
    return prefixes * (
        (layers - 1) * block_counts(tokens, pairs, d, backward=backward)
        + block_counts(tokens, last, d, classes, backward)
    )


def image_counts(clip: nn.Module, images: int) -> float:
    """Multiply-adds of so many images through a ViT, forward."""
    visual = clip.visual
    n, d = visual.positional_embedding.shape
    patches = images * (n - 1) * visual.conv1.weight.numel()
    return patches + len(visual.transformer.resblocks) * block_counts(images * n, images * n * n, d)


def suffix_lens(lens: list[int]) -> list[int]:
    """Tokens behind the context: the name, the full stop, end-of-text."""
    return [n + 2 for n in lens]


# ---- the table


@dataclasses.dataclass(frozen=True)
class Row:
    """One figure: seconds, or bytes where unit says so; goal and limit are ratios textbook / dicap, None where none is set.

    spread: slowest over fastest round of each side, "" for what is not repeated.
    """

    figure: str
    textbook: float
    dicap: float
    goal: float | None = None
    limit: float | None = None
    spread: str = ""
    unit: str = "s"
    note: str = ""

    @property
    def ratio(self) -> float:
        return self.textbook / self.dicap

    @property
    def reached(self) -> float | None:
        """Share of the limit."""
        return self.ratio / self.limit if self.limit else None

    def cells(self) -> list[str]:
        reached = "" if self.reached is None else f"{self.reached:.0%}"
        goal = "" if self.goal is None else f"{self.goal:g}"
        limit = "" if self.limit is None else f"{self.limit:.1f}"
        return [
            self.figure,
            amount(self.textbook, self.unit),
            amount(self.dicap, self.unit),
            f"{self.ratio:.1f}",
            goal,
            limit,
            reached,
            self.spread,
        ]

    def as_dict(self) -> dict:
        return {**dataclasses.asdict(self), "ratio": self.ratio, "reached": self.reached}


COLUMNS = ["figure", "textbook", "DiCap", "ratio", "goal", "limit", "of the limit", "spread"]


def timed_row(figure: str, times: dict[str, Timing], **more) -> Row:
    """A row of the sides "textbook" and "DiCap"."""
    textbook, ours = times["textbook"], times["DiCap"]
    spread = " and ".join(f"{t.low / t.median - 1:+.0%}..{t.high / t.median - 1:+.0%}" for t in (textbook, ours))
    return Row(figure, textbook.median, ours.median, spread=spread, **more)


def amount(value: float, unit: str) -> str:
    """1.23 s, 45 ms, 1.20 GiB, 340 MiB, or a plain number."""
    if unit == "s":
        return f"{value:.2f} s" if value >= 1 else f"{1000 * value:.3g} ms"
    if unit == "B":
        return f"{value / 2**30:.2f} GiB" if value >= 2**30 else f"{value / 2**20:.1f} MiB"
    return f"{value:g}{unit and ' ' + unit}"


def markdown(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Lines of a table."""
    return ["| " + " | ".join(line) + " |" for line in (head, ["---"] * len(head), *rows)]


def table(rows: Iterable[Row]) -> list[str]:
    """Lines of a table of figures."""
    return markdown(COLUMNS, (row.cells() for row in rows))


def machine(device: torch.device | str = "cpu") -> str:
    """What measured, and when."""
    where = f"{platform.machine()} with {os.cpu_count()} cores, {torch.get_num_threads()} threads"
    if torch.device(device).type == "cuda":
        where = f"{torch.cuda.get_device_name(device)}, CUDA {torch.version.cuda}"
    return (
        f"{datetime.date.today()}, {where}, {platform.system()}, Python {platform.python_version()}, torch {torch.__version__},"
        f" dicap {dicap.__version__}"
    )


# ---- the command line


def parser(doc: str | None, gpu: bool = True, autocast: bool = True) -> argparse.ArgumentParser:
    """The flags that all benchmarks have; gpu, autocast: whether this one can be measured there, and so."""
    made = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--threads", type=int, default=torch.get_num_threads(), help="CPU threads (default %(default)s)")
    made.add_argument(
        "--device",
        default="cuda" if gpu and torch.cuda.is_available() else "cpu",
        choices=None if gpu else ("cpu",),
        help="default %(default)s",
    )
    made.add_argument(
        "--precision",
        choices=("fp32", "amp", "bf16") if autocast else ("fp32",),
        default="fp32",
        help="amp and bf16: autocast of both sides, amp on a GPU alone (default %(default)s)",
    )
    made.add_argument("--rounds", type=int, default=7, help="rounds of each timing (default %(default)s)")
    made.add_argument("--quick", action="store_true", help="tiny sizes, one round: does it run, no result")
    made.add_argument("--json", type=Path, help="write the rows to this file too")
    return made


def parse(made: argparse.ArgumentParser, arguments: list[str] | None) -> argparse.Namespace:
    """The flags, checked; threads are set."""
    args = made.parse_args(arguments)
    if args.precision == "amp" and torch.device(args.device).type != "cuda":
        made.error("--precision amp needs a GPU; on a CPU amp is fp32")
    if args.threads < 1 or args.rounds < 1:
        made.error(f"--threads {args.threads} --rounds {args.rounds}: at least 1")
    torch.set_num_threads(args.threads)
    args.rounds = 1 if args.quick else args.rounds
    return args


def autocast(device: torch.device | str, precision: str = "fp32") -> torch.autocast:
    """Autocast of what is computed within, as --precision says."""
    dtype = torch.bfloat16 if precision == "bf16" else torch.float16
    return torch.autocast(torch.device(device).type, dtype, enabled=precision != "fp32")


def finish(title: str, rows: list[Row], args: argparse.Namespace, notes: Iterable[str] = ()) -> None:
    """Prints the table; writes the JSON that was asked for."""
    notes = [*notes, *(f"{row.figure}: {row.note}" for row in rows if row.note)]
    lines = [
        f"## {title}",
        "",
        f"Measured {machine(args.device)}, {args.precision}, median of {args.rounds}.",
        "",
        *table(rows),
    ]
    print("\n".join([*lines, *(["", *notes] if notes else [])]), flush=True)
    if args.json:
        report = {
            "title": title,
            "machine": machine(args.device),
            "precision": args.precision,
            "rounds": args.rounds,
            "quick": args.quick,
            "rows": [row.as_dict() for row in rows],
            "notes": list(notes),
        }
        write_text(args.json, json.dumps(report, indent=1) + "\n")
