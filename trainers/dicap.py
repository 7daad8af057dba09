"""DiCap: a learner trained against diffusion counterfactuals (Li et al. 2025, arXiv 2507.19882; docs/method.md).

Stage 1, before training, on the frozen features of the few shots: fit the counterfactual generator, choose target classes,
answer for every view f of every image "what would it be, were its class y' and all else the same?" -> f_cf, valid.
Stage 2 trains the learner (LEARNER: CoOp's prompt as in the paper, or an adapter of the image features, or both) to follow
what the class changes and nothing else. With f, f_cf and t as the learner has them:

    L = (CE(logits(f, t), y) + l_cf CE(logits(f_cf, t), y')) / (1 + l_cf)        (l_cf times the share that is valid)
        + l_con L_con(t_y; f, f_cf) + l_kg mean_k (1 - cos(t_k, frozen t_k))

At inference DiCap costs what its learner costs. Only the abstract of the paper could be read: docs/method.md says what is
the paper's and what our reconstruction.

python train.py --trainer DiCap:CoOp --dataset-config-file configs/datasets/causal_shapes.yaml \\
    --config-file configs/trainers/DiCap/tiny.yaml --seed 1 --output-dir output/dicap DATASET.NUM_SHOTS 16
"""

import dataclasses
import logging
from pathlib import Path

import torch
from dassl.engine import TRAINER_REGISTRY
from torch import Tensor

from dicap.counterfactual import GeneratorConfig
from dicap.counterfactual.bank import CONTROLS, TARGETS, CounterfactualBank
from dicap.counterfactual.config import generator_options
from dicap.counterfactual.losses import contrast, weighted
from dicap.files import cache_folder
from dicap.options import ConfigError, Option
from dicap.tasks.task import Task
from dicap.trainer import PREC, LearnerTrainer

log = logging.getLogger(__name__)


