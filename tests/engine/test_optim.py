"""Schedules, optimisers and initialisation against closed forms."""

import math

import pytest
import torch
from dassl.config import get_cfg_default
from dassl.optim import ConstantWarmupScheduler, LinearWarmupScheduler, RAdam, build_lr_scheduler, build_optimizer
from torch import nn


def options(**changes):
    cfg = get_cfg_default().OPTIM
    cfg.update(NAME="sgd", LR=0.002, LR_SCHEDULER="cosine", MAX_EPOCH=8, **changes)
    return cfg


def rates(cfg, epochs=8, reload_at=None):
    """Learning rate of each epoch; at reload_at everything is rebuilt from state dicts that went through a file."""
    model = nn.Linear(1, 1)
    optimizer = build_optimizer(model, cfg)
    scheduler = build_lr_scheduler(optimizer, cfg)
    seen = []
    for epoch in range(epochs):
        if epoch == reload_at:
            saved = optimizer.state_dict(), scheduler.state_dict()
            optimizer = build_optimizer(model, cfg)
            scheduler = build_lr_scheduler(optimizer, cfg)
            optimizer.load_state_dict(saved[0])
            scheduler.load_state_dict(saved[1])
        seen.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return seen


def test_constant_warm_up_then_cosine_is_the_familys_schedule():
    golden = [1e-5, 0.002, 0.00192388, 0.00170711, 0.00138268, 0.001, 0.00061732, 0.00029289]  # Dassl 0.6.3, N=8, W=1
    assert rates(options(WARMUP_EPOCH=1, WARMUP_TYPE="constant")) == pytest.approx(golden, abs=5e-9)


@pytest.mark.parametrize("warmup", [0, 2, 3])
def test_cosine_is_not_shortened_by_warm_up(warmup):
    got = rates(options(WARMUP_EPOCH=warmup, WARMUP_TYPE="constant"), epochs=8)
    cosine = [0.001 * (1 + math.cos(math.pi * e / 8)) for e in range(8)]
    assert got == pytest.approx([1e-5] * warmup + cosine[: 8 - warmup], rel=1e-9)


def test_linear_warm_up():
    got = rates(options(WARMUP_EPOCH=4, WARMUP_TYPE="linear"), epochs=5)
    assert got == pytest.approx([1e-5, 0.0005, 0.001, 0.0015, 0.002])


def test_schedule_that_counts_the_warm_up():
    got = rates(options(WARMUP_EPOCH=2, WARMUP_TYPE="constant", WARMUP_RECOUNT=False), epochs=4)
    ratio = (1 + math.cos(math.pi * 3 / 8)) / (1 + math.cos(math.pi * 2 / 8))
    assert got == pytest.approx([1e-5, 1e-5, 0.002, 0.002 * ratio])


def test_steps():
    single = rates(_node(options() | {"LR_SCHEDULER": "single_step", "STEPSIZE": (3,)}), epochs=7)
    assert single == pytest.approx([0.002] * 3 + [0.0002] * 3 + [0.00002])
    multi = rates(_node(options() | {"LR_SCHEDULER": "multi_step", "STEPSIZE": (1, 3)}), epochs=4)
    assert multi == pytest.approx([0.002, 0.0002, 0.0002, 0.00002])
    assert rates(_node(options() | {"LR_SCHEDULER": "single_step", "STEPSIZE": (-1,)})) == [0.002] * 8


@pytest.mark.parametrize("kind", ["constant", "linear"])
@pytest.mark.parametrize("reload_at", range(1, 8))
def test_state_goes_on_exactly_after_a_reload(kind, reload_at):
    cfg = options(WARMUP_EPOCH=2, WARMUP_TYPE=kind)
    assert rates(cfg, reload_at=reload_at) == rates(cfg)


def test_scheduler_state_is_plain(tmp_path):
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    for scheduler in (
        ConstantWarmupScheduler(optimizer, torch.optim.lr_scheduler.MultiStepLR(optimizer, [2]), 1, 1e-5),
        LinearWarmupScheduler(optimizer, torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 3), 2, 1e-5),
    ):
        torch.save(scheduler.state_dict(), tmp_path / "s")
        state = torch.load(tmp_path / "s", weights_only=True)
        scheduler.load_state_dict(state)
        assert state == scheduler.state_dict()


