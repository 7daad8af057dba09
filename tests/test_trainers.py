"""Every registered method: a table of behaviours, on the embedded tiny CLIP. A new method is tested by being registered."""

import json
from pathlib import Path

import pytest
import torch

from dicap import discover
from dicap.backbones import load_clip, weights_digest
from dicap.config import CONFIGS, build_cfg, config_path, facts_of, method_of, recipes, split_method
from dicap.experiments.run import run
from dicap.learner import LEARNERS, Learner
from dicap.options import ConfigError
from dicap.results import ResultError

discover.load_all()
from dassl.engine import TRAINER_REGISTRY, build_trainer  # noqa: E402

TRAINERS = sorted(
    n for n in TRAINER_REGISTRY.registered_names() if TRAINER_REGISTRY.get(n).__module__.startswith("dicap.")
)
CONFIG_FILES = sorted(CONFIGS.glob("trainers/*/*.yaml"))
PAIRS = [f"DiCap:{learner}" for learner in (*LEARNERS, "CoOp+FeatureMap") if recipes(f"DiCap:{learner}").get("tiny")]
METHODS = [name for name in TRAINERS if name != "DiCap"] + PAIRS
SHORT = ["DATASET.NUM_SHOTS", "4", "OPTIM.MAX_EPOCH", "3", "DATALOADER.TRAIN_X.BATCH_SIZE", "8"]
QUICK = ["TRAINER.DICAP.TRAIN_STEPS", "20", "TRAINER.DICAP.STEPS", "8"]


@pytest.fixture(autouse=True)
def folders(embedded_data, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)


def config(method, split="base", out="out", opts=(), seed=1, dataset="digits"):
    quick = QUICK if method.startswith("DiCap") else []
    return build_cfg(
        config_path("datasets", dataset),
        recipes("DiCap:CoOp" if method == "DiCap" else method)["tiny"],
        method,
        output_dir=out,
        seed=seed,
        opts=[*SHORT, "DATASET.SUBSAMPLE_CLASSES", split, *quick, *opts],
    )


LEARNING = [method for method in METHODS if facts_of(config(method)).fit == "steps"]


def learned(trainer):
    return {key: value.clone() for key, value in trainer.learner.state_dict().items()}


def test_the_tables_agree_and_none_is_short():
    folders = {path.parent.name for path in CONFIG_FILES}
    assert set(TRAINERS) == folders >= {"ZeroshotCLIP", "CoOp", "CoCoOp", "CLIPAdapter", "FeatureMap", "DiCap"}
    assert all((CONFIGS / "trainers" / name / "tiny.yaml").is_file() for name in TRAINERS)
    named = {"DiCap:CoOp", "DiCap:CoCoOp", "DiCap:CLIPAdapter", "DiCap:FeatureMap", "DiCap:CoOp+FeatureMap"}
    assert named <= set(PAIRS) and len(LEARNING) >= 9


@pytest.mark.parametrize("path", CONFIG_FILES, ids=lambda p: f"{p.parent.name}-{p.stem}")
def test_every_config_merges_and_says_what_it_is_for(path):
    ending = path.stem.rpartition("_")[2]
    method = f"{path.parent.name}:{ending}" if discover.is_learner(ending) else path.parent.name
    cfg = build_cfg(config_path("datasets", "digits"), str(path), method)
    assert method_of(cfg).startswith(method) and cfg.MODEL.BACKBONE.NAME
    assert path.read_text().startswith("# ") and "bash scripts/" in path.read_text().splitlines()[1]


@pytest.mark.parametrize("section, cls", discover.classes_with_options().items(), ids=lambda value: str(value))
def test_every_option_has_a_reason_and_every_choice_is_enforced(section, cls):
    for key, option in cls.OPTIONS.items():
        assert option.why and option.check(option.default, key) == option.default
        name = section.partition(".")[2]
        methods = [method for method in TRAINERS if method.upper() == name]
        if option.choices and methods:
            with pytest.raises(ConfigError, match=f"{section}.{key} is .*allowed"):
                config(methods[0], opts=[f"{section}.{key}", "nonsense"])


@pytest.mark.parametrize("method", LEARNING)
def test_only_the_learner_learns_and_all_of_it(method):
    trainer = build_trainer(config(method))
    before, clip = learned(trainer), weights_digest(trainer.model.clip)
    trainer.before_train()
    trainer.num_batches, trainer.batch_idx = 10, 0
    trainer.set_model_mode("train")
    for batch in trainer.train_loader_x:
        summary = trainer.forward_backward(batch)
    assert torch.isfinite(torch.tensor(list(summary.values()))).all()
    for key, p in trainer.learner.named_parameters():
        assert p.grad is not None and p.grad.abs().sum() > 0, key
        assert not torch.equal(p, before[key]), key
    assert weights_digest(trainer.model.clip) == clip
    assert all(p.grad is None for p in trainer.model.clip.parameters())
    trainer.close_writer()


