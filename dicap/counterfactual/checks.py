"""What is asked of inputs; each error says which argument, what it holds, and what to do."""

import torch
from torch import Tensor


def check_finite(name: str, tensor: Tensor) -> None:
    """Raises ValueError where the tensor (R, ...) is not finite, naming the first bad row."""
    bad = ~torch.isfinite(tensor).flatten(1).all(1)
    if bool(bad.any()):
        first = int(bad.nonzero()[0, 0])
        raise ValueError(
            f"{name}: {int(bad.sum())} of {len(tensor)} rows are NaN or infinite, the first is row {first};"
            " drop or recompute them"
        )


def check_features(features: Tensor, width: int | None = None) -> None:
    """Raises ValueError unless features (..., e) are finite, unit length and, where width is given, e = width."""
    if features.dim() < 2 or (width is not None and features.shape[-1] != width):
        raise ValueError(f"features of shape {tuple(features.shape)}: expected (rows, {width or 'e'})")
    check_finite("features", features)
    length = features.float().norm(dim=-1)
    worst = float((length - 1).abs().max()) if length.numel() else 0.0
    if worst > 1e-2:
        raise ValueError(
            f"features: lengths from {float(length.min()):.3g} to {float(length.max()):.3g};"
            " divide by features.norm(dim=-1, keepdim=True)"
        )


def check_texts(conditions: Tensor, width: int | None = None) -> None:
    """Raises ValueError unless conditions (R, d) are finite and, where width is given, d = width."""
    if conditions.dim() != 2 or (width is not None and conditions.shape[1] != width):
        raise ValueError(f"conditions of shape {tuple(conditions.shape)}: expected (rows, {width or 'd'})")
    check_finite("conditions", conditions)


def check_labels(name: str, labels: Tensor, classes: int) -> None:
    """Raises ValueError unless labels are whole numbers in 0..classes-1."""
    if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
        raise ValueError(f"{name} of dtype {labels.dtype}: expected long")
    if labels.numel() and not 0 <= int(labels.min()) <= int(labels.max()) < classes:
        raise ValueError(
            f"{name} from {int(labels.min())} to {int(labels.max())}: {classes} conditions allow 0 to {classes - 1}"
        )


def check_fit(
    features: Tensor, labels: Tensor | None, conditions: Tensor, judge: str, logit_scale: float | None
) -> None:
    """Raises ValueError unless features (N, V, e), labels (N,), conditions (C, d) and the judge fit together.

    Without labels conditions must be (N, d).
    """
    if features.dim() != 3 or 0 in features.shape:
        raise ValueError(f"features of shape {tuple(features.shape)}: expected (N, V, e) or (N, e), none of them 0")
    check_features(features)
    check_texts(conditions)
    if labels is not None and labels.shape != features.shape[:1]:
        raise ValueError(f"labels of shape {tuple(labels.shape)}: expected ({len(features)},), one per image")
    if labels is not None:
        check_labels("labels", labels, len(conditions))
    elif len(conditions) != len(features):
        raise ValueError(
            f"{len(conditions)} conditions without labels: expected {len(features)}, one text per image; or give labels"
        )
    if judge == "text" and (logit_scale is None or not 0 < logit_scale < float("inf")):
        raise ValueError(
            f"judge='text' with logit_scale={logit_scale}: pass the text head's multiplier, CLIP's logit_scale.exp()"
        )
    if judge == "text" and conditions.shape[1] != features.shape[-1]:
        raise ValueError(
            f"judge='text': texts of width {conditions.shape[1]} do not meet features of width {features.shape[-1]};"
            " use judge='gauss'"
        )


def check_indices(factual: Tensor, target: Tensor, rows: int, classes: int) -> None:
    """Raises ValueError unless factual (B,) and target (B, M) index the classes."""
    if factual.shape != (rows,) or target.dim() != 2 or len(target) != rows or target.shape[1] == 0:
        raise ValueError(
            f"factual {tuple(factual.shape)} and target {tuple(target.shape)}: expected ({rows},) and ({rows}, M)"
        )
    check_labels("factual", factual, classes)
    check_labels("target", target, classes)
