"""Image transforms by name, in a fixed order whatever the order of the names; torchvision does the work.

Training: resize (only where no random crop brings the size), crops, flip, policies, colour, blur, to tensor, normalise.
Test: shorter edge to max(SIZE), centre crop to SIZE, to tensor, normalise.
"""

import logging
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from torchvision import transforms as T
from torchvision.transforms.functional import InterpolationMode

__all__ = ["AVAI_CHOICES", "INTERPOLATION_MODES", "build_transform"]

_log = logging.getLogger(__name__)

INTERPOLATION_MODES = {
    "bilinear": InterpolationMode.BILINEAR,
    "bicubic": InterpolationMode.BICUBIC,
    "nearest": InterpolationMode.NEAREST,
}
_Policy = T.AutoAugmentPolicy
# name -> transform, in the order of application in training, before the tensor
_TRAIN: dict[str, Callable[[Any], Any]] = {
    "random_crop": lambda i: T.RandomCrop(i.SIZE, padding=i.CROP_PADDING),
    "random_resized_crop": lambda i: T.RandomResizedCrop(i.SIZE, scale=i.RRCROP_SCALE, interpolation=_mode(i)),
    "random_flip": lambda i: T.RandomHorizontalFlip(),
    "imagenet_policy": lambda i: T.AutoAugment(_Policy.IMAGENET),
    "cifar10_policy": lambda i: T.AutoAugment(_Policy.CIFAR10),
    "svhn_policy": lambda i: T.AutoAugment(_Policy.SVHN),
    "randaugment": lambda i: T.RandAugment(i.RANDAUGMENT_N, i.RANDAUGMENT_M),
    "colorjitter": lambda i: T.ColorJitter(i.COLORJITTER_B, i.COLORJITTER_C, i.COLORJITTER_S, i.COLORJITTER_H),
    "randomgrayscale": lambda i: T.RandomGrayscale(i.RGS_P),
    "gaussian_blur": lambda i: T.RandomApply([T.GaussianBlur(i.GB_K)], p=i.GB_P),
}
AVAI_CHOICES = [*_TRAIN, "center_crop", "normalize"]  # a centre crop is always part of the test transform


def build_transform(cfg: Any, is_train: bool = True, choices: Sequence[str] | None = None) -> T.Compose | None:
    """The transform from a PIL image to a tensor (3, H, W), as cfg.INPUT says; None where cfg.INPUT.NO_TRANSFORM.

    is_train: for training, or for test. choices: names of transforms in place of cfg.INPUT.TRANSFORMS. Raises ValueError
    on a choice or an interpolation that does not exist or is not supported.
    """
    if cfg.INPUT.NO_TRANSFORM:
        _log.info("No transform is applied (INPUT.NO_TRANSFORM)")
        return None
    choices = cfg.INPUT.TRANSFORMS if choices is None else choices
    unknown = next((choice for choice in choices if choice not in AVAI_CHOICES), None)
    if unknown is not None:
        way = "for another, give DataManager a custom_tfm_train, or use Dassl itself"
        raise ValueError(f"INPUT.TRANSFORMS {unknown}: the built-in engine has {AVAI_CHOICES}; {way}")
    resize = partial(T.Resize, interpolation=_mode(cfg.INPUT))
    if is_train:
        cropped = "random_crop" in choices or "random_resized_crop" in choices
        steps = [] if cropped else [resize(cfg.INPUT.SIZE)]
        steps += [build(cfg.INPUT) for name, build in _TRAIN.items() if name in choices]
    else:
        steps = [resize(max(cfg.INPUT.SIZE)), T.CenterCrop(cfg.INPUT.SIZE)]
    steps.append(T.ToTensor())
    if "normalize" in choices:
        steps.append(T.Normalize(cfg.INPUT.PIXEL_MEAN, cfg.INPUT.PIXEL_STD))
    _log.info("Transform for %s: %s", "training" if is_train else "test", ", ".join(map(str, steps)))
    return T.Compose(steps)


def _mode(options: Any) -> InterpolationMode:
    if options.INTERPOLATION not in INTERPOLATION_MODES:
        raise ValueError(f"INPUT.INTERPOLATION {options.INTERPOLATION}: there are {list(INTERPOLATION_MODES)}")
    return INTERPOLATION_MODES[options.INTERPOLATION]