@TRAINER_REGISTRY.register()
class DiCap(LearnerTrainer):
    """Causality-aligned learning with diffusion counterfactuals."""

    RESUMABLE = True  # the bank is made again
    OPTIONS = {
        "LEARNER": Option(
            "CoOp",
            "what is trained, by name; CoOp is the paper's form; two as CoOp+FeatureMap: one of the text, one of images",
        ),
        **{key.upper(): Option(*facts) for key, facts in generator_options().items()},
        "TRAIN_ON": Option(
            "full",
            "full: the counterfactual of the causal model; minimal: the smallest sufficient intervention, for L_CON alone",
            ("full", "minimal"),
        ),
        "TARGET": Option(
            "random",
            "target classes: any other base class, or among the nearest by frozen text (docs/results.md: worse)",
            TARGETS,
        ),
        "M": Option(3, "counterfactuals an image", least=1),
        "L_CF": Option(
            1.0,
            "weight of the cross-entropy of counterfactuals to their target class, beside 1 for real images; both are divided"
            " by 1 + L_CF, else it would act as a larger learning rate",
            least=0,
        ),
        "L_CON": Option(0.0, "weight of the contrast of an image with its counterfactuals", least=0),
        "L_KG": Option(0.0, "weight of the pull towards the frozen text (KgCoOp)", least=0),
        "TAU": Option(0.0, "temperature of L_CON; 0 = the model's own, 1/logit_scale.exp()", least=0),
        "CON_MODE": Option("text", "anchor of L_CON; image: near-degenerate, an ablation", ("text", "image", "both")),
        "BANK": Option(True, "generate counterfactuals once; False generates them in every step: equal, slower"),
        "CONTROL": Option(
            "none",
            "what stands in for counterfactuals, to see whether it is them that help; no-cf: nothing (the learner alone where"
            " L_KG is 0); truth: pictures that the data set's own world renders",
            ("none", "no-cf", "truth", *CONTROLS),
        ),
        "PREC": PREC,
    }

    def check_cfg(self, cfg):
        o, facts, name = self.read_options(cfg), self.facts_of(cfg), self.learner_name(cfg)
        if facts.fit != "steps":
            raise ConfigError(f"DiCap:{name}: {name} learns nothing in steps, so no loss can use counterfactuals")
        if facts.image == "tower":
            raise ConfigError(
                f"DiCap:{name}: {name} changes the image tower, and counterfactuals are features of the frozen one; choose a"
                " learner of the text or of the image features"
            )
        super().check_cfg(cfg)
        if cfg.INPUT.VIEWS < 1:
            raise ConfigError("INPUT.VIEWS is 0; a counterfactual belongs to a cached view: DiCap needs at least 1")
        if o.l_kg and facts.text == "fixed":
            raise ConfigError(f"L_KG {o.l_kg} contradicts LEARNER {name}, which leaves the text as it is: set L_KG 0")
        if o.train_on == "minimal" and o.l_cf > 0:
            raise ConfigError(
                f"TRAIN_ON minimal contradicts L_CF {o.l_cf}: a minimal counterfactual is still partly of its old class and must"
                " not be labelled with the new one; set L_CF 0 and L_CON above 0"
            )
        if o.train_on == "minimal" and o.search == "none":
            raise ConfigError("TRAIN_ON minimal contradicts SEARCH none: nothing minimal is sought")
        if o.train_on == "minimal" and o.l_con == 0:
            raise ConfigError("TRAIN_ON minimal contradicts L_CON 0.0: no loss uses counterfactuals; set L_CON above 0")
        if o.control not in ("none", "no-cf") and not o.bank:
            raise ConfigError(f"BANK False contradicts CONTROL {o.control}: what stands in is drawn once")
        generator_config(o, cfg.SEED)

    def build_model(self):
        dataset = self.dm.dataset
        if self.read_options(self.cfg).control == "truth" and not hasattr(dataset, "counterfactual_images"):
            name = self.cfg.DATASET.NAME
            raise ConfigError(f"CONTROL truth: {name} cannot show what its images would have been; CausalShapes can")
        super().build_model()
        if type(self.task).texts is not Task.texts:
            raise ConfigError(f"DiCap does not train on the task {self.task.name!r}: its texts change with each batch")

    def before_train(self):
        super().before_train()
        o, seed = self.options, max(self.cfg.SEED, 0)
        self.frozen = self.learner.hand_text()  # (C, e): what a class is to the generator, a text and never an index
        if o.control == "no-cf":
            return
        self.bank = CounterfactualBank.build(
            self.views,
            torch.tensor([item.label for item in self.dm.dataset.train_x]),
            self.frozen.cpu(),
            generator_config(o, seed),
            m=o.m,
            target=o.target,
            control=o.control,
            train_on=o.train_on,
            lazy=not o.bank,
            logit_scale=self.model.clip.logit_scale.exp().item(),
            seed=seed,
            truth=self.truth if o.control == "truth" else None,
            cache=cache_folder("generators"),
            device=self.device,
        )
        self.bank.generator.save(Path(self.output_dir) / "counterfactual" / "generator.safetensors")
        for name, value in self.bank.figures.items():
            log.info("counterfactual %s: %.4g", name, value)
            self.write_scalar(f"counterfactual/{name}", value, 0)

    def truth(self, target: Tensor) -> Tensor:
        """(N, V, M, e) of targets (N, M): the pictures that the data set's world shows, seen by the same camera views."""
        dataset = self.dm.dataset
        columns = [[dataset.classnames[label] for label in column] for column in target.T.tolist()]
        paths = [item.impath for item in dataset.train_x]
        return torch.stack(
            [self.train_views(dataset.counterfactual_images(paths, names), {"truth": names}) for names in columns],
            dim=2,
        )

    def objective(self, batch, f, t, losses_of_items):
        o = self.options
        parts = {"ce": losses_of_items.mean()}
        if o.control != "no-cf":
            cf, valid, target = self.bank(batch["index"], batch["view"])  # (B, M, e), (B, M), (B, M)
            cf = self.learner.image(cf)
            if o.l_cf:
                losses_of_cf = self.task.losses(self.learner.logits(cf, t), target)  # (B, M)
                parts = weighted(losses_of_items, losses_of_cf, valid, o.l_cf)
            if o.l_con:
                parts["con"] = o.l_con * self.contrast(f, t, batch["target"], cf, valid)
        if o.l_kg:
            parts["kg"] = o.l_kg * (1 - (t * self.frozen.to(t.dtype)).sum(-1)).mean()  # KgCoOp, arXiv 2303.13283
        return parts

    def contrast(self, f, t, label, cf, valid):
        """L_con with the text, the image or both as the anchor."""
        o = self.options
        t_y = t[label] if t.dim() == 2 else t[torch.arange(len(label), device=label.device), label]  # (B, e)
        scale = 1 / o.tau if o.tau else self.model.clip.logit_scale.exp().float()
        of_text = contrast(t_y, f, cf, valid, scale) if o.con_mode != "image" else 0
        of_image = contrast(f, t_y, cf, valid, scale) if o.con_mode != "text" else 0
        return of_text + of_image

    def extra_result(self):
        bank = getattr(self, "bank", None)
        return {**super().extra_result(), "counterfactual": bank.figures if bank else {}}


def generator_config(o, seed: int) -> GeneratorConfig:
    """The generator's part of the options. Raises ConfigError for settings that contradict each other."""
    names = {field.name for field in dataclasses.fields(GeneratorConfig)}
    settings = {key: value for key, value in vars(o).items() if key in names}
    try:
        return GeneratorConfig(**settings, seed=max(seed, 0))
    except ValueError as error:
        raise ConfigError(f"TRAINER.DICAP: {error}") from None
