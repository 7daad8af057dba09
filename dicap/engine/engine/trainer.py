"""The training loop that plugins fill in: build_model, forward_backward(batch), model_inference.

    train: before_train (resume, TensorBoard) -> each epoch: before_epoch, run_epoch, after_epoch -> after_train (test)

After each epoch everything that the rest depends on goes into a resume file (dicap.engine.engine.resume): a run that is
killed at any moment and started again ends with the same parameters, bit for bit, as one that was not. This takes a class
that says RESUMABLE = True: registered models hold all that its training changes, or resume_state and load_resume_state
add the rest. A killed run of another class starts anew: what it keeps elsewhere would be lost. Random numbers that
before_train draws do not shift those of the epochs, so that a stage that is computed once and read from a cache later
gives the same training.

A step that returns tensors is never waited for: averages, points of TensorBoard and the check of the losses are made
together, whenever a line is printed and at the end of an epoch.
"""

import hashlib
import logging
import math
import os
import shutil
import time
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from datetime import timedelta
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader

from dicap.console import progress_bar
from dicap.engine.data import DataManager
from dicap.engine.engine.resume import epochs_done, load_resume, random_state, save_resume, set_random_state
from dicap.engine.evaluation import build_evaluator
from dicap.engine.utils import load_checkpoint, save_checkpoint, tolist_if_not
from dicap.engine.utils.meters import AverageMeter, MetricMeter, detached, read_numbers
from dicap.engine.utils.torchtools import last_checkpoint, load_state, resume_from_checkpoint
from dicap.files import replacing
from dicap.inert import check_finite, named_tensors
from dicap.options import PLACES, ConfigError, flatten, plain

try:
    from torch.utils.tensorboard import SummaryWriter
except ImportError:  # then there is no TensorBoard log
    SummaryWriter = None

__all__ = ["SimpleTrainer", "TrainerBase", "TrainerX", "TrainerXU"]

_log = logging.getLogger(__name__)
_BEST = "model-best.pth.tar"


