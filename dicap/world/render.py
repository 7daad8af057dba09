"""Pictures of CausalShapes: signed distance functions over a textured scene, vectorised over a batch.

An object is the set where its shape's distance function is negative; its pattern chooses between two tones of its
colour; a soft halo sets it off from a scene of its own colour. `render` is deterministic and independent of batching,
`counterfactual` renders the truth under an intervention. Measured throughput: docs/world.md.
"""

import functools
from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np

from dicap.world.causal import PATTERN_OF, PATTERNS, SHAPE_OF, SHAPES, intervene
from dicap.world.textures import tiles

SIZE = 64  # px
CHUNK = 32  # images at a time, so that the working set stays in the processor's cache


class Domain(NamedTuple):
    """How the camera sees the world: contrast around mid-grey, standard deviation of sensor noise; both in [0, 1]."""

    contrast: float = 1.0
    noise: float = 0.03


PRETRAIN = Domain(1.0, 0.03)  # what the tiny CLIP was shown
DOWNSTREAM = Domain(0.7, 0.25)  # the benchmark's pictures: a gap that leaves room to learn, see docs/world.md
NOISY = Domain(0.7, 0.30)  # the camera of the domain shift "noise"

# Two tones a colour, in the order of causal.VALUES: the object's own and the one that its pattern is drawn in. Every
# unseen tone (the last eight rows) is farther from every known one than two tints of 0.08 bring them together.
TONES = np.array(
    [
        [[0.86, 0.10, 0.10], [1.00, 0.88, 0.78]],
        [[0.98, 0.52, 0.05], [0.36, 0.16, 0.02]],
        [[0.98, 0.88, 0.10], [0.36, 0.26, 0.02]],
        [[0.10, 0.62, 0.16], [0.86, 1.00, 0.72]],
        [[0.12, 0.26, 0.88], [0.78, 0.92, 1.00]],
        [[0.50, 0.12, 0.66], [0.94, 0.82, 1.00]],
        [[1.00, 0.50, 0.74], [0.50, 0.05, 0.28]],
        [[0.97, 0.97, 0.97], [0.16, 0.18, 0.24]],
        [[0.02, 0.50, 0.52], [0.98, 0.62, 0.50]],
        [[0.58, 0.36, 0.20], [0.55, 0.95, 0.98]],
        [[0.02, 0.02, 0.02], [0.98, 0.55, 0.98]],
        [[0.52, 0.52, 0.52], [0.10, 0.02, 0.42]],
        [[0.15, 0.85, 0.90], [0.55, 0.06, 0.02]],
        [[0.45, 0.48, 0.08], [0.80, 0.98, 0.40]],
        [[0.02, 0.06, 0.44], [0.98, 0.72, 0.30]],
        [[0.62, 0.95, 0.12], [0.30, 0.02, 0.55]],
    ],
    np.float32,
)


def render(latents: np.ndarray, domain: Domain = PRETRAIN) -> np.ndarray:
    """(B,) latents -> (B, 64, 64, 3) uint8 pictures."""
    return np.ascontiguousarray(render_planar(latents, domain).transpose(0, 2, 3, 1))


def counterfactual(latents: np.ndarray, action: Mapping[str, object], domain: Domain = PRETRAIN) -> np.ndarray:
    """What the same camera would have seen: counterfactual(latents, do(scene="sand")) -> (B, 64, 64, 3) uint8."""
    return render(intervene(latents, action), domain)


def object_mask(latents: np.ndarray, halo: bool = False) -> np.ndarray:
    """(B, 64, 64) bool: the object's pixels, with `halo` also those that its halo darkens."""
    masks = []
    for start in range(0, len(latents), CHUNK):
        part = latents[start : start + CHUNK]
        distance = _distances(part, *_object_frame(part))
        masks.append(distance < (0.25 if halo else 0.5 / _radius(part)))
    return np.concatenate(masks) if masks else np.zeros((0, SIZE, SIZE), bool)


def render_planar(latents: np.ndarray, domain: Domain = PRETRAIN) -> np.ndarray:
    """(B,) latents -> (B, 3, 64, 64) uint8, channels first."""
    out = np.empty((len(latents), 3, SIZE, SIZE), np.uint8)
    for start in range(0, len(latents), CHUNK):
        part = latents[start : start + CHUNK]
        picture = _compose(part)
        picture -= 0.5
        picture *= domain.contrast
        if domain.noise:
            picture += _sensor_noise(part, domain.noise)
        picture += 0.5
        picture *= 255.0
        picture += 0.5
        np.clip(picture, 0, 255, out=picture)
        out[start : start + CHUNK] = picture
    return out


