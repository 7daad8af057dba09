"""Every registered trainer: a table of behaviours, on the embedded tiny CLIP. A new method is tested by being registered."""

import json
from pathlib import Path

import pytest
import torch

from dicap import discover
from dicap.backbones import weights_digest
from dicap.config import CONFIGS, build_cfg, config_path
from dicap.experiments.run import run
from dicap.options import ConfigError, section_name

discover.load_all()
from dassl.engine import TRAINER_REGISTRY, build_trainer  # noqa: E402

TRAINERS = sorted(
    n for n in TRAINER_REGISTRY.registered_names() if TRAINER_REGISTRY.get(n).__module__.startswith("dicap.")
)
LEARNING = [n for n in TRAINERS if n != "ZeroshotCLIP"]
CONFIG_FILES = sorted(CONFIGS.glob("trainers/*/*.yaml"))
SHORT = ["DATASET.NUM_SHOTS", "4", "OPTIM.MAX_EPOCH", "3", "DATALOADER.TRAIN_X.BATCH_SIZE", "8"]
QUICK = {"DiCap": ["TRAINER.DICAP.TRAIN_STEPS", "20", "TRAINER.DICAP.STEPS", "8"]}


@pytest.fixture(autouse=True)
def folders(embedded_data, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)


def config(name, split="base", out="out", opts=(), seed=1, dataset="digits"):
    return build_cfg(
        config_path("datasets", dataset),
        config_path(f"trainers/{name}", "tiny"),
        name,
        output_dir=out,
        seed=seed,
        opts=[*SHORT, "DATASET.SUBSAMPLE_CLASSES", split, *QUICK.get(name, []), *opts],
    )


def learned(trainer):
    return {key: value.clone() for key, value in trainer.model.prompt_learner.state_dict().items()}


def test_the_tables_agree_and_none_is_short():
    folders = {path.parent.name for path in CONFIG_FILES}
    assert set(TRAINERS) == folders >= {"ZeroshotCLIP", "CoOp", "CoCoOp", "DiCap"}
    assert all((CONFIGS / "trainers" / name / "tiny.yaml").is_file() for name in TRAINERS)


@pytest.mark.parametrize("path", CONFIG_FILES, ids=lambda p: f"{p.parent.name}-{p.stem}")
def test_every_config_merges_and_says_what_it_is_for(path):
    cfg = build_cfg(config_path("datasets", "digits"), str(path), path.parent.name)
    assert cfg.TRAINER.NAME == path.parent.name and cfg.MODEL.BACKBONE.NAME
    assert path.read_text().startswith("# ") and "bash scripts/" in path.read_text().splitlines()[1]


@pytest.mark.parametrize("name", TRAINERS)
def test_every_option_has_a_reason_and_every_choice_is_enforced(name):
    for key, option in TRAINER_REGISTRY.get(name).OPTIONS.items():
        assert option.why and option.check(option.default, key) == option.default
        section = f"TRAINER.{section_name(TRAINER_REGISTRY.get(name))}.{key}"
        if option.choices:
            with pytest.raises(ConfigError, match=f"{section} is .*allowed"):
                config(name, opts=[section, "nonsense"])


@pytest.mark.parametrize("name", LEARNING)
def test_only_the_prompt_learns_and_all_of_it(name):
    trainer = build_trainer(config(name))
    before, clip = learned(trainer), weights_digest(trainer.model.clip)
    trainer.before_train()
    trainer.num_batches, trainer.batch_idx = 10, 0
    trainer.set_model_mode("train")
    for batch in trainer.train_loader_x:
        summary = trainer.forward_backward(batch)
    assert torch.isfinite(torch.tensor(list(summary.values()))).all()
    for key, p in trainer.model.prompt_learner.named_parameters():
        assert p.grad is not None and p.grad.abs().sum() > 0, key
        assert not torch.equal(p, before[key]), key
    assert weights_digest(trainer.model.clip) == clip
    assert all(p.grad is None for p in trainer.model.clip.parameters())
    trainer.close_writer()


@pytest.mark.parametrize("name", LEARNING)
def test_base_prompt_loads_into_new_classes_and_gives_the_same_context(name):
    base = build_trainer(config(name))
    base.train()
    again = build_trainer(config(name))
    again.load_model("out")
    assert all(torch.equal(value, learned(again)[key]) for key, value in learned(base).items())
    f = again.test_loader.dataset.features[:5, 0]
    assert torch.equal(again.model_inference(f), base.model_inference(f))
    new = build_trainer(config(name, "new"))
    new.load_model("out", epoch=3)
    assert all(torch.equal(value, learned(new)[key]) for key, value in learned(base).items())
    with pytest.raises(FileNotFoundError, match="model.pth.tar-9.*there are: .*model.pth.tar-3"):
        new.load_model("out", epoch=9)


