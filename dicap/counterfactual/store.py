"""A fitted generator on disk: one safetensors file, the configuration as JSON in its metadata; no pickle."""

import dataclasses
import os
import typing
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_bytes
from torch import Tensor

from dicap.files import replacing

from .config import GeneratorConfig
from .denoiser import Denoiser
from .estimators import Estimator
from .mechanism import ClassMechanism, Gaussian
from .space import FeatureSpace

if typing.TYPE_CHECKING:
    from .generator import CounterfactualGenerator

FORMAT = "dicap.counterfactual/2"


def save(generator: "CounterfactualGenerator", path: str | os.PathLike[str]) -> None:
    """Write a fitted generator: a temporary file in the same folder, then a rename."""
    estimator = generator.estimator
    tensors = {"conditions": generator.conditions, "middle": estimator.middle}
    tensors["numbers"] = torch.tensor([generator.logit_scale, generator.final_loss], dtype=torch.float64)
    for name, part in (
        ("space", generator.space),
        ("mechanism", generator.mechanism),
        ("within", estimator.within),
        ("total", estimator.total),
    ):
        tensors |= {f"{name}.{field.name}": getattr(part, field.name) for field in dataclasses.fields(part)}
    if estimator.network is not None:
        tensors |= {f"network.{name}": value for name, value in estimator.network.state_dict().items()}
    data = to_bytes(
        {name: value.detach().cpu().contiguous() for name, value in tensors.items()},
        metadata={"format": FORMAT, "config": generator.config.to_json()},
    )
    with replacing(path) as temporary:
        temporary.write_bytes(data)


def load(
    cls: type["CounterfactualGenerator"], path: str | os.PathLike[str], device: torch.device
) -> "CounterfactualGenerator":
    """Read what `save` wrote; errors as in `CounterfactualGenerator.load`."""
    if not Path(path).is_file():
        raise FileNotFoundError(f"{path}: no such file; a generator is written by CounterfactualGenerator.save")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            names = list(file.keys())
            # copied: mapped tensors are not aligned, and sums then differ in the last bit
            tensors = {name: file.get_tensor(name).to(device, copy=True) for name in names}
    except SafetensorError as error:
        raise ValueError(f"{path}: not a complete safetensors file ({error}); fit and save again") from error
    if metadata.get("format") != FORMAT:
        raise ValueError(f"{path}: format {metadata.get('format')!r}, expected {FORMAT!r}; fit and save again")
    try:
        return _rebuild(cls, GeneratorConfig.from_json(metadata["config"]), tensors, device)
    except (KeyError, RuntimeError, ValueError) as error:
        raise ValueError(f"{path}: does not hold a generator ({error}); fit and save again") from error


def _rebuild(
    cls: type["CounterfactualGenerator"], config: GeneratorConfig, tensors: dict[str, Tensor], device: torch.device
) -> "CounterfactualGenerator":
    generator = cls(config)
    generator.device, generator.conditions = device, tensors["conditions"]
    generator.logit_scale, generator.final_loss = tensors["numbers"].tolist()
    generator.space = FeatureSpace(**_group(tensors, "space."))
    generator.mechanism = ClassMechanism(**_group(tensors, "mechanism."))
    within, total = Gaussian(**_group(tensors, "within.")), Gaussian(**_group(tensors, "total."))
    weights, network = _group(tensors, "network."), None
    if weights:
        k, d = generator.space.k, generator.conditions.shape[1]
        network = Denoiser(k, d, config.width, config.dropout, torch.Generator()).to(device)
        network.load_state_dict(weights)
        network.requires_grad_(False)
    generator.estimator = Estimator(config.generator, generator.mechanism, within, total, tensors["middle"], network)
    return generator


def _group(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
