"""CLIPs by name: OpenAI's, weights from a file, open_clip's, and the embedded tiny one. All come as `clip.model.CLIP`.

    load_clip("ViT-B/16")                               downloaded by the clip package, its SHA-256 checked
    load_clip("/data/my_clip.safetensors")              a state dict (.safetensors, .pt, .pth), or one of OpenAI's archives
    load_clip("open_clip:ViT-B-16/laion2b_s34b_b88k")   needs the extra: pip install "dicap[open_clip]"
    load_clip("tiny")                                   ships with dicap, knows CausalShapes and digits only

Nothing that is read runs code: state dicts with weights_only=True or as safetensors; TorchScript only where the file's
SHA-256 is one that OpenAI published.
"""

import hashlib
import logging
import zipfile
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from dicap.backbones import tiny
from dicap.backbones.package import clip_package
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
    check_finite(model.state_dict(), name)
    return model.requires_grad_(False).eval().to(device)


def build(state: dict[str, Tensor], name: str = "weights") -> nn.Module:
    """A CLIP in fp32 from its state dict; every size is inferred from the weights.

    Raises ConfigError: keys are missing or shapes do not belong to a CLIP of OpenAI's architecture.
    """
    facts = ("input_resolution", "context_length", "vocab_size")  # in OpenAI's archives, beside the weights
    state = {key: value for key, value in state.items() if key not in facts}
    try:
        model = clip_package().model.build_model(dict(state)).float()
        model.load_state_dict(state)  # build_model rounds to fp16
    except (KeyError, RuntimeError, AssertionError, ValueError, IndexError) as error:
        raise ConfigError(f"{name} is not a CLIP of OpenAI's architecture: {error}") from error
    return model


def tokenize(texts: list[str]) -> Tensor:
    """CLIP's tokens (B, 77), long, padded with 0 behind the end-of-text token; raises ConfigError for too long a text."""
    try:
        return clip_package().tokenize(texts)
    except RuntimeError as error:
        raise ConfigError(f"{error}; shorten the class name or the context") from None


def check_finite(state: dict[str, Tensor], source: str) -> None:
    """Raises FloatingPointError, with the source and the tensor's name, where a tensor holds NaN or Inf."""
    for key, value in state.items():
        if not value.isfinite().all():
            raise FloatingPointError(f"{source}: {key} holds NaN or Inf; fetch or make that file again")


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
    if name in urls:
        return _read_openai(Path(clip_package().clip._download(urls[name], str(DOWNLOADS))))
    path = Path(name).expanduser()
    if not path.is_file():
        raise ConfigError(
            f"MODEL.BACKBONE.NAME is {name!r}: no such file, and no known name; known: tiny, "
            f"{', '.join(urls)}, open_clip:<model>/<pretrained>"
        )
    if path.suffix == ".safetensors":
        return load_file(path)
    return _read_openai(path) if _is_torchscript(path) else _read_state_dict(path)


def _read_state_dict(path: Path) -> dict[str, Tensor]:
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises UnpicklingError, RuntimeError, EOFError ... for what it refuses
        raise ConfigError(f"{path} cannot be read as plain tensors: {error}") from error
    state = state.get("state_dict", state) if isinstance(state, dict) else state
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise ConfigError(f"{path} holds no state dict of tensors")
    return state


def _is_torchscript(path: Path) -> bool:
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(entry.endswith("/constants.pkl") for entry in archive.namelist())


def _read_openai(path: Path) -> dict[str, Tensor]:
    known = {url.split("/")[-2] for url in clip_package().clip._MODELS.values()}
    digest = _sha256(path)
    if digest not in known:
        raise ConfigError(
            f"{path} is a TorchScript archive, which can run code, and its SHA-256 {digest[:12]}... is none that "
            "OpenAI published; save its state dict as safetensors instead"
        )
    return torch.jit.load(str(path), map_location="cpu").state_dict()


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def _from_open_clip(name: str) -> nn.Module:
    """An open_clip model as `clip.model.CLIP`; its features on one image and two texts must agree with open_clip's own."""
    try:
        import open_clip
    except ImportError:
        raise ConfigError(f'{name} needs open_clip: pip install "dicap[open_clip]"') from None
    model_name, _, pretrained = name.removeprefix("open_clip:").partition("/")
    try:
        source = open_clip.create_model(model_name, pretrained=pretrained or None, weights_only=True).float().eval()
    except (RuntimeError, ValueError, OSError) as error:
        raise ConfigError(f"{name}: {error}") from error
    model = build(source.state_dict(), name)
    if not any(type(module).__name__ == "QuickGELU" for module in source.modules()):
        for block in model.modules():
            if hasattr(block, "gelu"):
                block.gelu = nn.GELU()
    _check_same(model, source, name)
    return model


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