@pytest.mark.parametrize("name", TRAINERS)
def test_base_to_new_ends_in_results_and_repeats_bit_for_bit(name):
    results = []
    for out in ("a", "b"):
        train = run(config(name, out=out), protocol="base2new", dataset="digits", recipe="tiny")
        new = run(
            config(name, "new", f"{out}_new"),
            eval_only=True,
            model_dir=out if name in LEARNING else "",
            protocol="base2new",
            dataset="digits",
            recipe="tiny",
        )
        assert json.loads(Path(out, "result.json").read_text())["accuracy"] == train["accuracy"]
        assert train["digests"]["model"] == new["digests"]["model"]
        results.append([train["accuracy"], new["accuracy"], train["digests"], new["digests"]])
    assert results[0] == results[1]


@pytest.mark.parametrize("name", LEARNING)
def test_a_run_that_was_stopped_and_resumed_ends_as_one_that_was_not(name, monkeypatch):
    whole = run(config(name, out="whole"))
    cls = TRAINER_REGISTRY.get(name)
    step = cls.forward_backward

    def stop(self, batch):
        if self.epoch == 1 and self.batch_idx == 1:
            raise KeyboardInterrupt
        return step(self, batch)

    monkeypatch.setattr(cls, "forward_backward", stop)
    with pytest.raises(KeyboardInterrupt):
        run(config(name, out="cut"))
    assert not Path("cut/result.json").exists()
    monkeypatch.setattr(cls, "forward_backward", step)
    resumed = run(config(name, out="cut"))
    assert resumed["digests"]["model"] == whole["digests"]["model"]
    assert resumed["accuracy"] == whole["accuracy"]


@pytest.mark.parametrize("name", TRAINERS)
def test_wrong_image_size_is_refused(name):
    with pytest.raises(ConfigError, match=r"INPUT.SIZE is \(32, 32\); tiny takes \(64, 64\)"):
        build_trainer(config(name, opts=["INPUT.SIZE", "(32, 32)"]))


@pytest.mark.parametrize("name", LEARNING)
def test_fresh_augmentation_trains_too(name):
    if name == "DiCap":
        with pytest.raises(ConfigError, match="INPUT.VIEWS is 0.*at least 1"):
            build_trainer(config(name, opts=["INPUT.VIEWS", "0"]))
        return
    trainer = build_trainer(config(name, opts=["INPUT.VIEWS", "0", "OPTIM.MAX_EPOCH", "1"]))
    assert next(iter(trainer.train_loader_x))["img"].shape[1:] == (3, 64, 64)
    before = learned(trainer)
    trainer.train()
    assert not torch.equal(before["ctx"], learned(trainer)["ctx"])


# -- DiCap's own ------------------------------------------------------------------------------------------------------


def context(out):
    from dassl.utils import load_checkpoint

    return load_checkpoint(f"{out}/prompt_learner/model.pth.tar-3")["state_dict"]["ctx"]


def dicap(out, *opts):
    run(config("DiCap", out=out, opts=opts))
    return context(out)


def test_no_cf_is_coop_on_the_same_views_bit_for_bit_and_dicap_is_not():
    run(config("CoOp", out="coop"))
    coop = context("coop")
    assert torch.equal(dicap("nocf", "TRAINER.DICAP.CONTROL", "no-cf"), coop)
    assert not torch.equal(dicap("dicap"), coop)


def test_the_bank_answers_what_is_generated_on_the_fly():
    trainers = [build_trainer(config("DiCap", opts=["TRAINER.DICAP.BANK", bank])) for bank in ("True", "False")]
    for trainer in trainers:
        trainer.before_train()
    batch = trainers[0].parse_batch_train(next(iter(trainers[0].train_loader_x)))
    (cf, valid, target), (cf2, valid2, target2) = (trainer.counterfactuals(batch) for trainer in trainers)
    assert trainers[1].bank is None
    assert torch.allclose(cf, cf2, atol=1e-5) and torch.equal(valid, valid2) and torch.equal(target, target2)
    assert (target != batch["label"][:, None]).all() and torch.allclose(cf.norm(dim=-1), torch.ones(()), atol=1e-5)
    assert (cf - batch["img"][:, None]).norm(dim=-1).mean() > 0.01
    losses = [trainer.loss(batch)[1] for trainer in trainers]
    assert all(torch.allclose(losses[0][key], losses[1][key], atol=1e-4) for key in losses[1])
    for trainer in trainers:
        trainer.close_writer()


def test_result_and_folder_keep_the_counterfactuals_figures():
    result = run(config("DiCap", out="here"))
    figures = result["method_record"]["counterfactual"]
    assert 0 <= figures["valid_full"] <= 1 and figures["proximity_full"] > 0 and figures["stage1_seconds"] > 0
    assert Path("here/counterfactual/generator.safetensors").is_file()
    assert "counterfactual valid_full" in Path("here/log.txt").read_text()


