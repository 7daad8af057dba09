"""Contrastive pretraining of the tiny CLIP on CausalShapes and drawn digits (Radford 2021, arXiv 2103.00020, fig. 3).

    python -m dicap.world pretrain --out tiny.safetensors [--pairs 1200000] [--seed 1] [--work DIR]

A batch is three quarters pictures of the world, class and scene independent, and one quarter drawn digits, each with a
random caption. Pairs where the caption also fits another picture are left out of the denominators
(captions.describes). Everything drawn depends on (seed, step) alone; the run resumes from its working folder. The
output, fp16 with an exponential moving average of the weights, is rewritten at every evaluation, so an unfinished run
leaves a usable, weaker file.
"""

import json
import logging
import math
import os
import platform
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from dicap.backbones import tiny
from dicap.backbones.package import clip_package
from dicap.world import captions
from dicap.world.card import write_card
from dicap.world.causal import sample
from dicap.world.evaluate import MEAN, STD, evaluate, summary
from dicap.world.files import SEED_OFFSET
from dicap.world.glyphs import draw_digits
from dicap.world.render import PRETRAIN, SIZE, render_planar

log = logging.getLogger(__name__)
LENGTH = 22  # tokens of the longest caption, with start and end; shorter than 77 because attention costs


@dataclass
class Recipe:
    """What a run is; recorded in the file and the model card."""

    pairs: int = 1_200_000
    seed: int = 1
    batch: int = 256
    digits: int = 64  # of the batch
    lr: float = 1e-3
    weight_decay: float = 0.05
    warmup: int = 300  # steps
    ema: float = 0.999
    shift: float = 0.25  # share of captions whose tokens sit at later positions, so that these are learned too

    def __post_init__(self) -> None:
        if not 0 <= self.seed < SEED_OFFSET:
            raise ValueError(f"seed must be in 0..{SEED_OFFSET - 1} (larger ones are the benchmark's), got {self.seed}")

    @property
    def steps(self) -> int:
        return math.ceil(self.pairs / self.batch)


class Batches(torch.utils.data.Dataset):
    """Training batches by number: images (B, 3, 64, 64) uint8, tokens (B, L), positions (B, L), ignore (B, B) bool."""

    def __init__(self, recipe: Recipe, words: dict[int, int]):
        self.recipe, self.words = recipe, words

    def __len__(self) -> int:
        return self.recipe.steps

    def __getitem__(self, step: int) -> tuple[torch.Tensor, ...]:
        recipe = self.recipe
        rng = np.random.Generator(np.random.Philox(key=np.array([recipe.seed, step], np.uint64), counter=[0, 0, 1, 0]))
        world = recipe.batch - recipe.digits
        latents = sample(np.arange(step * world, (step + 1) * world), recipe.seed)
        digits = rng.integers(10, size=recipe.digits)
        shapes = _zoom(torch.from_numpy(render_planar(latents, PRETRAIN)), rng)
        images = torch.cat([shapes, torch.from_numpy(draw_digits(digits, rng))])
        facts = np.concatenate([captions.facts_of_world(latents), captions.facts_of_digits(digits)])
        written = captions.write(facts, rng)
        fits = captions.describes(written.says, facts)
        np.fill_diagonal(fits, False)
        tokens = self.tokenize(written.texts)
        shift = rng.integers(1, 77 - LENGTH, recipe.batch) * (rng.random(recipe.batch) < recipe.shift)
        positions = np.arange(LENGTH)[None] + shift[:, None] * (np.arange(LENGTH) > 0)
        return images, tokens, torch.from_numpy(positions), torch.from_numpy(fits)

    def tokenize(self, texts: list[str]) -> torch.Tensor:
        """(B, L) numbers of the compact vocabulary; 0 is padding as in CLIP."""
        full = clip_package().tokenize(texts)
        assert not full[:, LENGTH:].any(), f"a caption is longer than {LENGTH} tokens"
        return full[:, :LENGTH].clone().apply_(self.words.__getitem__).long()


