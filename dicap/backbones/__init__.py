"""CLIPs by name: OpenAI's, weights from a file, open_clip's, and the embedded tiny one. All come as `clip.model.CLIP`.

    load_clip("ViT-B/16")                               downloaded by the clip package, its SHA-256 checked
    load_clip("/data/my_clip.safetensors")              a state dict (.safetensors, .pt, .pth), or a TorchScript archive
    load_clip("open_clip:ViT-B-16/laion2b_s34b_b88k")   needs the extra: pip install "dicap[open_clip]"
    load_clip("tiny")                                   ships with dicap, knows CausalShapes and digits only

Nothing that is read runs code: dicap.inert takes the tensors of a file and leaves the rest alone.
"""

import hashlib
import logging
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dicap.backbones import tiny
from dicap.backbones.package import clip_package
from dicap.inert import AGAIN, check_finite, read_weights
from dicap.options import ConfigError

log = logging.getLogger(__name__)

PRECISIONS = ("fp32", "bf16", "amp", "fp16")
DOWNLOADS = Path("~/.cache/clip").expanduser()


def load_clip(name: str, device: str | torch.device = "cpu", precision: str = "fp32") -> nn.Module:
    """A frozen CLIP in evaluation mode. Sizes and logit_scale are read from the weights. Global RNG states stay as they are.

    Args:
        name: as in the list above.
        precision: "fp32", "bf16" and "amp" give fp32 weights; "fp16" gives fp16 towers (on a CPU, where fp16 is about ten times
            slower than fp32, they stay fp32 and a line in the log says so).
    Raises ConfigError: unknown name, missing file, or weights that are not a CLIP's; the message names the cause.
    FloatingPointError: weights that are NaN or Inf.
    """
    if precision not in PRECISIONS:
        raise ConfigError(f"precision is {precision!r}; allowed: {', '.join(PRECISIONS)}")
    with torch.random.fork_rng():
        model = _from_open_clip(name) if name.startswith("open_clip:") else build(_read(name), name)
    if precision == "fp16" and torch.device(device).type == "cpu":
        log.info("PREC fp16 on a CPU: the towers stay in fp32")
    elif precision == "fp16":
        clip_package().model.convert_weights(model)
    check_finite(model.state_dict(), name, AGAIN)
    return model.requires_grad_(False).eval().to(device)


def build(state: dict[str, Tensor], name: str = "weights") -> nn.Module:
    """A CLIP in fp32 from its state dict; every size is inferred from the weights.

    Raises ConfigError: keys are missing or shapes do not belong to a CLIP of OpenAI's architecture.
    """
    facts = ("input_resolution", "context_length", "vocab_size")  # in OpenAI's archives, beside the weights
    state = {key: value for key, value in state.items() if key not in facts}
    try:
        with torch.device("meta"):  # sizes that do not belong together show here, where they take no memory
            model = clip_package().model.build_model({key: value.to("meta") for key, value in state.items()}).float()
        model.to_empty(device="cpu").load_state_dict(state)
        mask = model.build_attention_mask()
        for block in model.transformer.resblocks:
            block.attn_mask = mask
        if model.context_length != 77 or model.vocab_size < tiny.VOCABULARY:
            raise ValueError(f"{model.context_length} tokens a text of {model.vocab_size}, not 77 of {tiny.VOCABULARY}")
    except Exception as error:  # build_model trusts what it is given
        cause = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
        raise ConfigError(
            f"{name} is not a CLIP of OpenAI's architecture ({cause}): name the weights of one"
        ) from error
    return model


def tokenize(texts: list[str]) -> Tensor:
    """CLIP's tokens (B, 77), long, padded with 0 behind the end-of-text token; raises ConfigError for too long a text."""
    try:
        return clip_package().tokenize(texts)
    except RuntimeError as error:
        raise ConfigError(f"{error}; shorten the class name or the context") from None


def weights_digest(model: nn.Module) -> str:
    """SHA-256 over names, types and bytes of all weights."""
    digest = hashlib.sha256()
    for key, value in sorted(model.state_dict().items()):
        digest.update(f"{key} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def _read(name: str) -> dict[str, Tensor]:
    if name == "tiny":
        return tiny.state_dict()
    urls = clip_package().clip._MODELS
    path = Path(name).expanduser()
    if name in urls:
        path = _download(name, urls[name])
    elif not path.is_file():
        raise ConfigError(
            f"MODEL.BACKBONE.NAME is {name!r}: no such file, and no known name; known: tiny, "
            f"{', '.join(urls)}, open_clip:<model>/<pretrained>"
        )
    return read_weights(path)


def _download(name: str, url: str) -> Path:
    try:
        return Path(clip_package().clip._download(url, str(DOWNLOADS)))
    except (OSError, RuntimeError, ValueError, TypeError) as error:
        way = f"try again, or put the file into {DOWNLOADS}"
        raise ConfigError(f"{name} cannot be downloaded from {url} ({error}): {way}") from error


def _from_open_clip(name: str) -> nn.Module:
    """An open_clip model as `clip.model.CLIP`; its features on one image and two texts must agree with open_clip's own."""
    from unittest.mock import patch

    try:
        import open_clip
    except ImportError:
        raise ConfigError(f'{name} needs open_clip: pip install "dicap[open_clip]"') from None
    model_name, _, pretrained = name.removeprefix("open_clip:").partition("/")
    try:
        with patch("open_clip.factory.load_state_dict", _open_clip_weights):
            source = open_clip.create_model(model_name, pretrained=pretrained or None).float().eval()
    except Exception as error:  # open_clip meets damage in many ways
        raise ConfigError(f"{name}: {error}") from error
    model = build(source.state_dict(), name)
    if not any(type(module).__name__ == "QuickGELU" for module in source.modules()):
        for block in model.modules():
            if hasattr(block, "gelu"):
                block.gelu = nn.GELU()
    _check_same(model, source, name)
    return model


def _open_clip_weights(path: str, *_: Any, **__: Any) -> dict[str, Tensor]:
    return {key.removeprefix("module."): value for key, value in read_weights(path).items()}


@torch.no_grad()
def _check_same(model: nn.Module, source: nn.Module, name: str) -> None:
    size = model.visual.input_resolution
    image = torch.linspace(-1, 1, 3 * size * size).reshape(1, 3, size, size)
    text = tokenize(["a photo of a cat.", "one"])
    for encode, batch in (("encode_image", image), ("encode_text", text)):
        ours, theirs = getattr(model, encode)(batch), getattr(source, encode)(batch)
        if not torch.allclose(ours, theirs, rtol=1e-3, atol=1e-4):
            difference = f"{(ours - theirs).abs().max():.2g}"
            raise ConfigError(f"{name} is not of OpenAI's architecture: features differ by {difference}")
