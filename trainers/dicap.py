"""DiCap: a prompt trained against diffusion counterfactuals (Li et al. 2025, arXiv 2507.19882; docs/method.md).

Stage 1, before training, on the frozen features of the few shots: fit the counterfactual generator, choose target classes,
answer for every view f of every image "what would it be, were its class y' and all else the same?" -> f_cf, valid.
Stage 2 trains the prompt (CoOp's, or with PROMPT cocoop CoCoOp's) to follow what the class changes and nothing else:

    L = (CE(logits(f), y) + l_cf CE(logits(f_cf), y')) / (1 + l_cf)        (l_cf times the share that is valid)
        + l_con L_con(t_y; f, f_cf) + l_kg mean_k (1 - cos(t_k, frozen t_k))

At inference DiCap costs what its baseline costs. Only the abstract of the paper could be read: docs/method.md says what is
the paper's and what our reconstruction.

python train.py --trainer DiCap --dataset-config-file configs/datasets/causal_shapes.yaml \\
    --config-file configs/trainers/DiCap/tiny.yaml --seed 1 --output-dir output/dicap DATASET.NUM_SHOTS 16
"""

import dataclasses
import hashlib
import json
import logging
import time
from pathlib import Path

import torch
from dassl.engine import TRAINER_REGISTRY
from torch import Tensor
from torch.nn.functional import cross_entropy

from dicap import losses
from dicap.cache import cache_folder, keep
from dicap.counterfactual import CounterfactualGenerator, GeneratorConfig, choose_targets, diagnose
from dicap.counterfactual.bank import CONTROLS, control_counterfactuals
from dicap.counterfactual.config import generator_options
from dicap.counterfactual.generator import FORMAT
from dicap.files import write_text
from dicap.options import ConfigError, Option
from dicap.prompts import ConditionalContext, FixedPrompt, PromptedCLIP, StaticContext
from dicap.trainer import CONTEXT, PromptTrainer
from dicap.wording import hand_template

log = logging.getLogger(__name__)

CHOICES = {name: choices for name, (_, _, choices, _) in generator_options().items()}


