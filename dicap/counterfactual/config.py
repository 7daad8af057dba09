"""Every setting of the counterfactual generator: its default, choices, bounds and reason, once.

Settings that users change are offered by `generator_options`; the others belong to the network and its training.
"""

import dataclasses
import functools
import json
import math
from typing import Any

NETWORK = ("gskip", "v", "eps")  # the generators that train a network


def _setting(default: Any, why: str, allowed: tuple, option: bool = True) -> Any:
    """A field; allowed are the choices of a text, or the least and the most of a number."""
    choices, bounds = (allowed, (None, None)) if isinstance(default, str) else ((), allowed)
    metadata = {"why": why, "choices": choices, "least": bounds[0], "most": bounds[1], "option": option}
    return dataclasses.field(default=default, metadata=metadata)


_training = functools.partial(_setting, option=False)


@dataclasses.dataclass(frozen=True)
class GeneratorConfig:
    """Settings of `CounterfactualGenerator`; the metadata of each field says why it is so and what it may be.

    Raises ValueError on a setting out of its bounds or choices, or two that contradict each other; names what is allowed.
    """

    generator: str = _setting(
        "gskip",
        "gskip: the Gaussian plus what a network adds; gauss, shift: mandatory baselines; v, eps: the network alone",
        ("gskip", "gauss", "shift", "v", "eps"),
    )
    abduct: str = _setting(
        "cond", "abduct with the factual class's score; marg leaves the class in the noise (ablation)", ("cond", "marg")
    )
    means: str = _setting(
        "text",
        "class effect as the text explains it; class means carry the scene along (ablations)",
        ("text", "blend", "class"),
    )
    train_data: str = _setting(
        "swap",
        "what the text does not explain of a class mean (its scene) is swapped among classes; do: whole residuals, an"
        " additive law; observed pairs teach the network the scene",
        ("swap", "do", "observed"),
    )
    pca_k: int = _setting(128, "most directions that are diffused; the rest of a feature passes through", (1, 4096))
    steps: int = _setting(25, "DDIM steps", (2, 10_000))
    fixed_point: int = _setting(2, "refinements of each abduction step towards the exact inverse", (0, 100))
    train_steps: int = _setting(1500, "optimiser steps of the generator's network", (0, 10_000_000))
    w: float = _setting(1.0, "classifier-free guidance; 1 is the exact counterfactual, more overshoots", (0, 100))
    gamma: float = _setting(0.0, "classifier guidance by the judge", (0, 10_000))
    search: str = _setting(
        "t0", "how the minimal sufficient one is sought: start time, along the line, not at all", ("t0", "line", "none")
    )
    judge: str = _setting(
        "gauss",
        "who says that a counterfactual is of its target class: the Gaussian of the few shots, or the frozen text head",
        ("gauss", "text"),
    )
    # 0: the judge's first choice is the target. More demands certainty that the judge often lacks on true images.
    delta: float = _setting(0.0, "margin of the judge that is sufficient, in nats", (-10_000, 10_000))
    passes: int = _training(100, "most passes over the images; more learn them by heart", (1, 1_000_000))
    batch: int = _training(128, "rows of an optimiser step", (1, 1_000_000))
    width: int = _training(256, "hidden width of the network", (8, 16_384))
    lr: float = _training(1e-3, "peak learning rate", (1e-8, 1))
    weight_decay: float = _training(1e-2, "AdamW's", (0, 10))
    warm_up: int = _training(100, "steps of linear warm-up, at most a fifth of all", (0, 1_000_000))
    dropout: float = _training(0.1, "share of hidden units dropped", (0, 0.99))
    null_dropout: float = _training(0.2, "share of rows that train the marginal", (0, 0.99))
    ema: float = _training(0.999, "decay of the averaged weights, cut to 1 - 10 / train_steps", (0, 0.999999))
    seed: int = _training(0, "the only source of randomness; global states are never touched", (0, 2**63 - 1))

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            object.__setattr__(self, field.name, _checked(field, getattr(self, field.name)))
        if self.generator == "shift" and self.search == "t0":
            raise ValueError(
                "search='t0' contradicts generator='shift', which has no time: use search='line' or 'none'"
            )
        if self.generator == "shift" and (self.w != 1 or self.gamma != 0 or self.abduct == "marg"):
            settings = f"w={self.w}, gamma={self.gamma}, abduct={self.abduct!r}"
            raise ValueError(f"generator='shift' has no score: {settings} must stay 1, 0, 'cond'")

    def to_json(self) -> str:
        """The settings as JSON text, keys sorted."""
        return json.dumps(dataclasses.asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> "GeneratorConfig":
        """The settings that `to_json` wrote. Raises ValueError on what is no JSON object, or has other keys."""
        values, known = json.loads(text), {field.name for field in dataclasses.fields(cls)}
        unknown = sorted(set(values) - known) if isinstance(values, dict) else [text[:60]]
        if unknown:
            raise ValueError(f"unknown settings {', '.join(unknown)}: written by another version of dicap?")
        return cls(**values)


def generator_options() -> dict[str, tuple[Any, str, tuple[str, ...], float | None]]:
    """Settings that users change, by field name: default, why, choices (empty: any number), least (None: no bound)."""
    fields = [field for field in dataclasses.fields(GeneratorConfig) if field.metadata["option"]]
    return {f.name: (f.default, *(f.metadata[key] for key in ("why", "choices", "least"))) for f in fields}


def _checked(field: dataclasses.Field, value: Any) -> Any:
    choices, low, high = (field.metadata[key] for key in ("choices", "least", "most"))
    kind: Any = type(field.default)
    if choices:
        if value not in choices:
            raise ValueError(f"{field.name}={value!r}: allowed are {', '.join(choices)}")
        return value
    number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if not number or (kind is int and value != int(value)) or not low <= value <= high:
        numbers = "a whole number" if kind is int else "a number"
        raise ValueError(f"{field.name}={value!r}: allowed is {numbers} from {low:g} to {high:g}")
    return kind(value)
