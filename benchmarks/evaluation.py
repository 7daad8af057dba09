"""Evaluation of CoOp and CoCoOp: logits of 100 test images, one batch, in 50 classes (500 too on a GPU).

    python -m benchmarks.evaluation [--full] [--methods CoCoOp] [--threads 2] [--device cuda --precision amp] [--json FILE]

ViT-B/16 sizes, random weights, Caltech101's 50 base classes, "a photo of a NAME.". The textbook formula encodes images and
class features in every batch, CoCoOp's image after image. DiCap keeps features of test images on disk for all methods and
seeds (rows "features cached"; the first method that tests a dataset encodes them once: rows "images encoded").
Parts are timed in turn and added: image tower, textbook text side, DiCap text side. What is linear in images (tower, CoCoOp)
is timed on a few of them and multiplied, unless --full (hours on two cores; the default on a GPU).
"""

import sys
from argparse import Namespace

import torch
from torch import Tensor, nn

from benchmarks import harness, sides, textbook

IMAGES = 100
CHECKED = 3  # images of the check that both sides agree
FEW = {"image tower": 2, "textbook": 2, "DiCap": 20}  # images of a round without --full
GOALS = {("CoCoOp", "features cached"): 10}


def check(method: str, plain: nn.Module, ours: nn.Module, images: Tensor) -> None:
    """Compares logits: textbook on images, DiCap on images and on features."""
    with torch.no_grad():
        expected = {"logits": plain(images)}
        for what, given in (("images encoded", images), ("features cached", ours.encode_image(images))):
            harness.compare(f"{method} evaluation, {what}", {"logits": ours(given)}, expected)


def time_parts(
    method: str, clip: nn.Module, plain: nn.Module, ours: nn.Module, args: Namespace
) -> dict[str, harness.Timing]:
    """Seconds of image tower, textbook text side and DiCap's text side for all IMAGES."""
    parts = {
        "image tower": (lambda x: textbook.image_features(clip, x), sides.random_images),
        "textbook": (plain, sides.random_features),
        "DiCap": (ours, sides.random_features),
    }
    counts = {
        part: few if (part == "image tower" or method == "CoCoOp") and not args.full else IMAGES
        for part, few in FEW.items()
    }
    steps = {
        part: sides.make_inference(model, draw(clip, counts[part]), args.precision)
        for part, (model, draw) in parts.items()
    }
    times = harness.interleaved(steps, args.rounds, device=args.device)
    return {part: times[part].times(IMAGES / counts[part]) for part in parts}


def measure(method: str, clip: nn.Module, names: list[str], args: Namespace) -> list[harness.Row]:
    """Rows of one method: images encoded, and features cached."""
    plain, ours = sides.make_sides(method, clip, names)
    check(method, plain, ours, sides.random_images(clip, CHECKED))
    times = time_parts(method, clip, plain, ours, args)
    before, left = sides.text_counts(clip, method, names, IMAGES, backward=False)
    tower, images = times["image tower"], harness.image_counts(clip, IMAGES)
    return [
        harness.timed_row(
            f"{method} evaluation, {what}, {IMAGES} images, {len(names)} classes",
            {"textbook": times["textbook"].plus(tower), "DiCap": own},
            goal=GOALS.get((method, what)),
            limit=(before + images) / (left + more),
        )
        for what, own, more in (
            ("images encoded", times["DiCap"].plus(tower), images),
            ("features cached", times["DiCap"], 0),
        )
    ]


def main(arguments: list[str] | None = None) -> int:
    parser = sides.arguments(__doc__)
    parser.add_argument("--full", action="store_true", help=f"time all {IMAGES} images in every round")
    args = harness.parse(parser, arguments)
    args.full = args.full or torch.device(args.device).type == "cuda"
    rows = sides.rows_of(measure, args)
    few = ", ".join(f"{part} {count}" for part, count in FEW.items())
    told = (
        f"All {IMAGES} images in every round."
        if args.full
        else (
            f"Times for {IMAGES} images, from rounds of fewer where time is linear in images (image tower, all of CoCoOp): {few}."
        )
    )
    harness.finish("Evaluation", rows, args, [told])
    return 0


if __name__ == "__main__":
    sys.exit(main())