def _compose(latents: np.ndarray) -> np.ndarray:
    """(B, 3, 64, 64) float32 in about [0, 1], before the camera."""
    x, y = _object_frame(latents)
    distance = _distances(latents, x, y)  # (B, 64, 64)
    tone = _tones(latents, x, y, distance)
    cover = np.clip(0.5 - distance * _radius(latents), 0, 1)
    halo = 1 - 0.55 * np.clip(1 - np.abs(distance) * 4, 0, 1)  # ends at a distance of 0.25
    phase = latents["scene_phase"]
    windows = np.lib.stride_tricks.sliding_window_view(tiles(SIZE), (SIZE, SIZE), axis=(2, 3))
    picture = windows[latents["scene"], :, phase[:, 1], phase[:, 0]]  # (B, 3, 64, 64), a copy
    picture *= (halo * (1 - cover))[:, None]
    colours = np.clip(TONES[latents["colour"]] + latents["tint"][:, None], 0, 1)  # (B, 2, 3)
    for tone_number, share in enumerate((cover - cover * tone, cover * tone)):
        picture += share[:, None] * colours[:, tone_number, :, None, None]
    picture *= latents["light"][:, None, None, None]
    return picture


def _radius(latents: np.ndarray) -> np.ndarray:
    """(B, 1, 1): pixels per unit of the object's frame."""
    return (latents["scale"] * (SIZE / 2))[:, None, None]


