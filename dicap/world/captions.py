"""Captions of the world, with what each of them says, so that a batch knows which other pictures a caption also fits.

    "a photo of a striped star."   "a picture of a red striped star on grass."   "a photo of sand."
    "a photo of the digit seven."

Scenes are independent of classes here. `describes` gives the false negatives of a batch: caption j fits image i
although it was written for another one; the contrastive loss leaves those pairs out.
"""

from typing import NamedTuple

import numpy as np

from dicap.world.causal import COLOURS, PATTERN_OF, PATTERNS, SCENES, SHAPE_OF, SHAPES

DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
TEMPLATE = "a photo of a {}."  # the hand template downstream
SCENE_TEMPLATE = "a photo of {}."
DIGIT_TEMPLATE = "a photo of the digit {}."

FRAMES = (
    "a picture of a {}.",
    "an image of a {}.",
    "this is a {}.",
    "there is a {}.",
    "a {}.",
    "a photo of the {}.",
    "a photo of one {}.",
    "a close-up photo of a {}.",
    "a drawing of a {}.",
    "the {}.",
    "{}.",
    "{}",
)
DIGIT_FRAMES = (
    "a photo of a {}.",
    "the digit {}.",
    "a picture of the digit {}.",
    "a handwritten digit {}.",
    "a photo of the number {}.",
    "this is the digit {}.",
    "an image of a {}.",
    "a {}.",
    "{}.",
    "{}",
)
SCENE_FRAMES = ("a picture of {}.", "an image of {}.", "a background of {}.", "this is {}.", "{}.", "{}")
FILLERS = (
    "a photo of the this is image picture view good small large nice clean simple object shape thing here we see "
    "with on in and to for it some that there type kind my x"
).split()
# Stored beside the words of the grammar, so that plausible prompt contexts find a row: their rows keep their initial
# values unless a caption uses them.
PROMPT_WORDS = (
    "a an the photo photos picture image of is this that there here it in on at with and or for to from by no not one "
    "two three bad good nice best blurry bright dark clean dirty cropped close-up close up centered low high "
    "resolution pixelated jpeg sketch drawing painting rendering art toy small large big tiny weird cool black gray "
    "grey brown texture pattern patterned shape object thing scene background color colour colored digit digits number "
    "numeral handwritten written drawn type kind x"
).split()

WORLD, DIGIT = 0, 1


class Captions(NamedTuple):
    """B captions: their texts, and what they say: (B, 6) kind, pattern, shape, colour, scene, digit; -1 = nothing."""

    texts: list[str]
    says: np.ndarray


def facts_of_world(latents: np.ndarray) -> np.ndarray:
    """(B, 6) kind, pattern, shape, colour, scene, digit of pictures of the world."""
    label = latents["label"]
    columns = (
        np.full(len(label), WORLD),
        PATTERN_OF[label],
        SHAPE_OF[label],
        latents["colour"],
        latents["scene"],
        np.full(len(label), -1),
    )
    return np.stack(columns, 1).astype(np.int64)


def facts_of_digits(digits: np.ndarray) -> np.ndarray:
    """(B, 6) kind, pattern, shape, colour, scene, digit of pictures of digits."""
    facts = np.full((len(digits), 6), -1, np.int64)
    facts[:, 0], facts[:, 5] = DIGIT, digits
    return facts


def write(facts: np.ndarray, rng: np.random.Generator) -> Captions:
    """A random caption for each picture."""
    says = facts.copy()
    texts = [_digit(row, rng) if row[0] == DIGIT else _world(row, rng) for row in says]
    return Captions(texts, says)


def describes(says: np.ndarray, facts: np.ndarray) -> np.ndarray:
    """(B images, B captions) bool: everything that the caption says is true of the image."""
    same = (says[None] == facts[:, None]) | (says[None] < 0)
    return same.all(-1)


def vocabulary() -> list[str]:
    """Every word that captions and plausible prompts use."""
    frames = " ".join((TEMPLATE, DIGIT_TEMPLATE, *FRAMES, *DIGIT_FRAMES, *SCENE_FRAMES)).replace("{}", " ")
    names = (*PATTERNS, *SHAPES, *SCENES, *COLOURS, *DIGITS)
    words = [*frames.split(), *names, *FILLERS, *PROMPT_WORDS, "an", "object", "on", ".", ","]
    return sorted(set(words))


def _world(row: np.ndarray, rng: np.random.Generator) -> str:
    """A caption; clears from `row` what it does not say."""
    kind = rng.random()
    if kind < 0.08:
        row[1:4] = -1
        return _frame(SCENES[row[4]], SCENE_TEMPLATE, SCENE_FRAMES, rng)
    words = [COLOURS[row[3]], PATTERNS[row[1]], SHAPES[row[2]]]
    if kind < 0.16:  # no pattern
        words[1], row[1] = "", -1
    elif kind < 0.20:  # no shape
        words[2], row[2] = "object", -1
    if rng.random() < 0.6:
        words[0], row[3] = "", -1
    subject = " ".join(word for word in words if word)
    if rng.random() < 0.6:
        row[4] = -1
    else:
        subject += f" on {SCENES[row[4]]}"
    return _frame(subject, TEMPLATE, FRAMES, rng)


def _digit(row: np.ndarray, rng: np.random.Generator) -> str:
    return _frame(DIGITS[row[5]], DIGIT_TEMPLATE, DIGIT_FRAMES, rng)


def _frame(subject: str, usual: str, others: tuple[str, ...], rng: np.random.Generator) -> str:
    """Put the subject into the usual template, another one, or behind filler words, where a learned context stands."""
    kind = rng.random()
    if kind < 0.15:
        filler = rng.choice(FILLERS, rng.integers(1, 13))
        return " ".join([*filler, subject]) + ("." if rng.random() < 0.8 else "")
    template = usual if kind < 0.6 else others[rng.integers(len(others))]
    if subject[0] in "aeiou" and rng.random() < 0.5:
        template = template.replace(" a {}", " an {}")
    return template.format(subject)
