"""CausalShapes: an image world whose causal graph is known.

    class -> image <- scene, colour, light, position, scale, rotation, texture phases, sensor noise
    class - - scene       in few-shot training data only: with probability rho a class shows the scene tied to it

A class is a pattern and a shape ("striped star", 5 x 10 = 50 classes); a scene is one of eight backgrounds. Every
image is drawn by a counter-based random generator from (seed, index), so it does not depend on its batch. `sample` draws
latents, `intervene` sets some of them (Pearl's do), `render` (render.py) draws the picture.
"""

from collections.abc import Mapping, Sequence

import numpy as np

PATTERNS = ("plain", "striped", "dotted", "checkered", "outlined")
SHAPES = ("circle", "square", "triangle", "star", "heart", "cross", "ring", "moon", "arrow", "fish")
SCENES = ("grass", "sand", "water", "snow", "brick", "wood", "gravel", "lava")
COLOURS = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "white")
# Never drawn by `sample`, so no pretraining picture and no training picture shows them; only `shift` and `do` set them.
UNSEEN_SCENES = ("honeycomb", "tartan", "dusk", "coral", "bubbles", "marble", "mosaic", "rust")
UNSEEN_COLOURS = ("teal", "brown", "black", "grey", "cyan", "olive", "navy", "lime")
# A domain shift: what is added to the number of a scene or colour, so that each known one becomes an unseen one.
SHIFTS = {"": {}, "scenes": {"scene": len(SCENES)}, "colours": {"colour": len(COLOURS)}}

# The published order of the labels. The first 25 are "base", the rest "new"; each half holds every pattern five times
# and every shape two or three times. Never change it: split files, tied scenes and reported numbers rest on it.
CLASSES = tuple(
    (
        "plain ring, plain circle, dotted heart, plain triangle, dotted star, outlined arrow, striped circle, "
        "checkered triangle, outlined ring, outlined moon, striped heart, checkered heart, plain cross, "
        "dotted arrow, checkered arrow, outlined triangle, dotted fish, plain square, outlined square, "
        "checkered star, striped fish, dotted circle, striped ring, striped cross, checkered moon, plain heart, "
        "dotted square, outlined circle, plain moon, striped moon, dotted cross, outlined fish, outlined heart, "
        "dotted moon, checkered square, checkered fish, checkered cross, plain star, plain fish, checkered ring, "
        "dotted ring, plain arrow, striped square, striped star, dotted triangle, outlined cross, "
        "striped triangle, striped arrow, checkered circle, outlined star"
    ).split(", ")
)
PATTERN_OF = np.array([PATTERNS.index(name.split()[0]) for name in CLASSES])  # (50,)
SHAPE_OF = np.array([SHAPES.index(name.split()[1]) for name in CLASSES])  # (50,)
TIED_SCENE = np.arange(len(CLASSES)) % len(SCENES)  # (50,) the class's scene in few-shot training data

# One record an image. Lengths are in units of half the image's width, colours and light in [0, 1], angles in radians.
LATENTS = np.dtype(
    [("label", "i2"), ("scene", "i2"), ("colour", "i2"), ("tint", "3f4"), ("light", "f4"), ("position", "2f4")]
    + [("scale", "f4"), ("rotation", "f4"), ("scene_phase", "2i2"), ("pattern_phase", "2f4"), ("tie", "f4")]
    + [("noise_seed", "u8"), ("noise_index", "u8")]
)
VARIABLES = LATENTS.names or ()
VALUES = {"label": CLASSES, "scene": SCENES + UNSEEN_SCENES, "colour": COLOURS + UNSEEN_COLOURS}  # names by number


