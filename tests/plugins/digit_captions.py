"""A task and its dataset as somebody else would write them: each picture of a digit has captions of its own to choose from.

Four captions a picture, two of them right; what is measured is the rank of the better one: lower is better, and no share.
"""

import torch
from dassl.data.datasets import DATASET_REGISTRY

from dicap.datasets.digits import Digits
from dicap.results import Measure
from dicap.tasks.task import Task

NAMES = "zero one two three four five six seven eight nine".split()


def captions(item):
    """The right ones first."""
    place = NAMES.index(item.classname)
    wrong = [NAMES[(place + step) % 10] for step in (1 + place % 3, 5)]
    return [item.classname, f"a {item.classname}", *wrong]


class ChooseCaption(Task):
    name = "choose_caption"
    measures = (Measure("rank", "Rank", unit="", higher_is_better=False), Measure("hit", "Hit"))

    def texts(self, items):
        return list(dict.fromkeys(text for item in items for text in captions(item)))

    def target(self, items, texts):
        """(B, U): 1 a right caption, 0 a wrong one, -1 none of this item's."""
        target = torch.full((len(items), len(texts)), -1)
        for row, item in zip(target, items, strict=True):
            for place, text in enumerate(captions(item)):
                row[texts.index(text)] = int(place < 2)
        return target

    def losses(self, logits, target):
        own = logits.masked_fill(target < 0, float("-inf"))
        right = logits.masked_fill(target < 1, float("-inf"))
        return own.logsumexp(-1) - right.logsumexp(-1)

    def outcomes(self, logits, items, texts):
        ranks = []
        for row, item in zip(logits, items, strict=True):
            scores = torch.stack([row[texts.index(text)] for text in captions(item)])
            ranks.append(int((scores > scores[:2].max()).sum()) + 1)
        return ranks

    def measure(self, outcomes):
        return {"rank": sum(outcomes) / len(outcomes), "hit": 100 * outcomes.count(1) / len(outcomes)}


@DATASET_REGISTRY.register()
class DigitCaptions(Digits):
    task = ChooseCaption()

    def group(self, items):
        return {item: "even" if NAMES.index(item[2]) % 2 == 0 else "odd" for item in items}
