"""Zero-shot accuracies of a tiny CLIP file on held-out pictures, which no training draws; and its model card.

    python -m dicap.world evaluate [--weights FILE] [--card]

Uses the file as shipped (fp16, read back), the clip package's own class and `encode_text` on 77 padded tokens.
"""

import hashlib
import json
import os
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from dicap.backbones import tiny
from dicap.backbones.package import clip_package
from dicap.files import write_text
from dicap.world.captions import DIGIT_TEMPLATE, DIGITS, SCENE_TEMPLATE, TEMPLATE
from dicap.world.causal import CLASSES, COLOURS, SCENES, sample
from dicap.world.glyphs import draw_digits, handwritten_digits
from dicap.world.render import DOWNSTREAM, PRETRAIN, Domain, render_planar

HELD_OUT_SEED = 2**40  # larger than any seed of a training or of the benchmark
MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)  # CLIP's own
CARD = Path(__file__).with_name("model_card.md")  # a template: {fields} as in str.format
MEANING = {  # of the accuracies, for the card
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


def evaluate(path: str | os.PathLike | None = None, count: int = 4000, domain: Domain = DOWNSTREAM) -> dict[str, float]:
    """Zero-shot accuracies in percent on `count` pictures of each domain, 1,000 drawn digits and all 1,797 real ones.

    Args:
        path: a weights file; None is the shipped one.

    Returns:
        classes, scenes, colours (pretraining's domain), drawn_digits, real_digits, and for `domain` gap_classes
        (50-way), gap_base and gap_new (25-way), gap_scenes.
    """
    model = clip_package().model.build_model(tiny.state_dict(path)).float().eval()
    class_text, scene_text = encode_names(model, CLASSES, TEMPLATE), encode_names(model, SCENES, SCENE_TEMPLATE)
    digit_text = encode_names(model, DIGITS, DIGIT_TEMPLATE)
    digits, (real, real_labels) = np.arange(1000) % 10, handwritten_digits()
    drawn = draw_digits(digits, np.random.Generator(np.random.Philox(key=HELD_OUT_SEED)))
    latents = sample(count, HELD_OUT_SEED)
    label, scene, half = latents["label"], latents["scene"], len(CLASSES) // 2
    base = label < half
    f, gap = (encode_images(model, render_planar(latents, camera)) for camera in (PRETRAIN, domain))  # (B, e) each
    accuracies = {
        "classes": _accuracy(f, class_text, label),
        "scenes": _accuracy(f, scene_text, scene),
        "colours": _accuracy(f, encode_names(model, COLOURS, "a photo of a {} object."), latents["colour"]),
        "drawn_digits": _accuracy(encode_images(model, drawn), digit_text, digits),
        "real_digits": _accuracy(encode_images(model, real), digit_text, real_labels),
        "gap_classes": _accuracy(gap, class_text, label),
        "gap_base": _accuracy(gap[torch.from_numpy(base)], class_text[:half], label[base]),
        "gap_new": _accuracy(gap[torch.from_numpy(~base)], class_text[half:], label[~base] - half),
        "gap_scenes": _accuracy(gap, scene_text, scene),
    }
    return {name: round(value, 2) for name, value in accuracies.items()}


def write_card(path: str | os.PathLike | None, accuracies: dict[str, float]) -> Path:
    """Write the model card of the weights at `path` (None: the shipped file) beside them (.md); returns its path."""
    path = Path(path or tiny.PATH)
    facts, weights = tiny.metadata(path), tiny.state_dict(path)
    rows = len(tiny.stored_ids(path))
    unused = (tiny.VOCABULARY - rows) * weights["token_embedding.weight"].shape[1]
    text = CARD.read_text(encoding="utf-8").format(
        parameters=sum(value.numel() for value in weights.values() if value.is_floating_point()) - unused,
        rows=rows,
        size=path.stat().st_size / 2**20,
        sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
        recipe=json.loads(facts["recipe"]),
        facts={"device": "2 CPU cores that other work shared", **facts},
        pairs=int(facts["pairs"]),
        seconds=int(facts["seconds"]),
        unfinished="" if facts["complete"] == "true" else " (cut out of an unfinished run)",
        domain=PRETRAIN,
        versions=", ".join(f"{name} {version}" for name, version in json.loads(facts["versions"]).items()),
        table="\n".join(f"| `{name}` | {value:.1f} | {MEANING[name]} |" for name, value in accuracies.items()),
    )
    write_text(path.with_suffix(".md"), text)
    return path.with_suffix(".md")


def normalize(images: torch.Tensor) -> torch.Tensor:
    """(B, 3, H, W) of 0..255 -> float32, normalised as CLIP's images are."""
    mean, std = (torch.tensor(values, device=images.device).view(3, 1, 1) * 255 for values in (MEAN, STD))
    return (images.float() - mean) / std


@torch.no_grad()
def encode_images(model: torch.nn.Module, images: np.ndarray) -> torch.Tensor:
    """(B, 3, 64, 64) uint8 -> (B, e) normalised features."""
    parts = [model.encode_image(normalize(part)) for part in torch.from_numpy(images).split(250)]
    return F.normalize(torch.cat(parts), dim=-1)


@torch.no_grad()
def encode_names(model: torch.nn.Module, names: tuple[str, ...], template: str) -> torch.Tensor:
    """(C, e) normalised text features of the template filled with each name."""
    tokens = clip_package().tokenize([template.format(name) for name in names])
    return F.normalize(model.encode_text(tokens), dim=-1)


def _accuracy(f: torch.Tensor, text: torch.Tensor, labels: np.ndarray) -> float:
    return 100 * float(((f @ text.T).argmax(-1).numpy() == labels).mean())
