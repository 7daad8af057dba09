"""How a CoCoOp step and CoCoOp's evaluation grow, in time and memory: with classes, context, batch, images.

    python -m benchmarks.growth [--quick] [--json FILE]

ViT-B/16 sizes, text side alone, cached features; a CoOp step is a CoCoOp step of batch 1 without the small network. Where
classes grow, names are as long as ImageNet's; elsewhere they are Caltech101's 50 base class names. The textbook formula is
measured where it is affordable. A line is fitted over the number of classes: R^2 says whether growth is linear, and the
slopes' ratio stands beside the tokens': 77 a class over what a class adds (its name, a full stop, end-of-text).
"""

import dataclasses
import statistics
import sys
from argparse import Namespace
from collections.abc import Callable

import torch
from torch import nn

from benchmarks import harness
from benchmarks.memory import PADDED, names_of, peak, tokens_of
from benchmarks.sides import make_learner, make_sides, make_step, random_features, random_labels
from dicap.learner import LearnedCLIP

CLASSES, TEXTBOOK_CLASSES = (10, 30, 100, 300, 1000), (10, 30, 100)
CONTEXT = (4, 8, 16, 32)
BATCHES, TEXTBOOK_BATCHES = (1, 2, 4, 8), (1, 2)
IMAGES, TEXTBOOK_IMAGES = (10, 20, 50, 100), (1, 2, 4)
Sides = dict[str, Callable[[], object]]


@dataclasses.dataclass(frozen=True)
class Line:
    """y = start + slope x by least squares, and the share of the variance that it explains."""

    slope: float
    start: float
    r2: float

    @classmethod
    def fit(cls, points: dict[int, float]) -> "Line":
        """Through points y by x."""
        slope, start = statistics.linear_regression(list(points), list(points.values()))
        return cls(slope, start, statistics.correlation(list(points), list(points.values())) ** 2)


@dataclasses.dataclass
class Growth:
    """One table: seconds or bytes by size on either side, and the tokens that DiCap's tower reads at least."""

    title: str
    unit: str = "s"
    textbook: dict[int, float] = dataclasses.field(default_factory=dict)
    ours: dict[int, float] = dataclasses.field(default_factory=dict)
    tokens: dict[int, int] = dataclasses.field(default_factory=dict)

    def add(self, size: int, tokens: int, sides: Sides, rounds: int) -> None:
        """Times the sides "textbook", which may be missing, and "DiCap" at one size."""
        times = {name: timing.median for name, timing in harness.interleaved(sides, rounds).items()}
        self.tokens[size], self.ours[size] = tokens, times["DiCap"]
        if "textbook" in times:
            self.textbook[size] = times["textbook"]

    def lines(self) -> list[str]:
        """Markdown."""
        made = [
            "",
            f"{self.title}:",
            "",
            "| size | tokens | textbook | DiCap | DiCap a token |",
            "|---|---|---|---|---|",
        ]
        for size, value in self.ours.items():
            textbook = harness.amount(self.textbook[size], self.unit) if size in self.textbook else ""
            made.append(
                f"| {size:,} | {self.tokens[size]:,} | {textbook} | {harness.amount(value, self.unit)} |"
                f" {harness.amount(value / self.tokens[size], self.unit)} |"
            )
        return made

    def slopes(self, limit: float) -> tuple[harness.Row, str]:
        """What one more of the size costs on both sides, and in words how straight the lines are."""
        textbook, ours = Line.fit(self.textbook), Line.fit(self.ours)
        by_token = Line.fit({self.tokens[size]: value for size, value in self.ours.items()})
        row = harness.Row(f"{self.title}, what one more costs", textbook.slope, ours.slope, limit=limit, unit=self.unit)
        return row, (
            f"- {self.title}: a line over the sizes explains R^2 {ours.r2:.4f} (textbook, {len(self.textbook)} sizes:"
            f" {textbook.r2:.4f}), over the tokens"
            f" {by_token.r2:.4f}; slopes' ratio {row.ratio:.1f}, tokens' ratio {limit:.1f}."
        )


