"""The model card of a tiny CLIP file: what it is, how it was made, what was measured; written beside the weights."""

import hashlib
import json
import os
from pathlib import Path

from dicap.backbones import tiny
from dicap.files import write_text
from dicap.world.render import DOWNSTREAM, PRETRAIN

MEANING = {
    "classes": "50 classes, own domain (chance 2)",
    "scenes": "8 scenes, own domain",
    "colours": "8 colours, own domain",
    "drawn_digits": "10 digits, drawn from fonts",
    "real_digits": "10 digits, scikit-learn's 1,797 bitmaps of handwriting, none of them trained on",
    "gap_classes": f"50 classes, benchmark's domain (contrast {DOWNSTREAM.contrast}, noise {DOWNSTREAM.noise})",
    "gap_base": "25 base classes, benchmark's domain (chance 4)",
    "gap_new": "25 new classes, benchmark's domain (chance 4)",
    "gap_scenes": "8 scenes, benchmark's domain",
}

CARD = """# The tiny CLIP

OpenAI's CLIP architecture (the `clip` package's own class) at 64 px: ModifiedResNet of layers (1,1,2,1) and width 24,
a text tower of 3 layers, width 128 and 2 heads, embedding 128, context length 77, vocabulary 49,408.
{parameters:,} parameters, stored as fp16; of the token embedding only {rows} rows, for the words of the captions and of
plausible prompts, the others are zero. {size:.2f} MiB, SHA-256 `{sha256}`.

## Made by

    python -m dicap.world pretrain --out tiny.safetensors --pairs {planned} --seed {seed}

{pairs:,} pairs of pictures and captions{unfinished} in {seconds:,} seconds of training steps on {device}.
A quarter of the pairs are digits drawn from fonts, the rest is CausalShapes with class and scene independent, contrast
{contrast}, noise {noise}. Contrastive loss, AdamW, exponential moving average of the weights.

- Recipe: `{recipe}`
- Versions: {versions}

## Measured

On this file (fp16, read back) by `python -m dicap.world evaluate`, zero-shot with "a photo of a NAME.", "a photo of
NAME." for scenes and "a photo of the digit NAME.", on pictures that no training run draws.

| figure | percent | what |
|---|---|---|
{table}

## Meant for

Trying prompt learning on a machine without a GPU or a network, tests, teaching. It knows the words of its small world
and ten digits, and nothing else: it is no model of natural images. Licence: MIT. Nothing made by other people went into
it but the glyphs of the fonts that matplotlib ships; the handwritten digits are used to measure only.
"""


def write_card(path: str | os.PathLike, figures: dict[str, float]) -> Path:
    """Write the card of the weights at `path` beside them (.md); returns its path."""
    path = Path(path)
    facts, recipe = tiny.metadata(path), json.loads(tiny.metadata(path)["recipe"])
    ids = tiny.stored_ids(path)
    weights = tiny.state_dict(path)
    unused = (tiny.VOCABULARY - len(ids)) * weights["token_embedding.weight"].shape[1]
    text = CARD.format(
        parameters=sum(value.numel() for value in weights.values() if value.is_floating_point()) - unused,
        rows=len(ids),
        size=path.stat().st_size / 2**20,
        sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
        planned=recipe["pairs"],
        pairs=int(facts["pairs"]),
        device=facts.get("device", "2 CPU cores that other work shared"),
        seed=recipe["seed"],
        seconds=int(facts["seconds"]),
        unfinished="" if facts["complete"] == "true" else " (cut out of an unfinished run)",
        contrast=PRETRAIN.contrast,
        noise=PRETRAIN.noise,
        recipe=facts["recipe"],
        versions=", ".join(f"{name} {version}" for name, version in json.loads(facts["versions"]).items()),
        table="\n".join(f"| `{name}` | {value:.1f} | {MEANING[name]} |" for name, value in figures.items()),
    )
    card = path.with_suffix(".md")
    write_text(card, text)
    return card
