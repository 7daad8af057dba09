"""The world at a glance.

python -m dicap.world grid docs/world_grid.png
python -m dicap.world shifts docs/world_shifts.png
"""

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from dicap.world.causal import CLASSES, PATTERNS, SCENES, SHAPES, do, intervene, sample, shift
from dicap.world.files import Knobs, split_latents
from dicap.world.render import DOWNSTREAM, NOISY, SIZE, counterfactual, render

LEFT, GAP, HEAD = 150, 4, 26  # px


def draw(seed: int = 7) -> Image.Image:
    """Scenes x shapes with every class; interventions on class and scene; the benchmark's domain gap."""
    count = len(SHAPES)
    rows = []
    for number, scene in enumerate(SCENES):
        names = [f"{PATTERNS[(number + column) % len(PATTERNS)]} {shape}" for column, shape in enumerate(SHAPES)]
        latents = intervene(sample(np.arange(count) + count * number, seed), do({"class": names}, scene=scene))
        rows.append((scene, render(latents)))
    facts = sample(np.arange(count) + 1000, seed)
    targets = [CLASSES[(row["label"] + 17) % len(CLASSES)] for row in facts]
    pairs = (
        ("as sampled", render(facts)),
        ("do(class=...)", counterfactual(facts, do({"class": targets}))),
        ("do(scene=...)", counterfactual(facts, do(scene=(facts["scene"] + 3) % len(SCENES)))),
        ("in the benchmark", render(facts, DOWNSTREAM)),
    )
    return _page(
        [
            ("Every shape (columns) in every scene (rows); the five patterns along the diagonals", rows),
            ("The same ten pictures under interventions, and as the benchmark's camera sees them", list(pairs)),
        ]
    )


def draw_shifts() -> Image.Image:
    """Eight test pictures, one a scene and one a colour, and the same ones in the domain shifts."""
    test = split_latents("test", Knobs(per_class_test=40))
    shown = [np.flatnonzero((test["scene"] == n) & (test["colour"] == n)) for n in range(len(SCENES))]
    facts = test[[rows[len(rows) * n // len(SCENES)] for n, rows in enumerate(shown)]]
    scenes, colours = shift(facts, "scenes"), shift(facts, "colours")
    clean = [("as sampled", render(facts)), ("unseen scenes", render(scenes)), ("unseen colours", render(colours))]
    seen = [
        ("causal_shapes", render(facts, DOWNSTREAM)),
        ("..._scenes", render(scenes, DOWNSTREAM)),
        ("..._colours", render(colours, DOWNSTREAM)),
        ("..._noise", render(facts, NOISY)),
    ]
    page = _page([("Eight test pictures, by the camera of the pretraining", clean), ("As the benchmark's files", seen)])
    return page.quantize(256)  # noise does not shrink: a third of the bytes


def _page(parts: list[tuple[str, list[tuple[str, np.ndarray]]]]) -> Image.Image:
    columns = len(parts[0][1][0][1])
    height = sum(HEAD + len(rows) * (SIZE + GAP) + GAP for _, rows in parts)
    page = Image.new("RGB", (LEFT + columns * (SIZE + GAP) + GAP, height), "white")
    pen, font = ImageDraw.Draw(page), ImageFont.load_default(size=15)
    top = 0
    for title, rows in parts:
        pen.text((GAP, top + 5), title, fill="black", font=font)
        top += HEAD
        for name, pictures in rows:
            pen.text((GAP, top + SIZE // 2), name, fill="black", font=font, anchor="lm")
            for column, picture in enumerate(pictures):
                page.paste(Image.fromarray(picture), (LEFT + column * (SIZE + GAP), top))
            top += SIZE + GAP
        top += GAP
    return page
