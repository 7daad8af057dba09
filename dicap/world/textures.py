"""The eight scenes and the eight unseen ones as large periodic textures, computed once a process by `tiles`.

A picture shows a window of 64 px; its corner is the latent scene_phase, so two pictures of one scene differ as two
photographs of one lawn do. Each public function but `tiles` returns one texture (TILE, TILE, 3) with colours in about [0, 1].
"""

import functools

import numpy as np

from dicap.world.causal import VALUES

TILE = 256  # px, the period of a texture
Y, X = np.mgrid[0:TILE, 0:TILE]  # (TILE, TILE): row and column of every pixel


@functools.lru_cache(maxsize=1)
def tiles(window: int = 64) -> np.ndarray:
    """(16, 3, TILE + window, TILE + window) float32 in [0, 1]: every scene, wrapped so that any window can be cut."""
    stack = np.stack([np.clip(TEXTURES[name](), 0, 1) for name in VALUES["scene"]])  # (16, TILE, TILE, 3)
    wrapped = np.pad(stack, ((0, 0), (0, window), (0, window), (0, 0)), mode="wrap")
    return np.ascontiguousarray(wrapped.transpose(0, 3, 1, 2), dtype=np.float32)


def _noise(seed: int, across: float, down: float) -> np.ndarray:
    """(TILE, TILE) periodic Gaussian noise of unit variance, smooth over `across` and `down` pixels."""
    white = _random(seed).standard_normal((TILE, TILE))
    frequency = np.fft.fftfreq(TILE)
    low_pass = np.exp(-2 * np.pi**2 * ((frequency[:, None] * down) ** 2 + (frequency[None, :] * across) ** 2))
    smooth = np.fft.ifft2(np.fft.fft2(white) * low_pass).real
    return (smooth - smooth.mean()) / smooth.std()


def _ramp(value: np.ndarray, low: tuple, high: tuple) -> np.ndarray:
    """(TILE, TILE) -> (TILE, TILE, 3): colours between `low` at -1.5 and `high` at +1.5."""
    share = np.clip(value / 3 + 0.5, 0, 1)[..., None]
    return np.asarray(low) * (1 - share) + np.asarray(high) * share


def _random(seed: int) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(key=seed))


def grass() -> np.ndarray:
    blades = 0.8 * _noise(1, 0.8, 3.5) + 0.5 * _noise(2, 1.3, 7) + 0.35 * _noise(3, 16, 16)
    return _ramp(blades, (0.05, 0.22, 0.03), (0.42, 0.68, 0.20))


def sand() -> np.ndarray:
    ripples = np.sin(2 * np.pi * (20 * Y + 4 * X) / TILE + 1.6 * _noise(4, 22, 22))
    return _ramp(0.9 * ripples + 0.5 * _noise(5, 0.6, 0.6), (0.66, 0.52, 0.30), (0.93, 0.83, 0.60))


def water() -> np.ndarray:
    waves = np.sin(2 * np.pi * 14 * Y / TILE + 1.8 * _noise(6, 14, 7)) + 0.6 * _noise(7, 7, 1.5)
    return _ramp(waves - 0.2, (0.02, 0.20, 0.42), (0.20, 0.55, 0.75)) + 0.5 * np.clip(waves - 1.5, 0, 1)[..., None]


def snow() -> np.ndarray:
    sparkle = 0.5 * np.clip(_noise(9, 0.5, 0.5) - 1.9, 0, 1)[..., None]
    return _ramp(_noise(8, 14, 7), (0.70, 0.78, 0.90), (0.96, 0.98, 1.0)) + sparkle


