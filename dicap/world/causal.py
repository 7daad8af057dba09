"""CausalShapes: an image world whose causal graph is known.

    class -> image <- scene, colour, light, position, scale, rotation, texture phases, sensor noise
    class - - scene       in few-shot training data only: with probability rho a class shows the scene tied to it

A class is a pattern and a shape ("striped star", 5 x 10 = 50 classes); a scene is one of eight backgrounds. Everything
is drawn by a counter-based generator from (seed, index), so an image does not depend on the batch that it is drawn in.
`sample` draws latents, `intervene` sets some of them (Pearl's do), `render` (render.py) makes the picture.
"""

from collections.abc import Mapping, Sequence

import numpy as np

PATTERNS = ("plain", "striped", "dotted", "checkered", "outlined")
SHAPES = ("circle", "square", "triangle", "star", "heart", "cross", "ring", "moon", "arrow", "fish")
SCENES = ("grass", "sand", "water", "snow", "brick", "wood", "gravel", "lava")
COLOURS = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "white")
# Domain shifts: never drawn by `sample`, so neither the pretraining nor a training split shows them; `shift` and `do` do.
UNSEEN_SCENES = ("honeycomb", "tartan", "dusk", "coral", "bubbles", "marble", "mosaic", "rust")
UNSEEN_COLOURS = ("teal", "brown", "black", "grey", "cyan", "olive", "navy", "lime")
SHIFTS = ("", "scenes", "colours")

# The published order of the labels. The first 25 are "base", the rest "new"; each half holds every pattern five times
# and every shape two or three times. Never change it: split files, tied scenes and reported numbers rest on it.
CLASSES = (
    "plain ring",
    "plain circle",
    "dotted heart",
    "plain triangle",
    "dotted star",
    "outlined arrow",
    "striped circle",
    "checkered triangle",
    "outlined ring",
    "outlined moon",
    "striped heart",
    "checkered heart",
    "plain cross",
    "dotted arrow",
    "checkered arrow",
    "outlined triangle",
    "dotted fish",
    "plain square",
    "outlined square",
    "checkered star",
    "striped fish",
    "dotted circle",
    "striped ring",
    "striped cross",
    "checkered moon",
    "plain heart",
    "dotted square",
    "outlined circle",
    "plain moon",
    "striped moon",
    "dotted cross",
    "outlined fish",
    "outlined heart",
    "dotted moon",
    "checkered square",
    "checkered fish",
    "checkered cross",
    "plain star",
    "plain fish",
    "checkered ring",
    "dotted ring",
    "plain arrow",
    "striped square",
    "striped star",
    "dotted triangle",
    "outlined cross",
    "striped triangle",
    "striped arrow",
    "checkered circle",
    "outlined star",
)
PATTERN_OF = np.array([PATTERNS.index(name.split()[0]) for name in CLASSES])  # (50,)
SHAPE_OF = np.array([SHAPES.index(name.split()[1]) for name in CLASSES])  # (50,)
TIED_SCENE = np.arange(len(CLASSES)) % len(SCENES)  # (50,), the scene that a class comes with in few-shot training data

# One record an image. Lengths are in units of half the image's width, colours and light in [0, 1], angles in radians.
LATENTS = np.dtype(
    [
        ("label", "i2"),
        ("scene", "i2"),
        ("colour", "i2"),
        ("tint", "f4", 3),
        ("light", "f4"),
        ("position", "f4", 2),
        ("scale", "f4"),
        ("rotation", "f4"),
        ("scene_phase", "i2", 2),
        ("pattern_phase", "f4", 2),
        ("tie", "f4"),
        ("noise_seed", "u8"),
        ("noise_index", "u8"),
    ]
)
VALUES = {"label": CLASSES, "scene": SCENES + UNSEEN_SCENES, "colour": COLOURS + UNSEEN_COLOURS}  # names by number
_UNIFORMS = 16


def sample(index: Sequence[int] | np.ndarray | int, seed: int = 0) -> np.ndarray:
    """Draw latents with class and scene independent and uniform.

    Args:
        index: (B,) non-negative image numbers, or one number B for 0..B-1.
        seed: non-negative; another seed is another, independent world.

    Returns:
        (B,) record array of dtype `LATENTS`; row i depends on (seed, index[i]) alone.
    """
    numbers = np.arange(int(index)) if isinstance(index, (int, np.integer)) else np.asarray(index)
    if numbers.size and (numbers.min() < 0 or seed < 0):
        raise ValueError(f"seed and index must be >= 0, got seed {seed} and index {numbers.min()}")
    raw = np.empty((len(numbers), _UNIFORMS), np.uint64)
    for row, number in enumerate(numbers.tolist()):
        raw[row] = np.random.Philox(key=np.array([seed, number], np.uint64)).random_raw(_UNIFORMS)
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
    """Tie the scene to the class: with probability `rho` an image shows TIED_SCENE[label], else it keeps its own.

    The coin is the exogenous latent `tie`, so raising rho only moves more images to their tied scene.
    """
    if not 0 <= rho <= 1:
        raise ValueError(f"rho must be in [0, 1], got {rho}")
    out = latents.copy()
    out["scene"] = np.where(latents["tie"] < rho, TIED_SCENE[latents["label"]], latents["scene"])
    return out


def shift(latents: np.ndarray, name: str) -> np.ndarray:
    """The same images in an unseen domain: "scenes" or "colours" puts an unseen one in place of each known one; "" none.

    Raises:
        ValueError: a shift that the world does not have.
    """
    if name not in SHIFTS:
        raise ValueError(f"unknown shift {name!r}; known are {', '.join(map(repr, SHIFTS))}")
    actions = {
        "scenes": do(scene=latents["scene"] + len(SCENES)),
        "colours": do(colour=latents["colour"] + len(COLOURS)),
    }
    return intervene(latents, actions.get(name, {}))


def do(action: Mapping[str, object] | None = None, /, **more: object) -> dict[str, object]:
    """An intervention, as values by name: do(scene="sand"), do({"class": "striped star", "colour": "red"}).

    Names are `class` (a class name or label; as a keyword write `class_`), `scene` and `colour` (a name or number, unseen
    ones included), or a numeric field of `LATENTS`. Values may be arrays with one entry an image.

    Raises:
        ValueError: an unknown name.
    """
    named = {**(action or {}), **more}
    known = {"class", "class_", *(LATENTS.names or ())}
    for name in named:
        if name not in known:
            raise ValueError(f"do({name}=...): unknown variable; known are class, {', '.join(LATENTS.names or ())}")
    return {"label" if name in ("class", "class_") else name: value for name, value in named.items()}


def intervene(latents: np.ndarray, action: Mapping[str, object]) -> np.ndarray:
    """The same images with the variables of `action` (from `do`) set; all exogenous latents stay as they are.

    Raises:
        ValueError: a class, scene or colour that the world does not have.
    """
    out = latents.copy()
    for name, value in action.items():
        out[name] = _numbers(name, value, VALUES[name]) if name in VALUES else value
    return out


def _numbers(name: str, value: object, table: tuple[str, ...]) -> np.ndarray:
    """Names or numbers -> numbers, checked against the table."""
    items = np.asarray(value)
    if items.dtype.kind in "US":
        unknown = sorted(set(items.ravel().tolist()) - set(table))
        if unknown:
            raise ValueError(f"do({name}={unknown[0]!r}): unknown; known are {', '.join(table)}")
        return np.vectorize(table.index, otypes=[np.int64])(items)
    if items.size and (items.min() < 0 or items.max() >= len(table)):
        raise ValueError(f"do({name}={value!r}): numbers must be in 0..{len(table) - 1}")
    return items
