"""The pictures of docs/world.md: CausalShapes with its interventions, and its domain shifts.

python -m benchmarks.world_pictures docs
"""

import argparse
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from dicap.world.causal import CLASSES, PATTERNS, SCENES, SHAPES, do, intervene, sample, shift
from dicap.world.files import Knobs, split_latents
from dicap.world.render import DOWNSTREAM, NOISY, SIZE, counterfactual, render

LEFT, GAP, HEAD = 150, 4, 26  # px: the column of row names, the space between pictures, a title's height


def draw_grid(seed: int = 7) -> Image.Image:
    """Scenes x shapes with every class; interventions on class and scene; the benchmark's domain gap."""
    count = len(SHAPES)
    rows = {}
    for number, scene in enumerate(SCENES):
        names = [f"{PATTERNS[(number + column) % len(PATTERNS)]} {shape}" for column, shape in enumerate(SHAPES)]
        latents = intervene(sample(np.arange(count) + count * number, seed), do({"class": names}, scene=scene))
        rows[scene] = render(latents)
    factual = sample(np.arange(count) + 1000, seed)
    interventions = {
        "as sampled": render(factual),
        "do(class=...)": counterfactual(factual, do(class_=(factual["label"] + 17) % len(CLASSES))),
        "do(scene=...)": counterfactual(factual, do(scene=(factual["scene"] + 3) % len(SCENES))),
        "in the benchmark": render(factual, DOWNSTREAM),
    }
    first = "Every shape (columns) in every scene (rows); the five patterns along the diagonals"
    second = "The same ten pictures under interventions, and as the benchmark's camera sees them"
    return _page({first: rows, second: interventions})


def draw_shifts() -> Image.Image:
    """Eight test pictures, one a scene and one a colour, and the same ones in the domain shifts."""
    test = split_latents("test", Knobs(per_class_test=40))
    both = [np.flatnonzero((test["scene"] == n) & (test["colour"] == n)) for n in range(len(SCENES))]
    factual = test[[rows[len(rows) * n // len(SCENES)] for n, rows in enumerate(both)]]
    scenes, colours = shift(factual, "scenes"), shift(factual, "colours")
    clean = {"as sampled": render(factual), "unseen scenes": render(scenes), "unseen colours": render(colours)}
    files = {
        "causal_shapes": render(factual, DOWNSTREAM),
        "..._scenes": render(scenes, DOWNSTREAM),
        "..._colours": render(colours, DOWNSTREAM),
        "..._noise": render(factual, NOISY),
    }
    page = _page({"Eight test pictures, by the camera of the pretraining": clean, "As the benchmark's files": files})
    return page.quantize(256)  # noise does not compress: this saves two thirds of the bytes


def _page(sections: dict[str, dict[str, np.ndarray]]) -> Image.Image:
    """Sections by title, one below the other; each has rows of pictures (B, 64, 64, 3) by name."""
    columns = max(len(pictures) for rows in sections.values() for pictures in rows.values())
    height = sum(HEAD + len(rows) * (SIZE + GAP) + GAP for rows in sections.values())
    page = Image.new("RGB", (LEFT + columns * (SIZE + GAP) + GAP, height), "white")
    pen, font = ImageDraw.Draw(page), ImageFont.load_default(size=15)
    top = 0
    for title, rows in sections.items():
        pen.text((GAP, top + 5), title, fill="black", font=font)
        top += HEAD
        for name, pictures in rows.items():
            pen.text((GAP, top + SIZE // 2), name, fill="black", font=font, anchor="lm")
            for column, picture in enumerate(pictures):
                page.paste(Image.fromarray(picture), (LEFT + column * (SIZE + GAP), top))
            top += SIZE + GAP
        top += GAP
    return page


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="where world_grid.png and world_shifts.png are written, such as docs")
    folder = parser.parse_args().folder
    draw_grid().save(folder / "world_grid.png")
    draw_shifts().save(folder / "world_shifts.png")
