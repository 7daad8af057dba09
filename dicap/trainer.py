"""What all prompt trainers share: one method = one subclass with OPTIONS, build_prompt and loss.

    class CoOp(PromptTrainer):
        OPTIONS = {"N_CTX": Option(16, "..."), ...}
        def build_prompt(self, clip, names): return StaticContext(...)
        def loss(self, batch): ...; return logits, {"ce": ...}        # the sum of the losses is minimised

It runs on Dassl's TrainerX and speaks to `dassl.*` alone. The towers are frozen; the prompt and its optimiser are fp32.
PREC: fp32; bf16 = autocast; amp = autocast to fp16 on a GPU (fp32 on a CPU), which waits for the GPU once a step, to see
whether a gradient overflowed; fp16 = frozen towers in fp16 on a GPU. Evaluation is never under autocast.
"""

import logging
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from dassl.data.samplers import build_sampler
from dassl.engine import TrainerX
from dassl.metrics import compute_accuracy
from dassl.optim import build_lr_scheduler, build_optimizer
from dassl.utils import load_checkpoint
from torch import Tensor, nn
from torch.utils.data import DataLoader

from dicap import features
from dicap.backbones import PRECISIONS, load_clip, weights_digest
from dicap.loading import keep_workers
from dicap.options import ConfigError, Option, read_options, section_name
from dicap.prompts import PromptedCLIP, load_prompt

log = logging.getLogger(__name__)

PREC = Option(
    "fp32",
    "fp32, bf16 (autocast, no loss scaling, CPU too), amp (autocast to fp16 on a GPU) or fp16 (frozen towers in"
    " fp16); the prompt is fp32 always: pure fp16 collapses some seeds",
    PRECISIONS,
)
CONTEXT = {
    "N_CTX": Option(16, "context tokens without CTX_INIT; 16 in the few-shot setting of the papers", least=1),
    "CTX_INIT": Option("", 'words to start the context from, "a photo of a" for base-to-new; they decide its length'),
    "PREC": PREC,
}