class TrainerBase:
    """Named models with their optimisers and schedules, and the loop over epochs."""

    RESUMABLE = False  # each class says so itself: no other state than registered models and resume_state
    output_dir = ""
    best_result = float("-inf")
    cfg: Any = None
    epoch = batch_idx = 0

    def __init__(self) -> None:
        self._models: OrderedDict[str, nn.Module] = OrderedDict()
        self._optims: OrderedDict[str, Any] = OrderedDict()
        self._scheds: OrderedDict[str, Any] = OrderedDict()
        self._writer: Any = None
        self._unchecked: list[tuple[int, int, torch.Tensor]] = []  # epoch, batch, loss
        self._resumed_random_state: dict[str, Any] | None = None

    # -- registered models

    def register_model(self, name: str = "model", model: Any = None, optim: Any = None, sched: Any = None) -> None:
        """Makes a model known to saving, loading, modes and updates; ValueError where the name is taken."""
        if "_models" not in self.__dict__:
            raise AttributeError("register_model was called before super().__init__()")
        if name in self._models:
            raise ValueError(f"a model named {name} is registered already")
        self._models[name], self._optims[name], self._scheds[name] = model, optim, sched

    def get_model_names(self, names: str | list[str] | None = None) -> list[str]:
        """All registered names, or the given ones; raises ValueError where one is not registered."""
        if names is None:
            return list(self._models)
        for name in tolist_if_not(names):
            if name not in self._models:
                raise ValueError(f"no model named {name} is registered; there are {list(self._models)}")
        return tolist_if_not(names)

    def set_model_mode(self, mode: str = "train", names: str | list[str] | None = None) -> None:
        """Puts registered models, and only those, into mode train, test or eval; raises KeyError for another mode."""
        if mode not in ("train", "test", "eval"):
            raise KeyError(f"mode {mode}: there are train, test, eval")
        for name in self.get_model_names(names):
            self._models[name].train(mode == "train")

    def update_lr(self, names: str | list[str] | None = None) -> None:
        """Steps the schedules: once an epoch, in its last batch."""
        for name in self.get_model_names(names):
            if self._scheds[name] is not None:
                self._scheds[name].step()

    def get_current_lr(self, names: str | list[str] | None = None) -> float:
        """Learning rate of the first parameter group of the first model."""
        return self._optims[self.get_model_names(names)[0]].param_groups[0]["lr"]

    def detect_anomaly(self, loss: torch.Tensor) -> None:
        """Notes a loss for check_losses(): looking at it now would make the host wait for the GPU in each step."""
        self._unchecked.append((self.epoch, self.batch_idx, detached(loss.detach().sum())))

    def check_losses(self) -> None:
        """Raises FloatingPointError at the first loss that is not finite. Called before anything is saved."""
        values = read_numbers([loss for _, _, loss in self._unchecked])
        for (epoch, batch, _), value in zip(self._unchecked, values):
            if not math.isfinite(value):
                raise FloatingPointError(
                    f"the loss is {value} in epoch {epoch + 1}, batch {batch + 1}: lower OPTIM.LR, or use PREC fp32"
                )
        self._unchecked = []

    def model_zero_grad(self, names: str | list[str] | None = None) -> None:
        """Clears gradients."""
        for name in self.get_model_names(names):
            if self._optims[name] is not None:
                self._optims[name].zero_grad()

    def model_backward(self, loss: torch.Tensor) -> None:
        """Propagates the loss back; check_losses() will say whether it was finite."""
        self.detect_anomaly(loss)
        loss.backward()

    def model_update(self, names: str | list[str] | None = None) -> None:
        """Steps the optimisers."""
        for name in self.get_model_names(names):
            if self._optims[name] is not None:
                self._optims[name].step()

    def model_backward_and_update(self, loss: torch.Tensor, names: str | list[str] | None = None) -> None:
        """Clears gradients, propagates the loss back, steps the optimisers."""
        self.model_zero_grad(names)
        self.model_backward(loss)
        self.model_update(names)

    # -- checkpoints

    def save_model(
        self, epoch: int, directory: str, is_best: bool = False, val_result: float | None = None, model_name: str = ""
    ) -> None:
        """Writes directory/<model>/model.pth.tar-<epoch + 1> (or model_name) for each model, if losses and parameters are finite."""
        self.check_losses()
        for name in self.get_model_names():
            state = {**self._state(name), "epoch": epoch + 1, "val_result": val_result}
            save_checkpoint(state, str(Path(directory, name)), is_best=is_best, model_name=model_name)

    def _state(self, name: str) -> dict[str, Any]:
        what = f"{name} after epoch {self.epoch + 1} (lower OPTIM.LR, or use PREC fp32)"
        check_finite(dict(self._models[name].named_parameters()), what)
        optim, sched = self._optims[name], self._scheds[name]
        return {
            "state_dict": self._models[name].state_dict(),
            "optimizer": None if optim is None else optim.state_dict(),
            "scheduler": None if sched is None else sched.state_dict(),
        }

    def load_model(self, directory: str, epoch: int | None = None) -> None:
        """Loads each model from directory/<model>, where directory is the OUTPUT_DIR of the run; empty loads nothing.

        epoch: of the checkpoint; None: the best one, or the last where training kept no best (FINAL_MODEL last_step).
        Raises FileNotFoundError, or ValueError where the checkpoint is damaged or does not fit the model.
        """
        if not directory:
            _log.info("load_model() is skipped: no directory of a trained model was given")
            return
        for name in self.get_model_names():
            path = self._checkpoint_path(Path(directory, name), epoch)
            checkpoint = load_checkpoint(path)
            state = named_tensors(checkpoint, path)
            print(f'Loading weights to {name} from "{path}" (epoch = {checkpoint.get("epoch")})')
            load_state(self._models[name], state, path)

    def _checkpoint_path(self, folder: Path, epoch: int | None) -> Path:
        path = folder / (_BEST if epoch is None else f"model.pth.tar-{epoch}")
        last_will_do = epoch is None and (self.cfg is None or self.cfg.TEST.FINAL_MODEL == "last_step")
        if not path.exists() and last_will_do and (folder / "checkpoint").exists():
            path = last_checkpoint(folder)
        if not path.exists():
            existing = sorted(p.name for p in folder.glob("model*.pth.tar*"))
            raise FileNotFoundError(
                f"no model at {path}; in its folder: {', '.join(existing) or 'none'}. Check "
                "--model-dir and --load-epoch, or train first"
            )
        return path

    # -- resume

    def resume_state(self) -> dict[str, Any]:
        """What a method needs beyond its registered models to go on exactly: tensors, plain values. Here: the GradScaler."""
        scaler = getattr(self, "scaler", None)
        return {"scaler": scaler.state_dict()} if scaler is not None else {}

    def load_resume_state(self, state: dict[str, Any]) -> None:
        """Takes back what resume_state gave."""
        if state.get("scaler"):
            self.scaler.load_state_dict(state["scaler"])  # type: ignore[attr-defined]

    def save_resume(self) -> None:
        """Writes the resume file of the epoch that has just ended, if its losses and the parameters are finite."""
        self.check_losses()
        if self._is_resumable():
            self._write_resume(self.epoch + 1)

    def _is_resumable(self) -> bool:
        return vars(type(self)).get("RESUMABLE", False)

    def _write_resume(self, epochs: int) -> None:
        if not self.output_dir or not self._models:
            return
        state = {
            "epoch": epochs,
            "run": self._run_facts,
            "best_result": float(self.best_result),
            "models": {name: self._state(name) for name in self._models} if epochs else {},
            "extra": self.resume_state(),
            "random": random_state(),
        }
        save_resume(Path(self.output_dir, "resume"), state, epochs)

    def resume_model_if_exist(self, directory: str) -> int:
        """Takes the newest whole resume file in a run's folder, or else, as Dassl does, the family's checkpoints there.

        Returns the epochs done: 0, to start anew, where OUTPUT_DIR holds nothing, or damaged resume files. Raises ConfigError
        for a file of another run or other models, and for another folder that holds nothing whole.
        """
        folder, own = Path(directory, "resume"), self._is_own(directory)
        newest = load_resume(folder)
        if newest is not None and (own or newest[0]["epoch"]):
            return self._restore(*newest)
        folders = {name: Path(directory, name) for name in self.get_model_names()}
        damaged = newest is None and any(folder.glob("epoch-*.pt"))  # no checkpoint tells as much as they did
        if damaged or not folders or not all((folder / "checkpoint").exists() for folder in folders.values()):
            if not own:
                what = "damaged resume files alone" if damaged else "neither resume files nor checkpoints"
                raise ConfigError(f"{directory} holds {what}: name another folder, or leave --resume out to start anew")
            print("No checkpoint found, train from scratch")
            return 0
        print(f"Found checkpoint at {directory} (will resume training)")
        _log.warning("checkpoints hold no random state: this run will not end exactly as one that never stopped")
        for name, folder in folders.items():
            parts = self._models[name], self._optims[name], self._scheds[name]
            epochs = resume_from_checkpoint(str(folder), *parts)
        return epochs

    def _is_own(self, directory: str | Path) -> bool:
        return os.path.realpath(directory) == os.path.realpath(self.output_dir)

    def _restore(self, state: dict[str, Any], path: Path) -> int:
        folder, current = path.parent.parent, self._run_facts
        differing = [
            f"{key} was {was} and is {current[key]}"
            for key, was in state["run"].items()
            if current.get(key, was) != was  # a key that only one of them has is of another plug-in or version
        ]
        if differing and (state["epoch"] or any(folder.glob("*/model*.pth.tar*"))):
            raise ConfigError(
                f"{path} is of another run: {', '.join(differing)}. Choose another OUTPUT_DIR, or delete {folder}"
            )
        if not state["epoch"]:
            print("No epoch is done, train from scratch")
            return 0
        for name, saved in state["models"].items():
            load_state(self._models[name], saved["state_dict"], path)
            if saved["optimizer"] is not None:
                self._optims[name].load_state_dict(saved["optimizer"])
            if saved["scheduler"] is not None:
                self._scheds[name].load_state_dict(saved["scheduler"])
            best = folder / name / _BEST
            if state["best_result"] > float("-inf") and not self._is_own(folder):
                load_checkpoint(best)  # raises where it is damaged
                with replacing(Path(self.output_dir, name, _BEST)) as temporary:
                    shutil.copyfile(best, temporary)
        self.best_result = state["best_result"]
        self.load_resume_state(state["extra"])
        self._resumed_random_state = state["random"]
        self.epoch = state["epoch"] - 1
        print(f"Resuming after epoch {state['epoch']} from {path}")
        return int(state["epoch"])

    @cached_property
    def _run_facts(self) -> dict[str, Any]:
        """What must agree between a resume file and the run that takes it: all that decides its numbers."""
        if self.cfg is None:
            return {}
        dataset = getattr(getattr(self, "dm", None), "dataset", None)
        files = [
            (os.path.basename(item.impath), os.path.isfile(item.impath) and os.path.getsize(item.impath), item.label)
            for split in ("train_x", "train_u", "val")
            for item in getattr(dataset, split, None) or ()
        ]
        names = getattr(dataset, "classnames", None)
        workers = "DATALOADER.NUM_WORKERS"  # each draws random numbers of its own
        settings = flatten(plain(self.cfg)).items()
        return {
            **{key: value for key, value in settings if key not in PLACES or key == workers},
            "the training set": hashlib.sha256(repr([files, names]).encode()).hexdigest()[:16],
        }

    # -- TensorBoard

    def init_writer(self, log_dir: str) -> None:
        """Opens TensorBoard's event file, if TensorBoard is installed."""
        if self.__dict__.get("_writer") is not None:
            return
        if SummaryWriter is None:
            _log.info("no TensorBoard log: torch.utils.tensorboard cannot be imported (pip install tensorboard)")
            return
        _log.info("Initialize tensorboard (log_dir=%s)", log_dir)
        self._writer = SummaryWriter(log_dir=log_dir)

    def close_writer(self) -> None:
        """Closes the event file."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def write_scalar(self, tag: str, scalar_value: Any, global_step: int | None = None) -> None:
        """Adds a point to a curve, while an event file is open."""
        if self._writer is not None:
            self._writer.add_scalar(tag, scalar_value, global_step)

    # -- the loop

    def train(self, start_epoch: int, max_epoch: int) -> None:
        """All epochs from start_epoch, or from where a resume file says, to max_epoch."""
        self.start_epoch, self.max_epoch = start_epoch, max_epoch
        at_start = random_state()
        try:
            self.before_train()
            set_random_state(self._resumed_random_state or at_start)
            if not self.start_epoch or self.start_epoch != epochs_done(Path(self.output_dir, "resume")):
                self._write_resume(self.start_epoch)  # from now on OUTPUT_DIR is this run's
            if not self._is_resumable():
                _log.info("%s is not RESUMABLE: if it is stopped, it starts anew", type(self).__name__)
            for self.epoch in range(self.start_epoch, self.max_epoch):  # noqa: B020
                self.before_epoch()
                self.run_epoch()
                self.check_losses()
                self.after_epoch()
                self.save_resume()
            self.after_train()
        finally:
            self.close_writer()

    def before_train(self) -> None:
        """Called once, first."""

    def after_train(self) -> None:
        """Called once, last."""

    def before_epoch(self) -> None:
        """Called before each epoch."""

    def after_epoch(self) -> None:
        """Called after each epoch."""

    def run_epoch(self) -> None:
        """Trains for one epoch."""
        raise NotImplementedError

    def forward_backward(self, batch: Any) -> Any:
        """One training step; returns a dict of numbers to report."""
        raise NotImplementedError


class SimpleTrainer(TrainerBase):
    """Builds loaders, model and evaluator from a configuration; trains, keeps checkpoints, tests."""

    model: Any  # what build_model makes
    num_batches: int  # of the running epoch

    def __init__(self, cfg: Any) -> None:
        super().__init__()
        self.check_cfg(cfg)
        self.device = torch.device("cuda" if torch.cuda.is_available() and cfg.USE_CUDA else "cpu")
        self.start_epoch = self.epoch = 0
        self.max_epoch = cfg.OPTIM.MAX_EPOCH
        self.output_dir = cfg.OUTPUT_DIR
        self.cfg = cfg
        self.build_data_loader()
        self.build_model()
        self.evaluator = build_evaluator(cfg, lab2cname=self.lab2cname)
        self.best_result = float("-inf")

    def check_cfg(self, cfg: Any) -> None:
        """Checks the configuration before any work; a method raises here."""

    def build_data_loader(self) -> None:
        """Sets dm, its four loaders, num_classes, num_source_domains and lab2cname."""
        dm = DataManager(self.cfg)
        self.train_loader_x = dm.train_loader_x
        self.train_loader_u = dm.train_loader_u
        self.val_loader = dm.val_loader
        self.test_loader = dm.test_loader
        self.num_classes = dm.num_classes
        self.num_source_domains = dm.num_source_domains
        self.lab2cname = dm.lab2cname
        self.dm = dm

    def build_model(self) -> None:
        """Builds the model, its optimiser and schedule, and registers them."""
        raise NotImplementedError

    def train(self) -> None:  # type: ignore[override]
        """Trains from the resumed epoch, or the first, to OPTIM.MAX_EPOCH."""
        super().train(self.start_epoch, self.max_epoch)

    def before_train(self) -> None:
        """Resumes, opens the TensorBoard log, starts the clock.

        A run continues from its own OUTPUT_DIR; cfg.RESUME names the folder of another run to begin from.
        """
        directory = self.output_dir
        if self.cfg.RESUME and not epochs_done(Path(self.output_dir, "resume")):
            directory = self.cfg.RESUME
            if not Path(directory).is_dir():
                raise FileNotFoundError(f"RESUME {directory} is no folder: give the OUTPUT_DIR of the run to continue")
        self.start_epoch = self.resume_model_if_exist(directory) if directory else 0
        self.init_writer(str(Path(self.output_dir, "tensorboard")))
        self.time_start = time.time()

    def after_train(self) -> None:
        """Tests the final model: the last one, or with TEST.FINAL_MODEL best_val the best."""
        print("Finish training")
        if not self.cfg.TEST.NO_TEST:
            if self.cfg.TEST.FINAL_MODEL == "best_val":
                print("Deploy the model with the best val performance")
                self.load_model(self.output_dir)
            else:
                print("Deploy the last-epoch model")
            self.test()
        print(f"Elapsed: {timedelta(seconds=round(time.time() - self.time_start))}")
        self.close_writer()

    def after_epoch(self) -> None:
        """Keeps the best model on val (TEST.FINAL_MODEL best_val), one every TRAIN.CHECKPOINT_FREQ epochs and the last."""
        done, every = self.epoch + 1, self.cfg.TRAIN.CHECKPOINT_FREQ
        if not self.cfg.TEST.NO_TEST and self.cfg.TEST.FINAL_MODEL == "best_val":
            result = self.test(split="val")
            if result > self.best_result:
                self.best_result = result
                self.save_model(self.epoch, self.output_dir, val_result=result, model_name=_BEST)
        if done == self.max_epoch or (every > 0 and done % every == 0):
            self.save_model(self.epoch, self.output_dir)

    @torch.no_grad()
    def test(self, split: str | None = None) -> Any:
        """The evaluator's first value, the accuracy in percent, on a split (default TEST.SPLIT; without a val: test)."""
        self.set_model_mode("eval")
        self.evaluator.reset()
        split = "val" if (split or self.cfg.TEST.SPLIT) == "val" and self.val_loader is not None else "test"
        loader = self.val_loader if split == "val" else self.test_loader
        print(f"Evaluate on the *{split}* set")
        for batch in progress_bar(loader):
            input, label = self.parse_batch_test(batch)
            self.evaluator.process(self.model_inference(input), label)
        results = self.evaluator.evaluate()
        for name, value in results.items():
            self.write_scalar(f"{split}/{name}", value, self.epoch)
        return next(iter(results.values()))

    def model_inference(self, input: torch.Tensor) -> Any:
        """Scores (B, C) for images (B, 3, H, W)."""
        return self.model(input)

    def parse_batch_test(self, batch: dict[str, Any]) -> tuple[torch.Tensor, torch.Tensor]:
        """Images and labels."""
        return batch["img"].to(self.device, non_blocking=True), batch["label"].to(self.device, non_blocking=True)

    def _run_batches(self, batches: Iterable[tuple[Any, ...]]) -> None:
        """forward_backward on each; prints averages every TRAIN.PRINT_FREQ batches, in a shorter epoch in the last one."""
        self.set_model_mode("train")
        losses, batch_time, data_time = MetricMeter(), AverageMeter(), AverageMeter()
        every = min(self.cfg.TRAIN.PRINT_FREQ, self.num_batches)
        rates: list[float] = []  # of the batches since the last line
        end = time.time()
        for self.batch_idx, batch in enumerate(batches):
            data_time.update(time.time() - end)
            losses.update(self.forward_backward(*batch))
            rates.append(self.get_current_lr())
            due = (self.batch_idx + 1) % every == 0
            if due or self.batch_idx + 1 == self.num_batches:  # the wait for the GPU belongs to the time of this batch
                self._write_points(losses, rates)
            batch_time.update(time.time() - end)
            if due:
                self._print_progress(losses, batch_time, data_time)
            end = time.time()

    def _write_points(self, losses: MetricMeter, rates: list[float]) -> None:
        """Averages and rates of the batches since the last call, the newest one being batch_idx; empties rates."""
        averages = losses.read()
        first = self.epoch * self.num_batches + self.batch_idx + 1 - len(rates)
        for step, (average, rate) in enumerate(zip(averages, rates), first):
            for name, value in average.items():
                self.write_scalar(f"train/{name}", value, step)
            self.write_scalar("train/lr", rate, step)
        rates.clear()
        self.check_losses()

    def _print_progress(self, losses: MetricMeter, batch_time: AverageMeter, data_time: AverageMeter) -> None:
        left = self.num_batches - self.batch_idx - 1 + (self.max_epoch - self.epoch - 1) * self.num_batches
        print(
            f"epoch [{self.epoch + 1}/{self.max_epoch}] batch [{self.batch_idx + 1}/{self.num_batches}] "
            f"time {batch_time.val:.3f} ({batch_time.avg:.3f}) data {data_time.val:.3f} ({data_time.avg:.3f}) "
            f"{losses} lr {self.get_current_lr():.4e} eta {timedelta(seconds=int(batch_time.avg * left))}"
        )