# ---- the tables


def steps(clip: nn.Module, names: list[str], batch: int, textbook: bool) -> Sides:
    """A training step of CoCoOp on each side."""
    models = dict(zip(("textbook", "DiCap"), make_sides("CoCoOp", clip, names)))
    f, label = random_features(clip, batch), random_labels(clip, batch, len(names))
    return {side: make_step(model, f, label) for side, model in models.items() if textbook or side == "DiCap"}


def of_classes(clip: nn.Module, args: Namespace) -> tuple[Growth, Growth]:
    """Time and memory by number of classes."""
    time, memory = Growth("CoCoOp step by classes, time"), Growth("CoCoOp step by classes, memory", "B")
    for classes in (4, 8, 16) if args.quick else CLASSES:
        names, textbook = names_of(classes), args.quick or classes in TEXTBOOK_CLASSES
        time.add(classes, tokens_of(names), steps(clip, names, 1, textbook), args.rounds)
        memory.tokens[classes] = tokens_of(names)
        memory.ours[classes] = peak("DiCap", "CoCoOp", classes, 1, args.quick)
        if textbook:
            memory.textbook[classes] = peak("textbook", "CoCoOp", classes, 1, args.quick)
    return time, memory


def of_context(clip: nn.Module, names: list[str], args: Namespace) -> Growth:
    """Time by context length; the textbook formula always has 77 tokens, and is timed at 4."""
    growth, f, label = (
        Growth("CoCoOp step by context tokens"),
        random_features(clip, 1),
        random_labels(clip, 1, len(names)),
    )
    for n in CONTEXT:
        model = LearnedCLIP(clip, make_learner("CoCoOp", clip, names, ctx_init="", n_ctx=n))
        sides: Sides = {"DiCap": make_step(model, f, label)}
        if n == CONTEXT[0]:
            sides["textbook"] = steps(clip, names, 1, True)["textbook"]
        growth.add(n, tokens_of(names, n_ctx=n), sides, args.rounds)
    return growth


def of_batch(clip: nn.Module, names: list[str], args: Namespace) -> Growth:
    """Time by batch."""
    growth = Growth("CoCoOp step by batch")
    for batch in BATCHES:
        growth.add(batch, tokens_of(names, batch), steps(clip, names, batch, batch in TEXTBOOK_BATCHES), args.rounds)
    return growth


def of_images(clip: nn.Module, names: list[str]) -> Growth:
    """Time of an evaluation by number of images."""
    growth, (textbook, ours) = Growth("CoCoOp evaluation by images"), make_sides("CoCoOp", clip, names)
    with torch.no_grad():
        for images in IMAGES:
            f = random_features(clip, images)
            growth.add(images, tokens_of(names, images), {"DiCap": lambda f=f: ours(f)}, 1)
        for images in TEXTBOOK_IMAGES:
            f = random_features(clip, images)
            growth.textbook[images] = harness.interleaved({"textbook": lambda f=f: textbook(f)}, 1)["textbook"].median
    return growth


def main(arguments: list[str] | None = None) -> int:
    args = harness.parse(harness.parser(__doc__, gpu=False, autocast=False), arguments)
    args.rounds = min(args.rounds, 3)
    clip, names = harness.make_clip(args.quick), list(harness.CALTECH101_BASE)[: 4 if args.quick else None]
    time, memory = of_classes(clip, args)
    images = of_images(clip, names)
    batch = of_batch(clip, names, args)
    a_class = PADDED * 1000 / sum(harness.suffix_lens(harness.prompt_tokens(names_of(1000))[1]))
    an_image = PADDED * len(names) / tokens_of(names)
    told = [time.slopes(a_class), memory.slopes(a_class), batch.slopes(an_image), images.slopes(an_image)]
    notes = [line for _, line in told]
    for growth in (time, memory, of_context(clip, names, args), batch, images):
        notes += growth.lines()
    harness.finish("Growth", [row for row, _ in told], args, notes)
    return 0


if __name__ == "__main__":
    sys.exit(main())
