"""The tiny main job - four methods, two embedded datasets, base and new classes - with DiCap's savings and without them.

    python -m benchmarks.base_to_new [--seeds 1] [--shorten 1] [--quick] [--json FILE]

Both sides are one plan, one driver, the same recipes; each run is made once on either side before the next one. Without
the savings: prompts of 77 padded tokens, CoCoOp one image at a time, image features encoded again in every step and every
test, class features once a batch of tests, no cache of features or generators. The K views of a training image are the
same pictures on both sides.

Learned prompts and accuracies are compared first, then the times. Single steps are equal to rounding (benchmarks.training_step),
but the recipes' learning rates magnify rounding hundreds of times an epoch; so the yardstick of whole runs is DiCap itself, begun
from a context that was changed by two roundings. Beside it: how many pictures each of our runs encoded.
"""

import argparse
import dataclasses
import functools
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor

from benchmarks import harness, textbook
from dicap.backbones import tokenize
from dicap.data.named import EMBEDDED
from dicap.experiments.executor import finish
from dicap.experiments.finished import planned_digests
from dicap.experiments.protocols import BASE2NEW, METHODS, SHOTS, Request, learns, many, plan
from dicap.inert import read_weights
from dicap.learner import LearnedCLIP, Learner
from dicap.prompts import PromptLearner
from dicap.results import primary
from dicap.wording import readable

GOAL = 2.0  # halved
OURS, TEXTBOOK, NUDGED = "ours", "textbook", "ours, nudged"
NUDGE = 2**-22  # two roundings in fp32

# ---- the two sides


class ImageDoor:
    """Takes the place of LearnedCLIP's `encode_image` and `image`: counts images; in the textbook's runs nothing stays encoded.

    Args:
        again: encode a kept feature again from its picture, whenever a step or a test asks for it.

    Attributes:
        images: pictures that were encoded to be kept. seconds: what that took.
    """

    def __init__(self, again: bool):
        self.again, self.images, self.seconds = again, 0, 0.0
        self.pictures: dict[bytes, Tensor] = {}  # of a feature's bytes: (3, H, W)
        self.encode, self.features = LearnedCLIP.encode_image, LearnedCLIP.image

    def encode_image(self, model: LearnedCLIP, image: Tensor) -> Tensor:
        start = time.perf_counter()
        f = self.encode(model, image)
        harness.synchronize(f.device)
        self.images, self.seconds = self.images + len(f), self.seconds + time.perf_counter() - start
        if self.again:
            self.pictures.update(zip(map(_bytes, f), image.cpu()))
        return f

    def image(self, model: LearnedCLIP, x: Tensor) -> Tensor:
        again = self.again and x.dim() == 2 and _bytes(x[0]) in self.pictures  # random ones are tried before a save
        return self.features(model, self.encode(model, self.pictures_of(x)) if again else x)

    def pictures_of(self, f: Tensor) -> Tensor:
        """(B, 3, H, W) pictures of features (B, e)."""
        return torch.stack([self.pictures[_bytes(row)] for row in f]).to(f.device)


def _bytes(row: Tensor) -> bytes:
    return row.cpu().numpy().tobytes()


def textbook_text(model: LearnedCLIP, f: Tensor) -> Tensor:
    """In place of LearnedCLIP.text: 77 tokens a prompt, one image after the other, encoded again for each batch."""
    learner = model.learner
    if not isinstance(learner, PromptLearner):
        return learner.text()
    tokens = padded(learner.texts, f"{learner.context_words} {{}}.")
    if model.facts.text == "shared":
        return textbook.class_features(model.clip, learner.ctx, tokens, [])
    contexts = [learner.ctx + learner.meta_net(one) for one in f]
    return torch.stack([textbook.class_features(model.clip, ctx, tokens, []) for ctx in contexts])


def textbook_hand_text(learner: Learner) -> Tensor:
    """In place of Learner.hand_text, which is computed once."""
    tokens, clip = padded(learner.texts, learner.template), learner.clip
    with torch.no_grad():
        return textbook.unit(textbook.encode_prompts(clip, clip.token_embedding(tokens), tokens.argmax(dim=-1)))


@functools.lru_cache(maxsize=4)
def padded(texts: tuple[str, ...], template: str) -> Tensor:
    """Tokens (C, 77)."""
    return tokenize([template.format(readable(text)) for text in texts])


