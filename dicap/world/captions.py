"""Random captions for training, and the attributes that each caption mentions.

    "a photo of a striped star."   "a picture of a red striped star on grass."   "a photo of sand."
    "a photo of the digit seven."

A caption may also fit pictures that it was not written for ("a star" fits every star). `fits` finds those pairs of a
batch, and the contrastive loss leaves them out. Words and templates are the lists below.

A picture's attributes are a row of six numbers: kind (WORLD or DIGIT), pattern, shape, colour, scene, digit; -1 = none.
"""

import numpy as np

from dicap.world.causal import COLOURS, PATTERN_OF, PATTERNS, SCENES, SHAPE_OF, SHAPES

WORLD, DIGIT = 0, 1
DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
# The templates of zero-shot classification; the others below are for training captions only.
TEMPLATE, SCENE_TEMPLATE, DIGIT_TEMPLATE = "a photo of a {}.", "a photo of {}.", "a photo of the digit {}."

OTHER_TEMPLATES = (
    "a picture of a {}.|an image of a {}.|this is a {}.|there is a {}.|a {}.|a photo of the {}.|a photo of one {}.|"
    "a close-up photo of a {}.|a drawing of a {}.|the {}.|{}.|{}"
).split("|")
OTHER_SCENE_TEMPLATES = "a picture of {}.|an image of {}.|a background of {}.|this is {}.|{}.|{}".split("|")
OTHER_DIGIT_TEMPLATES = (
    "a photo of a {}.|the digit {}.|a picture of the digit {}.|a handwritten digit {}.|a photo of the number {}.|"
    "this is the digit {}.|an image of a {}.|a {}.|{}.|{}"
).split("|")
FILLERS = (
    "a photo of the this is image picture view good small large nice clean simple object shape thing here we see "
    "with on in and to for it some that there type kind my x"
).split()
# Words that users' prompts may hold: their token embeddings are stored too, with initial values unless a caption uses them.
PROMPT_WORDS = (
    "a an the photo photos picture image of is this that there here it in on at with and or for to from by no not one "
    "two three bad good nice best blurry bright dark clean dirty cropped close-up close up centered low high "
    "resolution pixelated jpeg sketch drawing painting rendering art toy small large big tiny weird cool black gray "
    "grey brown texture pattern patterned shape object thing scene background color colour colored digit digits number "
    "numeral handwritten written drawn type kind x"
).split()


def world_attributes(latents: np.ndarray) -> np.ndarray:
    """(B, 6) attributes of pictures of CausalShapes."""
    label, digit = latents["label"], np.full(len(latents), -1)
    columns = np.full_like(digit, WORLD), PATTERN_OF[label], SHAPE_OF[label], latents["colour"], latents["scene"], digit
    return np.stack(columns, 1).astype(np.int64)


def digit_attributes(digits: np.ndarray) -> np.ndarray:
    """(B, 6) attributes of pictures of digits (B,)."""
    attributes = np.full((len(digits), 6), -1, np.int64)
    attributes[:, 0], attributes[:, 5] = DIGIT, digits
    return attributes


def write_captions(attributes: np.ndarray, rng: np.random.Generator) -> tuple[list[str], np.ndarray]:
    """A random caption for each picture (B, 6), and the attributes that it mentions (B, 6); -1 = not mentioned."""
    mentioned = attributes.copy()
    return [_caption(row, rng) for row in mentioned], mentioned


def fits(mentioned: np.ndarray, attributes: np.ndarray) -> np.ndarray:
    """(B images, B captions) bool: everything that the caption mentions is true of the image."""
    return ((mentioned[None] == attributes[:, None]) | (mentioned[None] < 0)).all(-1)


def vocabulary() -> list[str]:
    """Every word of the captions and of PROMPT_WORDS."""
    templates = (TEMPLATE, DIGIT_TEMPLATE, *OTHER_TEMPLATES, *OTHER_SCENE_TEMPLATES, *OTHER_DIGIT_TEMPLATES)
    words = " ".join(templates).replace("{}", " ").split()
    names = (*PATTERNS, *SHAPES, *SCENES, *COLOURS, *DIGITS)
    return sorted({*words, *names, *FILLERS, *PROMPT_WORDS, "an", "object", "on", ",", "."})


def _caption(row: np.ndarray, rng: np.random.Generator) -> str:
    """A random caption of one picture; sets what it does not mention to -1 in the picture's attributes `row`."""
    if row[0] == DIGIT:
        return _fill(DIGITS[row[5]], DIGIT_TEMPLATE, OTHER_DIGIT_TEMPLATES, rng)
    kind = rng.random()
    if kind < 0.08:  # the scene alone
        row[1:4] = -1
        return _fill(SCENES[row[4]], SCENE_TEMPLATE, OTHER_SCENE_TEMPLATES, rng)
    words = [COLOURS[row[3]], PATTERNS[row[1]], SHAPES[row[2]]]
    if kind < 0.16:  # no pattern
        words[1], row[1] = "", -1
    elif kind < 0.20:  # no shape
        words[2], row[2] = "object", -1
    if rng.random() < 0.6:  # no colour
        words[0], row[3] = "", -1
    subject = " ".join(word for word in words if word)
    if rng.random() < 0.6:  # no scene
        row[4] = -1
    else:
        subject += f" on {SCENES[row[4]]}"
    return _fill(subject, TEMPLATE, OTHER_TEMPLATES, rng)


def _fill(subject: str, usual: str, others: list[str], rng: np.random.Generator) -> str:
    """The subject in its usual template, in another one, or behind filler words, where a learned context will stand."""
    kind = rng.random()
    if kind < 0.15:
        fillers = rng.choice(FILLERS, rng.integers(1, 13))
        return " ".join([*fillers, subject]) + ("." if rng.random() < 0.8 else "")
    template = usual if kind < 0.6 else others[rng.integers(len(others))]
    if subject[0] in "aeiou" and rng.random() < 0.5:
        template = template.replace(" a {}", " an {}")
    return template.format(subject)