@pytest.mark.parametrize("method", LEARNING)
def test_base_prompt_loads_into_new_classes_and_gives_the_same_context(method):
    base = build_trainer(config(method))
    base.train()
    again = build_trainer(config(method))
    again.load_model("out")
    assert all(torch.equal(value, learned(again)[key]) for key, value in learned(base).items())
    f = again.test_loader.dataset.features[:5, 0]
    assert torch.equal(again.model_inference(f), base.model_inference(f))
    new = build_trainer(config(method, "new"))
    new.load_model("out", epoch=3)
    assert all(torch.equal(value, learned(new)[key]) for key, value in learned(base).items())
    with pytest.raises(FileNotFoundError, match="model.pth.tar-9.*there are: .*model.pth.tar-3"):
        new.load_model("out", epoch=9)


@pytest.mark.parametrize("method", METHODS)
def test_base_to_new_ends_in_results_and_repeats_bit_for_bit(method):
    results = []
    for out in ("a", "b"):
        names = {"protocol": "base2new", "dataset": "digits", "recipe": "tiny"}
        train = run(config(method, out=out), **names)
        source = out if method in LEARNING else ""
        new = run(config(method, "new", f"{out}_new"), eval_only=True, model_dir=source, **names)
        assert json.loads(Path(out, "result.json").read_text())["metrics"] == train["metrics"]
        assert train["method"] == method and train["digests"]["model"] == new["digests"]["model"]
        results.append([train["metrics"], new["metrics"], train["digests"], new["digests"]])
    assert results[0] == results[1]


@pytest.mark.parametrize("method", LEARNING)
def test_a_run_that_was_stopped_and_resumed_ends_as_one_that_was_not(method, monkeypatch):
    whole = run(config(method, out="whole"))
    cls = TRAINER_REGISTRY.get(split_method(method)[0])
    step = cls.forward_backward

    def stop(self, batch):
        if self.epoch == 1 and self.batch_idx == 1:
            raise KeyboardInterrupt
        return step(self, batch)

    monkeypatch.setattr(cls, "forward_backward", stop)
    with pytest.raises(KeyboardInterrupt):
        run(config(method, out="cut"))
    assert not Path("cut/result.json").exists()
    monkeypatch.setattr(cls, "forward_backward", step)
    resumed = run(config(method, out="cut"))
    assert resumed["digests"]["model"] == whole["digests"]["model"]
    assert resumed["metrics"] == whole["metrics"]


BLOWS_UP = [
    "OPTIM.LR",
    "1e30",
    "OPTIM.MAX_EPOCH",
    "1",
    "OPTIM.WARMUP_EPOCH",
    "-1",
    "DATALOADER.TRAIN_X.BATCH_SIZE",
    "64",
]


@pytest.mark.parametrize("method", LEARNING)
def test_a_last_step_that_blows_up_is_seen_before_the_model_is_saved(method):
    with pytest.raises(FloatingPointError, match="(NaN|Inf).*lower OPTIM.LR|lower OPTIM.LR.*NaN"):
        run(config(method, opts=BLOWS_UP))
    assert not [*Path("out").rglob("model*"), *Path("out").rglob("result.json"), *Path("out").rglob("epoch-[1-9]*")]


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_prompt_that_is_not_finite_is_named_with_its_file(bad):
    run(config("CoOp"))
    path = Path("out/prompt_learner/model.pth.tar-3")
    checkpoint = torch.load(path, weights_only=True)
    checkpoint["state_dict"]["ctx"][0, 0] = bad
    torch.save(checkpoint, path)
    with pytest.raises(FloatingPointError, match=f"{path}: ctx holds NaN or Inf"):
        run(config("CoOp", "new", "new"), eval_only=True, model_dir="out")
    assert not Path("new/result.json").exists()


@pytest.mark.parametrize("split", ["val", "test"])
def test_logits_that_are_not_finite_are_no_class(split, monkeypatch):
    from dassl.evaluation import Classification

    monkeypatch.setattr(Classification, "process", lambda *args: None)  # an engine that does not look
    trainer = build_trainer(config("CoOp", opts=["TEST.FINAL_MODEL", "best_val"]))
    trainer.learner.ctx.data[0, 0] = float("nan")
    with pytest.raises(FloatingPointError, match="CoOp gives features or logits that are NaN"):
        trainer.test(split)