def sample(index: Sequence[int] | np.ndarray | int, seed: int = 0) -> np.ndarray:
    """(B,) latents (dtype `LATENTS`), class and scene independent and uniform; row i depends on (seed, index[i]) alone.

    Args:
        index: (B,) image numbers, or one number B for 0..B-1.
        seed: another seed gives other, independent images.

    Raises ValueError: a negative seed or image number.
    """
    numbers = np.arange(int(index)) if isinstance(index, (int, np.integer)) else np.asarray(index)
    if numbers.size and (numbers.min() < 0 or seed < 0):
        raise ValueError(f"seed and index must be >= 0, got seed {seed} and index {numbers.min()}")
    raw = np.empty((len(numbers), 16), np.uint64)
    for row, number in enumerate(numbers.tolist()):
        raw[row] = np.random.Philox(key=np.array([seed, number], np.uint64)).random_raw(16)
    u = ((raw >> np.uint64(40)) * 2.0**-24).astype(np.float32)  # (B, 16) in [0, 1)
    out = np.zeros(len(numbers), LATENTS)
    out["label"], out["scene"], out["colour"] = u[:, 0] * len(CLASSES), u[:, 1] * len(SCENES), u[:, 2] * len(COLOURS)
    out["tint"] = (u[:, 3:6] - 0.5) * 0.16
    out["light"] = 0.85 + 0.3 * u[:, 6]
    out["scale"] = 0.55 + 0.25 * u[:, 7]
    out["position"] = (2 * u[:, 8:10] - 1) * (0.97 - 0.95 * out["scale"])[:, None]
    out["rotation"] = (2 * u[:, 10] - 1) * 0.5
    out["scene_phase"] = u[:, 11:13] * 256
    out["pattern_phase"] = u[:, 13:15]
    out["tie"] = u[:, 15]
    out["noise_seed"], out["noise_index"] = seed, numbers
    return out


def confound(latents: np.ndarray, rho: float) -> np.ndarray:
    """Tie the scene to the class: with probability `rho` an image shows TIED_SCENE[label], else it keeps its own scene.

    The exogenous latent `tie` decides, so a larger rho ties more images and never unties one.

    Raises ValueError: rho outside [0, 1].
    """
    if not 0 <= rho <= 1:
        raise ValueError(f"rho must be in [0, 1], got {rho}")
    return intervene(latents, do(scene=np.where(latents["tie"] < rho, TIED_SCENE[latents["label"]], latents["scene"])))


def shift(latents: np.ndarray, name: str) -> np.ndarray:
    """The same images with each scene ("scenes") or colour ("colours") replaced by an unseen one; "" changes nothing.

    Raises ValueError: a name that `SHIFTS` does not have.
    """
    if name not in SHIFTS:
        raise ValueError(f"unknown shift {name!r}; known are {', '.join(map(repr, SHIFTS))}")
    return intervene(latents, {variable: latents[variable] + offset for variable, offset in SHIFTS[name].items()})


def do(action: Mapping[str, object] | None = None, /, **more: object) -> dict[str, object]:
    """An intervention, as values by name: do(scene="sand"), do({"class": "striped star", "colour": "red"}).

    Names are `class` (a class name or label; as a keyword, `class_`), `scene` and `colour` (a name or number, unseen ones
    included), or a numeric field of `LATENTS`. A value may be an array with one entry an image.

    Raises ValueError: an unknown name.
    """
    values = {**(action or {}), **more}
    for name in values:
        if name not in ("class", "class_", *VARIABLES):
            raise ValueError(f"do({name}=...): unknown variable; known are class, {', '.join(VARIABLES)}")
    return {"label" if name in ("class", "class_") else name: value for name, value in values.items()}


def intervene(latents: np.ndarray, action: Mapping[str, object]) -> np.ndarray:
    """The same images with the variables of `action` (from `do`) set and all others as they are.

    Raises ValueError: a class, scene or colour that the world does not have.
    """
    out = latents.copy()
    for name, value in action.items():
        out[name] = _to_numbers(name, value, VALUES[name]) if name in VALUES else value
    return out


def _to_numbers(variable: str, value: object, names: tuple[str, ...]) -> np.ndarray:
    """Names or numbers -> numbers below len(names)."""
    items = np.asarray(value)
    if items.dtype.kind in "US":
        unknown = sorted(set(items.ravel().tolist()) - set(names))
        if unknown:
            raise ValueError(f"do({variable}={unknown[0]!r}): unknown; known are {', '.join(names)}")
        return np.vectorize(names.index, otypes=[np.int64])(items)
    if items.size and (items.min() < 0 or items.max() >= len(names)):
        raise ValueError(f"do({variable}={value!r}): numbers must be in 0..{len(names) - 1}")
    return items
