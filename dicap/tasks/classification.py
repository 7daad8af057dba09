"""Classification: every image against all class names of its dataset; accuracy and macro F1."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from dicap.results import Measure
from dicap.tasks.task import Task


class Classification(Task):
    """Outcomes are pairs (true label, predicted label)."""

    name = "classification"
    measures = (Measure("accuracy", "Accuracy"), Measure("macro_f1", "Macro F1"))

    def target(self, items: Sequence[Any], texts: list[str] | None) -> Tensor:
        """Labels (B,)."""
        return torch.tensor([item.label for item in items])

    def losses(self, logits: Tensor, target: Tensor) -> Tensor:
        """Cross-entropy of logits (..., C) to class indices (...)."""
        flat = F.cross_entropy(logits.reshape(-1, logits.shape[-1]).float(), target.reshape(-1), reduction="none")
        return flat.view(target.shape)

    def progress(self, logits: Tensor, target: Tensor) -> dict[str, Tensor]:
        return {"acc": 100 * (logits.argmax(dim=-1) == target).float().mean()}

    def outcomes(self, logits: Tensor, items: Sequence[Any], texts: list[str] | None) -> list[tuple[int, int]]:
        predicted = logits.argmax(dim=-1).tolist()
        return [(item.label, label) for item, label in zip(items, predicted, strict=True)]

    def measure(self, outcomes: Sequence[tuple[int, int]]) -> dict[str, float]:
        """Accuracy and macro F1 (over the classes that occur) in per cent."""
        from sklearn.metrics import f1_score

        true, predicted = zip(*outcomes, strict=True)
        right = sum(a == b for a, b in outcomes)
        f1 = f1_score(true, predicted, average="macro", labels=sorted(set(true)), zero_division=0.0)
        return {"accuracy": 100 * right / len(outcomes), "macro_f1": 100 * float(f1)}