@pytest.mark.parametrize(
    "change, message",
    [
        ({"LR_SCHEDULER": "cosin"}, "LR_SCHEDULER cosin: there are"),
        ({"WARMUP_EPOCH": 1, "WARMUP_TYPE": "slow"}, "WARMUP_TYPE slow: there are"),
        ({"LR_SCHEDULER": "multi_step", "STEPSIZE": 3}, "STEPSIZE 3"),
        ({"LR_SCHEDULER": "single_step", "STEPSIZE": (1.5,)}, "STEPSIZE"),
    ],
)
def test_bad_schedules_name_the_key(change, message):
    cfg = options() | change
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    with pytest.raises((ValueError, TypeError), match=message):
        build_lr_scheduler(optimizer, _node(cfg))


def _node(values):
    from yacs.config import CfgNode

    return CfgNode(dict(values))


@pytest.mark.parametrize(
    "name, kind, facts",
    [
        ("sgd", torch.optim.SGD, {"momentum": 0.9, "dampening": 0, "nesterov": False}),
        ("adam", torch.optim.Adam, {"betas": (0.9, 0.999), "amsgrad": False}),
        ("amsgrad", torch.optim.Adam, {"amsgrad": True}),
        ("adamw", torch.optim.AdamW, {"betas": (0.9, 0.999)}),
        ("rmsprop", torch.optim.RMSprop, {"alpha": 0.99, "momentum": 0.9}),
        ("radam", RAdam, {"decoupled_weight_decay": True}),
    ],
)
def test_optimisers_by_name(name, kind, facts):
    cfg = options()
    cfg.NAME = name
    optimizer = build_optimizer(nn.Linear(2, 2), cfg)
    assert type(optimizer) is kind
    group = optimizer.param_groups[0]
    assert {**facts, "lr": 0.002, "weight_decay": 5e-4}.items() <= group.items()


def test_optimiser_from_parameters_groups_or_stages():
    model = nn.Sequential()
    model.old, model.new = nn.Linear(2, 2), nn.Linear(2, 3)
    cfg = options(STAGED_LR=True, NEW_LAYERS="new")
    old, new = build_optimizer(model, cfg).param_groups
    assert old["lr"] == pytest.approx(0.0002) and new["lr"] == 0.002
    assert len(old["params"]) == len(new["params"]) == 2
    with pytest.warns(UserWarning, match="STAGED_LR is ignored"):
        assert len(build_optimizer(None, cfg, [{"params": [model.new.weight], "lr": 5.0}]).param_groups) == 1
    with pytest.raises(TypeError, match="STAGED_LR needs the module"):
        build_optimizer(model.parameters(), cfg)
    cfg.STAGED_LR = False
    assert len(build_optimizer([model.new.weight], cfg).param_groups[0]["params"]) == 1
    cfg.NAME = "sdg"
    with pytest.raises(ValueError, match="OPTIM.NAME sdg: there are adam"):
        build_optimizer(model, cfg)


def test_radam_follows_the_paper():
    """Algorithm 2 of arXiv 1908.03265 with decoupled weight decay; momentum steps while the rectification is undefined."""
    lr, (b1, b2), eps, decay = 0.1, (0.9, 0.99), 1e-8, 0.01
    grads = torch.linspace(-1, 1, 20).double()
    param = nn.Parameter(torch.tensor([0.5]).double())
    optimizer = RAdam([param], lr=lr, betas=(b1, b2), eps=eps, weight_decay=decay)
    x = m = v = 0.0
    x, rho_inf = 0.5, 2 / (1 - b2) - 1
    for t, g in enumerate(grads.tolist(), 1):
        param.grad = torch.tensor([g]).double()
        optimizer.step()
        m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g * g
        rho = rho_inf - 2 * t * b2**t / (1 - b2**t)
        x -= lr * decay * x
        if rho > 5:
            r = math.sqrt((rho - 4) * (rho - 2) * rho_inf / ((rho_inf - 4) * (rho_inf - 2) * rho))
            x -= lr * r * (m / (1 - b1**t)) * math.sqrt(1 - b2**t) / (math.sqrt(v) + eps)
        else:
            x -= lr * m / (1 - b1**t)
        assert param.item() == pytest.approx(x, rel=1e-9)
