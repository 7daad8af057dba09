"""The text side of CoOp and CoCoOp: 77 padded tokens against a shared prefix without padding.

    python -m benchmarks.text_tower [--coop CLONE] [--threads 2] [--device cuda --precision amp] [--json FILE] [--quick]

ViT-B/16 sizes, random weights, Caltech101's 50 base classes, "a photo of a NAME.", batch 32 (CoOp) and 1 (CoCoOp) of given
image features. A step: class features, logits, cross-entropy, gradient in what is learned, SGD. Forward: logits, no gradient.
Limit: multiply-adds of both sides, attention included. --coop: a clone of github.com/KaiyangZhou/CoOp, timed beside them.
"""

import sys
from argparse import Namespace
from pathlib import Path

from torch import nn

from benchmarks import harness, sides

GOALS = {"CoOp": 8, "CoCoOp": 12}  # of a step
OWN = "CoOp's own module"


def own_model(path: Path, method: str, clip: nn.Module, names: list[str], start: nn.Module) -> nn.Module:
    """CoOp's own model from the same start, given image features in place of images."""
    device = clip.logit_scale.device
    model = sides.coop_repository(path, method, clip.cpu(), names)  # makes its prompts on the CPU
    clip.to(device)
    model.to(device).eval()
    model.image_encoder = nn.Identity()
    model.prompt_learner.load_state_dict(dict(sides.learned(start)), strict=False)
    return model


def measure(method: str, clip: nn.Module, names: list[str], args: Namespace) -> list[harness.Row]:
    """Rows of one method: a step, and forward only."""
    batch = sides.BATCH[method]
    f, label = sides.random_features(clip, batch), sides.random_labels(clip, batch, len(names))
    plain, ours = sides.make_sides(method, clip, names)
    sides.check_step(f"{method}, text side", (plain, ours), (f, f), label)
    models = {"textbook": plain, "DiCap": ours}
    if args.coop:
        models[OWN] = own_model(args.coop, method, clip, names, plain)
        sides.check_step(f"{method}, {OWN}", (plain, models[OWN]), (f, f), label)
    steps = {name: sides.make_step(model, f, label, args.precision) for name, model in models.items()}
    forwards = {name: sides.make_inference(model, f, args.precision) for name, model in models.items()}
    rows = []
    for what, callables, goal in (("step", steps, GOALS[method]), ("forward", forwards, None)):
        times = harness.interleaved(callables, args.rounds, device=args.device)
        textbook, left = sides.text_counts(clip, method, names, batch, backward=what == "step")
        rows.append(
            harness.timed_row(
                f"{method} {what}, text side, batch {batch}, {len(names)} classes",
                times,
                goal=goal,
                limit=textbook / left,
                note=beside(times),
            )
        )
    return rows


def beside(times: dict[str, harness.Timing]) -> str:
    """What CoOp's own module took, where it was timed."""
    if OWN not in times:
        return ""
    own, plain = times[OWN].median, times["textbook"].median
    return f"{OWN} {harness.amount(own, 's')}, the textbook formula {plain / own:.2f} times that"


def main(arguments: list[str] | None = None) -> int:
    parser = sides.arguments(__doc__)
    parser.add_argument("--coop", type=Path, help="a clone of github.com/KaiyangZhou/CoOp to time beside")
    args = harness.parse(parser, arguments)
    rows = sides.rows_of(measure, args)
    harness.finish("Text tower", rows, args)
    return 0


if __name__ == "__main__":
    sys.exit(main())