def brick() -> np.ndarray:
    row = Y // 16
    across = (X + 16 * (row % 2)) % TILE
    shade = _random(10).uniform(-1.2, 1.2, (TILE // 16, TILE // 32))[row, across // 32]
    wall = _ramp(shade + 0.35 * _noise(11, 0.8, 0.8), (0.38, 0.12, 0.08), (0.72, 0.33, 0.22))
    mortar = ((Y % 16 < 2) | (across % 32 < 2))[..., None]
    return np.where(mortar, _ramp(0.4 * _noise(12, 1, 1), (0.66, 0.63, 0.58), (0.80, 0.77, 0.72)), wall)


def wood() -> np.ndarray:
    plank = Y // 32
    grain = 0.9 * _noise(13, 30, 1.1) + 0.5 * _noise(14, 60, 3)
    shade = np.array([0.2, -0.7, 0.5, -0.2, 0.8, -0.5, 0.0, 0.6])[plank]
    boards = _ramp(grain + shade, (0.26, 0.14, 0.06), (0.66, 0.44, 0.24))
    seam = ((Y % 32 < 2) | ((X + 90 * plank) % TILE < 2))[..., None]
    return np.where(seam, np.array([0.12, 0.06, 0.03]), boards)


def _cells(points: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(TILE, TILE) each: distance to the nearest point, how much farther the second nearest is, the nearest's number."""
    from scipy.spatial import cKDTree

    distance, nearest = cKDTree(points, boxsize=TILE).query(np.stack([Y.ravel(), X.ravel()], 1), k=2)
    near, second = distance.reshape(TILE, TILE, 2).transpose(2, 0, 1)
    return near, second - near, nearest[:, 0].reshape(TILE, TILE)


def gravel() -> np.ndarray:
    rng = _random(15)
    _, gap, number = _cells(rng.uniform(0, TILE, (900, 2)))
    shade = rng.uniform(0.30, 0.72, 900)[number]
    stone = shade * (0.35 + 0.65 * np.clip(gap / 2.5, 0, 1)) + 0.03 * _noise(16, 0.6, 0.6)
    return stone[..., None] * np.array([1.0, 0.98, 0.95])


def lava() -> np.ndarray:
    crack = np.abs(_noise(17, 7, 7))
    rock = _ramp(_noise(18, 1, 1), (0.05, 0.03, 0.04), (0.20, 0.15, 0.15))
    glow = np.exp(-((crack / 0.22) ** 2))[..., None] * np.array([1.0, 0.45, 0.08])
    return rock + glow * (0.85 + 0.1 * _noise(19, 9, 9)[..., None])


# The unseen scenes: each differs from the eight above in colour and in structure.


def honeycomb() -> np.ndarray:  # amber hexagons with dark walls
    row, column = np.mgrid[0:16, 0:14]
    points = np.stack([(row + 0.5) * 16, ((column + 0.5 * (row % 2)) * TILE / 14) % TILE], -1).reshape(-1, 2)
    near, gap, _ = _cells(points)
    honey = _ramp(1.5 - near / 3 + 0.3 * _noise(20, 3, 3), (0.80, 0.42, 0.02), (1.0, 0.78, 0.22))
    return np.where((gap < 3)[..., None], np.array([0.62, 0.32, 0.02]), honey)


def tartan() -> np.ndarray:  # magenta cloth with navy and white bands both ways
    cloth = np.array([0.62, 0.10, 0.40]) * (0.9 + 0.1 * ((X + Y) % 4 == 0)[..., None])
    for place in (Y % 32, X % 32):
        for first, width, colour in ((4, 9, (0.30, 0.08, 0.44)), (21, 2, (0.80, 0.50, 0.66))):
            band = ((place >= first) & (place < first + width))[..., None]
            cloth = np.where(band, 0.5 * cloth + 0.5 * np.array(colour), cloth)
    return cloth


def dusk() -> np.ndarray:  # an evening sky: large violet and salmon clouds
    clouds = 0.9 * _noise(21, 26, 9) + 0.35 * _noise(22, 9, 4)
    return _ramp(clouds, (0.46, 0.30, 0.62), (1.0, 0.62, 0.54))


def coral() -> np.ndarray:  # a labyrinth of two turquoises
    maze = np.clip((_noise(23, 3.5, 3.5) - 1.2 * _noise(23, 7, 7)) * 4, -1.5, 1.5)
    return _ramp(maze, (0.30, 0.66, 0.62), (0.66, 0.86, 0.76))


def bubbles() -> np.ndarray:  # lilac rings on deep violet
    rng = _random(24)
    near, _, number = _cells(rng.uniform(0, TILE, (260, 2)))
    edge = np.abs(near - rng.uniform(3, 9, 260)[number])
    rings = 3 * np.exp(-((edge / 1.2) ** 2)) - 1.5 + 0.2 * _noise(25, 5, 5)
    return _ramp(rings, (0.22, 0.02, 0.42), (0.50, 0.40, 0.74))


def marble() -> np.ndarray:  # pale green stone with dark veins
    veins = np.abs(np.sin(np.pi * (5 * X + 3 * Y) / TILE + 1.5 * _noise(26, 24, 24) + 0.25 * _noise(27, 5, 5)))
    return _ramp(3 * veins**0.4 - 1.5, (0.06, 0.26, 0.20), (0.74, 0.92, 0.78))


def mosaic() -> np.ndarray:  # tiles of five colours between dark joints
    rng = _random(28)
    _, gap, number = _cells(rng.uniform(0, TILE, (160, 2)))
    glass = np.array([[0.7, 0.3, 0.5], [0.3, 0.6, 0.65], [0.75, 0.66, 0.32], [0.45, 0.35, 0.65], [0.42, 0.62, 0.36]])
    return np.where((gap < 2)[..., None], 0.25, glass[rng.integers(0, 5, 160)[number]])


def rust() -> np.ndarray:  # orange rust in blotches on grey-blue paint
    eaten = np.clip(4 * (_noise(29, 8, 8) + 0.4 * _noise(30, 2, 2)), 0, 1)[..., None]
    orange = _ramp(_noise(31, 1.2, 1.2), (0.48, 0.18, 0.04), (0.86, 0.44, 0.14))
    return eaten * orange + (1 - eaten) * np.array([0.40, 0.56, 0.66])


_KNOWN = (grass, sand, water, snow, brick, wood, gravel, lava)
_UNSEEN = (honeycomb, tartan, dusk, coral, bubbles, marble, mosaic, rust)
TEXTURES = {texture.__name__: texture for texture in _KNOWN + _UNSEEN}
