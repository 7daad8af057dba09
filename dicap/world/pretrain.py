"""Contrastive pretraining of the tiny CLIP on CausalShapes and drawn digits (Radford 2021, arXiv 2103.00020, fig. 3).

    python -m dicap.world pretrain --out tiny.safetensors [--pairs 1200000] [--seed 1] [--work DIR]

A batch is three quarters pictures of CausalShapes, class and scene independent, and one quarter drawn digits, each with a
random caption. A pair whose caption also fits another picture is left out of the loss (captions.fits). Each batch
depends on (seed, step) alone, and a run resumes from its working folder. The output, fp16 with an exponential moving
average of the weights, is rewritten at every evaluation, so an unfinished run leaves a usable, weaker file.
"""

import functools
import json
import logging
import math
import platform
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dicap.backbones import tiny
from dicap.backbones.package import clip_package
from dicap.files import replacing
from dicap.inert import read_checkpoint
from dicap.world import captions
from dicap.world.causal import sample
from dicap.world.evaluate import evaluate, normalize, write_card
from dicap.world.files import SEED_OFFSET
from dicap.world.glyphs import draw_digits
from dicap.world.render import PRETRAIN, SIZE, render_planar

log = logging.getLogger(__name__)
LENGTH = 22  # tokens of the longest caption with start and end; fewer than CLIP's 77, because attention costs
# The sizes of OpenAI's CLIP class, but for its vocabulary.
IMAGE_ENCODER = {"image_resolution": SIZE, "vision_layers": (1, 1, 2, 1), "vision_width": 24, "vision_patch_size": None}
TEXT_ENCODER = {"context_length": 77, "transformer_width": 128, "transformer_heads": 2, "transformer_layers": 3}
ARCHITECTURE = {"embed_dim": 128, **IMAGE_ENCODER, **TEXT_ENCODER}


@dataclass
class Recipe:
    """The settings of a run, recorded in the weights file and the model card."""

    pairs: int = 1_200_000
    seed: int = 1
    batch: int = 256
    digits: int = 64  # pairs of a batch that are digits
    lr: float = 1e-3
    weight_decay: float = 0.05
    warmup: int = 300  # steps
    ema: float = 0.999
    shift: float = 0.25  # share of captions at later positions, so that all 77 are learned

    def __post_init__(self) -> None:
        if not 0 <= self.seed < SEED_OFFSET:
            raise ValueError(f"seed must be in 0..{SEED_OFFSET - 1} (larger ones are the benchmark's), got {self.seed}")

    @property
    def steps(self) -> int:
        return math.ceil(self.pairs / self.batch)


def make_batch(recipe: Recipe, ids: list[int], step: int) -> tuple[Tensor, ...]:
    """The batch of a step: images (B, 3, 64, 64) uint8, tokens and positions (B, L), pairs to ignore (B, B) bool.

    Args:
        ids: the token ids of the compact vocabulary (`token_ids`); tokens are positions in this list.
    """
    rng = np.random.Generator(np.random.Philox(key=np.array([recipe.seed, step], np.uint64), counter=[0, 0, 1, 0]))
    world = recipe.batch - recipe.digits
    latents = sample(np.arange(step * world, (step + 1) * world), recipe.seed)
    digits = rng.integers(10, size=recipe.digits)
    shapes = _crop_and_flip(torch.from_numpy(render_planar(latents, PRETRAIN)), rng)
    images = torch.cat([shapes, torch.from_numpy(draw_digits(digits, rng))])
    attributes = np.concatenate([captions.world_attributes(latents), captions.digit_attributes(digits)])
    texts, mentioned = captions.write_captions(attributes, rng)
    ignore = captions.fits(mentioned, attributes)
    np.fill_diagonal(ignore, False)
    tokens = clip_package().tokenize(texts)
    assert not tokens[:, LENGTH:].any(), f"a caption is longer than {LENGTH} tokens"
    compact = tokens[:, :LENGTH].clone().apply_({token: row for row, token in enumerate(ids)}.__getitem__).long()
    shift = rng.integers(1, 77 - LENGTH, recipe.batch) * (rng.random(recipe.batch) < recipe.shift)
    positions = np.arange(LENGTH) + shift[:, None] * (np.arange(LENGTH) > 0)
    return images, compact, torch.from_numpy(positions), torch.from_numpy(ignore)


