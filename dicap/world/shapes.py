"""The shapes and patterns of CausalShapes as functions of x, y (B, 64, 64) in the object's frame (y points down).

A shape's function gives the signed distance to its edge, negative inside, exact or close to it near the edge. A pattern's
function is positive where the pattern's tone shows, in the same unit of length; its third argument is the shape's distance.
"""

import functools

import numpy as np


def _polygon(x: np.ndarray, y: np.ndarray, *sides: tuple[float, float, float]) -> np.ndarray:
    """Intersection of the half-planes nx x + ny y < offset; each (nx, ny, offset) is scaled to a normal of length 1."""
    lengths = [float(np.hypot(nx, ny)) for nx, ny, _ in sides]
    planes = [(nx / n) * x + (ny / n) * y - offset / n for (nx, ny, offset), n in zip(sides, lengths)]
    return functools.reduce(np.maximum, planes)


def _length(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.sqrt(x * x + y * y)


def circle(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return _length(x, y) - 0.85


def square(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.maximum(np.abs(x), np.abs(y)) - 0.76


def triangle(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.maximum(0.8660254 * np.abs(x) - 0.5 * y, y) - 0.55


def star(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Five points: reflected into one tenth of the plane, where the edge is one line."""
    x, y = np.abs(x), -y
    for nx, ny in ((0.809017, -0.587785), (-0.809017, -0.587785)):
        shift = 2 * np.maximum(nx * x + ny * y, 0)
        x, y = x - shift * nx, y - shift * ny
    return 0.8660254 * np.abs(x) + 0.5 * (y - 1.0)


def heart(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """A square on its corner and two half-circles on its upper sides."""
    x, y = np.abs(x), y - 0.02
    diamond = 0.70710678 * (x + np.abs(y - 0.1)) - 0.5
    return np.minimum(diamond, _length(x - 0.35355, y + 0.25355) - 0.5)


def cross(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    x, y = np.abs(x), np.abs(y)
    return np.maximum(np.maximum(x, y) - 0.88, np.minimum(x, y) - 0.29)


def ring(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.abs(_length(x, y) - 0.63) - 0.25


def moon(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    x = x + 0.12
    return np.maximum(_length(x, y) - 0.88, 0.68 - _length(x - 0.46, y))


def arrow(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Pointing right: a shaft and a head."""
    y = np.abs(y)
    head = _polygon(x, y, (0.78, 0.80, 0.9 * 0.78), (-1, 0, 0.0))
    return np.minimum(head, np.maximum(np.abs(x + 0.42) - 0.5, y - 0.30))


def fish(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Looking left: a lens for the body, a triangle for the tail."""
    y = np.abs(y)
    body = _length(x + 0.22, y + 0.36) - 0.78
    tail = _polygon(x, y, (-0.62, 0.80, -0.62 * 0.22), (1, 0, 0.86))
    return np.minimum(body, tail)


SHAPE_DISTANCE = {f.__name__: f for f in (circle, square, triangle, star, heart, cross, ring, moon, arrow, fish)}


def _wave(u: np.ndarray, period: float) -> np.ndarray:
    """Triangular wave with slopes +-1 and mean 0."""
    return np.abs(np.mod(u, period) - period / 2) - period / 4


def striped(x: np.ndarray, y: np.ndarray, _: np.ndarray) -> np.ndarray:
    return _wave(0.7071 * (x + y), 0.44)


def dotted(x: np.ndarray, y: np.ndarray, _: np.ndarray) -> np.ndarray:
    x, y = np.mod(x, 0.46) - 0.23, np.mod(y, 0.46) - 0.23
    return 0.15 - _length(x, y)


def checkered(x: np.ndarray, y: np.ndarray, _: np.ndarray) -> np.ndarray:
    across, down = _wave(x, 0.72), _wave(y, 0.72)
    return np.sign(across) * np.sign(down) * np.minimum(np.abs(across), np.abs(down))


def outlined(_x: np.ndarray, _y: np.ndarray, distance: np.ndarray) -> np.ndarray:
    return distance + 0.15


PATTERN_DISTANCE = {f.__name__: f for f in (striped, dotted, checkered, outlined)}
