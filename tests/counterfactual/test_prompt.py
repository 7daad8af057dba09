"""Where counterfactuals meet the prompt: the trainer's own loss and checkpoints, on texts that are plain parameters or a random
CLIP's. (Closed forms of the losses: test_losses.py; whole trainings: tests/test_trainers.py.)"""

from types import SimpleNamespace

import pytest
import torch
from torch.nn.functional import normalize

from dicap import discover
from dicap.learner import build_learner
from dicap.tasks.classification import Classification

discover.load_all()
from dassl.engine import TRAINER_REGISTRY  # noqa: E402

DiCap = TRAINER_REGISTRY.get("DiCap")
B, M, C, E = 4, 2, 5, 8
EVERY = {"control": "none", "l_cf": 1.0, "l_con": 1.0, "l_kg": 3.0, "tau": 0.0}


def unit(*shape, seed):
    return normalize(torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64), dim=-1)


def gradients(cf, valid, mode="text", scale=24.0):
    """Gradients (C, E) of each term of DiCap's objective in texts that are learned themselves, with every loss on."""
    text = unit(C, E, seed=0).requires_grad_()
    f, label, target = unit(B, E, seed=1), torch.arange(B), (torch.arange(B)[:, None] + 1 + torch.arange(M)) % C
    logits = lambda features, text: scale * features @ text.T  # noqa: E731
    trainer = SimpleNamespace(
        options=SimpleNamespace(**EVERY, con_mode=mode),
        model=SimpleNamespace(clip=SimpleNamespace(logit_scale=torch.tensor(scale).log())),
        learner=SimpleNamespace(image=lambda f: f, logits=logits),
        task=Classification(),
        frozen=unit(C, E, seed=5),
        bank=lambda index, view: (f[:, None].expand(B, M, E) if cf is None else cf, valid, target),
    )
    trainer.contrast = lambda *parts: DiCap.contrast(trainer, *parts)
    batch = {"target": label, "index": None, "view": None}
    losses = DiCap.objective(trainer, batch, f, text, trainer.task.losses(logits(f, text), label))
    return {name: torch.autograd.grad(value, text, retain_graph=True)[0] for name, value in losses.items()}


@pytest.mark.parametrize("mode", ["text", "image", "both"])
def test_14_an_all_invalid_batch_leaves_cross_entropy_and_the_pull_to_the_frozen_text(mode):
    found = gradients(unit(B, M, E, seed=2), torch.zeros(B, M, dtype=torch.bool), mode)
    assert set(found) == {"ce", "cf", "con", "kg"}
    assert not bool(found["cf"].any()) and not bool(found["con"].any())
    assert bool(found["ce"].any())
    torch.testing.assert_close(found["kg"], -EVERY["l_kg"] / C * unit(C, E, seed=5))
    valid = gradients(unit(B, M, E, seed=2), torch.ones(B, M, dtype=torch.bool), mode)
    assert bool(valid["cf"].any()) and bool(valid["con"].any())
    torch.testing.assert_close(2 * valid["ce"], found["ce"])  # L_CF 1 and all valid: each of the two weighs a half
    assert torch.equal(valid["kg"], found["kg"])


def test_13_an_unmoved_counterfactual_says_nothing_to_the_trainers_contrast():
    assert gradients(None, torch.ones(B, M, dtype=torch.bool))["con"].abs().max() < 1e-6  # the contrast ends in fp32
    assert gradients(unit(B, M, E, seed=2), torch.ones(B, M, dtype=torch.bool))["con"].abs().max() > 0.1


@pytest.mark.parametrize("name", ["CoOp", "CoCoOp"])
def test_15_a_prompt_of_five_classes_loads_into_seven(random_clip, name):
    clip, names = random_clip("vit"), ["dog", "old tree", "cat", "red bus", "sea", "house", "big green ball"]
    options = SimpleNamespace(n_ctx=4, ctx_init="", csc=False, class_token_position="end")
    with torch.random.fork_rng():  # contexts start from the global random state
        base, new = (build_learner(name, clip, options, some, "a photo of a {}.") for some in (names[:5], names))
    new.load(base.state_dict(), "base")
    assert all(torch.equal(value, new.state_dict()[key]) for key, value in base.state_dict().items())
    assert len(base.prompts(torch.zeros(1, 32)).lens) == 5 and len(new.prompts(torch.zeros(1, 32)).lens) == 7