def test_a_finished_folder_is_not_taken_for_a_run_with_other_settings(tmp_path):
    run(config("CoOp"))
    before = Path("out/result.json").read_bytes(), Path("out/prompt_learner/model.pth.tar-3").read_bytes()
    for key, was, value in (
        ("OPTIM.LR", "0.03", "0.5"),
        ("OPTIM.MAX_EPOCH", "3", "5"),
        ("INPUT.VIEWS", "4", "2"),
        ("TRAINER.COOP.CTX_INIT", "a photo of a", "a"),
        ("TRAINER.COOP.PREC", "fp32", "bf16"),
    ):
        with pytest.raises(ConfigError, match=f"out holds a finished run .*{key} '?{was}'? -> '?{value}'?"):
            run(config("CoOp", opts=[key, value]))
    assert before == (Path("out/result.json").read_bytes(), Path("out/prompt_learner/model.pth.tar-3").read_bytes())
    facts = build_trainer(config("DiCap:CoOp"))._run_facts
    assert {f"TRAINER.DICAP.{key}" for key in ("L_CF", "CONTROL", "M", "GENERATOR", "LEARNER")} < facts.keys()
    assert facts["the backbone"] == weights_digest(load_clip("tiny")) and "DATALOADER.NUM_WORKERS" not in facts


def test_a_model_that_the_result_of_its_folder_did_not_measure_is_refused():
    trained = run(config("CoOp", opts=["TRAIN.CHECKPOINT_FREQ", "1"]))
    pointer = Path("out/prompt_learner/checkpoint")
    pointer.write_text("model.pth.tar-2\n")  # one bit of another 3
    with pytest.raises(ResultError, match="out: the model there is not the one that its result.json measured"):
        run(config("CoOp", out="again"), eval_only=True, model_dir="out")
    assert not Path("again/result.json").exists()
    assert run(config("CoOp", out="two"), eval_only=True, model_dir="out", load_epoch=2)["n"] == trained["n"]
    pointer.write_text("model.pth.tar-3\n")
    assert run(config("CoOp", out="again"), eval_only=True, model_dir="out")["metrics"] == trained["metrics"]


@pytest.mark.parametrize("method", METHODS)
def test_wrong_image_size_is_refused(method):
    with pytest.raises(ConfigError, match=r"INPUT.SIZE is \(32, 32\); tiny takes \(64, 64\)"):
        build_trainer(config(method, opts=["INPUT.SIZE", "(32, 32)"]))


@pytest.mark.parametrize("method", LEARNING)
def test_fresh_augmentation_trains_too(method):
    if method.startswith("DiCap"):
        with pytest.raises(ConfigError, match="INPUT.VIEWS is 0.*at least 1"):
            build_trainer(config(method, opts=["INPUT.VIEWS", "0"]))
        return
    trainer = build_trainer(config(method, opts=["INPUT.VIEWS", "0", "OPTIM.MAX_EPOCH", "1"]))
    assert next(iter(trainer.train_loader_x))["img"].shape[1:] == (3, 64, 64)
    before = learned(trainer)
    trainer.train()
    assert any(not torch.equal(before[key], value) for key, value in learned(trainer).items())


def test_a_context_for_each_class_is_bound_to_the_classes_that_it_was_trained_on():
    csc = ["TRAINER.COOP.CSC", "True"]
    base = build_trainer(config("CoOp", opts=csc))
    assert base.facts.classes == "trained"
    base.train()
    build_trainer(config("CoOp", opts=csc)).load_model("out")
    new = build_trainer(config("CoOp", "new", opts=csc))  # as many classes, so that every shape fits
    with pytest.raises(ConfigError, match="model.pth.tar-3 was trained on other classes.*CoOp.*cannot be tested"):
        new.load_model("out")
    with pytest.raises(ConfigError, match="CoOp has parameters for each of the classes"):
        base.model.score(base.test_loader.dataset.features[:5, 0], ["a", "b"])


# -- DiCap's own ------------------------------------------------------------------------------------------------------


def state(out, folder="prompt_learner"):
    from dassl.utils import load_checkpoint

    return load_checkpoint(f"{out}/{folder}/model.pth.tar-3")["state_dict"]


def context(out):
    return state(out)["ctx"]


def dicap(out, *opts):
    run(config("DiCap", out=out, opts=opts))
    return context(out)


