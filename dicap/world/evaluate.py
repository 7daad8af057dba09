"""Held-out zero-shot figures of a tiny CLIP file, on pictures that no training run draws.

    python -m dicap.world evaluate [--weights FILE]

Uses the file as shipped (fp16, read back), the clip package's own class and `encode_text` on 77 padded tokens.
"""

import os

import numpy as np
import torch
import torch.nn.functional as F

from dicap.backbones import tiny
from dicap.backbones.package import clip_package
from dicap.world import captions
from dicap.world.causal import CLASSES, COLOURS, SCENES, sample
from dicap.world.glyphs import draw_digits, enlarge
from dicap.world.render import DOWNSTREAM, PRETRAIN, Domain, render_planar

HELD_OUT_SEED = 2**40  # training seeds are small numbers, so these worlds are never trained on
MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)  # CLIP's own


def evaluate(path: str | os.PathLike | None = None, count: int = 4000, domain: Domain = DOWNSTREAM) -> dict[str, float]:
    """Zero-shot accuracies in percent; `count` pictures of each world domain, all 1,797 real digits.

    Returns:
        classes, scenes, colours (own domain), drawn_digits, real_digits, and for the downstream domain gap_classes
        (50-way), gap_base and gap_new (25-way), gap_scenes.
    """
    model = clip_package().model.build_model(tiny.state_dict(path)).float().eval()
    latents = sample(count, HELD_OUT_SEED)
    f = encode_images(model, render_planar(latents, PRETRAIN))
    out = {
        "classes": _accuracy(f, encode_names(model, CLASSES, captions.TEMPLATE), latents["label"]),
        "scenes": _accuracy(f, encode_names(model, SCENES, captions.SCENE_TEMPLATE), latents["scene"]),
        "colours": _accuracy(f, encode_names(model, COLOURS, "a photo of a {} object."), latents["colour"]),
    }
    digits = encode_names(model, captions.DIGITS, captions.DIGIT_TEMPLATE)
    labels = np.arange(1000) % 10
    drawn = draw_digits(labels, np.random.Generator(np.random.Philox(key=HELD_OUT_SEED)))
    out["drawn_digits"] = _accuracy(encode_images(model, drawn), digits, labels)
    real, labels = _real_digits()
    out["real_digits"] = _accuracy(encode_images(model, real), digits, labels)
    f = encode_images(model, render_planar(latents, domain))
    text, label = encode_names(model, CLASSES, captions.TEMPLATE), latents["label"]
    base = label < len(CLASSES) // 2
    out["gap_classes"] = _accuracy(f, text, label)
    out["gap_base"] = _accuracy(f[torch.from_numpy(base)], text[:25], label[base])
    out["gap_new"] = _accuracy(f[torch.from_numpy(~base)], text[25:], label[~base] - 25)
    out["gap_scenes"] = _accuracy(f, encode_names(model, SCENES, captions.SCENE_TEMPLATE), latents["scene"])
    return {name: round(value, 2) for name, value in out.items()}


def summary(figures: dict[str, float]) -> str:
    """One line of figures."""
    return " ".join(f"{name} {value:.1f}" for name, value in figures.items())


@torch.no_grad()
def encode_images(model: torch.nn.Module, images: np.ndarray) -> torch.Tensor:
    """(B, 3, 64, 64) uint8 -> (B, e) normalised features."""
    mean, std = torch.tensor(MEAN).view(3, 1, 1) * 255, torch.tensor(STD).view(3, 1, 1) * 255
    parts = [model.encode_image((part.float() - mean) / std) for part in torch.from_numpy(images).split(250)]
    return F.normalize(torch.cat(parts), dim=-1)


@torch.no_grad()
def encode_names(model: torch.nn.Module, names: tuple[str, ...], template: str) -> torch.Tensor:
    """(C, e) normalised features of the filled templates."""
    tokens = clip_package().tokenize([template.format(name) for name in names])
    return F.normalize(model.encode_text(tokens), dim=-1)


def _accuracy(f: torch.Tensor, text: torch.Tensor, labels: np.ndarray) -> float:
    return 100 * float(((f @ text.T).argmax(-1).numpy() == labels).mean())


def _real_digits() -> tuple[np.ndarray, np.ndarray]:
    """scikit-learn's handwriting as (1797, 3, 64, 64) uint8 and its labels."""
    from sklearn.datasets import load_digits

    data = load_digits()
    ink = enlarge(torch.tensor(data.images / 16, dtype=torch.float32)).numpy()
    return np.repeat((ink * 255 + 0.5).astype(np.uint8)[:, None], 3, 1), data.target