@TRAINER_REGISTRY.register()
class DiCap(PromptTrainer):
    """Causality-aligned prompt learning with diffusion counterfactuals."""

    OPTIONS = {
        **CONTEXT,
        "PROMPT": Option(
            "coop", "coop: one context; cocoop: a context that depends on the factual image", ("coop", "cocoop")
        ),
        "GENERATOR": Option(
            "gskip",
            "gskip: Gaussian closed form plus what a network adds; gauss, shift: mandatory baselines;"
            " v, eps: the network alone",
            CHOICES["generator"],
        ),
        "ABDUCT": Option(
            "cond",
            "abduct with the factual class's score; marg leaves the class in the noise (ablation)",
            CHOICES["abduct"],
        ),
        "MEANS": Option(
            "text",
            "class effect as the text explains it; class means carry the scene along (ablations)",
            CHOICES["means"],
        ),
        "TRAIN_DATA": Option(
            "swap",
            "what the text does not explain of a class mean (its scene) is swapped among classes; do:"
            " whole residuals, an additive law; observed pairs teach the network the scene",
            CHOICES["train_data"],
        ),
        "PCA_K": Option(128, "most directions that are diffused; the rest of a feature passes through", least=1),
        "STEPS": Option(25, "DDIM steps", least=2),
        "FIXED_POINT": Option(2, "refinements of each abduction step towards the exact inverse", least=0),
        "TRAIN_STEPS": Option(1500, "optimiser steps of the generator's network", least=0),
        "W": Option(1.0, "classifier-free guidance; 1 is the exact counterfactual, more overshoots", least=0),
        "GAMMA": Option(0.0, "classifier guidance by the judge", least=0),
        "SEARCH": Option(
            "t0",
            "how the minimal sufficient counterfactual is sought: start time, along the line, not at all",
            CHOICES["search"],
        ),
        "JUDGE": Option(
            "gauss",
            "who says that a counterfactual is of its target class: the Gaussian of the few shots, or"
            " the frozen text head",
            CHOICES["judge"],
        ),
        "DELTA": Option(0.0, "margin of the judge that is sufficient, in nats"),
        "TRAIN_ON": Option(
            "full",
            "full: the counterfactual of the causal model; minimal: the smallest sufficient"
            " intervention, for L_CON alone",
            ("full", "minimal"),
        ),
        "TARGET": Option(
            "random",
            "target classes: any other base class, or among the nearest by frozen text (docs/results.md: worse)",
            ("top1", "top3", "random"),
        ),
        "M": Option(3, "counterfactuals an image", least=1),
        "L_CF": Option(
            1.0,
            "weight of the cross-entropy of counterfactuals to their target class, beside 1 for real images; both"
            " are divided by 1 + L_CF, else it would act as a larger learning rate",
            least=0,
        ),
        "L_CON": Option(0.0, "weight of the contrast of an image with its counterfactuals", least=0),
        "L_KG": Option(0.0, "weight of the pull towards the frozen text (KgCoOp)", least=0),
        "TAU": Option(0.0, "temperature of L_CON; 0 = the model's own, 1/logit_scale.exp()", least=0),
        "CON_MODE": Option(
            "text", "anchor of L_CON; image is near-degenerate and kept as an ablation", ("text", "image", "both")
        ),
        "BANK": Option(
            True, "answer from counterfactuals generated once; False generates them in every step: equal, slower"
        ),
        "CONTROL": Option(
            "none",
            "what stands in for counterfactuals, to see whether it is them that help; no-cf: nothing (CoOp where"
            " L_KG is 0); truth: pictures that the data set's own world renders",
            ("none", "no-cf", "truth", *CONTROLS),
        ),
    }

    def check_cfg(self, cfg):
        super().check_cfg(cfg)
        o = self.read_options(cfg)
        if cfg.INPUT.VIEWS < 1:
            raise ConfigError("INPUT.VIEWS is 0; a counterfactual belongs to a cached view: DiCap needs at least 1")
        if o.train_on == "minimal" and o.l_cf > 0:
            raise ConfigError(
                f"TRAIN_ON minimal contradicts L_CF {o.l_cf}: a minimal counterfactual is still partly of its old"
                " class and must not be labelled with the new one; set L_CF 0 and L_CON above 0"
            )
        if o.train_on == "minimal" and o.search == "none":
            raise ConfigError("TRAIN_ON minimal contradicts SEARCH none: nothing minimal is sought")
        if o.train_on == "minimal" and o.l_con == 0:
            raise ConfigError(
                "TRAIN_ON minimal contradicts L_CON 0.0: no loss is left that uses counterfactuals; set L_CON above 0"
            )
        if o.control not in ("none", "no-cf") and not o.bank:
            raise ConfigError(
                f"BANK False contradicts CONTROL {o.control}: what stands in is drawn once, for all images"
            )
        generator_config(o, cfg.SEED)

    def build_model(self):
        if self.read_options(self.cfg).control == "truth" and not hasattr(self.dm.dataset, "counterfactual_images"):
            raise ConfigError(
                f"CONTROL truth: {self.cfg.DATASET.NAME} cannot show what its images would have been; CausalShapes can"
            )
        super().build_model()

    def build_prompt(self, clip, names):
        o = self.options
        if o.prompt == "cocoop":
            return ConditionalContext(clip, names, o.n_ctx, o.ctx_init)
        return StaticContext(clip, names, o.n_ctx, o.ctx_init)

    # -- stage 1: counterfactuals of the few shots ---------------------------------------------------------------------

    def before_train(self):
        super().before_train()
        start, o = time.perf_counter(), self.options
        self.diagnostics: dict[str, float] = {}
        self.label = torch.tensor([item.label for item in self.dm.dataset.train_x])  # (N,)
        self.frozen = self.frozen_text()  # (C, e), on the device
        self.condition = self.frozen.cpu()  # (C, e): a text, never a class index
        if o.control == "no-cf":
            return
        random = torch.Generator().manual_seed(max(self.cfg.SEED, 0))
        self.target = choose_targets(
            self.condition, self.label, min(o.m, len(self.condition) - 1), o.target, random
        )  # (N, M)
        own = o.control == "random-cf"  # noise stays in its own class
        self.wanted = (self.label[:, None].expand_as(self.target) if own else self.target).to(self.device)  # (N, M)
        self.generator, self.diagnostics = self.load_or_fit()
        self.bank = self.fill_bank() if o.bank else None
        self.diagnostics["stage1_seconds"] = time.perf_counter() - start
        for name, value in self.diagnostics.items():
            log.info("counterfactual %s: %.4g", name, value)
            self.write_scalar(f"counterfactual/{name}", value, 0)

    @torch.no_grad()
    def frozen_text(self) -> Tensor:
        """(C, e) text features of the dataset's hand prompts, L2-normalised."""
        fixed = FixedPrompt(self.model.clip, self.dm.dataset.classnames, hand_template(self.dm.dataset)).to(self.device)
        return PromptedCLIP(self.model.clip, fixed, self.cfg.MODEL.TEXT_MEMORY).encode_text()

    def load_or_fit(self) -> tuple[CounterfactualGenerator, dict[str, float]]:
        """The generator of these features and settings, and its diagnosis: from the cache where they are there.

        The generator is saved beside the prompt too.
        """
        config = generator_config(self.options, self.cfg.SEED)
        scale = self.model.clip.logit_scale.exp().item()
        key = digest_of((FORMAT, config.to_json(), scale), self.views, self.label, self.condition)
        folder = cache_folder("generators")
        cached = folder and folder / f"{key}.safetensors"
        generator = kept_generator(cached)
        if generator is None:
            generator = CounterfactualGenerator(config).fit(self.views, self.label, self.condition, logit_scale=scale)
            keep(cached, generator.save, "generators")
        generator.save(Path(self.output_dir) / "counterfactual" / "generator.safetensors")
        return generator, self.diagnose(
            generator, cached and cached.with_name(f"{key}-{digest_of((), self.target)}.json")
        )

    def diagnose(self, generator: CounterfactualGenerator, cached: Path | None) -> dict[str, float]:
        """Figures of dicap.counterfactual.diagnose; kept beside the cached generator, they cost more than the fit."""
        figures = kept_figures(cached)
        if figures:
            return figures
        figures = diagnose(generator, self.views, self.label, self.target)
        keep(cached, lambda path: write_text(path, json.dumps(figures, sort_keys=True)), "diagnoses")
        return figures

    def answer(self, f: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
        """Counterfactuals (B, M, e) and which are valid (B, M), of views f (B, e) of the training images index (B,)."""
        label, target, o = self.label[index], self.target[index], self.options
        if o.control != "none":
            return control_counterfactuals(o.control, self.generator, f, label, target, max(self.cfg.SEED, 0))
        found = self.generator.counterfactual(f, label, target, train_on=o.train_on)
        return found.features, found.valid

    def fill_bank(self) -> tuple[Tensor, Tensor]:
        """Counterfactuals (N, V, M, e) of every view, and which are valid (N, V, M), on the device."""
        n, v, _ = self.views.shape
        if self.options.control == "truth":
            truth = self.truth()
            return truth.to(self.device), torch.ones(truth.shape[:3], dtype=torch.bool, device=self.device)
        cf, valid = self.answer(self.views.flatten(0, 1), torch.arange(n).repeat_interleave(v))
        return cf.unflatten(0, (n, v)).to(self.device), valid.unflatten(0, (n, v)).to(self.device)

    def truth(self) -> Tensor:
        """(N, V, M, e): the pictures that the data set's world shows under each intervention, seen by the same camera views."""
        dataset = self.dm.dataset
        columns = [[dataset.classnames[label] for label in column] for column in self.target.T.tolist()]
        paths = [item.impath for item in dataset.train_x]
        return torch.stack(
            [self.train_views(dataset.counterfactual_images(paths, names), {"truth": names}) for names in columns],
            dim=2,
        )

    # -- stage 2: the prompt -------------------------------------------------------------------------------------------

    def counterfactuals(self, batch):
        """Counterfactuals (B, M, e), valid (B, M) and targets (B, M) of a batch: from the bank, or generated now."""
        index, view = batch["index"], batch["view"]
        if self.bank is not None:
            cf, valid = self.bank[0][index, view], self.bank[1][index, view]
        else:
            rows, column = index.cpu(), view.cpu()  # the generator is there
            cf, valid = (x.to(self.device) for x in self.answer(self.views[rows, column], rows))
        return cf, valid, self.wanted[index]

    def loss(self, batch):
        o, label = self.options, batch["label"]
        f, text, logits = self.model.parts(batch["img"])  # (B, e), (C, e) or (B, C, e), (B, C)
        parts = {"ce": cross_entropy(logits, label)}
        if o.l_kg:
            parts["kg"] = o.l_kg * losses.knowledge_loss(text, self.frozen.to(text.dtype))
        if o.control == "no-cf":
            return logits, parts
        cf, valid, target = self.counterfactuals(batch)
        if o.l_cf:
            total = 1 + o.l_cf * valid.float().mean()  # the weights of what is there sum to 1
            parts["ce"] = parts["ce"] / total
            parts["cf"] = o.l_cf * losses.counterfactual_loss(self.model.logits(cf, text), target, valid) / total
        if o.l_con:
            parts["con"] = o.l_con * self.contrast(f, text, label, cf, valid)
        return logits, parts

    def contrast(self, f, text, label, cf, valid):
        """L_con with the text, the image or both as the anchor."""
        o = self.options
        text_y = (
            text[label] if text.dim() == 2 else text[torch.arange(len(label), device=label.device), label]
        )  # (B, e)
        scale = 1 / o.tau if o.tau else self.model.clip.logit_scale.exp().float()
        wanted = {"text": (True, False), "image": (False, True), "both": (True, True)}[o.con_mode]
        of_text = losses.text_contrast(text_y, f, cf, valid, scale) if wanted[0] else 0
        of_image = losses.image_contrast(f, text_y, cf, valid, scale) if wanted[1] else 0
        return of_text + of_image

    def extra_result(self):
        return {**super().extra_result(), "counterfactual": getattr(self, "diagnostics", {})}


def generator_config(o, seed: int) -> GeneratorConfig:
    """The generator's part of the options. Raises ConfigError for settings that contradict each other."""
    names = {field.name for field in dataclasses.fields(GeneratorConfig)}
    settings = {key: value for key, value in vars(o).items() if key in names}
    try:
        return GeneratorConfig(**settings, seed=max(seed, 0))
    except ValueError as error:
        raise ConfigError(f"TRAINER.DICAP: {error}") from None


def kept_generator(path: Path | None) -> CounterfactualGenerator | None:
    """The generator in the cache; None where there is none, or, with a warning, none that can be read."""
    if path is None or not path.is_file():
        return None
    try:
        return CounterfactualGenerator.load(path)
    except (ValueError, OSError) as error:
        log.warning("cached generator: %s; fitting again", error)
        return None


def kept_figures(path: Path | None) -> dict[str, float]:
    """The diagnosis in the cache; empty where there is none, or, with a warning, none that can be read."""
    if path is None or not path.is_file():
        return {}
    try:
        return {str(name): float(value) for name, value in json.loads(path.read_text(encoding="utf-8")).items()}
    except (ValueError, TypeError, AttributeError, OSError) as error:
        log.warning("cached diagnosis %s cannot be read (%s): diagnosing again", path, error)
        return {}


def digest_of(settings: tuple, *tensors: Tensor) -> str:
    """SHA-256 of settings and the content of tensors."""
    digest = hashlib.sha256(repr(settings).encode())
    for tensor in tensors:
        digest.update(tensor.contiguous().numpy().tobytes())
    return digest.hexdigest()
