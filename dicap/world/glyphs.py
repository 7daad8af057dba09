"""Digits drawn from the fonts that matplotlib ships: what the tiny CLIP learns digits from. It never sees handwriting.

A glyph is kept as a signed distance field, bent by an affine map and a smooth displacement, cut at a random stroke
thickness, and mostly taken down to 8 x 8 and up again, the look of scikit-learn's bitmaps of real handwriting (which
the dataset `Digits` tests on). `enlarge` is the way up, the same for both.
"""

import functools
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from dicap.world.render import SIZE

FONTS = (
    "DejaVuSans",
    "DejaVuSans-Bold",
    "DejaVuSans-Oblique",
    "DejaVuSansMono",
    "DejaVuSansMono-Oblique",
    "DejaVuSerif",
    "DejaVuSerif-Italic",
    "DejaVuSerif-Bold",
    "STIXGeneral",
    "STIXGeneralItalic",
    "STIXGeneralBol",
    "STIXGeneralBolIta",
    "cmr10",
    "cmss10",
    "cmtt10",
    "cmb10",
)
FIELD = 64  # px, the distance fields; a glyph is 40 px high in them


def enlarge(bitmaps: torch.Tensor) -> torch.Tensor:
    """(B, 8, 8) in [0, 1] -> (B, 64, 64) in [0, 1], bicubic."""
    up = F.interpolate(bitmaps[:, None], size=(SIZE, SIZE), mode="bicubic", antialias=True, align_corners=False)
    return up[:, 0].clamp(0, 1)


def draw_digits(digits: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """(B,) digits 0..9 -> (B, 3, 64, 64) uint8 pictures, fonts and distortions random."""
    count = len(digits)
    fields = _fields()[rng.integers(len(FONTS), size=count), digits]  # (B, FIELD, FIELD), a copy
    crossed = (digits == 7) & (rng.random(count) < 0.4)  # a hand's seven often has a bar
    fields[crossed] = np.minimum(fields[crossed], _bar())
    fields = torch.from_numpy(fields)[:, None]
    bent = F.grid_sample(fields, _bend(count, rng), mode="bilinear", padding_mode="border", align_corners=False)[:, 0]
    thickness = torch.from_numpy(rng.uniform(-1.0, 3.5, (count, 1, 1)).astype(np.float32))
    ink = (0.5 + (thickness - bent)).clamp(0, 1)  # (B, 64, 64)
    coarse = F.avg_pool2d(ink[:, None], SIZE // 8)[:, 0].mul(16).round().div(16)
    is_coarse = torch.from_numpy(rng.random((count, 1, 1)) < 0.75)
    ink = torch.where(is_coarse, enlarge(coarse), ink)
    return _paint(ink.numpy(), rng)


def _bend(count: int, rng: np.random.Generator) -> torch.Tensor:
    """(B, 64, 64, 2) sampling grid: rotation, shear, unequal scales, shift and a smooth random displacement."""

    def draw(low: float, high: float) -> np.ndarray:
        return rng.uniform(low, high, count)

    turn, shear = draw(-0.25, 0.25), draw(-0.3, 0.3)
    wide, high = draw(0.75, 1.4), draw(1.15, 1.6)  # 1.6: the glyph fills the height
    cos, sin = np.cos(turn), np.sin(turn)
    forward = np.stack(
        [
            np.stack([wide * cos, wide * (shear * cos - sin)], -1),
            np.stack([high * sin, high * (shear * sin + cos)], -1),
        ],
        -2,
    )
    shift = np.stack([draw(-0.08, 0.08), draw(-0.08, 0.08)], -1)
    theta = np.concatenate([np.linalg.inv(forward), shift[..., None]], -1)
    grid = F.affine_grid(torch.from_numpy(theta.astype(np.float32)), [count, 1, SIZE, SIZE], align_corners=False)
    size = draw(0.0, 0.09)[:, None, None, None]
    coarse = torch.from_numpy((rng.standard_normal((count, 2, 5, 5)) * size).astype(np.float32))
    elastic = F.interpolate(coarse, size=(SIZE, SIZE), mode="bicubic", align_corners=True)
    return grid + elastic.permute(0, 2, 3, 1)


def _bar() -> np.ndarray:
    """(FIELD, FIELD) distance to a short horizontal stroke through the middle."""
    y, x = np.mgrid[0:FIELD, 0:FIELD].astype(np.float32) - FIELD / 2
    return np.hypot(np.maximum(np.abs(x) - 9, 0), y - 1) - 1.5


def _paint(ink: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """(B, 64, 64) ink -> (B, 3, 64, 64) uint8: light on dark grey, white on black, or colours that differ enough."""
    count = len(ink)
    front, back = rng.random((count, 3)), rng.random((count, 3))
    grey = rng.random(count) < 0.5
    front[grey] = rng.uniform(0.6, 1.0, (count, 1))[grey]
    back[grey] = rng.uniform(0.0, 0.3, (count, 1))[grey]
    plain = rng.random(count) < 0.25
    front[plain], back[plain] = 1.0, 0.0
    weak = np.abs(front - back).max(1) < 0.4
    back[weak] = np.where(front[weak] > 0.5, front[weak] - 0.5, front[weak] + 0.5)
    ink = ink[:, None]
    picture = ink * front[..., None, None] + (1 - ink) * back[..., None, None]
    picture += rng.uniform(0, 0.06, (count, 1, 1, 1)) * rng.standard_normal((count, 3, SIZE, SIZE), dtype=np.float32)
    return (np.clip(picture, 0, 1) * 255 + 0.5).astype(np.uint8)


@functools.lru_cache(maxsize=1)
def _fields() -> np.ndarray:
    """(fonts, 10, FIELD, FIELD) float32: signed distance to each glyph's edge in pixels, negative inside."""
    import matplotlib
    from PIL import Image, ImageDraw, ImageFont
    from scipy.ndimage import distance_transform_edt

    folder = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    out = np.empty((len(FONTS), 10, FIELD, FIELD), np.float32)
    for row, name in enumerate(FONTS):
        font = ImageFont.truetype(str(folder / f"{name}.ttf"), 160)
        for digit in range(10):
            page = Image.new("L", (320, 320))
            ImageDraw.Draw(page).text((160, 160), str(digit), fill=255, font=font, anchor="mm")
            glyph = page.crop(page.getbbox())
            height, width = 160, max(8, round(glyph.width * 160 / glyph.height))
            page = Image.new("L", (4 * FIELD, 4 * FIELD))
            corner = (4 * FIELD - width) // 2, (4 * FIELD - height) // 2
            page.paste(glyph.resize((width, height), Image.Resampling.BICUBIC), corner)
            inside = np.asarray(page) > 127
            distance = (distance_transform_edt(~inside) - distance_transform_edt(inside)) / 4
            out[row, digit] = distance[2::4, 2::4]
    return out
