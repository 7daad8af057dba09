"""Orders in which a loader goes through a dataset."""

import random
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any

from torch.utils.data import RandomSampler, Sampler, SequentialSampler

__all__ = [
    "RandomClassSampler",
    "RandomDomainSampler",
    "RandomSampler",
    "SeqDomainSampler",
    "SequentialSampler",
    "build_sampler",
]


class _GroupSampler(Sampler[int]):
    """Batches made of groups; the length is that of one drawn epoch."""

    length: int

    def __len__(self) -> int:
        return self.length


class RandomDomainSampler(_GroupSampler):
    """Each batch holds batch_size / n_domain random items of each of n_domain random domains; ends when a domain runs
    short.

    Args:
        data_source: items with a `domain`.
        batch_size: a multiple of n_domain.
        n_domain: domains in a batch; 0 or less means all.
    """

    def __init__(self, data_source: Sequence[Any], batch_size: int, n_domain: int | None) -> None:
        self.domain_dict = _indices_by(data_source, "domain")
        self.domains = list(self.domain_dict)
        self.n_domain = n_domain if n_domain and n_domain > 0 else len(self.domains)
        if self.n_domain > len(self.domains) or batch_size % self.n_domain:
            raise ValueError(
                f"{self.n_domain} domains in a batch of {batch_size}: the dataset has {len(self.domains)} "
                "domains, and the batch size must be a multiple of those in a batch"
            )
        self.n_img_per_domain = batch_size // self.n_domain
        self.length = len(list(iter(self)))

    def _next_domains(self) -> list[int]:
        return random.sample(self.domains, self.n_domain)

    def __iter__(self) -> Iterator[int]:
        remaining = {domain: list(indices) for domain, indices in self.domain_dict.items()}
        size = self.n_img_per_domain
        order: list[int] = []
        while all(len(indices) >= size for indices in remaining.values()):
            for domain in self._next_domains():
                chosen = random.sample(remaining[domain], size)
                order += chosen
                remaining[domain] = [index for index in remaining[domain] if index not in set(chosen)]
        return iter(order)


class SeqDomainSampler(RandomDomainSampler):
    """Each batch holds batch_size / D random items of each of the D domains, in the order of the domains."""

    def __init__(self, data_source: Sequence[Any], batch_size: int) -> None:
        super().__init__(data_source, batch_size, 0)

    def _next_domains(self) -> list[int]:
        return sorted(self.domains)


class RandomClassSampler(_GroupSampler):
    """Each batch holds n_ins items of each of batch_size // n_ins random classes; ends when too few classes are left.

    A class with fewer than n_ins items is drawn with repetition.
    """

    def __init__(self, data_source: Sequence[Any], batch_size: int, n_ins: int) -> None:
        self.index_dic = _indices_by(data_source, "label")
        self.n_ins = n_ins
        self.ncls_per_batch = batch_size // n_ins
        if not 1 <= self.ncls_per_batch <= len(self.index_dic):
            raise ValueError(
                f"a batch of {batch_size} with N_INS {n_ins} takes {self.ncls_per_batch} classes; the "
                f"dataset has {len(self.index_dic)}, and one is the least"
            )
        self.length = len(list(iter(self)))

    def __iter__(self) -> Iterator[int]:
        remaining = {label: self._portions(indices) for label, indices in self.index_dic.items()}
        order: list[int] = []
        while len(remaining) >= self.ncls_per_batch:
            for label in random.sample(list(remaining), self.ncls_per_batch):
                order += remaining[label].pop(0)
                if not remaining[label]:
                    del remaining[label]
        return iter(order)

    def _portions(self, indices: list[int]) -> list[list[int]]:
        n = self.n_ins
        drawn = random.sample(indices, len(indices)) if len(indices) >= n else random.choices(indices, k=n)
        return [drawn[i : i + n] for i in range(0, len(drawn) - n + 1, n)]


def _indices_by(data_source: Sequence[Any], attribute: str) -> dict[int, list[int]]:
    groups: defaultdict[int, list[int]] = defaultdict(list)
    for index, item in enumerate(data_source):
        groups[getattr(item, attribute)].append(index)
    return dict(groups)


def build_sampler(
    sampler_type: str,
    cfg: Any = None,
    data_source: Any = None,
    batch_size: int = 32,
    n_domain: int = 0,
    n_ins: int = 16,
) -> Sampler[int]:
    """The sampler of that name; raises ValueError for an unknown name, or sizes that do not fit the dataset."""
    samplers: dict[str, tuple[Any, ...]] = {
        "RandomSampler": (RandomSampler,),
        "SequentialSampler": (SequentialSampler,),
        "RandomDomainSampler": (RandomDomainSampler, batch_size, n_domain),
        "SeqDomainSampler": (SeqDomainSampler, batch_size),
        "RandomClassSampler": (RandomClassSampler, batch_size, n_ins),
    }
    if sampler_type not in samplers:
        raise ValueError(f"sampler {sampler_type}: there are {', '.join(samplers)}")
    sampler, *sizes = samplers[sampler_type]
    return sampler(data_source, *sizes)
