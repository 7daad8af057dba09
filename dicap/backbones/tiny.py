"""The embedded tiny CLIP's file: of 49,408 token rows only those of its pretraining are stored, the rest zero.

OpenAI's architecture at 64 px: ModifiedResNet of layers (1,1,2,1) and width 24, a text tower of 3 layers, width 128
and 2 heads, embedding 128, context length 77. Figures, seed, versions and the command that made it: tiny.md beside
this file.
"""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from dicap.files import replacing

PATH = Path(__file__).with_name("tiny.safetensors")
VOCABULARY = 49408
_EMBEDDING, _ROWS, _IDS = "token_embedding.weight", "token_embedding.rows", "token_embedding.ids"


def state_dict(path: str | os.PathLike | None = None) -> dict[str, torch.Tensor]:
    """The weights, fp32, with the full (49408, 128) token embedding; ready for `clip.model.build_model`.

    path: a file that `save` wrote; None is the shipped one. Raises FileNotFoundError, or ValueError for another file.
    """
    path = Path(path or PATH)
    if not path.is_file():
        raise FileNotFoundError(f"tiny CLIP weights not found: {path}; make them with: python -m dicap.world pretrain")
    stored = load_file(path)
    if _ROWS not in stored or _IDS not in stored:
        raise ValueError(f"{path} is not a file of the tiny CLIP: it lacks {_ROWS} or {_IDS}")
    rows, ids = stored.pop(_ROWS).float(), stored.pop(_IDS).long()
    weights = {key: value.float() if value.is_floating_point() else value for key, value in stored.items()}
    weights[_EMBEDDING] = torch.zeros(VOCABULARY, rows.shape[1]).index_copy_(0, ids, rows)
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
