"""Trains a learner on a task, on Dassl's TrainerX; speaks to `dassl.*` alone.

    trainer = learner (what is learned) x task (texts, loss of each item, measures) x objective (how losses are weighed)

The towers are frozen unless the learner says otherwise; what is learned and its optimiser are fp32. From the four facts
of the learner (dicap/learner.py) follow what is cached, when texts are encoded, what is saved, and what is refused.
PREC: fp32; bf16 = autocast; amp = autocast to fp16 on a GPU (fp32 on a CPU), which waits for the GPU once a step, to see
whether a gradient overflowed; fp16 = frozen towers in fp16 on a GPU. Evaluation is never under autocast.
"""

import functools
import logging
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from dassl.data.samplers import build_sampler
from dassl.engine import TRAINER_REGISTRY, TrainerX
from dassl.optim import build_lr_scheduler, build_optimizer
from torch import Tensor
from torch.utils.data import DataLoader

from dicap import features
from dicap.backbones import PRECISIONS, load_clip, weights_digest
from dicap.inert import named_tensors, read_checkpoint, read_weights
from dicap.learner import (
    LEARNERS,
    Facts,
    LearnedCLIP,
    Learner,
    build_learner,
    check_learner,
    learner_class,
    merge_losses,
    plain_state,
    random_input,
)
from dicap.options import PLACES, ConfigError, Option, read_options, section_name
from dicap.tasks.classification import Classification
from dicap.tasks.task import Task
from dicap.text_tower import MEMORY
from dicap.wording import hand_template

log = logging.getLogger(__name__)

PREC = Option(
    "fp32",
    "fp32, bf16 (autocast, no loss scaling, CPU too), amp (autocast to fp16 on a GPU) or fp16 (frozen towers in fp16);"
    " what is learned is fp32 always: pure fp16 collapses some seeds",
    PRECISIONS,
)
LR_SCALE = Option(
    1.0,
    "its learning rate as a multiple of OPTIM.LR, where it is trained together with a context (CoOp+FeatureMap)",
    least=0,
)


def register(cls: type[Learner]) -> type[Learner]:
    """Class decorator: makes a learner a method, known to DiCap's LEARNER and as a Dassl trainer of its own name.

    Its OPTIONS gain PREC.
    In a fork that has a trainer of that name, the fork's stays the trainer; the learner is there all the same.

    Raises KeyError: a plug-in's name that is taken.
    """
    name = cls.__name__
    own = cls.__module__.startswith("dicap.")
    taken = name in TRAINER_REGISTRY.registered_names()
    if name in LEARNERS or (taken and not own):
        raise KeyError(f"a method named {name} is already registered")
    LEARNERS[name] = cls
    cls.OPTIONS = {**cls.OPTIONS, "PREC": PREC}
    if not taken:
        facts = {"OPTIONS": cls.OPTIONS, "RESUMABLE": True, "__module__": cls.__module__, "__doc__": cls.__doc__}
        TRAINER_REGISTRY.register()(type(name, (LearnerTrainer,), facts))
    return cls