def _crop_and_flip(images: Tensor, rng: np.random.Generator) -> Tensor:
    """Half of the pictures cropped to 60 to 100 % of their width, half of those mirrored, as in few-shot training."""
    out = images.clone()
    for row in np.flatnonzero(rng.random(len(images)) < 0.5):
        side = int(rng.integers(38, SIZE + 1))
        top, left = rng.integers(0, SIZE - side + 1, 2)
        part = images[row : row + 1, :, top : top + side, left : left + side].float()
        part = F.interpolate(part, size=(SIZE, SIZE), mode="bilinear", align_corners=False)
        out[row] = part[0].round().flip(-1) if rng.random() < 0.5 else part[0].round()
    return out


def token_ids() -> list[int]:
    """The token ids of the compact vocabulary, ascending: padding (0), the captions' words, start and end of text."""
    tokenizer = clip_package().clip._tokenizer
    ids = {token for word in captions.vocabulary() for token in tokenizer.encode(word)}
    return sorted({0, *ids, tokenizer.encoder["<|startoftext|>"], tokenizer.encoder["<|endoftext|>"]})


def encode_text(model: nn.Module, tokens: Tensor, positions: Tensor) -> Tensor:
    """CLIP.encode_text of (B, L) tokens at (B, L) positions; equal to CLIP's own where these are 0..L-1."""
    x = model.token_embedding(tokens) + model.positional_embedding[positions]
    mask = model.transformer.resblocks[0].attn_mask[: x.shape[1], : x.shape[1]]
    x = x.permute(1, 0, 2)
    for block in model.transformer.resblocks:
        y = block.ln_1(x)
        x = x + block.attn(y, y, y, need_weights=False, attn_mask=mask.to(y.dtype))[0]
        x = x + block.mlp(block.ln_2(x))
    x = model.ln_final(x.permute(1, 0, 2))
    return x[torch.arange(len(x)), tokens.argmax(-1)] @ model.text_projection


def contrastive_loss(logit_scale: Tensor, f: Tensor, text: Tensor, ignore: Tensor) -> Tensor:
    """Symmetric InfoNCE of features f, text (B, e), without the pairs in `ignore` (B images, B captions)."""
    f, text = F.normalize(f.float(), dim=-1), F.normalize(text.float(), dim=-1)
    logits = (logit_scale.exp() * f @ text.T).masked_fill(ignore, -1e4)
    target = torch.arange(len(f), device=f.device)
    return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2


def pretrain(out: Path, work: Path, recipe: Recipe, *, minutes: float = math.inf, check_every: int = 250) -> dict:
    """Train, or resume, and write the weights to `out`; returns the accuracies of the last evaluation.

    Args:
        work: folder of the resumable state and log.jsonl.
        minutes: stop, resumably, after this much time in this call.
        check_every: steps between evaluations; each also saves the state and rewrites `out`.
    """
    run = _Run(recipe, work)
    steps, make = range(run.step, recipe.steps), functools.partial(make_batch, recipe, run.ids)
    loader = torch.utils.data.DataLoader(steps, batch_size=None, collate_fn=make, num_workers=1, prefetch_factor=4)
    began, accuracies, losses = time.monotonic(), {}, []
    for batch in loader:
        losses.append(run.train_step([part.to(run.device) for part in batch]))
        if run.step % 50 == 0:
            speed = recipe.batch * len(losses) / (time.monotonic() - began)
            values = run.step, recipe.steps, np.mean(losses[-50:]), run.model.logit_scale.exp().item(), run.lr(), speed
            log.info("step %d/%d loss %.3f scale %.1f lr %.2e %.0f pairs/s", *values)
        if run.step % check_every == 0 or run.step == recipe.steps:
            accuracies = run.checkpoint(out, float(np.mean(losses[-check_every:])))
        if time.monotonic() - began > 60 * minutes:
            break
    return accuracies


