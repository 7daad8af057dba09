"""Base classes of datasets and their registry; no dataset is built in, plugins register theirs."""

from dicap.engine.data.datasets.base_dataset import DatasetBase, Datum
from dicap.engine.data.datasets.build import DATASET_REGISTRY, build_dataset

__all__ = ["DATASET_REGISTRY", "DatasetBase", "Datum", "build_dataset"]
