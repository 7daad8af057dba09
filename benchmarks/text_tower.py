"""The text side of CoOp and CoCoOp: 77 padded tokens against a shared prefix without padding.

    python -m benchmarks.text_tower [--coop CLONE] [--threads 2] [--device cuda --precision amp] [--json FILE] [--quick]

ViT-B/16 sizes, random weights, Caltech101's 50 base classes, "a photo of a NAME.", batch 32 (CoOp) and 1 (CoCoOp) of given
image features. A step: class features, logits, cross-entropy, gradient in what is sides.learned, SGD. Forward: logits, no gradient.
Limit: multiply-adds of both sides, attention included. --coop: a clone of github.com/KaiyangZhou/CoOp, timed beside them.
"""
import sys
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from benchmarks import harness, sides

GOALS = {"CoOp": 8, "CoCoOp": 12}  # of a step
OWN = "CoOp's own module"


def text_limit(clip: nn.Module, method: str, names: list[str], batch: int, backward: bool) -> float:
    """Multiply-adds of the textbook formula over those that are left."""
    _, lens = harness.prompt_tokens(names)
    prefixes = batch if method == "CoCoOp" else 1
    left = harness.shortest_counts(clip, prefixes, 5, harness.suffix_lens(lens), backward)
    return harness.textbook_counts(clip, prefixes * len(names), backward) / left


def forward_of(model: nn.Module, f: Tensor) -> Callable[[], Tensor]:
    """Logits without a gradient."""
    return torch.no_grad()(lambda: model(f))


def own_model(path: Path, method: str, clip: nn.Module, names: list[str], start: nn.Module) -> nn.Module:
    """CoOp's own model from the same start, given image features in place of images."""
    model = sides.coop_repository(path, method, clip, names).to(clip.logit_scale.device).eval()
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
    rows = []
    for what, make in {"step": lambda model: sides.make_step(model, f, label), "forward": lambda model: forward_of(model, f)}.items():
        with harness.precision(args):
            times = harness.interleaved({name: make(model) for name, model in models.items()}, args.rounds, device=args.device)
        limit = text_limit(clip, method, names, batch, backward=what == "step")
        goal = GOALS[method] if what == "step" else None
        rows.append(harness.timed_row(f"{method} {what}, text side, batch {batch}, {len(names)} classes", times, goal=goal, limit=limit,
                                      note=beside(times)))  # fmt: skip
    return rows


def beside(times: dict[str, harness.Timing]) -> str:
    """What CoOp's own module took, where it was timed."""
    if OWN not in times:
        return ""
    own, plain = times[OWN].median, times["textbook"].median
    return f"{OWN} {harness.amount(own, 's')}, the textbook formula {plain / own:.2f} times that"


def main(arguments: list[str] | None = None) -> int:
    parser = harness.parser(__doc__)
    parser.add_argument("--coop", type=Path, help="a clone of github.com/KaiyangZhou/CoOp to time beside")
    args = harness.parse(parser, arguments)
    clip = harness.make_clip(args.quick, args.device)
    names = harness.CALTECH101_BASE[: 5 if args.quick else None]
    rows = [row for method in sides.METHODS for row in measure(method, clip, names, args)]
    harness.finish("Text tower", rows, args)
    return 0


if __name__ == "__main__":
    sys.exit(main())
