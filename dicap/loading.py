"""Loading fresh augmentations: workers that live as long as their loader, and randomness that does not depend on them.

Starting workers costs about a second, an epoch of few shots on a GPU not more. But workers that stay alive carry random states
that no resumed run can restore. So each item is augmented from a seed of its own, drawn where the order of items is drawn: in the
main process, from torch's generator, which a resumed run restores.
"""

import random
from collections.abc import Iterator

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler


class SeededSampler(Sampler):
    """The indices of a sampler, each with a seed: (index, seed).

    Args:
        sampler: yields indices.
    """

    def __init__(self, sampler: Sampler):
        self.sampler = sampler

    def __len__(self) -> int:
        return len(self.sampler)  # type: ignore[arg-type]

    def __iter__(self) -> Iterator[tuple[int, int]]:
        first = int(torch.randint(2**62, ()))
        return ((index, first + place) for place, index in enumerate(self.sampler))


class SeededItems(Dataset):
    """The items of a dataset, each loaded with the generators of random, numpy and torch started from its seed.

    Args:
        dataset: has items by index.
    """

    def __init__(self, dataset: Dataset):
        self.dataset = dataset

    def __getitem__(self, indexed: tuple[int, int]):
        index, seed = indexed
        random.seed(seed)
        np.random.seed(seed % 2**32)
        torch.manual_seed(seed)
        return self.dataset[index]


def keep_workers(loader: DataLoader) -> DataLoader:
    """A loader like the given one whose workers stay; the given one where it has none.

    What it yields depends on torch's generator alone, not on how many workers there are, if there are any. One epoch at a
    time: a second iteration begins the same workers anew.
    """
    if not loader.num_workers:
        return loader
    return DataLoader(
        SeededItems(loader.dataset),
        loader.batch_size,
        sampler=SeededSampler(loader.sampler),
        drop_last=loader.drop_last,
        num_workers=loader.num_workers,
        pin_memory=loader.pin_memory,
        collate_fn=loader.collate_fn,
        persistent_workers=True,
        generator=torch.Generator(),
    )  # its own, for a seed that is drawn when workers start, which is no longer in each epoch
