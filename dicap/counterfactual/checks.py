"""What is asked of inputs; each function raises a ValueError that says which argument, what it holds, and what to do."""

import torch
from torch import Tensor


def check_finite(name: str, tensor: Tensor) -> None:
    """The tensor (R, ...) is finite; else the first bad row is named."""
    bad = ~torch.isfinite(tensor).flatten(1).all(1)
    if bool(bad.any()):
        count, first = f"{int(bad.sum())} of {len(tensor)}", int(bad.nonzero()[0, 0])
        raise ValueError(f"{name}: {count} rows are NaN or infinite, the first is row {first}; drop or recompute them")


def check_features(features: Tensor, width: int | None = None) -> None:
    """Features (..., e) are finite, of unit length and, where width is given, e = width."""
    if features.dim() < 2 or width not in (None, features.shape[-1]):
        raise ValueError(f"features of shape {tuple(features.shape)}: expected (rows, {width or 'e'})")
    check_finite("features", features)
    length = features.float().norm(dim=-1)
    if length.numel() and float((length - 1).abs().max()) > 1e-2:
        lengths = f"{float(length.min()):.3g} to {float(length.max()):.3g}"
        raise ValueError(f"features: lengths from {lengths}; divide by features.norm(dim=-1, keepdim=True)")


def check_texts(conditions: Tensor, width: int | None = None, rows: int | None = None) -> None:
    """Conditions (R, d) are finite and, where these are given, d = width and R = rows."""
    if conditions.dim() != 2 or width not in (None, conditions.shape[1]):
        raise ValueError(f"conditions of shape {tuple(conditions.shape)}: expected (rows, {width or 'd'})")
    if rows not in (None, len(conditions)):
        raise ValueError(f"conditions of shape {tuple(conditions.shape)}: expected {rows} rows, one per feature")
    check_finite("conditions", conditions)


def check_labels(name: str, labels: Tensor, classes: int) -> None:
    """Labels are whole numbers in 0..classes-1."""
    if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
        raise ValueError(f"{name} of dtype {labels.dtype}: expected long")
    if labels.numel() and not 0 <= int(labels.min()) <= int(labels.max()) < classes:
        values = f"{int(labels.min())} to {int(labels.max())}"
        raise ValueError(f"{name} from {values}: {classes} conditions allow 0 to {classes - 1}")


def check_indices(factual: Tensor, target: Tensor, rows: int, classes: int) -> None:
    """Factual (B,) and target (B, M) index the classes."""
    if factual.shape != (rows,) or target.dim() != 2 or len(target) != rows or target.shape[1] == 0:
        shapes = f"factual {tuple(factual.shape)} and target {tuple(target.shape)}"
        raise ValueError(f"{shapes}: expected ({rows},) and ({rows}, M)")
    check_labels("factual", factual, classes)
    check_labels("target", target, classes)


def check_fit(features: Tensor, labels: Tensor | None, conditions: Tensor) -> None:
    """Features (N, V, e), labels (N,) and conditions (C, d), or (N, d) where labels is None, fit together."""
    if features.dim() != 3 or 0 in features.shape:
        raise ValueError(f"features of shape {tuple(features.shape)}: expected (N, V, e) or (N, e), none of them 0")
    check_features(features)
    check_texts(conditions, rows=len(features) if labels is None else None)
    if labels is None:
        return
    if labels.shape != features.shape[:1]:
        raise ValueError(f"labels of shape {tuple(labels.shape)}: expected ({len(features)},), one per image")
    check_labels("labels", labels, len(conditions))
