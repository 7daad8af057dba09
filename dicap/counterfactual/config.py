"""Every setting of the counterfactual generator in one frozen, checked place.

The defaults are those of docs/method.md; a contradiction is refused with both settings named.
"""

import dataclasses
import json
import math
import typing

CHOICES: dict[str, tuple[str, ...]] = {
    "generator": ("gskip", "gauss", "shift", "v", "eps"),
    "abduct": ("cond", "marg"),
    "means": ("text", "blend", "class"),
    "train_data": ("swap", "do", "observed"),
    "search": ("t0", "line", "none"),
    "judge": ("gauss", "text"),
}
RANGES: dict[str, tuple[float, float]] = {
    "pca_k": (1, 4096),
    "steps": (2, 10_000),
    "fixed_point": (0, 100),
    "w": (0.0, 100.0),
    "gamma": (0.0, 1e4),
    "delta": (-1e4, 1e4),
    "train_steps": (0, 10_000_000),
    "passes": (1, 1_000_000),
    "batch": (1, 1_000_000),
    "width": (8, 16_384),
    "lr": (1e-8, 1.0),
    "weight_decay": (0.0, 10.0),
    "warm_up": (0, 1_000_000),
    "dropout": (0.0, 0.99),
    "null_dropout": (0.0, 0.99),
    "ema": (0.0, 0.999999),
    "seed": (0, 2**63 - 1),
}
NETWORK = ("gskip", "v", "eps")  # the generators that train a network


@dataclasses.dataclass(frozen=True)
class GeneratorConfig:
    """Settings of `CounterfactualGenerator`.

    Attributes:
        generator: how x0 is estimated: `shift` no diffusion, `gauss` closed form, `gskip` closed form plus network,
            `v`, `eps` network.
        abduct: score that abduction uses: `cond` of the factual class; `marg` leaves the class in the latent
            (ablation).
        means: what the class effect is fitted to: `text` ridge map of the text; `blend`, `class` add the class means
            (ablations).
        train_data: what the network sees: `swap` images whose class mean, as far as the text does not explain it, is
            that of a random class; `do` whole residuals recombined with class effects; `observed` pairs
            (estimators.TrainingData).
        pca_k: most principal directions that are diffused; the rest of a feature passes through.
        steps: DDIM steps from data to the ceiling.
        fixed_point: refinements of every abduction step towards the exact inverse.
        w: classifier-free guidance, 1 = the conditional score.
        gamma: classifier guidance by the judge, 0 = none.
        search: coordinate of the minimal-sufficiency search: `t0` start time, `line` along the shift, `none` always the
            full one.
        judge: who decides on sufficiency: `gauss` the Gaussian discriminant of the few shots, `text` the frozen text
            head.
        delta: sufficient margin in nats of log-odds, target over the best rival, for both judges: 0 = the judge's first
            choice is the target. More than 0 demands certainty that the judge often lacks on true images of the class
            (the Gaussian's log-odds are calibrated, so exp(delta) is the odds asked for).
        passes: most passes over the images, which cuts train_steps where images are few: a network that sees them more
            often learns them by heart.
        train_steps, batch, width, lr, weight_decay, warm_up, dropout, null_dropout, ema: the network and its training;
            warm_up is cut to a fifth of train_steps, ema is bias-corrected and cut to 1 - 10 / train_steps for short
            runs.
        seed: the only source of randomness; global random states are never touched.

    Raises:
        ValueError: a setting outside its range or choices, or two that contradict; names the field, the value, what is
            allowed.
    """

    generator: str = "gskip"
    abduct: str = "cond"
    means: str = "text"
    train_data: str = "swap"
    pca_k: int = 128
    steps: int = 25
    fixed_point: int = 2
    w: float = 1.0
    gamma: float = 0.0
    search: str = "t0"
    judge: str = "gauss"
    delta: float = 0.0
    train_steps: int = 1500
    passes: int = 100
    batch: int = 128
    width: int = 256
    lr: float = 1e-3
    weight_decay: float = 1e-2
    warm_up: int = 100
    dropout: float = 0.1
    null_dropout: float = 0.2
    ema: float = 0.999
    seed: int = 0

    def __post_init__(self) -> None:
        for name, allowed in CHOICES.items():
            value = getattr(self, name)
            if value not in allowed:
                raise ValueError(f"{name}={value!r}: allowed are {', '.join(allowed)}")
        for name, kind in typing.get_type_hints(type(self)).items():
            if name in RANGES:
                object.__setattr__(self, name, _number(name, getattr(self, name), kind))
        if self.generator == "shift" and self.search == "t0":
            raise ValueError(
                "search='t0' contradicts generator='shift', which has no diffusion time: use search='line' or 'none'"
            )
        if self.generator == "shift" and (self.w != 1 or self.gamma != 0 or self.abduct == "marg"):
            raise ValueError(
                f"generator='shift' has no score: w={self.w}, gamma={self.gamma}, abduct={self.abduct!r}"
                " must stay 1, 0, 'cond'"
            )

    def to_json(self) -> str:
        """The settings as JSON text, keys sorted."""
        return json.dumps(dataclasses.asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> "GeneratorConfig":
        """The settings that `to_json` wrote.

        Raises:
            ValueError: not a JSON object, or with a key that is no setting.
        """
        values = json.loads(text)
        if not isinstance(values, dict):
            raise ValueError(f"the configuration is not a JSON object: {text[:60]!r}")  # noqa: TRY004 - a bad file
        unknown = sorted(set(values) - {field.name for field in dataclasses.fields(cls)})
        if unknown:
            raise ValueError(f"unknown settings {', '.join(unknown)}: written by another version of dicap?")
        return cls(**values)


def _number(name: str, value: object, kind: type) -> int | float:
    low, high = RANGES[name]
    allowed = f"allowed is {'a whole number' if kind is int else 'a number'} from {low:g} to {high:g}"
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"{name}={value!r}: {allowed}")
    if (kind is int and value != int(value)) or not low <= value <= high:
        raise ValueError(f"{name}={value!r}: {allowed}")
    return kind(value)
