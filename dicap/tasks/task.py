"""What a task is. A dataset names its task in the class fact `task`; without one it is a classification.

    class Counting(Task):
        name = "counting"
        measures = (Measure("error", "Error", unit="", higher_is_better=False), Measure("accuracy", "Accuracy"))
        def texts(self, items): return [...]                  # or None: the class names of the dataset, for every batch
        def target(self, items, texts): return ...            # what is right, as `losses` wants it
        def losses(self, logits, target): return ...          # (B,)
        def outcomes(self, logits, items, texts): return [...]    # of each item, what the measures need
        def measure(self, outcomes): return {"error": ..., "accuracy": ...}

Items are the dataset's own (Dassl's `Datum` or a subclass that carries more), in the order of the batch.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

from torch import Tensor

from dicap.results import Measure


class Model(Protocol):
    """What a task may ask of a trained model (`dicap.learner.LearnedCLIP`); tensors are on its device."""

    def bind(self, texts: Sequence[str] | None) -> None:
        """Score against these texts from now on; None: the class names."""

    def image(self, x: Tensor) -> Tensor:
        """Image features (B, e) of images or frozen features."""

    def text(self, f: Tensor) -> Tensor:
        """Text features (C, e) of what is bound, or (B, C, e) where they depend on the image features f (B, e)."""

    def logits(self, f: Tensor, t: Tensor) -> Tensor:
        """Scores (B, C) of image features against text features."""

    def score(self, image: Tensor, texts: list[str] | None) -> Tensor:
        """Logits (B, C) of images or frozen features against texts; None: the class names that are bound."""


class Task:
    """Base of tasks. Subclasses override what differs from a classification of each item by itself."""

    name = ""
    measures: tuple[Measure, ...] = ()  # the first is the primary one: tables and selection use it

    @property
    def primary(self) -> Measure:
        """The measure that decides."""
        return self.measures[0]

    def texts(self, items: Sequence[Any]) -> list[str] | None:
        """The texts that these items are scored against; None: the class names, the same for every batch."""
        return None

    def target(self, items: Sequence[Any], texts: list[str] | None) -> Tensor:
        """What is right for each item, (B, ...), on the CPU, in the form that `losses` takes."""
        raise NotImplementedError(f"the task {self.name!r} does not say what is right: define target")

    def losses(self, logits: Tensor, target: Tensor) -> Tensor:
        """The loss of each item, of the shape of logits (..., C) without its last dimension."""
        raise NotImplementedError(f"the task {self.name!r} has no loss: define losses")

    def progress(self, logits: Tensor, target: Tensor) -> dict[str, Tensor]:
        """Figures () of a training batch for the log, beside the losses."""
        return {}

    def outcomes(self, logits: Tensor, items: Sequence[Any], texts: list[str] | None) -> list[Any]:
        """Of each item what the measures need, from its logits (B, C) against the texts; None: the class names."""
        raise NotImplementedError(f"the task {self.name!r} does not say what an outcome is: define outcomes")

    def measure(self, outcomes: Sequence[Any]) -> dict[str, float]:
        """Every measure by name, of the outcomes of any number of items, at least one."""
        raise NotImplementedError(f"the task {self.name!r} measures nothing: define measure")

    def evaluate(self, model: Model, batches: Iterable[dict], items: Sequence[Any]) -> list[Any]:
        """Outcomes of all items (N) in order. Override it where an item's outcome depends on all others (retrieval).

        Args:
            batches: {"img": images (B, 3, H, W) or features (B, e), "index": (B,) into items}, in order.
        """
        outcomes: list[Any] = []
        for batch in batches:
            of_batch = [items[i] for i in batch["index"].tolist()]
            texts = self.texts(of_batch)
            outcomes += self.outcomes(model.score(batch["img"], texts), of_batch, texts)
        return outcomes


def evaluation(task: Task, outcomes: Sequence[Any], groups: Sequence[str | None]) -> dict[str, Any]:
    """The part of a result that says what was measured: n, metrics, primary, measures, and the metrics of each group.

    Args:
        groups: (N,) name of each item's group; None: in no group.
    """
    by_group: dict[str, list[Any]] = {}
    for outcome, group in zip(outcomes, groups, strict=True):
        if group is not None:
            by_group.setdefault(group, []).append(outcome)
    return {
        "task": task.name,
        "n": len(outcomes),
        "metrics": _metrics(task, outcomes),
        "primary": task.primary.name,
        "measures": {measure.name: measure.facts() for measure in task.measures},
        "groups": {name: {"n": len(some), "metrics": _metrics(task, some)} for name, some in sorted(by_group.items())},
    }


def _metrics(task: Task, outcomes: Sequence[Any]) -> dict[str, float]:
    values: Mapping[str, float] = task.measure(outcomes)
    return {measure.name: float(values[measure.name]) for measure in task.measures}