def _zoom(images: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
    """Half of the pictures cut to 60 to 100 % of the width and mirrored at random, as few-shot training does."""
    out = images.clone()
    for row in np.flatnonzero(rng.random(len(images)) < 0.5):
        side = int(rng.integers(38, SIZE + 1))
        top, left = rng.integers(0, SIZE - side + 1, 2)
        part = images[row : row + 1, :, top : top + side, left : left + side].float()
        part = F.interpolate(part, size=(SIZE, SIZE), mode="bilinear", align_corners=False)
        out[row] = part[0].round().flip(-1) if rng.random() < 0.5 else part[0].round()
    return out


def vocabulary() -> list[int]:
    """Token ids that the grammar and plausible prompts use, ascending: padding (0), words, start and end of text."""
    tokenizer = clip_package().clip._tokenizer
    ids = {token for word in captions.vocabulary() for token in tokenizer.encode(word)}
    ends = [tokenizer.encoder["<|startoftext|>"], tokenizer.encoder["<|endoftext|>"]]
    return sorted({0, *ids, *ends})


def build(words: int) -> torch.nn.Module:
    """OpenAI's class in the tiny size, with a compact vocabulary."""
    clip = clip_package()
    return clip.model.CLIP(
        embed_dim=128,
        image_resolution=SIZE,
        vision_layers=(1, 1, 2, 1),
        vision_width=24,
        vision_patch_size=None,
        context_length=77,
        vocab_size=words,
        transformer_width=128,
        transformer_heads=2,
        transformer_layers=3,
    )


def encode_text(model: torch.nn.Module, tokens: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
    """CLIP.encode_text on (B, L) tokens at given (B, L) positions; equal to CLIP's own where these are 0..L-1."""
    x = model.token_embedding(tokens) + model.positional_embedding[positions]
    mask = model.transformer.resblocks[0].attn_mask[: x.shape[1], : x.shape[1]]
    x = x.permute(1, 0, 2)
    for block in model.transformer.resblocks:
        y = block.ln_1(x)
        x = x + block.attn(y, y, y, need_weights=False, attn_mask=mask.to(y.dtype))[0]
        x = x + block.mlp(block.ln_2(x))
    x = model.ln_final(x.permute(1, 0, 2))
    return x[torch.arange(len(x)), tokens.argmax(-1)] @ model.text_projection


def contrastive(
    model: torch.nn.Module, images: torch.Tensor, texts: torch.Tensor, ignore: torch.Tensor
) -> torch.Tensor:
    """Symmetric InfoNCE of (B, e) features without the pairs in `ignore` (B images, B captions)."""
    f, text = F.normalize(images.float(), dim=-1), F.normalize(texts.float(), dim=-1)
    logits = (model.logit_scale.exp() * f @ text.T).masked_fill(ignore, -1e4)
    target = torch.arange(len(f), device=f.device)
    return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2


def pretrain(out: Path, work: Path, recipe: Recipe, *, minutes: float = math.inf, check_every: int = 250) -> dict:
    """Train (or go on), write `out`, return the last figures.

    Args:
        work: folder of the resumable state and log.jsonl.
        minutes: stop, resumably, after this much time in this call.
        check_every: steps between evaluations; each also saves the state and rewrites `out`.
    """
    device = "cuda" if torch.cuda.is_available() else "cpu"
    ids = vocabulary()
    torch.manual_seed(recipe.seed)
    run = _Run(build(len(ids)).to(device).to(memory_format=torch.channels_last), recipe, ids)
    work.mkdir(parents=True, exist_ok=True)
    if (work / "state.pt").exists():
        run.load(torch.load(work / "state.pt", map_location=device, weights_only=True))
        log.info("resumed at step %d of %d", run.step, recipe.steps)
    batches = torch.utils.data.Subset(Batches(recipe, {t: i for i, t in enumerate(ids)}), range(run.step, recipe.steps))
    loader = torch.utils.data.DataLoader(batches, batch_size=None, num_workers=1, prefetch_factor=4)
    began, figures, losses = time.monotonic(), {}, []
    for batch in loader:
        losses.append(run.train_step([part.to(device) for part in batch]))
        if run.step % 50 == 0:
            speed = recipe.batch * len(losses) / (time.monotonic() - began)
            values = run.step, recipe.steps, np.mean(losses[-50:]), run.model.logit_scale.exp().item(), run.lr(), speed
            log.info("step %d/%d loss %.3f scale %.1f lr %.2e %.0f pairs/s", *values)
        if run.step % check_every == 0 or run.step == recipe.steps:
            figures = run.checkpoint(out, work, float(np.mean(losses[-check_every:])))
        if time.monotonic() - began > 60 * minutes:
            break
    return figures


class _Run:
    """Model, moving average, optimiser and counters of a run."""

    def __init__(self, model: torch.nn.Module, recipe: Recipe, ids: list[int]):
        self.model, self.recipe, self.ids = model, recipe, ids
        self.step, self.seconds = 0, 0.0
        self.average = {key: value.clone() for key, value in model.state_dict().items()}
        decayed = [p for n, p in model.named_parameters() if p.ndim > 1 and "embedding" not in n]
        others = [p for n, p in model.named_parameters() if not (p.ndim > 1 and "embedding" not in n)]
        groups = [{"params": decayed, "weight_decay": recipe.weight_decay}, {"params": others, "weight_decay": 0.0}]
        self.optim = torch.optim.AdamW(groups, lr=recipe.lr, betas=(0.9, 0.98), eps=1e-6)
        device = next(model.parameters()).device
        self.mean = torch.tensor(MEAN, device=device).view(3, 1, 1) * 255
        self.std = torch.tensor(STD, device=device).view(3, 1, 1) * 255

    def lr(self) -> float:
        """Linear warm-up, then cosine to zero."""
        warm = min(1.0, (self.step + 1) / self.recipe.warmup)
        return self.recipe.lr * warm * (1 + math.cos(math.pi * self.step / self.recipe.steps)) / 2

    def train_step(self, batch: list[torch.Tensor]) -> float:
        began = time.monotonic()
        images, tokens, positions, ignore = batch
        x = ((images.float() - self.mean) / self.std).contiguous(memory_format=torch.channels_last)
        for group in self.optim.param_groups:
            group["lr"] = self.lr()
        with torch.autocast(x.device.type, torch.bfloat16):
            f, text = self.model.visual(x), encode_text(self.model, tokens, positions)
        loss = contrastive(self.model, f, text, ignore)
        self.optim.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optim.step()
        self.step += 1
        with torch.no_grad():
            self.model.logit_scale.clamp_(0, math.log(100))
            self._follow()
        self.seconds += time.monotonic() - began
        return loss.item()

    def _follow(self) -> None:
        keep = min(self.recipe.ema, (1 + self.step) / (10 + self.step))
        for key, value in self.model.state_dict().items():
            if value.is_floating_point():
                self.average[key].lerp_(value, 1 - keep)
            else:
                self.average[key].copy_(value)

    def checkpoint(self, out: Path, work: Path, loss: float) -> dict:
        """Save the state, write the weights, evaluate the written file, add a line to log.jsonl."""
        state = {
            "model": self.model.state_dict(),
            "average": self.average,
            "optim": self.optim.state_dict(),
            "step": self.step,
            "seconds": self.seconds,
        }
        torch.save(state, work / "state.tmp")
        os.replace(work / "state.tmp", work / "state.pt")
        versions = {"torch": torch.__version__, "numpy": np.__version__, "python": platform.python_version()}
        about = {
            "pairs": str(self.step * self.recipe.batch),
            "seconds": f"{self.seconds:.0f}",
            "recipe": json.dumps(asdict(self.recipe)),
            "versions": json.dumps(versions),
            "device": f"{next(self.model.parameters()).device.type}, {torch.get_num_threads()} threads",
            "complete": str(self.step == self.recipe.steps).lower(),
        }
        weights = {key: value.float() if value.is_floating_point() else value for key, value in self.average.items()}
        rows = weights["token_embedding.weight"]
        full = torch.zeros(tiny.VOCABULARY, rows.shape[1], device=rows.device)
        weights["token_embedding.weight"] = full.index_copy(0, torch.tensor(self.ids, device=rows.device), rows)
        tiny.save(weights, out, self.ids, about)
        figures = evaluate(out, count=1000 if self.step < self.recipe.steps else 4000)
        with open(work / "log.jsonl", "a") as file:
            file.write(json.dumps({"step": self.step, "seconds": round(self.seconds), "loss": loss, **figures}) + "\n")
        log.info("step %d loss %.3f %s", self.step, loss, summary(figures))
        if self.step == self.recipe.steps:
            write_card(out, figures)
        return figures

    def load(self, state: dict) -> None:
        self.model.load_state_dict(state["model"])
        self.average = state["average"]
        self.optim.load_state_dict(state["optim"])
        self.step, self.seconds = state["step"], state["seconds"]
