"""Peak memory of one training step, CoOp's and CoCoOp's, by the textbook and by DiCap; what fits at 1,000 classes.

    python -m benchmarks.memory [--quick] [--json FILE]

ViT-B/16 sizes, Caltech101's 50 base class names, 4 context tokens; names as long as ImageNet's for 1,000 classes. Each figure
is the peak minus what was there before, of one step in a fresh process. Limit: 77 tokens a class over those that carry
something. The textbook's 1,000 classes are not run: they need twenty times what 50 need, which is printed.
"""

import sys
from collections.abc import Callable

from benchmarks import harness
from benchmarks.sides import (
    BATCH,
    METHODS,
    PREFIX,
    make_sides,
    make_step,
    random_features,
    random_images,
    random_labels,
)
from dicap.text_tower import MEMORY

GOAL = 5
ALLOWED = {"CoOp": 8, "CoCoOp": 16}  # GiB at 1,000 classes
PADDED = 77  # tokens of each prompt by the textbook
BUDGETS = (1.0, MEMORY, 1024.0)  # GiB of MODEL.TEXT_MEMORY: small, the default, none
GIB = 2**30


def step_of(
    side: str, method: str, classes: int, batch: int, images: bool, budget: float, quick: bool
) -> Callable[[], None]:
    """One training step of "textbook" or "DiCap" with cached features or with images; runs in a fresh process."""
    clip = harness.make_clip(quick)
    textbook, ours = make_sides(method, clip, names_of(classes), text_memory=budget)
    given = random_images(clip, batch) if images else random_features(clip, batch)
    return make_step(textbook if side == "textbook" else ours, given, random_labels(clip, batch, classes))


def names_of(classes: int) -> list[str]:
    """Caltech101's 50, or as many that are as long as ImageNet's."""
    known = harness.CALTECH101_BASE
    return list(known) if classes == len(known) else harness.synthetic_names(classes)


def peak(
    side: str, method: str, classes: int, batch: int, quick: bool, images: bool = False, budget: float = BUDGETS[-1]
) -> int:
    """Bytes."""
    return harness.peak_memory(step_of, side, method, classes, batch, images, budget, quick)


def tokens_of(names: list[str], images: int = 1, n_ctx: int = PREFIX - 1) -> int:
    """Tokens that carry something: start-of-text and context once an image, and each class."""
    return images * (1 + n_ctx + sum(harness.suffix_lens(harness.prompt_tokens(names)[1])))


def token_ratio(method: str, classes: int, batch: int) -> float:
    """Tokens of the textbook formula over tokens that carry something."""
    images = batch if method == "CoCoOp" else 1
    return PADDED * classes * images / tokens_of(names_of(classes), images)


def compared(
    method: str, classes: int, batch: int, quick: bool, images: bool = False, goal: float | None = None
) -> harness.Row:
    """Both sides measured."""
    both = [peak(side, method, classes, batch, quick, images) for side in ("textbook", "DiCap")]
    what = "with the image tower" if images else "text side"
    return harness.Row(
        f"{method} step, {classes} classes, batch {batch}, {what}",
        both[0],
        max(both[1], 1),
        goal=goal,
        unit="B",
        limit=token_ratio(method, classes, batch),
    )


def of_batches(batches: tuple[int, ...], classes: int, quick: bool) -> list[str]:
    """CoCoOp's peak by batch, DiCap alone."""
    peaks = [harness.amount(peak("DiCap", "CoCoOp", classes, batch, quick), "B") for batch in batches]
    return [
        f"- CoCoOp by DiCap, {classes} classes, no budget: "
        + ", ".join(f"batch {batch} {amount}" for batch, amount in zip(batches, peaks))
        + "."
    ]


def of_budgets(method: str, classes: int, args) -> tuple[int, list[str]]:
    """Bytes under the default budget, and lines of a table: memory and seconds of one step under each."""
    batch, found, lines = BATCH[method], {}, []
    for budget in BUDGETS:
        found[budget] = peak("DiCap", method, classes, batch, args.quick, budget=budget)
        step = step_of("DiCap", method, classes, batch, False, budget, args.quick)
        seconds = harness.interleaved({"DiCap": step}, 1)["DiCap"].median
        name = "none" if budget == BUDGETS[-1] else f"{budget:g} GiB"
        lines.append(f"| {method} | {name} | {harness.amount(found[budget], 'B')} | {harness.amount(seconds, 's')} |")
    return found[MEMORY], lines


def main(arguments: list[str] | None = None) -> int:
    args = harness.parse(harness.parser(__doc__, gpu=False, autocast=False), arguments)
    weights = sum(p.numel() * p.element_size() for p in harness.make_clip(args.quick).parameters())
    classes, many = (4, 8) if args.quick else (len(harness.CALTECH101_BASE), 1000)
    rows, budgets, notes = [], [], []
    for method in METHODS:
        for images in (False, True):
            rows.append(compared(method, classes, BATCH[method], args.quick, images, GOAL))
        needed, lines = of_budgets(method, many, args)
        allowed = ALLOWED[method] * GIB
        rows.append(
            harness.Row(
                f"{method} step, {many:,} classes, batch {BATCH[method]}: the {ALLOWED[method]} GiB allowed, against"
                " the peak",
                allowed,
                max(needed, 1),
                goal=1,
                unit="B",
            )
        )
        scaled = rows[-3].textbook * many / classes
        notes.append(f"- By the textbook {method}'s step of {many:,} classes would need {harness.amount(scaled, 'B')}.")
        budgets += lines
    notes += [
        f"- The weights, {harness.amount(weights, 'B')}, were there before and are in no figure.",
        *of_batches((1, 2, 4, 8), classes, args.quick),
        "",
        f"One step by DiCap, {many:,} classes, with cached features, under a budget of the text tower's activations"
        " (MODEL.TEXT_MEMORY, default 4 GiB):",
        "",
        "| step | budget | peak | time |",
        "|---|---|---|---|",
        *budgets,
    ]
    harness.finish("Memory of a training step", rows, args, notes)
    return 0


if __name__ == "__main__":
    sys.exit(main())