def nudged(start: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """The initial context, changed by as much as rounding does."""
    return lambda *args: start(*args) * (1 + NUDGE)


@contextmanager
def side(name: str, cache: Path) -> Iterator[ImageDoor]:
    """DiCap as it is, with its cache in a folder, or begun two roundings off; or without its savings."""
    door = ImageDoor(again=name == TEXTBOOK)
    with ExitStack() as stack:

        def put(owner: Any, attribute: str, value: Callable) -> None:
            stack.enter_context(patch.object(owner, attribute, value))

        put(LearnedCLIP, "encode_image", lambda model, image: door.encode_image(model, image))
        put(LearnedCLIP, "image", lambda model, x: door.image(model, x))
        stack.enter_context(patch.dict(os.environ, DICAP_CACHE="off" if name == TEXTBOOK else str(cache)))
        if name == NUDGED:
            put(PromptLearner, "start_context", nudged(PromptLearner.start_context))
        if name == TEXTBOOK:
            put(LearnedCLIP, "text", textbook_text)
            put(Learner, "hand_text", textbook_hand_text)
        yield door


# ---- the runs


@dataclasses.dataclass(frozen=True)
class Made:
    """A run on one side: its result, seconds, the pictures that it encoded."""

    job: Any
    result: dict
    seconds: float
    images: int


Trio = dict[str, Made]  # by side; nothing is nudged where nothing is learned


def run_one(job: Any, name: str, cache: Path) -> Made:
    """One run on one side.

    Of the textbook's seconds those are taken off in which features were made only to be handed out: it encodes each
    picture when it is needed.
    """
    planned = planned_digests(job)
    with side(name, cache) as door:
        start = time.perf_counter()
        result, _ = finish(job, planned)
        seconds = time.perf_counter() - start
    return Made(job, result, seconds - (door.seconds if name == TEXTBOOK else 0.0), door.images)


def run_all(jobs: dict[str, Sequence[Any]], cache: Path) -> Iterator[Trio]:
    """Each run on all sides before the next one; which of the two that are timed comes first changes from run to run."""
    for number in range(len(jobs[OURS])):
        order = [OURS, TEXTBOOK][:: 1 if number % 2 else -1]
        order += [NUDGED] if learns(jobs[OURS][number]) else []
        trio = {name: run_one(jobs[name][number], name, cache) for name in order}
        print(
            f"{jobs[OURS][number].name}: "
            + "; ".join(f"{name} {primary(trio[name].result):.2f} % in {trio[name].seconds:.1f} s" for name in trio),
            flush=True,
        )
        yield trio


def plans(args: argparse.Namespace, out: Path) -> dict[str, list[Any]]:
    """One plan in a folder of each side; --shorten divides each recipe's epochs and CausalShapes' test pictures."""
    settings = ["TRAIN.CHECKPOINT_FREQ", "1"]  # the first epoch is compared
    if args.device == "cpu":
        settings += ["USE_CUDA", "False"]
    if args.shorten > 1:
        settings += ["DATASET.CAUSALSHAPES.PER_CLASS_TEST", str(max(1, 200 // args.shorten))]
    if args.quick:
        settings += ["TRAINER.DICAP.TRAIN_STEPS", "5", "TRAINER.DICAP.STEPS", "4"]
        for name in ("TRAIN", "VAL", "TEST"):
            settings += [f"DATASET.CAUSALSHAPES.PER_CLASS_{name}", "1"]
    found: dict[str, list[Any]] = {OURS: [], TEXTBOOK: [], NUDGED: []}
    for method in METHODS[1:3] if args.quick else METHODS:
        for name, jobs in found.items():
            request = Request(
                (method,),
                EMBEDDED[:1] if args.quick else (),
                tuple(range(1, args.seeds + 1)),
                shots=1 if args.quick else SHOTS,
                out=str(out / name),
                settings=tuple(settings),
            )
            epochs = 1 if args.quick else max(1, plan(BASE2NEW, request)[0].cfg.OPTIM.MAX_EPOCH // args.shorten)
            jobs += plan(BASE2NEW, dataclasses.replace(request, settings=(*settings, "OPTIM.MAX_EPOCH", str(epochs))))
    return found


# ---- what is told


def apart(one: Path, other: Path, epoch: int) -> float:
    """The largest difference of two runs' learned numbers over the largest number, after an epoch; 0 without a prompt."""
    paths = [folder / "prompt_learner" / f"model.pth.tar-{epoch}" for folder in (one, other)]
    if not paths[0].is_file():
        return 0.0
    a, b = (read_weights(path) for path in paths)
    return max(float((a[key] - b[key]).abs().max() / a[key].abs().max()) for key in a)


def agreement(trios: Sequence[Trio], other: str) -> str:
    """How far accuracies and learned prompts of another side are from ours, in words."""
    some = [(trio[OURS], trio[other]) for trio in trios if other in trio]
    gaps = [primary(b.result) - primary(a.result) for a, b in some]
    folders = [(a.job.folder, b.job.folder, a.job.cfg.OPTIM.MAX_EPOCH) for a, b in some]
    first, last = (max(apart(one, two, min(epochs, limit)) for one, two, epochs in folders) for limit in (1, 1 << 30))
    return (
        f"{sum(gap == 0 for gap in gaps)} of {len(gaps)} runs get exactly as many test images right; accuracies are"
        f" {statistics.fmean(gaps):+.2f} points apart in the mean, {max(map(abs, gaps)):.2f} at most; learned prompts by at most"
        f" {first:.0e} of their largest number after the first epoch, {last:.0e} after the last"
    )


def rows_of(trios: Sequence[Trio]) -> list[harness.Row]:
    """Seconds by method, training and test apart, and of the whole job."""
    rows = []
    for method in dict.fromkeys(trio[OURS].job.method for trio in trios):
        for split, what in (("base", "training, test on base classes"), ("new", "test on new classes")):
            rows.append(_row(f"{method}: {what}", [trio for trio in trios if _is(trio, method=method, split=split)]))
    return [*rows, _row("the whole tiny main job", trios, goal=GOAL)]


def _is(trio: Trio, **wanted: str) -> bool:
    return all(trio[OURS].result[key] == value for key, value in wanted.items())


def _row(figure: str, trios: Sequence[Trio], goal: float | None = None) -> harness.Row:
    textbook_seconds, ours = (sum(trio[name].seconds for trio in trios) for name in (TEXTBOOK, OURS))
    return harness.Row(figure, textbook_seconds, ours, goal=goal)


def encoded(trios: Sequence[Trio]) -> list[str]:
    """A table of the pictures that each method encoded."""
    methods = list(dict.fromkeys(trio[OURS].job.method for trio in trios))
    lines = [
        "Pictures that DiCap's runs encoded, methods in the order of the runs. Goal: no test image after the first method.",
        "Training views are encoded by the first method that trains.",
        "",
    ]
    rows = []
    for dataset in dict.fromkeys(trio[OURS].job.dataset for trio in trios):
        for split in ("base", "new"):
            counts = [
                sum(trio[OURS].images for trio in trios if _is(trio, dataset=dataset, split=split, method=method))
                for method in methods
            ]
            rows.append((dataset, f"{split} classes", *(f"{count:,}" for count in counts)))
    return lines + harness.markdown(("dataset", "run", *methods), rows)


def main(arguments: list[str] | None = None) -> int:
    made = harness.parser(__doc__, autocast=False)
    made.add_argument("--seeds", type=int, default=1, help="3 = the whole main job (default %(default)s)")
    made.add_argument(
        "--shorten", type=int, default=1, help="divide the epochs of every recipe and CausalShapes' test pictures"
    )
    args = harness.parse(made, arguments)
    if args.seeds < 1 or args.shorten < 1:
        made.error(f"--seeds {args.seeds} --shorten {args.shorten}: at least 1")
    args.rounds = 1  # each run is made once a seed
    with tempfile.TemporaryDirectory() as folder:
        trios = list(run_all(plans(args, Path(folder)), Path(folder, "cache")))
        notes = [
            f"The textbook's runs beside DiCap's: {agreement(trios, TEXTBOOK)}.",
            "",
            f"The yardstick, DiCap's runs begun two roundings off beside DiCap's: {agreement(trios, NUDGED)}.",
        ]
    print("\n".join(notes))
    shorter = ""
    if args.shorten > 1:
        shorter = f", 1/{args.shorten} of the epochs and of CausalShapes' test pictures"
        notes += [
            "",
            f"What both sides share - start, reading, first encoding - weighs up to {args.shorten} times heavier than in the"
            " whole job: the ratio is below the whole job's.",
        ]
    title = f"The tiny main job: four methods, both embedded datasets, {many(args.seeds, 'seed')}{shorter}"
    harness.finish(title, rows_of(trios), args, [*notes, "", *encoded(trios)])
    return 0


if __name__ == "__main__":
    sys.exit(main())