class LearnerTrainer(TrainerX):
    """Trains the learner of its own name, or the one that its setting LEARNER names.

    A trainer of one's own is a subclass that is registered with Dassl, has OPTIONS with LEARNER and PREC, and overrides
    `objective`. Where registered modules hold all its state it says RESUMABLE = True: else a killed run starts anew. Raises
    ConfigError where the config does not fit.
    """

    OPTIONS: dict[str, Option] = {}
    train_loader_x: Any  # these three are Dassl's
    val_loader: Any
    test_loader: Any

    # -- settings ------------------------------------------------------------------------------------------------------

    @classmethod
    def learner_name(cls, cfg) -> str:
        """The learner that a configuration trains."""
        return cls.read_options(cfg).learner if "LEARNER" in cls.OPTIONS else cls.__name__

    @classmethod
    def facts_of(cls, cfg) -> Facts:
        """The facts of that learner under its settings."""
        name = cls.learner_name(cfg)
        return learner_class(name).facts_of(cls.learner_options(cfg))

    @classmethod
    def read_options(cls, cfg) -> SimpleNamespace:
        """This method's section of the config as attributes in lower case."""
        return _read_section(cfg, section_name(cls), cls.OPTIONS)

    @classmethod
    def learner_options(cls, cfg) -> SimpleNamespace:
        """The settings of the learner, from its own section TRAINER.<LEARNER>; of two a namespace of both, by their names."""
        read = {}
        for name in cls.learner_name(cfg).split("+"):
            read[name] = _read_section(cfg, name.upper(), learner_class(name).OPTIONS)
            read[name].text_memory = cfg.MODEL.get("TEXT_MEMORY", MEMORY)
        return SimpleNamespace(**read) if len(read) > 1 else read[name]

    def check_cfg(self, cfg) -> None:
        """Raises ConfigError for settings that contradict each other; reads nothing but the config."""
        options, facts = self.read_options(cfg), self.facts_of(cfg)
        has_fit = learner_class(self.learner_name(cfg)).has_fit()
        if facts.image == "tower" and has_fit:
            raise ConfigError(
                f"{self.learner_name(cfg)} changes the image tower and defines fit, which is given frozen features"
            )
        if facts.image == "tower" and cfg.INPUT.VIEWS:
            raise ConfigError(
                f"INPUT.VIEWS is {cfg.INPUT.VIEWS}, but {self.learner_name(cfg)} changes the image tower: cached views are"
                " features of the frozen one. Set INPUT.VIEWS 0"
            )
        if has_fit and not cfg.INPUT.VIEWS:
            raise ConfigError(
                f"INPUT.VIEWS is 0; {self.learner_name(cfg)} is computed from cached views: set it to 1 or more"
            )
        for part in self.learner_name(cfg).split("+"):
            prec = cfg.TRAINER.get(part.upper(), {}).get("PREC", PREC.default)
            ours = issubclass(TRAINER_REGISTRY.get(part), LearnerTrainer)  # else it is the default of a fork's trainer
            if ours and prec not in (PREC.default, options.prec):
                section = section_name(type(self))
                raise ConfigError(
                    f"TRAINER.{part.upper()}.PREC {prec} contradicts TRAINER.{section}.PREC {options.prec}, which is the one"
                    f" that counts here; set only that"
                )

    # -- building ------------------------------------------------------------------------------------------------------

    def build_model(self) -> None:
        cfg, self.options = self.cfg, self.read_options(self.cfg)
        log.info("loading CLIP %s (%s)", cfg.MODEL.BACKBONE.NAME, self.options.prec)
        clip = load_clip(cfg.MODEL.BACKBONE.NAME, self.device, self.options.prec)
        size = clip.visual.input_resolution
        if tuple(cfg.INPUT.SIZE) != (size, size):
            raise ConfigError(
                f"INPUT.SIZE is {tuple(cfg.INPUT.SIZE)}; {cfg.MODEL.BACKBONE.NAME} takes ({size}, {size})"
            )
        self.weights_digest = weights_digest(clip)
        dataset = self.dm.dataset
        self.task: Task = getattr(dataset, "task", None) or Classification()
        learner = build_learner(
            self.learner_name(cfg), clip, self.learner_options(cfg), dataset.classnames, hand_template(dataset)
        )
        self.learner, self.model, self.facts = learner, LearnedCLIP(clip, learner), learner.facts
        self._plain = plain_state(learner)
        if self.facts.image != "tower" and weights_digest(clip) != self.weights_digest:
            raise ConfigError(
                f"{type(learner).__name__} changes the weights of CLIP, but IMAGE is {self.facts.image}: then it is tower"
            )
        if self.facts.classes == "trained" and type(self.task).texts is not Task.texts:
            raise ConfigError(
                f"{type(learner).__name__} has parameters for each class: the task {self.task.name!r} has none that stay"
            )
        if cfg.MODEL.INIT_WEIGHTS:
            learner.load(read_weights(cfg.MODEL.INIT_WEIGHTS), cfg.MODEL.INIT_WEIGHTS)
        self.scaler = torch.amp.GradScaler("cuda") if self._amp() else None
        if self.facts.fit != "none":
            self.register_model(learner.FOLDER, learner)
        if self.facts.fit == "steps" and not learner.has_fit():
            self._build_optimizer()
        if self.facts.image != "tower":
            self._use_cached_features()
        self.views: Any = None  # (N, K, e), a tensor in training where INPUT.VIEWS > 0
        self.outcomes: list[Any] | None = None  # of the last test, where the task is not Dassl's classification
        self._trained_on: int | None = None  # views of each image, once training begins

    def _build_optimizer(self) -> None:
        groups = self.learner.parameter_groups(self.cfg.OPTIM.LR)
        self.optim = build_optimizer(self.learner, self.cfg.OPTIM, groups)
        self.sched = build_lr_scheduler(self.optim, self.cfg.OPTIM)
        self._optims[self.learner.FOLDER], self._scheds[self.learner.FOLDER] = self.optim, self.sched
        known = {id(p) for group in self.optim.param_groups for p in group["params"]}
        left_out = [name for name, p in self.learner.named_parameters() if p.requires_grad and id(p) not in known]
        if left_out:
            raise ConfigError(f"{type(self.learner).__name__}: no group of parameter_groups has {', '.join(left_out)}")

    def _amp(self) -> bool:
        return self.options.prec == "amp" and self.device.type == "cuda"

    def autocast(self):
        """Autocast where PREC is bf16, or amp and the device a GPU; else nothing."""
        kind = torch.bfloat16 if self.options.prec == "bf16" else torch.float16
        return torch.autocast(self.device.type, kind, enabled=self.options.prec == "bf16" or self._amp())

    def _use_cached_features(self) -> None:
        """Replace the images of the val and test loaders by frozen features, where this run tests on them."""
        test, val = self.cfg.TEST, self.val_loader is not None
        if val and (test.SPLIT == "val" or test.FINAL_MODEL == "best_val"):
            self.val_loader = self._test_features(self.val_loader)
        if test.SPLIT != "val" or not val:
            self.test_loader = self._test_features(self.test_loader)

    def _test_features(self, loader: DataLoader) -> DataLoader:
        items = loader.dataset.data_source
        facts = self._facts(items, loader.dataset.transform)
        encoded = features.encode(self.model.encode_image, loader, self.device, 1, facts)
        return self._loader(features.Features(encoded, items), train=False)

    def train_views(self, images: Sequence | None = None, facts: dict | None = None) -> Tensor:
        """(N, K, e): K augmented views of the training images, the same for every method of the same seed.

        Args:
            images: N pictures that stand in for the training images (uint8 arrays (H, W, 3)), seen through the same views.
            facts: what tells these pictures from others, for the cache.
        """
        cfg, items = self.cfg, self.dm.dataset.train_x
        transform = self._transform
        views = features.Views(items, transform, cfg.INPUT.VIEWS, max(cfg.SEED, 0), images)
        batch, workers = cfg.DATALOADER.TEST.BATCH_SIZE, cfg.DATALOADER.NUM_WORKERS
        loader = DataLoader(views, batch, num_workers=workers, pin_memory=self.device.type == "cuda")
        facts = {**self._facts(items, transform), "seed": views.seed, **(facts or {})}
        return features.encode(self.model.encode_image, loader, self.device, cfg.INPUT.VIEWS, facts)

    def _facts(self, items: list, transform) -> dict:
        return {
            "weights": self.weights_digest,
            "batch": self.cfg.DATALOADER.TEST.BATCH_SIZE,
            **features.machine(self.device),
            **features.describe(items, transform),
        }

    def _loader(self, dataset: features.Features, train: bool) -> DataLoader:
        """A loader of cached features with the sampler and the batch size of the config."""
        part = self.cfg.DATALOADER.TRAIN_X if train else self.cfg.DATALOADER.TEST
        size = part.BATCH_SIZE
        domains = {"n_domain": getattr(part, "N_DOMAIN", 0), "n_ins": getattr(part, "N_INS", 0)}
        sampler = build_sampler(part.SAMPLER, cfg=self.cfg, data_source=dataset.items, batch_size=size, **domains)
        drop, pin = train and len(dataset) >= size, self.device.type == "cuda"
        return DataLoader(dataset, size, sampler=sampler, drop_last=drop, collate_fn=features.as_batch, pin_memory=pin)

    # -- training ------------------------------------------------------------------------------------------------------

    def train(self) -> None:
        """Train, then test; what has nothing to learn in steps is computed, or tested at once."""
        given = self.train_loader_x  # before_train replaces it
        if self.facts.fit == "steps":
            try:
                super().train()
            finally:  # its workers end at once: the garbage collector would wait 5 s for each
                self.train_loader_x = given
            return
        if self.facts.fit == "closed_form":
            self._prepare()
            self._check_state()
            self.save_model(0, self.output_dir)
        else:
            log.info("%s has nothing to learn", type(self).__name__)
        if not self.cfg.TEST.NO_TEST:
            self.test()

    def before_train(self) -> None:
        """Dassl's; where INPUT.VIEWS > 0 training sees cached features, else images from workers that stay."""
        self._prepare()
        super().before_train()

    def _prepare(self) -> None:
        dataset, views = self.dm.dataset, self.cfg.INPUT.VIEWS
        items = dataset.train_x
        self._trained_on = views
        if not views:
            self.train_loader_x = features.seeded_loader(self.train_loader_x)
        elif self._models:
            self._transform = self.train_loader_x.dataset.transform  # of the images that the features replace
            self.views = self.train_views()
            self.train_loader_x = self._loader(features.Features(self.views, items), train=True)
        if self.views is not None and self.learner.has_fit():
            labels = torch.tensor([item.label for item in items]).to(self.device)
            with torch.no_grad():
                self.learner.fit(self.views.to(self.device), labels, self._val_features())
            check_learner(self.learner, fitted=True)
            if self.facts.fit == "steps":
                self._build_optimizer()
        self._texts_change = type(self.task).texts is not Task.texts
        self._target = None if self._texts_change else self.task.target(items, None).to(self.device)
        self._group = group_index(items, getattr(dataset, "groups", {}))
        self._group = None if self._group is None else self._group.to(self.device)

    def _val_features(self) -> tuple[Tensor, Tensor] | None:
        """Frozen features (N', e) and labels (N',) of the few-shot validation images, None where there are none."""
        if self.val_loader is None:
            return None
        if not isinstance(self.val_loader.dataset, features.Features):
            self.val_loader = self._test_features(self.val_loader)
        val = self.val_loader.dataset
        return val.features[:, 0].to(self.device), val.label.to(self.device)

    def loss(self, batch: dict) -> tuple[Tensor, dict[str, Tensor]]:
        """Logits (B, C) and the named losses () of a batch on the device, whose sum is minimised."""
        f, t, logits = self.model.parts(batch["img"])  # (B, e), (C, e) or (B, C, e), (B, C)
        penalties = self.learner.penalties(f, t, batch)
        losses = self.objective(batch, f, t, self.task.losses(logits, batch["target"]))
        return logits, merge_losses(losses, penalties, type(self.learner).__name__)

    def objective(self, batch: dict, f: Tensor, t: Tensor, losses: Tensor) -> dict[str, Tensor]:
        """How the losses of the items (B,) are weighed: named losses (). Here their mean.

        Args:
            batch: target (B, ...) and index (B,) of its items; view (B,) or None; group (B,) or None.
            f: (B, e) image features. t: (C, e) or (B, C, e) text features.
        """
        return {"ce": losses.mean()}

    def forward_backward(self, batch: dict) -> dict[str, Tensor]:
        """One step; losses and accuracy as detached tensors (), which nobody waits for."""
        batch = self.parse_batch_train(batch)
        with self.autocast():
            logits, losses = self.loss(batch)
            total = torch.stack(list(losses.values())).sum() if len(losses) > 1 else next(iter(losses.values()))
        self._step(losses, total)
        if (self.batch_idx + 1) == self.num_batches:
            self.update_lr()
        several = losses if len(losses) > 1 else {}
        summary = merge_losses({"loss": total, **self.task.progress(logits, batch["target"])}, several, "the log")
        return {name: value.detach().reshape(()) for name, value in summary.items()}

    def _step(self, losses: dict[str, Tensor], total: Tensor) -> None:
        self.detect_anomaly(total)
        self.optim.zero_grad()
        if self.scaler is None:
            self.learner.backward(dict(losses))
            self.optim.step()
        else:
            self.learner.backward({name: self.scaler.scale(loss) for name, loss in losses.items()})
            self.scaler.step(self.optim)
            self.scaler.update()

    def parse_batch_train(self, batch: dict) -> dict:
        """The batch on the device, with target, view and group (None where there is none); its texts are bound."""
        index = batch["index"]
        moved = {
            key: value.to(self.device, non_blocking=True) if isinstance(value, Tensor) else value
            for key, value in batch.items()
        }
        if self._target is None:
            items = [self.dm.dataset.train_x[i] for i in index.tolist()]
            texts = self.task.texts(items)
            self.model.bind(texts)
            target = self.task.target(items, texts).to(self.device, non_blocking=True)
        else:
            self.model.bind(None)
            target = self._target[moved["index"]]
        group = None if self._group is None else self._group[moved["index"]]
        return {**moved, "target": target, "view": moved.get("view"), "group": group}

    def after_epoch(self) -> None:
        """Dassl's, behind the learner's own."""
        self.learner.after_epoch(self.epoch, self.max_epoch)
        self._check_state()
        super().after_epoch()

    def _check_state(self) -> None:
        """Raises ConfigError where the learner has come to hold what no file would keep."""
        self.model.bind(None)
        now = plain_state(self.learner)
        if lost := {name for name, value in now.items() if self._plain.get(name) != value}:
            raise ConfigError(
                f"{type(self.learner).__name__}: {', '.join(sorted(lost))} would not be saved: use register_buffer"
            )

    @functools.cached_property
    def _run_facts(self) -> dict[str, Any]:
        """The built-in engine's: what must agree between a resume file and the run that takes it."""
        facts = {key: value for key, value in super()._run_facts.items() if key not in PLACES}
        return {**facts, "the backbone": self.weights_digest}

    # -- evaluation ----------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def test(self, split: str | None = None) -> float:
        """Test; returns the primary measure, with its sign turned where lower is better, so that more is better."""
        self.learner.eval()  # Dassl does so with what is registered alone
        with self.model.evaluating():
            if type(self.task) is Classification:
                self.model.bind(None)
                return super().test(split)
            return self._test_task(split or self.cfg.TEST.SPLIT)

    def _test_task(self, split: str) -> float:
        val = split == "val" and self.val_loader is not None
        loader, items = (self.val_loader, self.dm.dataset.val) if val else (self.test_loader, self.dm.dataset.test)
        self.set_model_mode("eval")
        log.info("evaluating on the %s set", "val" if val else "test")
        batches = ({**batch, "img": batch["img"].to(self.device)} for batch in loader)
        self.outcomes = self.task.evaluate(self.model, batches, items)
        values = self.task.measure(self.outcomes)
        for measure in self.task.measures:
            log.info("* %s: %.4g %s", measure.label, values[measure.name], measure.unit)
            self.write_scalar(f"{'val' if val else 'test'}/{measure.name}", values[measure.name], self.epoch)
        primary = self.task.primary
        return values[primary.name] if primary.higher_is_better else -values[primary.name]

    def model_inference(self, image: Tensor) -> Tensor:
        """Logits (B, C) of images (B, 3, H, W) or frozen features (B, e)."""
        return self.model(image)

    # -- saving and telling --------------------------------------------------------------------------------------------

    @torch.no_grad()
    def save_model(self, *args: Any, **kwargs: Any) -> None:
        """Dassl's, once the learner was seen to give finite logits: the last step may have made it too large for them."""
        self.learner.eval()
        with self.model.evaluating():
            self.model(random_input(self.learner, torch.Generator().manual_seed(0)))
        super().save_model(*args, **kwargs)

    def load_model(self, directory: str, epoch: int | None = None) -> None:
        """Load a trained learner: ours, or a published one of the family.

        Args:
            directory: the run's folder, which holds prompt_learner/ or learner/.
            epoch: None = model-best, or where there is none the last epoch saved.
        Raises FileNotFoundError, ConfigError: nothing there, or it does not fit.
        """
        if not directory:
            log.info("no model is loaded: no directory given")
            return
        for name in [name for name, model in self._models.items() if isinstance(model, Learner)]:
            path = _checkpoint_path(Path(directory) / name, epoch)
            checkpoint = read_checkpoint(path)
            state = named_tensors(checkpoint, path)
            print(f'Loading weights to {name} from "{path}" (epoch = {checkpoint.get("epoch")})')
            self._models[name].load(state, str(path))

    def extra_result(self) -> dict:
        """What result.json says beside the measures: the number of learned parameters; on how many views of each image this
        run trained, where 0 is a fresh one every epoch, and None that nothing was trained."""
        learned = [p for model in self._models.values() for p in model.parameters() if p.requires_grad]
        return {"trainable_parameters": sum(p.numel() for p in learned), "views": self._trained_on}


