"""Metrics of a batch."""

from dicap.engine.metrics.accuracy import compute_accuracy

__all__ = ["compute_accuracy"]
