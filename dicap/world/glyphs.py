"""Digits drawn from the fonts that matplotlib ships, which the tiny CLIP learns from, and real handwritten ones.

A drawn glyph is a signed distance field, bent by an affine map and a smooth displacement, then cut at a random stroke
thickness. Three in four are reduced to 8 x 8 pixels and enlarged again, to look like scikit-learn's bitmaps of real
handwriting. The tiny CLIP never trains on those: the dataset `Digits` tests on them.
"""

import functools
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw, ImageFont
from scipy.ndimage import distance_transform_edt
from sklearn.datasets import load_digits

from dicap.world.render import SIZE

FONTS = (
    "DejaVuSans DejaVuSans-Bold DejaVuSans-Oblique DejaVuSansMono DejaVuSansMono-Oblique DejaVuSerif DejaVuSerif-Italic "
    "DejaVuSerif-Bold STIXGeneral STIXGeneralItalic STIXGeneralBol STIXGeneralBolIta cmr10 cmss10 cmtt10 cmb10"
).split()
FIELD = 64  # px, width and height of a distance field; a glyph is 40 px high in it


def enlarge(bitmaps: torch.Tensor) -> torch.Tensor:
    """(B, 8, 8) in [0, 1] -> (B, 64, 64) in [0, 1], bicubic."""
    up = F.interpolate(bitmaps[:, None], size=(SIZE, SIZE), mode="bicubic", antialias=True, align_corners=False)
    return up[:, 0].clamp(0, 1)


def handwritten_digits() -> tuple[np.ndarray, np.ndarray]:
    """scikit-learn's bitmaps as pictures (1797, 3, 64, 64) uint8, and their labels (1797,)."""
    bitmaps, labels = load_digits(return_X_y=True)
    ink = enlarge(torch.tensor(bitmaps.reshape(-1, 8, 8) / 16, dtype=torch.float32)).numpy()
    return np.repeat((ink * 255 + 0.5).astype(np.uint8)[:, None], 3, 1), labels


def draw_digits(digits: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """(B,) digits 0..9 -> (B, 3, 64, 64) uint8 pictures with random fonts and distortions."""
    count = len(digits)
    fields = _distance_fields()[rng.integers(len(FONTS), size=count), digits]  # (B, FIELD, FIELD), a copy
    crossed = (digits == 7) & (rng.random(count) < 0.4)  # a handwritten seven often has a bar through its middle
    y, x = np.mgrid[0:FIELD, 0:FIELD].astype(np.float32) - FIELD / 2
    fields[crossed] = np.minimum(fields[crossed], np.hypot(np.maximum(np.abs(x) - 9, 0), y - 1) - 1.5)
    grid = _sampling_grid(count, rng)
    bent = F.grid_sample(torch.from_numpy(fields)[:, None], grid, padding_mode="border", align_corners=False)[:, 0]
    thickness = torch.from_numpy(rng.uniform(-1.0, 3.5, (count, 1, 1)).astype(np.float32))
    ink = (0.5 + (thickness - bent)).clamp(0, 1)  # (B, 64, 64)
    coarse = F.avg_pool2d(ink[:, None], SIZE // 8)[:, 0].mul(16).round().div(16)  # (B, 8, 8)
    is_coarse = torch.from_numpy(rng.random((count, 1, 1)) < 0.75)
    return _paint(torch.where(is_coarse, enlarge(coarse), ink).numpy(), rng)


def _sampling_grid(count: int, rng: np.random.Generator) -> torch.Tensor:
    """(B, 64, 64, 2) grid for `grid_sample`: random rotation, shear, scales, shift and a smooth displacement."""
    draw = functools.partial(rng.uniform, size=count)
    angle, shear = draw(-0.25, 0.25), draw(-0.3, 0.3)
    width, height = draw(0.75, 1.4), draw(1.15, 1.6)  # scales; at 1.6 the glyph fills the picture's height
    cos, sin = np.cos(angle), np.sin(angle)
    matrix = [width * cos, width * (shear * cos - sin), height * sin, height * (shear * sin + cos)]
    inverse = np.linalg.inv(np.stack(matrix, -1).reshape(count, 2, 2))
    shift = np.stack([draw(-0.08, 0.08), draw(-0.08, 0.08)], -1)
    theta = torch.from_numpy(np.concatenate([inverse, shift[..., None]], -1).astype(np.float32))  # (B, 2, 3)
    grid = F.affine_grid(theta, [count, 1, SIZE, SIZE], align_corners=False)
    amount = rng.uniform(0.0, 0.09, (count, 1, 1, 1))
    coarse = torch.from_numpy((rng.standard_normal((count, 2, 5, 5)) * amount).astype(np.float32))
    elastic = F.interpolate(coarse, size=(SIZE, SIZE), mode="bicubic", align_corners=True)
    return grid + elastic.permute(0, 2, 3, 1)


def _paint(ink: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """(B, 64, 64) ink -> (B, 3, 64, 64) uint8: light on dark grey, white on black, or two colours."""
    count = len(ink)
    front, back = rng.random((count, 3)), rng.random((count, 3))
    grey = rng.random(count) < 0.5
    front[grey] = rng.uniform(0.6, 1.0, (count, 1))[grey]
    back[grey] = rng.uniform(0.0, 0.3, (count, 1))[grey]
    plain = rng.random(count) < 0.25
    front[plain], back[plain] = 1.0, 0.0
    weak = np.abs(front - back).max(1) < 0.4  # too little contrast
    back[weak] = np.where(front[weak] > 0.5, front[weak] - 0.5, front[weak] + 0.5)
    picture = ink[:, None] * front[..., None, None] + (1 - ink[:, None]) * back[..., None, None]
    picture += rng.uniform(0, 0.06, (count, 1, 1, 1)) * rng.standard_normal((count, 3, SIZE, SIZE), dtype=np.float32)
    return (np.clip(picture, 0, 1) * 255 + 0.5).astype(np.uint8)


@functools.lru_cache(maxsize=1)
def _distance_fields() -> np.ndarray:
    """(fonts, 10, FIELD, FIELD) float32: signed distance to each glyph's edge in pixels, negative inside."""
    import matplotlib  # for pretraining only: the dataset Digits does without

    folder = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    fonts = [ImageFont.truetype(str(folder / f"{name}.ttf"), 160) for name in FONTS]
    return np.stack([[_distance_field(font, str(digit)) for digit in range(10)] for font in fonts])


def _distance_field(font: ImageFont.FreeTypeFont, text: str) -> np.ndarray:
    page = Image.new("L", (320, 320))
    ImageDraw.Draw(page).text((160, 160), text, fill=255, font=font, anchor="mm")
    glyph = page.crop(page.getbbox())
    height, width = 160, max(8, round(glyph.width * 160 / glyph.height))
    page = Image.new("L", (4 * FIELD, 4 * FIELD))
    corner = (4 * FIELD - width) // 2, (4 * FIELD - height) // 2
    page.paste(glyph.resize((width, height), Image.Resampling.BICUBIC), corner)
    inside = np.asarray(page) > 127
    distance = (distance_transform_edt(~inside) - distance_transform_edt(inside)) / 4
    return distance[2::4, 2::4].astype(np.float32)
