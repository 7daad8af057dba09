"""Accuracy, error, macro-F1, accuracy of each class, confusion matrix. Other repositories' parsers read the printed lines."""

import operator
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dicap.engine.evaluation.build import EVALUATOR_REGISTRY
from dicap.engine.utils.torchtools import write_tensors

__all__ = ["Classification", "EvaluatorBase"]


class EvaluatorBase:
    """Interface: reset, then process each batch, then evaluate."""

    def __init__(self, cfg: Any) -> None:
        self.cfg = cfg

    def reset(self) -> None:
        """Forgets what was processed."""
        raise NotImplementedError

    def process(self, mo: torch.Tensor, gt: torch.Tensor) -> None:
        """Takes a batch: model outputs and ground truth."""
        raise NotImplementedError

    def evaluate(self) -> "OrderedDict[str, float]":
        """Results of everything processed; the first value is what trainer.test() returns."""
        raise NotImplementedError


@EVALUATOR_REGISTRY.register()
class Classification(EvaluatorBase):
    """Classification by the highest score. _y_true and _y_pred hold labels and predictions in the order of the loader."""

    def __init__(self, cfg: Any, lab2cname: dict[int, str] | None = None, **kwargs: Any) -> None:
        super().__init__(cfg)
        if cfg.TEST.PER_CLASS_RESULT and lab2cname is None:
            raise ValueError("TEST.PER_CLASS_RESULT needs the class names: build_evaluator(cfg, lab2cname=...)")
        self._lab2cname = lab2cname
        self.reset()

    def reset(self) -> None:
        """Forgets what was processed."""
        self._correct = self._total = 0
        self._y_true: list[int] = []
        self._y_pred: list[int] = []

    def process(self, mo: torch.Tensor, gt: torch.Tensor) -> None:
        """Takes scores (B, C) and labels (B,). FloatingPointError where a highest score is not finite: it would be class 0."""
        best, label = mo.max(dim=1)
        true, pred, finite = torch.stack([gt, label, best.isfinite()]).tolist()  # one transfer a batch
        if not all(finite):
            raise FloatingPointError(
                f"the scores of {finite.count(0)} of the {len(true)} images of a batch are NaN or Inf: the weights are damaged,"
                " or the training blew up (lower OPTIM.LR, or use PREC fp32)"
            )
        self._correct += sum(map(operator.eq, true, pred))
        self._total += len(true)
        self._y_true += true
        self._y_pred += pred

    def evaluate(self) -> "OrderedDict[str, float]":
        """accuracy, error_rate, macro_f1 and, where asked for, perclass_accuracy, in percent; ValueError without a batch."""
        if not self._total:
            raise ValueError("nothing to evaluate: the loader gave no batch")
        counts = confusion(self._y_true, self._y_pred)
        accuracy = 100.0 * self._correct / self._total
        results = OrderedDict(accuracy=accuracy, error_rate=100.0 - accuracy, macro_f1=macro_f1(counts))
        print(
            "=> result\n"
            f"* total: {self._total:,}\n"
            f"* correct: {self._correct:,}\n"
            f"* accuracy: {accuracy:.1f}%\n"
            f"* error: {results['error_rate']:.1f}%\n"
            f"* macro_f1: {results['macro_f1']:.1f}%"
        )
        if self.cfg.TEST.PER_CLASS_RESULT:
            results["perclass_accuracy"] = self._print_classes(counts)
        if self.cfg.TEST.COMPUTE_CMAT:
            self._save_confusion(counts)
        return results

    def _print_classes(self, counts: np.ndarray) -> float:
        assert self._lab2cname is not None
        print("=> per-class result")
        accuracies = []
        for label in sorted(set(self._y_true)):
            total, correct = counts[label].sum(), counts[label, label]
            accuracies.append(100.0 * correct / total)
            print(
                f"* class: {label} ({self._lab2cname[label]})\t"
                f"total: {total:,}\tcorrect: {correct:,}\tacc: {accuracies[-1]:.1f}%"
            )
        print(f"* average: {np.mean(accuracies):.1f}%")
        return float(np.mean(accuracies))

    def _save_confusion(self, counts: np.ndarray) -> None:
        """Row = true class, shares; over the labels that occur as truth or prediction, as a tensor."""
        present = np.flatnonzero(counts.sum(0) + counts.sum(1))
        shares = counts[np.ix_(present, present)] / np.maximum(counts[present].sum(1, keepdims=True), 1)
        path = Path(self.cfg.OUTPUT_DIR, "cmat.pt")
        write_tensors(torch.from_numpy(shares), path)
        print(f"Confusion matrix is saved to {path}")


def confusion(true: list[int], pred: list[int]) -> np.ndarray:
    """Counts (C, C), row = true class, column = prediction; C is the highest label that occurs, plus one."""
    size = max(max(true), max(pred)) + 1
    flat = np.bincount(np.asarray(true) * size + np.asarray(pred), minlength=size * size)
    return flat.reshape(size, size)


def macro_f1(counts: np.ndarray) -> float:
    """Mean F1 over the classes that occur as truth, in percent; counts (C, C), row = true class."""
    hits, true, pred = np.diag(counts), counts.sum(1), counts.sum(0)
    f1 = 2 * hits / np.maximum(true + pred, 1)
    return float(100.0 * f1[true > 0].mean())