def _object_frame(latents: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """x, y (B, 64, 64) of every pixel in the object's own frame: y points down, the object fills about [-1, 1]."""
    axis = ((np.arange(SIZE, dtype=np.float32) + 0.5) / (SIZE / 2) - 1)[None, :]
    scale, turn = latents["scale"][:, None], latents["rotation"][:, None]
    across = (axis - latents["position"][:, :1]) / scale
    down = (axis - latents["position"][:, 1:]) / scale
    cos, sin = np.cos(turn), np.sin(turn)
    x = (cos * across)[:, None, :] + (sin * down)[:, :, None]
    y = (cos * down)[:, :, None] - (sin * across)[:, None, :]
    return x, y


def _distances(latents: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """(B, 64, 64): signed distance to the shape's edge, negative inside."""
    out = np.empty_like(x)
    shape = SHAPE_OF[latents["label"]]
    for number in np.unique(shape):
        rows = np.flatnonzero(shape == number)
        out[rows] = DISTANCE[SHAPES[number]](x[rows], y[rows])
    return out


def _tones(latents: np.ndarray, x: np.ndarray, y: np.ndarray, distance: np.ndarray) -> np.ndarray:
    """(B, 64, 64) in [0, 1]: how much of the second tone the pattern shows."""
    out = np.zeros_like(x)
    pattern = PATTERN_OF[latents["label"]]
    for number in np.unique(pattern):
        rows = np.flatnonzero(pattern == number)
        if PATTERNS[number] == "plain":
            continue
        phase = latents["pattern_phase"][rows, :, None, None]
        edge = DRAW[PATTERNS[number]](x[rows] + phase[:, 0], y[rows] + phase[:, 1], distance[rows])
        out[rows] = np.clip(0.5 + edge * _radius(latents[rows]), 0, 1)
    return out


def _sensor_noise(latents: np.ndarray, std: float) -> np.ndarray:
    """(B, 3, 64, 64) Gaussian noise from each image's own counter, by the quantiles of 256 levels."""
    words = 3 * SIZE * SIZE // 8
    raw = np.empty((len(latents), words), np.uint64)
    for row, (seed, index) in enumerate(zip(latents["noise_seed"].tolist(), latents["noise_index"].tolist())):
        key = np.array([seed, index], np.uint64)
        raw[row] = np.random.Philox(key=key, counter=[0, 1, 0, 0]).random_raw(words)
    levels = (_normal_levels() * std).astype(np.float32)
    return levels.take(raw.astype("<u8", copy=False).view(np.uint8)).reshape(len(latents), 3, SIZE, SIZE)


@functools.lru_cache(maxsize=1)
def _normal_levels() -> np.ndarray:
    """(256,) equally likely levels with mean 0 and variance 1."""
    from scipy.special import ndtri

    levels = ndtri((np.arange(256) + 0.5) / 256)
    return levels / levels.std()


# Shapes: distance functions in the object's frame (y down), exact or close to it near the edge.


def _polygon(x: np.ndarray, y: np.ndarray, *sides: tuple[float, float, float]) -> np.ndarray:
    """Intersection of half-planes: max over sides of (nx x + ny y - offset), normals scaled to length 1."""
    out = None
    for nx, ny, offset in sides:
        length = float(np.hypot(nx, ny))
        side = (nx / length) * x + (ny / length) * y - offset / length
        out = side if out is None else np.maximum(out, side)
    assert out is not None
    return out


def _length(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.sqrt(x * x + y * y)


def _circle(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return _length(x, y) - 0.85


def _square(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.maximum(np.abs(x), np.abs(y)) - 0.76


def _triangle(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.maximum(0.8660254 * np.abs(x) - 0.5 * y, y) - 0.55


def _star(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Five points: reflect into one tenth of the plane, then a half-plane."""
    x, y = np.abs(x), -y
    for nx, ny in ((0.809017, -0.587785), (-0.809017, -0.587785)):
        shift = 2 * np.maximum(nx * x + ny * y, 0)
        x, y = x - shift * nx, y - shift * ny
    x = np.abs(x)
    return 0.8660254 * x + 0.5 * (y - 1.0)


def _heart(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """A square on its corner and two half-circles on its upper sides."""
    x, y = np.abs(x), y - 0.02
    diamond = 0.70710678 * (x + np.abs(y - 0.1)) - 0.5
    return np.minimum(diamond, _length(x - 0.35355, y + 0.25355) - 0.5)


def _cross(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    x, y = np.abs(x), np.abs(y)
    return np.maximum(np.maximum(x, y) - 0.88, np.minimum(x, y) - 0.29)


def _ring(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.abs(_length(x, y) - 0.63) - 0.25


def _moon(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    x = x + 0.12
    return np.maximum(_length(x, y) - 0.88, 0.68 - _length(x - 0.46, y))


def _arrow(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Pointing right: a shaft and a head."""
    y = np.abs(y)
    head = _polygon(x, y, (0.78, 0.80, 0.9 * 0.78), (-1, 0, 0.0))
    shaft = np.maximum(np.abs(x + 0.42) - 0.5, y - 0.30)
    return np.minimum(head, shaft)


def _fish(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Looking left: a lens for the body, a triangle for the tail."""
    y = np.abs(y)
    body = _length(x + 0.22, y + 0.36) - 0.78
    tail = _polygon(x, y, (-0.62, 0.80, -0.62 * 0.22), (1, 0, 0.86))
    return np.minimum(body, tail)


DISTANCE: dict[str, Callable] = {
    "circle": _circle,
    "square": _square,
    "triangle": _triangle,
    "star": _star,
    "heart": _heart,
    "cross": _cross,
    "ring": _ring,
    "moon": _moon,
    "arrow": _arrow,
    "fish": _fish,
}


# Patterns: positive where the second tone shows, in units of length of the object's frame.


def _wave(u: np.ndarray, period: float) -> np.ndarray:
    """Triangular wave with slopes +-1 and mean 0."""
    return np.abs(np.mod(u, period) - period / 2) - period / 4


def _striped(x: np.ndarray, y: np.ndarray, _: np.ndarray) -> np.ndarray:
    return _wave(0.7071 * (x + y), 0.44)


def _dotted(x: np.ndarray, y: np.ndarray, _: np.ndarray) -> np.ndarray:
    x, y = np.mod(x, 0.46) - 0.23, np.mod(y, 0.46) - 0.23
    return 0.15 - _length(x, y)


def _checkered(x: np.ndarray, y: np.ndarray, _: np.ndarray) -> np.ndarray:
    across, down = _wave(x, 0.72), _wave(y, 0.72)
    return np.sign(across) * np.sign(down) * np.minimum(np.abs(across), np.abs(down))


def _outlined(_x: np.ndarray, _y: np.ndarray, distance: np.ndarray) -> np.ndarray:
    return distance + 0.15


DRAW: dict[str, Callable] = {"striped": _striped, "dotted": _dotted, "checkered": _checkered, "outlined": _outlined}
