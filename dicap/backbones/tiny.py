"""The embedded tiny CLIP's file: of 49,408 token rows only those of its pretraining are stored, the rest zero.

OpenAI's architecture at 64 px: ModifiedResNet of layers (1,1,2,1) and width 24, a text tower of 3 layers, width 128
and 2 heads, embedding 128, context length 77. Figures, seed, versions and the command that made it: tiny.md beside
this file.
"""

import hashlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from dicap.files import replacing
from dicap.inert import read_weights
from dicap.options import ConfigError

PATH = Path(__file__).with_name("tiny.safetensors")
VOCABULARY = 49408
_EMBEDDING, _ROWS, _IDS = "token_embedding.weight", "token_embedding.rows", "token_embedding.ids"


def state_dict(path: str | os.PathLike | None = None) -> dict[str, torch.Tensor]:
    """The weights, fp32, with the full (49408, 128) token embedding; ready for `clip.model.build_model`.

    path: a file that `save` wrote; None is the shipped one, whose SHA-256 must be that of its card, tiny.md.
    Raises FileNotFoundError, or ConfigError for a damaged or another file.
    """
    shipped, path = path is None, Path(path or PATH)
    if not path.is_file():
        raise FileNotFoundError(f"tiny CLIP weights not found: {path}; make them with: python -m dicap.world pretrain")
    if shipped and hashlib.sha256(path.read_bytes()).hexdigest() not in path.with_suffix(".md").read_text("utf-8"):
        raise ConfigError(f"{path} is damaged: its SHA-256 is not the one in tiny.md beside it; install dicap again")
    stored = read_weights(path)
    weights = {key: value.float() if value.is_floating_point() else value for key, value in stored.items()}
    try:
        rows, ids = weights.pop(_ROWS), weights.pop(_IDS).long()
        weights[_EMBEDDING] = torch.zeros(VOCABULARY, rows.shape[1]).index_copy_(0, ids, rows)
    except (KeyError, IndexError, RuntimeError) as error:
        raise ConfigError(f"{path} is not a file of the tiny CLIP, with {_ROWS} and {_IDS}: {error}") from error
    return weights


def stored_ids(path: str | os.PathLike | None = None) -> list[int]:
    """The token ids whose rows are stored, ascending."""
    with safe_open(path or PATH, "pt") as file:
        return file.get_tensor(_IDS).tolist()


def metadata(path: str | os.PathLike | None = None) -> dict[str, str]:
    """What the pretraining recorded in the file: pairs, seconds, seed, versions."""
    with safe_open(path or PATH, "pt") as file:
        return dict(file.metadata() or {})


def save(
    weights: Mapping[str, torch.Tensor],
    path: str | os.PathLike,
    touched_ids: Sequence[int],
    metadata: Mapping[str, str],
) -> None:
    """Write a CLIP state dict as fp16 safetensors, atomically; of its token embedding only the rows `touched_ids`."""
    ids = torch.tensor(sorted(set(touched_ids)))
    out = {
        key: value.half() if value.is_floating_point() else value for key, value in weights.items() if key != _EMBEDDING
    }
    out[_ROWS], out[_IDS] = weights[_EMBEDDING][ids].half(), ids.int()
    out = {key: value.detach().cpu().contiguous() for key, value in out.items()}
    with replacing(path) as temporary:
        save_file(out, temporary, metadata=dict(metadata))
