"""A whole training step of CoOp and CoCoOp: image tower, class features, logits, cross-entropy, backward, SGD.

    python -m benchmarks.training_step [--methods CoCoOp] [--threads 2] [--device cuda --precision amp] [--json FILE] [--quick]

ViT-B/16 sizes, random weights, Caltech101's 50 base classes, "a photo of a NAME.", batch 32 (CoOp) and 1 (CoCoOp). The
textbook formula encodes the images in every step. DiCap does so where INPUT.VIEWS is 0 (fresh augmentation, the published
recipe); with cached views it is given their features. Data loading is on neither side. Limit: multiply-adds of both.
"""

import sys
from argparse import Namespace

from torch import nn

from benchmarks import harness, sides

GOALS = {("CoCoOp", "with the image tower"): 7, ("CoCoOp", "cached views"): 12}


def measure(method: str, clip: nn.Module, names: list[str], args: Namespace) -> list[harness.Row]:
    """Rows of one method: with the image tower, and with cached views."""
    batch = sides.BATCH[method]
    images, label = sides.random_images(clip, batch), sides.random_labels(clip, batch, len(names))
    plain, ours = sides.make_sides(method, clip, names)
    given = {"with the image tower": images, "cached views": ours.encode_image(images)}
    for what, own in given.items():
        sides.check_step(f"{method} step, {what}", (plain, ours), (images, own), label)
    steps = {what: sides.make_step(ours, own, label, args.precision) for what, own in given.items()}
    textbook = sides.make_step(plain, images, label, args.precision)
    times = harness.interleaved({"textbook": textbook, **steps}, args.rounds, device=args.device)
    before, left = sides.text_counts(clip, method, names, batch, backward=True)
    tower = harness.image_counts(clip, batch)
    return [
        harness.timed_row(
            f"{method} step, {what}, batch {batch}, {len(names)} classes",
            {"textbook": times["textbook"], "DiCap": times[what]},
            goal=GOALS.get((method, what)),
            limit=(before + tower) / (left + (tower if own is images else 0)),
        )
        for what, own in given.items()
    ]


def main(arguments: list[str] | None = None) -> int:
    args = harness.parse(sides.arguments(__doc__), arguments)
    rows = sides.rows_of(measure, args)
    harness.finish(
        "Training step", rows, args, ["The textbook's side encodes the images in every step, in both rows of a method."]
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