class PromptTrainer(TrainerX):
    """Trains the prompt of a frozen CLIP; see the head of this file. Raises ConfigError where the config does not fit."""

    OPTIONS: dict[str, Option] = {}
    train_loader_x: Any  # these three are Dassl's
    val_loader: Any
    test_loader: Any

    def check_cfg(self, cfg) -> None:
        self.read_options(cfg)

    def read_options(self, cfg) -> SimpleNamespace:
        """This method's section of the config as attributes in lower case."""
        name = section_name(type(self))
        if name not in cfg.TRAINER:
            raise ConfigError(f"TRAINER.{name} is missing; call dicap.extend_cfg(cfg) before the files are merged")
        return read_options(cfg.TRAINER[name], self.OPTIONS, f"TRAINER.{name}")

    def build_prompt(self, clip: nn.Module, names: list[str]) -> nn.Module:
        """The module that is learned."""
        raise NotImplementedError  # a method must say

    def loss(self, batch: dict) -> tuple[Tensor, dict[str, Tensor]]:
        """Logits (B, C) and the named losses of a batch on the device: img (B, 3, H, W) or (B, e), label (B,)."""
        raise NotImplementedError  # a method must say

    # -- building ----------------------------------------------------------------------------------------------------

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
        prompt = self.build_prompt(clip, self.dm.dataset.classnames).to(self.device)
        self.model = PromptedCLIP(clip, prompt, cfg.MODEL.TEXT_MEMORY)
        self._text: Tensor | None = None  # class features, encoded once an evaluation
        if cfg.MODEL.INIT_WEIGHTS:
            load_prompt(prompt, load_checkpoint(cfg.MODEL.INIT_WEIGHTS)["state_dict"], cfg.MODEL.INIT_WEIGHTS)
        self.scaler = torch.amp.GradScaler("cuda") if self._amp() else None
        if any(p.requires_grad for p in prompt.parameters()):
            self.optim = build_optimizer(prompt, cfg.OPTIM)
            self.sched = build_lr_scheduler(self.optim, cfg.OPTIM)
            self.register_model("prompt_learner", prompt, self.optim, self.sched)
        self._use_cached_features()
        self.views: Any = None  # (N, K, e), a tensor in training where INPUT.VIEWS > 0
        self._trained_on: int | None = None  # views of each image, once training begins

    def _amp(self) -> bool:
        return self.options.prec == "amp" and self.device.type == "cuda"

    def autocast(self):
        """Autocast where PREC is bf16, or amp and the device a GPU; else nothing."""
        kind = torch.bfloat16 if self.options.prec == "bf16" else torch.float16
        return torch.autocast(self.device.type, kind, enabled=self.options.prec == "bf16" or self._amp())

    def _use_cached_features(self) -> None:
        """Replace the images of the val and test loaders by features, where this run tests on them."""
        test, val = self.cfg.TEST, self.val_loader is not None
        if val and (test.SPLIT == "val" or test.FINAL_MODEL == "best_val"):
            self.val_loader = self._test_features(self.val_loader)
        if test.SPLIT != "val" or not val:
            self.test_loader = self._test_features(self.test_loader)

    def _test_features(self, loader: DataLoader) -> DataLoader:
        items = loader.dataset.data_source
        facts = self._facts(items, loader.dataset.transform)
        found = features.encode(self.model, loader, self.device, 1, facts)
        return self._loader(features.Features(found, items), train=False)

    def train_views(self, images: Sequence | None = None, facts: dict | None = None) -> Tensor:
        """(N, K, e): K augmented views of the training images, the same for every method of the same seed.

        Args:
            images: N pictures that stand in for the training images (uint8 arrays (H, W, 3)), seen through the same views.
            facts: what tells these pictures from others, for the cache.
        """
        cfg, items = self.cfg, self.dm.dataset.train_x
        transform = self._transform
        views = features.Views(items, transform, cfg.INPUT.VIEWS, max(cfg.SEED, 0), images)
        loader = DataLoader(
            views,
            cfg.DATALOADER.TEST.BATCH_SIZE,
            num_workers=cfg.DATALOADER.NUM_WORKERS,
            pin_memory=self.device.type == "cuda",
        )
        facts = {**self._facts(items, transform), "seed": views.seed, **(facts or {})}
        return features.encode(self.model, loader, self.device, cfg.INPUT.VIEWS, facts)

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
        sampler = build_sampler(
            part.SAMPLER,
            cfg=self.cfg,
            data_source=dataset.items,
            batch_size=size,
            n_domain=getattr(part, "N_DOMAIN", 0),
            n_ins=getattr(part, "N_INS", 0),
        )
        return DataLoader(
            dataset,
            size,
            sampler=sampler,
            drop_last=train and len(dataset) >= size,
            collate_fn=features.as_batch,
            pin_memory=self.device.type == "cuda",
        )

    # -- training ----------------------------------------------------------------------------------------------------

    def train(self) -> None:
        """Train, then test; a prompt without parameters is tested at once."""
        given = self.train_loader_x  # before_train replaces it
        if self._models:
            try:
                super().train()
            finally:  # its workers end at once: the garbage collector would wait 5 s for each
                self.train_loader_x = given
        else:
            log.info("%s has nothing to learn", type(self).__name__)
            self.test()

    def before_train(self) -> None:
        """Dassl's; where INPUT.VIEWS > 0 training sees cached features, else images from workers that stay."""
        self._trained_on = self.cfg.INPUT.VIEWS
        if not self.cfg.INPUT.VIEWS:
            self.train_loader_x = keep_workers(self.train_loader_x)
        elif self._models:
            self._transform = self.train_loader_x.dataset.transform  # of the images that the features replace
            self.views = self.train_views()
            self.train_loader_x = self._loader(features.Features(self.views, self.dm.dataset.train_x), train=True)
        super().before_train()

    def forward_backward(self, batch: dict) -> dict[str, Tensor]:
        """One step; losses and accuracy as detached tensors (), which nobody waits for."""
        batch = self.parse_batch_train(batch)
        with self.autocast():
            logits, losses = self.loss(batch)
            loss = torch.stack(list(losses.values())).sum() if len(losses) > 1 else next(iter(losses.values()))
        self._step(loss)
        if (self.batch_idx + 1) == self.num_batches:
            self.update_lr()
        summary = {
            "loss": loss,
            **(losses if len(losses) > 1 else {}),
            "acc": compute_accuracy(logits, batch["label"])[0],
        }
        return {name: value.detach().reshape(()) for name, value in summary.items()}

    def _step(self, loss: Tensor) -> None:
        if self.scaler is None:
            self.model_backward_and_update(loss)
            return
        self.detect_anomaly(loss)
        self.optim.zero_grad()
        self.scaler.scale(loss).backward()
        self.scaler.step(self.optim)
        self.scaler.update()

    def parse_batch_train(self, batch: dict) -> dict:
        """The batch with its tensors on the device."""
        return {
            key: value.to(self.device, non_blocking=True) if isinstance(value, Tensor) else value
            for key, value in batch.items()
        }

    # -- evaluation --------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def test(self, *args, **kwargs):
        """Dassl's test; the class features of a context that does not depend on the image are encoded once."""
        self._text = None if self.model.conditional else self.model.encode_text()
        try:
            return super().test(*args, **kwargs)
        finally:
            self._text = None

    def model_inference(self, image: Tensor) -> Tensor:
        """Logits (B, C) of images (B, 3, H, W) or features (B, e)."""
        if self._text is None:
            return self.model(image)
        return self.model.logits(self.model.encode_image(image), self._text)

    # -- saving and telling ------------------------------------------------------------------------------------------

    def load_model(self, directory: str, epoch: int | None = None) -> None:
        """Load a trained prompt: ours, or a published one of the family.

        Args:
            directory: the run's folder, which holds prompt_learner/.
            epoch: None = model-best, or where there is none the last epoch saved.
        Raises:
            FileNotFoundError, ConfigError: nothing there, or it does not fit.
        """
        if not directory:
            log.info("no model is loaded: no directory given")
            return
        for name in self.get_model_names():
            path = _checkpoint_path(Path(directory) / name, epoch)
            checkpoint = load_checkpoint(str(path))
            print(f'Loading weights to {name} from "{path}" (epoch = {checkpoint.get("epoch")})')
            load_prompt(self._models[name], checkpoint["state_dict"], str(path))

    def extra_result(self) -> dict:
        """What result.json says beside the measures: the number of learned parameters; on how many views of each image this run
        trained, where 0 is a fresh one every epoch, and None that nothing was trained."""
        learned = [p for model in self._models.values() for p in model.parameters() if p.requires_grad]
        return {"trainable_parameters": sum(p.numel() for p in learned), "views": self._trained_on}


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