@pytest.mark.parametrize("learner", [name for name in LEARNERS if f"DiCap:{name}" in PAIRS])
def test_no_cf_is_the_learner_alone_on_the_same_views_bit_for_bit_and_dicap_is_not(learner):
    alone, folder = config(learner, out="alone"), LEARNERS[learner].FOLDER
    run(alone)
    same = [f"OPTIM.{key}", str(alone.OPTIM[key])] if (key := "LR") else []
    same += ["OPTIM.NAME", alone.OPTIM.NAME, "DATALOADER.TRAIN_X.BATCH_SIZE", "8"]
    run(config(f"DiCap:{learner}", out="no_cf", opts=[*same, "TRAINER.DICAP.CONTROL", "no-cf"]))
    run(config(f"DiCap:{learner}", out="dicap", opts=same))
    expected = state("alone", folder)
    assert all(torch.equal(value, expected[key]) for key, value in state("no_cf", folder).items())
    assert not all(torch.equal(value, expected[key]) for key, value in state("dicap", folder).items())


def test_plain_dicap_is_stored_as_the_pair_that_it_is():
    result = run(config("DiCap", out="here"))
    assert result["method"] == "DiCap:CoOp" and result["config"]["TRAINER"]["DICAP"]["LEARNER"] == "CoOp"
    with pytest.raises(ConfigError, match="LEARNER contradicts DiCap:CoCoOp"):
        config("DiCap:CoCoOp", opts=["TRAINER.DICAP.LEARNER", "CoOp"])
    with pytest.raises(ConfigError, match="unknown learner 'CoOps'; there are: .*CLIPAdapter"):
        config("DiCap", opts=["TRAINER.DICAP.LEARNER", "CoOps"])
    with pytest.raises(ConfigError, match="CoOp.CoCoOp: the first of two learners must leave"):
        build_trainer(config("DiCap", opts=["TRAINER.DICAP.LEARNER", "CoOp+CoCoOp"]))


@pytest.mark.parametrize("key, now", [("PROMPT", "LEARNER"), ("N_CTX", "COOP.N_CTX"), ("CTX_INIT", "COOP.CTX_INIT")])
def test_keys_of_earlier_versions_fail_and_name_the_new_one(key, now):
    with pytest.raises(ConfigError, match=rf"unknown key TRAINER.DICAP.{key}; it is TRAINER\.(DICAP\.)?{now}"):
        config("DiCap", opts=[f"TRAINER.DICAP.{key}", "4"])


def test_two_places_for_the_precision_must_not_contradict():
    with pytest.raises(ConfigError, match="TRAINER.COOP.PREC bf16 contradicts TRAINER.DICAP.PREC fp32"):
        build_trainer(config("DiCap", opts=["TRAINER.COOP.PREC", "bf16"]))


def test_the_bank_answers_what_is_generated_on_the_fly():
    trainers = [build_trainer(config("DiCap", opts=["TRAINER.DICAP.BANK", bank])) for bank in ("True", "False")]
    for trainer in trainers:
        trainer.before_train()
    batch = trainers[0].parse_batch_train(next(iter(trainers[0].train_loader_x)))
    (cf, valid, target), (cf2, valid2, target2) = (t.bank(batch["index"], batch["view"]) for t in trainers)
    assert trainers[1].bank.features is None
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


@pytest.mark.parametrize("learner", ["CoOp", "FeatureMap"])
def test_a_batch_without_valid_counterfactuals_has_the_gradient_of_cross_entropy_alone(learner):
    trainer = build_trainer(config(f"DiCap:{learner}", opts=["TRAINER.DICAP.L_CON", "1"]))
    trainer.before_train()
    trainer.bank.valid = torch.zeros_like(trainer.bank.valid)
    batch = trainer.parse_batch_train(next(iter(trainer.train_loader_x)))
    (parameter,) = trainer.learner.parameters()
    _, losses = trainer.loss(batch)
    (every,) = torch.autograd.grad(sum(losses.values()), parameter, retain_graph=True)
    (alone,) = torch.autograd.grad(losses["ce"], parameter)
    assert {"ce", "cf", "con"} <= set(losses) and torch.equal(every, alone) and alone.abs().sum() > 0
    trainer.close_writer()


def test_counterfactuals_are_scored_as_the_learner_has_them():
    """logits(image(f_cf), t): through the map of image features, not the frozen ones."""
    trainer = build_trainer(config("DiCap:FeatureMap"))
    trainer.before_train()
    with torch.no_grad():
        trainer.learner.weight.normal_(std=0.1, generator=torch.Generator().manual_seed(0))
    batch = trainer.parse_batch_train(next(iter(trainer.train_loader_x)))
    cf, valid, target = trainer.bank(batch["index"], batch["view"])
    mapped = torch.nn.functional.normalize(cf + cf @ trainer.learner.weight, dim=-1)
    logits = trainer.model.clip.logit_scale.exp() * mapped @ trainer.learner.hand_text().T  # (B, M, C)
    values = torch.nn.functional.cross_entropy(logits.flatten(0, 1), target.flatten(), reduction="none").view_as(target)
    expected = (values * valid).sum() / valid.numel() / (1 + valid.float().mean())
    torch.testing.assert_close(trainer.loss(batch)[1]["cf"], expected)
    trainer.close_writer()


