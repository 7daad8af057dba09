"""A dataset and trainers written against `dassl` names only, as another repository would; also a script.

    python toy.py make ROOT                     writes the pictures
    python toy.py train ROOT OUTPUT [KEY VALUE ...]
    python toy.py kill ROOT OUTPUT TIMES SEED   trains 60 epochs, is killed again and again, also inside a save

Training uses every generator (random, numpy, torch): a resume that forgets one of them ends elsewhere.
"""

import hashlib
import os
import random
import signal
import sys
import time

import dicap.engine  # noqa: F401  isort: skip  answers to dassl
import numpy as np
import torch
from dassl.config import get_cfg_default
from dassl.data.datasets import DATASET_REGISTRY, DatasetBase, Datum
from dassl.engine import TRAINER_REGISTRY, TrainerX, TrainerXU, build_trainer
from dassl.metrics import compute_accuracy
from dassl.optim import build_lr_scheduler, build_optimizer
from dassl.utils import listdir_nohidden, read_image, set_random_seed
from PIL import Image
from torch.nn import functional as F

CLASSES, COUNTS = ("red", "green", "blue"), {"train": 8, "val": 4, "test": 5}


def make(root):
    """Noisy pictures of 20 x 20 pixels, one colour a class; a fourth of `train` again as `unlabelled`."""
    draw = np.random.default_rng(0)
    for split, count in COUNTS.items():
        for label, name in enumerate(CLASSES):
            os.makedirs(os.path.join(root, split, name), exist_ok=True)
            for i in range(count):
                pixels = draw.integers(0, 150, (20, 20, 3))
                pixels[..., label] += 80
                Image.fromarray(pixels.astype(np.uint8)).save(os.path.join(root, split, name, f"{i}.png"))


@DATASET_REGISTRY.register()
class ToyColours(DatasetBase):
    def __init__(self, cfg):
        train, val, test = (self.read(os.path.join(cfg.DATASET.ROOT, split)) for split in COUNTS)
        unlabelled = train[:6]
        if cfg.DATASET.NUM_SHOTS >= 1:
            train = self.generate_fewshot_dataset(train, num_shots=cfg.DATASET.NUM_SHOTS)
        super().__init__(train_x=train, train_u=unlabelled, val=val, test=test)

    @staticmethod
    def read(folder):
        return [
            Datum(os.path.join(folder, name, file), label, label % 2, name)
            for label, name in enumerate(CLASSES)
            for file in listdir_nohidden(os.path.join(folder, name), sort=True)
        ]


class ToyModel(TrainerX):
    def build_model(self):
        self.model = torch.nn.Sequential(
            torch.nn.AvgPool2d(4), torch.nn.Flatten(), torch.nn.Dropout(0.1), torch.nn.Linear(48, self.num_classes)
        ).to(self.device)
        self.optim = build_optimizer(self.model, self.cfg.OPTIM)
        self.sched = build_lr_scheduler(self.optim, self.cfg.OPTIM)
        self.register_model("toy", self.model, self.optim, self.sched)


@TRAINER_REGISTRY.register()
class Toy(ToyModel):
    RESUMABLE = True

    def forward_backward(self, batch):
        image, label = batch["img"].to(self.device), batch["label"].to(self.device)
        noise = random.gauss(0, 0.01) + np.random.randn() * 0.01 + torch.randn(()) * 0.01
        output = self.model(image + noise)
        loss = F.cross_entropy(output, label)
        self.model_backward_and_update(loss)
        if self.batch_idx + 1 == self.num_batches:
            self.update_lr()
        return {"loss": loss.item(), "acc": compute_accuracy(output, label)[0].item()}


@TRAINER_REGISTRY.register()
class ToyXU(ToyModel, TrainerXU):
    RESUMABLE = True
    run_epoch, parse_batch_train = TrainerXU.run_epoch, TrainerXU.parse_batch_train

    def forward_backward(self, batch_x, batch_u):
        image, label, other = self.parse_batch_train(batch_x, batch_u)
        loss = F.cross_entropy(self.model(image), label) + 0.1 * self.model(other).square().mean()
        self.model_backward_and_update(loss)
        return {"loss": loss}


def config(root, output, *options):
    cfg = get_cfg_default()
    cfg.merge_from_list(
        [
            "DATASET.ROOT",
            root,
            "DATASET.NAME",
            "ToyColours",
            "DATASET.NUM_SHOTS",
            6,
            "OUTPUT_DIR",
            output,
            "SEED",
            0,
            "INPUT.SIZE",
            (16, 16),
            "INPUT.TRANSFORMS",
            ("random_resized_crop", "random_flip", "normalize"),
            "USE_CUDA",
            False,
            "DATALOADER.NUM_WORKERS",
            0,
            "DATALOADER.TRAIN_X.BATCH_SIZE",
            4,
            "DATALOADER.TEST.BATCH_SIZE",
            6,
            "OPTIM.NAME",
            "sgd",
            "OPTIM.LR",
            0.02,
            "OPTIM.LR_SCHEDULER",
            "cosine",
            "OPTIM.MAX_EPOCH",
            6,
            "OPTIM.WARMUP_EPOCH",
            1,
            "OPTIM.WARMUP_TYPE",
            "constant",
            "TRAIN.PRINT_FREQ",
            2,
            "TRAINER.NAME",
            "Toy",
        ]
    )
    cfg.merge_from_list(list(options))
    cfg.freeze()
    return cfg


def build(cfg):
    set_random_seed(cfg.SEED)
    return build_trainer(cfg)


def digest(model):
    """SHA-256 over all parameters."""
    sums = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        sums.update(name.encode() + value.cpu().numpy().tobytes())
    return sums.hexdigest()


def train(root, output, *options):
    trainer = build(config(root, output, *options))
    trainer.train()
    return digest(trainer.model)


def kill_again_and_again(root, output, times, seed):
    """Trains in forked children that are killed: by turns at a random moment, and halfway through a random save."""
    import torch.utils.tensorboard  # noqa: F401  once, before forking

    read_image(os.path.join(root, "test", CLASSES[0], "0.png"))
    dice = random.Random(seed)
    kills = 0
    while True:
        inside = dice.randrange(1, 5) if kills % 2 else 0
        child = os.fork()
        if child == 0:
            if inside and kills < times:
                _die_in_save(inside)
            print("digest", train(root, output, "OPTIM.MAX_EPOCH", "60"), flush=True)
            os._exit(0)
        if not inside and kills < times:
            time.sleep(dice.uniform(0.01, 0.2))
            os.kill(child, signal.SIGKILL)
        if os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0:
            break
        kills += 1
    print("kills", kills)


def _die_in_save(call):
    """The call-th torch.save writes half of its bytes, and the process is gone."""
    save, calls = torch.save, iter(range(1, 10**6))

    def half(state, file):
        import io

        whole = io.BytesIO()
        save(state, whole)
        last = next(calls) == call
        file.write(whole.getvalue()[: len(whole.getvalue()) // 2] if last else whole.getvalue())
        if last:
            file.flush()
            os.kill(os.getpid(), signal.SIGKILL)

    torch.save = half


if __name__ == "__main__":
    torch.set_num_threads(1)
    command, *arguments = sys.argv[1:]
    if command == "make":
        make(*arguments)
    elif command == "train":
        print("digest", train(*arguments))
    else:
        kill_again_and_again(arguments[0], arguments[1], int(arguments[2]), int(arguments[3]))