def test_a_batch_without_valid_counterfactuals_has_the_gradient_of_cross_entropy_alone():
    trainer = build_trainer(config("DiCap", opts=["TRAINER.DICAP.L_CON", "1"]))
    trainer.before_train()
    trainer.bank = (trainer.bank[0], torch.zeros_like(trainer.bank[1]))
    batch = trainer.parse_batch_train(next(iter(trainer.train_loader_x)))
    ctx = trainer.model.prompt_learner.ctx
    _, losses = trainer.loss(batch)
    (every,) = torch.autograd.grad(sum(losses.values()), ctx, retain_graph=True)
    (alone,) = torch.autograd.grad(losses["ce"], ctx)
    assert {"ce", "cf", "con"} <= set(losses) and torch.equal(every, alone) and alone.abs().sum() > 0
    trainer.close_writer()


@pytest.mark.parametrize(
    "opts",
    [
        ["PROMPT", "cocoop"],
        ["GENERATOR", "gauss"],
        ["GENERATOR", "shift", "SEARCH", "none"],
        ["L_CON", "1", "CON_MODE", "both"],
        ["TRAIN_ON", "minimal", "L_CF", "0", "L_CON", "1"],
        ["L_KG", "8"],
        ["M", "1", "TARGET", "top1"],
        *(["CONTROL", control] for control in ("random-cf", "real-neighbour-cf", "recombine", "prototype")),
    ],
    ids=lambda opts: "-".join(opts),
)
def test_each_variant_trains_to_a_context_of_its_own(opts):
    keyed = [x for key, value in zip(opts[::2], opts[1::2]) for x in (f"TRAINER.DICAP.{key}", value)]
    run(config("DiCap", out="variant", opts=keyed))
    run(config("DiCap", out="default"))
    assert not torch.equal(context("variant"), context("default"))


@pytest.mark.parametrize(
    "opts, told",
    [
        (["TRAIN_ON", "minimal"], "TRAIN_ON minimal contradicts L_CF 1.0"),
        (["GENERATOR", "shift"], "search='t0' contradicts generator='shift'"),
        (["BANK", "False", "CONTROL", "recombine"], "BANK False contradicts CONTROL recombine"),
        (["TRAIN_ON", "minimal", "L_CF", "0", "SEARCH", "none"], "TRAIN_ON minimal contradicts SEARCH none"),
        (["TRAIN_ON", "minimal", "L_CF", "0"], "TRAIN_ON minimal contradicts L_CON 0.0"),
    ],
)
def test_contradictions_name_both_settings(opts, told):
    keyed = [x for key, value in zip(opts[::2], opts[1::2]) for x in (f"TRAINER.DICAP.{key}", value)]
    with pytest.raises(ConfigError, match=told):
        build_trainer(config("DiCap", opts=keyed))


def test_the_generator_comes_from_the_cache_the_second_time(monkeypatch, tmp_path):
    from dicap.counterfactual import CounterfactualGenerator

    monkeypatch.setenv("DICAP_CACHE", str(tmp_path / "fresh"))
    first = dicap("first")
    monkeypatch.setattr(CounterfactualGenerator, "fit", lambda *a, **k: pytest.fail("fitted again"))
    assert torch.equal(dicap("second"), first)


def test_the_truth_of_the_own_class_is_the_factual_itself():
    """Same picture, same crops: so in another class nothing but the class differs."""
    control = ["TRAINER.DICAP.CONTROL", "truth"]
    with pytest.raises(ConfigError, match="CONTROL truth: Digits cannot show"):
        build_trainer(config("DiCap", opts=control))
    few = [x for part in ("TRAIN", "VAL", "TEST") for x in (f"DATASET.CAUSALSHAPES.PER_CLASS_{part}", "2")]
    trainer = build_trainer(config("DiCap", opts=[*control, *few, "DATASET.NUM_SHOTS", "2"], dataset="causal_shapes"))
    trainer.before_train()
    truth, valid = trainer.bank
    assert truth.shape == (50, 4, 3, truth.shape[-1]) and bool(valid.all())
    assert (truth - trainer.views[:, :, None]).norm(dim=-1).mean() > 0.1
    trainer.target = trainer.label[:, None]
    assert torch.equal(trainer.truth()[:, :, 0], trainer.views)
    trainer.close_writer()


def test_a_broken_cache_is_made_again(monkeypatch, tmp_path):
    cache = tmp_path / "fresh"
    monkeypatch.setenv("DICAP_CACHE", str(cache))
    first = dicap("first")
    files = sorted((cache / "generators").iterdir())
    assert [file.suffix for file in files] == [".json", ".safetensors"]
    figures = json.loads(files[0].read_text())
    for content in (b"", b"[1]", b"cut short"):
        for file in files:
            file.write_bytes(content)
        assert torch.equal(dicap("again"), first)
        assert json.loads(files[0].read_text()) == figures and files[1].stat().st_size > 1000  # whole again


def test_a_cache_that_cannot_be_written_changes_nothing(monkeypatch, tmp_path):
    first = dicap("first")
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("DICAP_CACHE", str(tmp_path / "file"))
    assert torch.equal(dicap("again"), first)
