"""The loaders of a run: labelled and unlabelled training, validation, test."""

import logging
from collections.abc import Callable
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms as T

from dicap.engine.data.datasets import build_dataset
from dicap.engine.data.samplers import build_sampler
from dicap.engine.data.transforms import INTERPOLATION_MODES, build_transform
from dicap.engine.utils import read_image

__all__ = ["DataManager", "DatasetWrapper", "build_data_loader", "build_transform"]

_log = logging.getLogger(__name__)


def build_data_loader(
    cfg: Any,
    sampler_type: str = "SequentialSampler",
    data_source: Any = None,
    batch_size: int = 64,
    n_domain: int = 0,
    n_ins: int = 2,
    tfm: Any = None,
    is_train: bool = True,
    dataset_wrapper: Callable[..., Any] | None = None,
) -> "DataLoader[Any]":
    """A loader over a list of Datum; raises ValueError where there is none, or not one batch.

    Only in training is an incomplete last batch dropped, and only if there is a whole one. Workers, if any, start anew
    each epoch, seeded from torch's generator: kept alive they would carry random states that no resume file can hold.
    """
    if not data_source:
        raise ValueError(
            f"{cfg.DATASET.NAME}: no items for {'training' if is_train else 'validation or test'}; is "
            "DATASET.ROOT right and the split file complete?"
        )
    sampler = build_sampler(sampler_type, cfg, data_source, batch_size, n_domain, n_ins)
    loader = DataLoader(
        (dataset_wrapper or DatasetWrapper)(cfg, data_source, transform=tfm, is_train=is_train),
        batch_size=batch_size,
        sampler=sampler,
        num_workers=cfg.DATALOADER.NUM_WORKERS,
        drop_last=is_train and len(data_source) >= batch_size,
        pin_memory=torch.cuda.is_available() and cfg.USE_CUDA,
    )
    if len(loader) == 0:
        raise ValueError(
            f"{cfg.DATASET.NAME}: {sampler_type} makes no batch of {batch_size} from {len(data_source)} "
            "items; lower the batch size"
        )
    return loader


class DataManager:
    """Builds the dataset that cfg names, its transforms and its loaders.

    Args:
        cfg: configuration.
        custom_tfm_train: transform (or a list of them) in place of the configured one.
        custom_tfm_test: the same for validation and test.
        dataset_wrapper: class in place of DatasetWrapper.

    train_loader_u (unlabelled items) and val_loader are None where there are no such items; num_classes and lab2cname
    (label to class name) are the dataset's.
    """

    def __init__(
        self,
        cfg: Any,
        custom_tfm_train: Any = None,
        custom_tfm_test: Any = None,
        dataset_wrapper: Callable[..., Any] | None = None,
    ) -> None:
        self.dataset = dataset = build_dataset(cfg)
        tfm_train = build_transform(cfg, is_train=True) if custom_tfm_train is None else custom_tfm_train
        tfm_test = build_transform(cfg, is_train=False) if custom_tfm_test is None else custom_tfm_test
        parts = cfg.DATALOADER

        def loader(part: Any, items: Any, is_train: bool) -> "DataLoader[Any]":
            tfm = tfm_train if is_train else tfm_test
            groups = {"n_domain": part.N_DOMAIN, "n_ins": part.N_INS} if is_train else {}
            options = {"tfm": tfm, "is_train": is_train, "dataset_wrapper": dataset_wrapper, **groups}
            return build_data_loader(cfg, part.SAMPLER, items, part.BATCH_SIZE, **options)

        self.train_loader_x = loader(parts.TRAIN_X, dataset.train_x, is_train=True)
        self.train_loader_u = self.val_loader = None
        if dataset.train_u:
            part = parts.TRAIN_X if parts.TRAIN_U.SAME_AS_X else parts.TRAIN_U
            self.train_loader_u = loader(part, dataset.train_u, is_train=True)
        if dataset.val:
            self.val_loader = loader(parts.TEST, dataset.val, is_train=False)
        self.test_loader = loader(parts.TEST, dataset.test, is_train=False)
        self.num_classes: int = dataset.num_classes
        self.lab2cname: dict[int, str] = dataset.lab2cname
        self.num_source_domains = len(cfg.DATASET.SOURCE_DOMAINS)
        if cfg.VERBOSE:
            self.show_dataset_summary(cfg)

    def show_dataset_summary(self, cfg: Any) -> None:
        """Logs name, domains, number of classes and of items in each split."""
        facts = cfg.DATASET
        rows = {"Dataset": facts.NAME, "Source": facts.SOURCE_DOMAINS, "Target": facts.TARGET_DOMAINS}
        rows["# classes"] = self.num_classes
        for split in ("train_x", "train_u", "val", "test"):
            rows[f"# {split}"] = len(getattr(self.dataset, split) or ())
        rows = {name: f"{value:,}" if isinstance(value, int) else value for name, value in rows.items() if value}
        _log.info("%s", "\n".join(f"{name:<9}  {value}" for name, value in rows.items()))


class DatasetWrapper(Dataset[dict[str, Any]]):
    """Items as dicts: img, label, domain, impath, index.

    With several transforms also img2, img3 ...; with K_TRANSFORMS > 1 (training only) each of them is a list of K
    views; with RETURN_IMG0 also img0, the image without augmentation. Without a transform img is the PIL image.
    """

    def __init__(self, cfg: Any, data_source: Any, transform: Any = None, is_train: bool = False) -> None:
        self.cfg = cfg
        self.data_source = data_source
        self.transform = transform
        self.is_train = is_train
        self.k_tfm = cfg.DATALOADER.K_TRANSFORMS if is_train else 1
        self.return_img0 = cfg.DATALOADER.RETURN_IMG0
        if self.k_tfm > 1 and transform is None:
            raise ValueError(f"DATALOADER.K_TRANSFORMS {self.k_tfm} needs a transform, but INPUT.NO_TRANSFORM is set")
        mode = INTERPOLATION_MODES[cfg.INPUT.INTERPOLATION]
        steps: list[Any] = [T.Resize(cfg.INPUT.SIZE, interpolation=mode), T.ToTensor()]
        if "normalize" in cfg.INPUT.TRANSFORMS:
            steps.append(T.Normalize(cfg.INPUT.PIXEL_MEAN, cfg.INPUT.PIXEL_STD))
        self.to_tensor = T.Compose(steps)

    def __len__(self) -> int:
        return len(self.data_source)

    def __getitem__(self, idx: int) -> dict[str, Any]:
        item = self.data_source[idx]
        output = {"label": item.label, "domain": item.domain, "impath": item.impath, "index": idx}
        image = read_image(item.impath)
        if self.transform is None:
            output["img"] = image
        else:
            several = self.transform if isinstance(self.transform, (list, tuple)) else [self.transform]
            for i, transform in enumerate(several):
                output[f"img{i + 1}" if i else "img"] = self._transform_image(transform, image)
        if self.return_img0:
            output["img0"] = self.to_tensor(image)
        return output

    def _transform_image(self, tfm: Callable[[Any], Any], img0: Any) -> Any:
        views = [tfm(img0) for _ in range(self.k_tfm)]
        return views[0] if len(views) == 1 else views
