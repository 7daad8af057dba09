"""Pictures of CausalShapes: an object (shapes.py) over a window of a scene (textures.py), vectorised over a batch.

The object covers the pixels where its shape's signed distance is negative; its pattern chooses between two tones of its
colour; a soft dark halo sets it off from a scene of its own colour. A picture depends on its latents alone, not on its
batch; `counterfactual` renders the truth under an intervention. Measured throughput: docs/world.md.
"""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from dicap.world.causal import PATTERN_OF, PATTERNS, SHAPE_OF, SHAPES, intervene
from dicap.world.shapes import PATTERN_DISTANCE, SHAPE_DISTANCE
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

# (16, 2, 3): the object's tone and its pattern's tone for each colour of causal.VALUES. Every unseen tone (the last eight
# rows) differs from every known one by more than two tints of 0.08.
TONES = np.array(
    [
        [[0.86, 0.10, 0.10], [1.00, 0.88, 0.78]],  # red
        [[0.98, 0.52, 0.05], [0.36, 0.16, 0.02]],  # orange
        [[0.98, 0.88, 0.10], [0.36, 0.26, 0.02]],  # yellow
        [[0.10, 0.62, 0.16], [0.86, 1.00, 0.72]],  # green
        [[0.12, 0.26, 0.88], [0.78, 0.92, 1.00]],  # blue
        [[0.50, 0.12, 0.66], [0.94, 0.82, 1.00]],  # purple
        [[1.00, 0.50, 0.74], [0.50, 0.05, 0.28]],  # pink
        [[0.97, 0.97, 0.97], [0.16, 0.18, 0.24]],  # white
        [[0.02, 0.50, 0.52], [0.98, 0.62, 0.50]],  # teal
        [[0.58, 0.36, 0.20], [0.55, 0.95, 0.98]],  # brown
        [[0.02, 0.02, 0.02], [0.98, 0.55, 0.98]],  # black
        [[0.52, 0.52, 0.52], [0.10, 0.02, 0.42]],  # grey
        [[0.15, 0.85, 0.90], [0.55, 0.06, 0.02]],  # cyan
        [[0.45, 0.48, 0.08], [0.80, 0.98, 0.40]],  # olive
        [[0.02, 0.06, 0.44], [0.98, 0.72, 0.30]],  # navy
        [[0.62, 0.95, 0.12], [0.30, 0.02, 0.55]],  # lime
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
    out = np.empty((len(latents), SIZE, SIZE), bool)
    for start in range(0, len(latents), CHUNK):
        part = latents[start : start + CHUNK]
        distance = _shape_distance(part, *_object_frame(part))
        out[start : start + CHUNK] = distance < (0.25 if halo else 0.5 / _radius(part))
    return out


def render_planar(latents: np.ndarray, domain: Domain = PRETRAIN) -> np.ndarray:
    """(B,) latents -> (B, 3, 64, 64) uint8, channels first."""
    out = np.empty((len(latents), 3, SIZE, SIZE), np.uint8)
    for start in range(0, len(latents), CHUNK):
        part = latents[start : start + CHUNK]
        picture = (_compose(part) - 0.5) * domain.contrast
        if domain.noise:
            picture += _sensor_noise(part, domain.noise)
        out[start : start + CHUNK] = np.clip((picture + 0.5) * 255 + 0.5, 0, 255)
    return out


def _compose(latents: np.ndarray) -> np.ndarray:
    """(B, 3, 64, 64) float32 in about [0, 1], before the camera."""
    x, y = _object_frame(latents)
    distance = _shape_distance(latents, x, y)  # (B, 64, 64)
    tone = _pattern_share(latents, x, y, distance)
    cover = np.clip(0.5 - distance * _radius(latents), 0, 1)
    halo = 1 - 0.55 * np.clip(1 - np.abs(distance) * 4, 0, 1)  # ends at a distance of 0.25
    phase = latents["scene_phase"]
    windows = np.lib.stride_tricks.sliding_window_view(tiles(SIZE), (SIZE, SIZE), axis=(2, 3))
    picture = windows[latents["scene"], :, phase[:, 1], phase[:, 0]]  # (B, 3, 64, 64), a copy
    picture *= (halo * (1 - cover))[:, None]
    colours = np.clip(TONES[latents["colour"]] + latents["tint"][:, None], 0, 1)  # (B, 2, 3)
    for number, share in enumerate((cover - cover * tone, cover * tone)):
        picture += share[:, None] * colours[:, number, :, None, None]
    picture *= latents["light"][:, None, None, None]
    return picture


def _radius(latents: np.ndarray) -> np.ndarray:
    """(B, 1, 1): pixels per unit of the object's frame."""
    return (latents["scale"] * (SIZE / 2))[:, None, None]


def _object_frame(latents: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """x, y (B, 64, 64) of every pixel in the object's own frame: y points down, the object fills about [-1, 1]."""
    axis = ((np.arange(SIZE, dtype=np.float32) + 0.5) / (SIZE / 2) - 1)[None, :]
    scale, angle = latents["scale"][:, None], latents["rotation"][:, None]
    dx = (axis - latents["position"][:, :1]) / scale
    dy = (axis - latents["position"][:, 1:]) / scale
    cos, sin = np.cos(angle), np.sin(angle)
    return (cos * dx)[:, None, :] + (sin * dy)[:, :, None], (cos * dy)[:, :, None] - (sin * dx)[:, None, :]


def _shape_distance(latents: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """(B, 64, 64): signed distance to the shape's edge, negative inside."""
    out = np.empty_like(x)
    shapes = SHAPE_OF[latents["label"]]
    for number in np.unique(shapes):
        rows = np.flatnonzero(shapes == number)
        out[rows] = SHAPE_DISTANCE[SHAPES[number]](x[rows], y[rows])
    return out


def _pattern_share(latents: np.ndarray, x: np.ndarray, y: np.ndarray, distance: np.ndarray) -> np.ndarray:
    """(B, 64, 64) in [0, 1]: the share of the pattern's tone in each of the object's pixels; 0 for "plain"."""
    out = np.zeros_like(x)
    patterns = PATTERN_OF[latents["label"]]
    for number in np.unique(patterns[patterns != PATTERNS.index("plain")]):
        rows = np.flatnonzero(patterns == number)
        phase = latents["pattern_phase"][rows, :, None, None]
        inside = PATTERN_DISTANCE[PATTERNS[number]](x[rows] + phase[:, 0], y[rows] + phase[:, 1], distance[rows])
        out[rows] = np.clip(0.5 + inside * _radius(latents[rows]), 0, 1)
    return out


def _sensor_noise(latents: np.ndarray, std: float) -> np.ndarray:
    """(B, 3, 64, 64) Gaussian noise of 256 equally likely levels, from each image's own random generator."""
    from scipy.special import ndtri

    words = 3 * SIZE * SIZE // 8
    raw = np.empty((len(latents), words), "<u8")
    for row, key in enumerate(zip(latents["noise_seed"].tolist(), latents["noise_index"].tolist())):
        raw[row] = np.random.Philox(key=np.array(key, np.uint64), counter=[0, 1, 0, 0]).random_raw(words)
    quantiles = ndtri((np.arange(256) + 0.5) / 256)
    levels = (quantiles / quantiles.std() * std).astype(np.float32)
    return levels.take(raw.view(np.uint8)).reshape(len(latents), 3, SIZE, SIZE)