class TrainerX(SimpleTrainer):
    """Trains on labelled data; a method implements forward_backward(batch)."""

    def run_epoch(self) -> None:
        """One pass over train_loader_x."""
        self.num_batches = len(self.train_loader_x)
        self._run_batches((batch,) for batch in self.train_loader_x)

    def parse_batch_train(self, batch: dict[str, Any]) -> Any:
        """Images, labels, domains."""
        return tuple(batch[key].to(self.device) for key in ("img", "label", "domain"))


class TrainerXU(SimpleTrainer):
    """Trains on labelled and unlabelled data; a method implements forward_backward(batch_x, batch_u)."""

    def run_epoch(self) -> None:
        """As many steps as cfg.TRAIN.COUNT_ITER says; a loader that ends sooner begins again."""
        if self.train_loader_u is None:
            raise ValueError(f"{type(self).__name__} needs unlabelled data, but {self.cfg.DATASET.NAME} has no train_u")
        len_x, len_u = len(self.train_loader_x), len(self.train_loader_u)
        counts = {"train_x": len_x, "train_u": len_u, "smaller_one": min(len_x, len_u)}
        if self.cfg.TRAIN.COUNT_ITER not in counts:
            raise ValueError(f"TRAIN.COUNT_ITER {self.cfg.TRAIN.COUNT_ITER}: there are {', '.join(counts)}")
        self.num_batches = counts[self.cfg.TRAIN.COUNT_ITER]
        batches = zip(range(self.num_batches), _endless(self.train_loader_x), _endless(self.train_loader_u))
        self._run_batches((batch_x, batch_u) for _, batch_x, batch_u in batches)

    def parse_batch_train(self, batch_x: dict[str, Any], batch_u: dict[str, Any]) -> Any:
        """Labelled images, their labels, unlabelled images."""
        return batch_x["img"].to(self.device), batch_x["label"].to(self.device), batch_u["img"].to(self.device)


def _endless(loader: "DataLoader[Any]") -> Iterator[Any]:
    while True:
        yield from loader