class _Run:
    """Model, moving average of its weights, optimiser and counters, resumed from the folder `work` if it holds a state."""

    def __init__(self, recipe: Recipe, work: Path):
        self.recipe, self.work, self.ids = recipe, work, token_ids()
        self.step, self.seconds = 0, 0.0
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        torch.manual_seed(recipe.seed)
        model = clip_package().model.CLIP(**ARCHITECTURE, vocab_size=len(self.ids))
        self.model = model.to(self.device, memory_format=torch.channels_last)
        self.average = {key: value.clone() for key, value in model.state_dict().items()}
        decayed = {n: p for n, p in model.named_parameters() if p.ndim > 1 and "embedding" not in n}
        others = [parameter for name, parameter in model.named_parameters() if name not in decayed]
        groups = [{"params": decayed.values()}, {"params": others, "weight_decay": 0.0}]
        self.optim = torch.optim.AdamW(groups, recipe.lr, (0.9, 0.98), eps=1e-6, weight_decay=recipe.weight_decay)
        work.mkdir(parents=True, exist_ok=True)
        if (work / "state.pt").exists():
            state = read_checkpoint(work / "state.pt")
            self.model.load_state_dict(state["model"])
            self.optim.load_state_dict(state["optim"])
            self.average = {key: value.to(self.device) for key, value in state["average"].items()}
            self.step, self.seconds = state["step"], state["seconds"]
            log.info("resumed at step %d of %d", self.step, recipe.steps)

    def lr(self) -> float:
        """Linear warm-up, then cosine to zero."""
        warmup = min(1.0, (self.step + 1) / self.recipe.warmup)
        return self.recipe.lr * warmup * (1 + math.cos(math.pi * self.step / self.recipe.steps)) / 2

    def train_step(self, batch: list[Tensor]) -> float:
        began = time.monotonic()
        images, tokens, positions, ignore = batch
        x = normalize(images).contiguous(memory_format=torch.channels_last)
        for group in self.optim.param_groups:
            group["lr"] = self.lr()
        with torch.autocast(self.device, torch.bfloat16):
            f, text = self.model.visual(x), encode_text(self.model, tokens, positions)
        loss = contrastive_loss(self.model.logit_scale, f, text, ignore)
        self.optim.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optim.step()
        self.step += 1
        self.update_average()
        self.seconds += time.monotonic() - began
        return loss.item()

    @torch.no_grad()
    def update_average(self) -> None:
        self.model.logit_scale.clamp_(0, math.log(100))
        decay = min(self.recipe.ema, (1 + self.step) / (10 + self.step))
        for key, value in self.model.state_dict().items():
            if value.is_floating_point():
                self.average[key].lerp_(value, 1 - decay)
            else:
                self.average[key].copy_(value)

    def checkpoint(self, out: Path, loss: float) -> dict:
        """Save the state, write the weights, evaluate the written file, add a line to log.jsonl."""
        finished = self.step == self.recipe.steps
        state = {"model": self.model.state_dict(), "average": self.average, "optim": self.optim.state_dict()}
        with replacing(self.work / "state.pt") as temporary, open(temporary, "wb") as file:
            torch.save({**state, "step": self.step, "seconds": self.seconds}, file)
        versions = {"torch": torch.__version__, "numpy": np.__version__, "python": platform.python_version()}
        metadata = {
            "pairs": str(self.step * self.recipe.batch),
            "seconds": f"{self.seconds:.0f}",
            "recipe": json.dumps(asdict(self.recipe)),
            "versions": json.dumps(versions),
            "device": f"{self.device}, {torch.get_num_threads()} threads",
            "complete": str(finished).lower(),
        }
        rows = self.average["token_embedding.weight"]
        embedding = rows.new_zeros(tiny.VOCABULARY, rows.shape[1])
        embedding[self.ids] = rows
        tiny.save({**self.average, "token_embedding.weight": embedding}, out, self.ids, metadata)
        accuracies = evaluate(out, count=4000 if finished else 1000)
        with open(self.work / "log.jsonl", "a") as file:
            line = {"step": self.step, "seconds": round(self.seconds), "loss": loss, **accuracies}
            file.write(json.dumps(line) + "\n")
        log.info("step %d loss %.3f %s", self.step, loss, accuracies)
        if finished:
            write_card(out, accuracies)
        return accuracies