@pytest.mark.parametrize(
    "opts",
    [
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
    "opts, message",
    [
        (["TRAIN_ON", "minimal"], "TRAIN_ON minimal contradicts L_CF 1.0"),
        (["GENERATOR", "shift"], "search='t0' contradicts generator='shift'"),
        (["BANK", "False", "CONTROL", "recombine"], "BANK False contradicts CONTROL recombine"),
        (["TRAIN_ON", "minimal", "L_CF", "0", "SEARCH", "none"], "TRAIN_ON minimal contradicts SEARCH none"),
        (["TRAIN_ON", "minimal", "L_CF", "0"], "TRAIN_ON minimal contradicts L_CON 0.0"),
        (["LEARNER", "ZeroshotCLIP"], "DiCap:ZeroshotCLIP: ZeroshotCLIP learns nothing in steps"),
        (["LEARNER", "FeatureMap", "L_KG", "1"], "L_KG 1.0 contradicts LEARNER FeatureMap"),
    ],
)
def test_contradictions_name_both_settings(opts, message):
    keyed = [x for key, value in zip(opts[::2], opts[1::2]) for x in (f"TRAINER.DICAP.{key}", value)]
    with pytest.raises(ConfigError, match=message):
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
    truth, valid = trainer.bank.features, trainer.bank.valid
    assert truth.shape == (50, 4, 3, truth.shape[-1]) and bool(valid.all())
    assert (truth - trainer.views[:, :, None]).norm(dim=-1).mean() > 0.1
    label = torch.tensor([item.label for item in trainer.dm.dataset.train_x])
    assert torch.equal(trainer.truth(label[:, None])[:, :, 0], trainer.views)
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


def test_a_forks_own_trainer_keeps_its_name_and_dicap_trains_our_learner(monkeypatch, tmp_path):
    """In Dassl's registry "CoOp" may be a fork's; LEARNER CoOp is dicap's all the same."""
    import subprocess
    import sys

    code = """
import torch
from dassl.engine import TRAINER_REGISTRY, TrainerX
from dassl.config import get_cfg_default
from yacs.config import CfgNode
@TRAINER_REGISTRY.register()
class CoOp(TrainerX):
    pass
import dicap, dicap.trainers.dicap
cfg = get_cfg_default()
cfg.TRAINER.COOP = CfgNode({"N_CTX": 16, "CSC": False, "CTX_INIT": "a photo of a", "PREC": "fp16", "OWN": 1})
dicap.extend_cfg(cfg)
from dicap.learner import learner_class
assert TRAINER_REGISTRY.get("CoOp") is CoOp
assert learner_class("CoOp").__module__ == "dicap.trainers.coop"
assert cfg.TRAINER.COOP.OWN == 1 and cfg.TRAINER.COOP.CTX_INIT == "a photo of a" and cfg.TRAINER.COOP.CLASS_TOKEN_POSITION == "end"
cfg.merge_from_list(["DATASET.NAME", "Digits", "INPUT.SIZE", (64, 64), "INPUT.VIEWS", 1, "MODEL.BACKBONE.NAME", "tiny",
    "TRAINER.NAME", "DiCap", "TRAINER.DICAP.TRAIN_STEPS", 5, "DATASET.NUM_SHOTS", 2, "OPTIM.MAX_EPOCH", 1, "OPTIM.NAME", "sgd",
    "DATALOADER.TRAIN_X.BATCH_SIZE", 8, "DATALOADER.NUM_WORKERS", 0, "OUTPUT_DIR", "fork"])
import dicap.datasets.digits
from dassl.engine import build_trainer
trainer = build_trainer(cfg)
trainer.train()
assert type(trainer.learner).__module__ == "dicap.trainers.coop" and isinstance(trainer.learner.ctx, torch.nn.Parameter)
"""
    done = subprocess.run([sys.executable, "-c", "import dicap\n" + code], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]


def test_a_learner_is_registered_once():
    from dicap.trainer import register

    for name in ("CoOp", "Vanilla"):  # ours; one that Dassl itself may have
        cls = type(name, (Learner,), {"__module__": "somewhere"})
        if name in LEARNERS or name in TRAINER_REGISTRY.registered_names():
            with pytest.raises(KeyError, match=f"{name} is already registered"):
                register(cls)
