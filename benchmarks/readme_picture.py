"""The picture of the README: training images, their rendered counterfactuals, and what the generator answers.

    python -m benchmarks.readme_picture docs/counterfactuals.png

The generator answers with a feature, which has no picture; shown is the test image (25 base classes, 200 each) whose feature
is nearest to it by cosine. The rule that chooses the rows: the first training image of each of the first ROWS classes in label
order, its target the next class. World, generator and camera are those of benchmarks/counterfactual_truth.py at rho 1.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

from benchmarks.counterfactual_truth import BASE, SHOTS, TRAIN_STEPS, clip, encode
from dicap.counterfactual import CounterfactualGenerator, GeneratorConfig
from dicap.world import CLASSES, DOWNSTREAM, Knobs, counterfactual, do, render
from dicap.world.captions import TEMPLATE
from dicap.world.causal import SCENES
from dicap.world.evaluate import encode_names
from dicap.world.files import split_latents

ROWS = 4
TITLES = "training image", "true counterfactual, rendered", "nearest test image to our answer"
CELL, PICTURE, HEAD, LINE = (
    220,
    128,
    30,
    22,
)  # px: width of a column, side of a picture, height of titles and of a label


@torch.no_grad()
def draw() -> Image.Image:
    """The picture: ROWS rows of three."""
    train, test = (split_latents(split, Knobs(per_class_train=SHOTS)) for split in ("train", "test"))
    train, test = train[train["label"] < BASE], test[test["label"] < BASE]
    labels, features = torch.from_numpy(train["label"].astype(int)), encode(train)
    texts = encode_names(clip(), CLASSES[:BASE], TEMPLATE)
    generator = CounterfactualGenerator(GeneratorConfig(train_steps=TRAIN_STEPS)).fit(features, labels, texts)

    rows = torch.arange(ROWS) * SHOTS  # the first of each class
    target = labels[rows] + 1
    answer = generator.counterfactual(features[rows], labels[rows], target).features[:, 0]  # (ROWS, e)
    nearest = (answer @ encode(test).T).argmax(dim=1).numpy()
    factual, action = train[rows.numpy()], do({"class": target.numpy()})
    truth = counterfactual(factual, action, DOWNSTREAM)
    columns = (
        (render(factual, DOWNSTREAM), _names(factual["label"], factual["scene"])),
        (truth, _names(target.numpy(), factual["scene"])),
        (render(test[nearest], DOWNSTREAM), _names(test[nearest]["label"], test[nearest]["scene"])),
    )
    return _page(columns)


def _names(labels: np.ndarray, scenes: np.ndarray) -> list[str]:
    return [f"{CLASSES[label]}, {SCENES[scene]}" for label, scene in zip(labels, scenes)]


def _page(columns: tuple[tuple[np.ndarray, list[str]], ...]) -> Image.Image:
    page = Image.new("RGB", (len(columns) * CELL, HEAD + ROWS * (PICTURE + LINE)), "white")
    pen, font = ImageDraw.Draw(page), ImageFont.load_default(size=14)
    for column, (title, (pictures, names)) in enumerate(zip(TITLES, columns)):
        middle = column * CELL + CELL // 2
        pen.text((middle, HEAD // 2), title, fill="black", font=font, anchor="mm")
        for row, (picture, name) in enumerate(zip(pictures, names)):
            top = HEAD + row * (PICTURE + LINE)
            page.paste(
                Image.fromarray(picture).resize((PICTURE, PICTURE), Image.Resampling.NEAREST),
                (middle - PICTURE // 2, top),
            )
            pen.text((middle, top + PICTURE + LINE // 2), name, fill="black", font=font, anchor="mm")
    return page.quantize(128)  # noise does not compress: fewer colours save most of the bytes


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path, help="where the picture is written, such as docs/counterfactuals.png")
    draw().save(parser.parse_args().file, optimize=True)
