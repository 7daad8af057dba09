"""Datasets, transforms, samplers and loaders of a run."""

from dicap.engine.data.data_manager import DataManager, DatasetWrapper

__all__ = ["DataManager", "DatasetWrapper"]