def group_index(items: Sequence[Any], groups: dict[str, str]) -> Tensor | None:
    """(N,) number of each item's group, by the groups' names in order; None where an item has no group.

    Args:
        groups: path of an item -> name of its group.
    """
    names = [groups.get(item.impath) for item in items]
    if not names or None in names:
        return None
    order = sorted(map(str, set(names)))
    return torch.tensor([order.index(str(name)) for name in names])


def _read_section(cfg: Any, section: str, options: dict[str, Option]) -> SimpleNamespace:
    if section not in cfg.TRAINER:
        raise ConfigError(f"TRAINER.{section} is missing; call dicap.extend_cfg(cfg) before the files are merged")
    return read_options(cfg.TRAINER[section], options, f"TRAINER.{section}")


def _checkpoint_path(folder: Path, epoch: int | None) -> Path:
    if epoch is not None:
        path = folder / f"model.pth.tar-{epoch}"
    else:
        path = folder / "model-best.pth.tar"
        if not path.is_file() and (folder / "checkpoint").is_file():
            path = folder / Path((folder / "checkpoint").read_text().strip()).name
    if not path.is_file():
        there = sorted(p.name for p in folder.glob("model*"))
        raise FileNotFoundError(f'Model not found at "{path}"; there are: {", ".join(there) or "none"}')
    return path
