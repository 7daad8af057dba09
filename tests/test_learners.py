"""The contract of learners, over those of tests/plugins/learners.py, which are written as an outsider would write them."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from dicap import discover
from dicap.backbones import weights_digest
from dicap.config import build_cfg, config_path, facts_of
from dicap.experiments.run import run
from dicap.learner import LEARNERS, Facts, LearnedCLIP, Learner, build_learner, learner_class
from dicap.options import ConfigError

PLUGIN = Path(__file__).parent / "plugins" / "learners.py"
discover.load_all()
OURS = set(LEARNERS)
discover.load_plugin(str(PLUGIN))
from dassl.engine import build_trainer  # noqa: E402

PLUGGED = sorted(set(LEARNERS) - OURS)
SHORT = ["DATASET.NUM_SHOTS", "4", "OPTIM.MAX_EPOCH", "2", "DATALOADER.TRAIN_X.BATCH_SIZE", "8", "OPTIM.LR", "0.5"]
STEPS = ["TRAINER.DICAP.TRAIN_STEPS", "10", "TRAINER.DICAP.STEPS", "8"]


@pytest.fixture(autouse=True)
def folders(embedded_data, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)


def config(method, split="base", out="out", opts=()):
    views = ["INPUT.VIEWS", "0"] if method == "PixelPrompt" else []
    quick = STEPS if method.startswith("DiCap") else []
    recipe = config_path("trainers/CoOp", "tiny")
    return build_cfg(
        config_path("datasets", "digits"),
        recipe,
        method,
        output_dir=out,
        seed=1,
        opts=[*SHORT, *views, "DATASET.SUBSAMPLE_CLASSES", split, *quick, *opts],
    )


FACTS = {name: facts_of(config(name)) for name in PLUGGED}


def trained(method, out="out", **kwargs):
    trainer = build_trainer(config(method, out=out, **kwargs))
    trainer.train()
    return trainer


def test_there_is_one_of_each_kind():
    for name in ("image", "text", "classes", "fit"):
        from dicap.learner import CHOICES

        assert {getattr(facts, name) for facts in FACTS.values()} == set(CHOICES[name]), name


@pytest.mark.parametrize("name", PLUGGED)
def test_what_is_learned_is_what_is_tested_saved_and_loaded(name):
    trainer = trained(name)
    images = trainer.test_loader.dataset
    tower = FACTS[name].image == "tower"
    batch = next(iter(trainer.test_loader))
    logits = trainer.model_inference(batch["img"])
    if FACTS[name].fit == "steps":  # what was learned moves the scores away from zero-shot CLIP's
        start = build_trainer(config(name, out="start"))
        assert not torch.allclose(start.model_inference(batch["img"]), logits, atol=1e-3)
        assert any(not torch.equal(p, q) for p, q in zip(start.learner.parameters(), trainer.learner.parameters()))
    expected = logits.argmax(1).tolist()
    trainer.test()
    assert trainer.evaluator._y_pred[: len(expected)] == expected  # the test uses what is learned
    assert tower == (batch["img"].dim() == 4) and (tower or images.features.shape[1:] == (1, 128))
    again = build_trainer(config(name, out="again"))
    again.load_model("out")
    assert torch.equal(again.model_inference(batch["img"]), logits)


@pytest.mark.parametrize("name", PLUGGED)
def test_a_batch_is_scored_as_one_image_at_a_time(name):
    trainer = trained(name)
    batch = next(iter(trainer.test_loader))["img"][:7]
    together = trainer.model_inference(batch)
    one_by_one = torch.cat([trainer.model_inference(image[None]) for image in batch])
    torch.testing.assert_close(together, one_by_one, atol=1e-4, rtol=1e-4)
    assert not torch.allclose(together[0], together[1], atol=1e-3)


@pytest.mark.parametrize("name", PLUGGED)
def test_only_what_is_declared_moves(name):
    trainer = build_trainer(config(name))
    clip = weights_digest(trainer.model.clip)
    trainer.train()
    assert weights_digest(trainer.model.clip) == clip
    assert all(p.grad is None for p in trainer.model.clip.parameters())
    x = F.normalize(torch.randn(3, 128, generator=torch.Generator().manual_seed(0)), dim=-1)
    if FACTS[name].image == "frozen":
        assert torch.equal(trainer.learner.image(x), x)
    if FACTS[name].text == "fixed":
        assert torch.equal(trainer.learner.text(None), trainer.learner.hand_text())
    assert not any(key.startswith("_clip") or "clip" in key for key in trainer.learner.state_dict())


@pytest.mark.parametrize("name", PLUGGED)
def test_base_loads_into_new_classes_or_says_that_it_cannot(name):
    base = trained(name)
    new = build_trainer(config(name, "new", out="new"))
    if FACTS[name].classes == "any":
        new.load_model("out")
        assert new.learner.texts != base.learner.texts
        for key, value in base.learner.state_dict().items():
            assert torch.equal(value, new.learner.state_dict()[key]), key
        f = next(iter(base.test_loader))["img"]
        base.model.bind(new.learner.texts)
        assert torch.equal(base.model(f), new.model_inference(f))
    else:
        with pytest.raises(ConfigError, match=f"trained on other classes, and {name} has parameters for each class"):
            new.load_model("out")
        with pytest.raises(ConfigError, match=f"{name} has parameters for each of the classes"):
            base.model.bind(["a", "b"])


@pytest.mark.parametrize("name", [name for name in PLUGGED if FACTS[name].fit == "steps"])
def test_a_killed_run_goes_on_as_if_it_had_not_been(name, monkeypatch):
    whole = run(config(name, out="whole"))
    cls = type(build_trainer(config(name, out="unused")))
    step = cls.forward_backward

    def stop(self, batch):
        if self.epoch == 1:
            raise KeyboardInterrupt
        return step(self, batch)

    monkeypatch.setattr(cls, "forward_backward", stop)
    with pytest.raises(KeyboardInterrupt):
        run(config(name, out="cut"))
    monkeypatch.setattr(cls, "forward_backward", step)
    assert run(config(name, out="cut"))["digests"]["model"] == whole["digests"]["model"]
    states = [torch.load(f"{out}/learner/model.pth.tar-2", weights_only=True)["state_dict"] for out in ("whole", "cut")]
    assert all(torch.equal(value, states[1][key]) for key, value in states[0].items())


@pytest.mark.parametrize("name", PLUGGED)
def test_dicap_trains_any_that_can_use_counterfactuals_and_says_why_not(name):
    facts = FACTS[name]
    if facts.fit != "steps" or facts.image == "tower":
        reason = "learns nothing in steps" if facts.fit != "steps" else "changes the image tower"
        with pytest.raises(ConfigError, match=f"DiCap:{name}: {name} {reason}"):
            build_trainer(config(f"DiCap:{name}"))
        return
    run(config(f"DiCap:{name}", out="dicap"))
    run(config(f"DiCap:{name}", out="alone", opts=["TRAINER.DICAP.CONTROL", "no-cf"]))
    run(config(name, out="itself"))
    dicap, alone, itself = (
        torch.load(f"{out}/learner/model.pth.tar-2", weights_only=True)["state_dict"]
        for out in ("dicap", "alone", "itself")
    )
    assert all(torch.equal(value, alone[key]) for key, value in itself.items())
    assert any(not torch.equal(value, dicap[key]) for key, value in itself.items())


def test_closed_forms_are_computed_from_cached_views_alone():
    with pytest.raises(ConfigError, match="INPUT.VIEWS is 0; Whitening is computed from cached views"):
        build_trainer(config("Whitening", opts=["INPUT.VIEWS", "0"]))
    trainer = trained("Whitening")
    x = trainer.views.flatten(0, 1)
    covariance = torch.cov(x.T) + 0.1 * torch.eye(x.shape[1])
    inverse = torch.linalg.inv(covariance)
    torch.testing.assert_close(trainer.learner.precision, inverse / inverse.norm())
    assert Path("out/learner/model.pth.tar-1").is_file()


def test_what_is_fitted_before_the_steps_needs_cached_views_too():
    with pytest.raises(ConfigError, match="INPUT.VIEWS is 0; Cache is computed from cached views"):
        build_trainer(config("Cache", opts=["INPUT.VIEWS", "0"]))


def test_two_learners_of_which_one_would_not_be_heard_are_refused():
    for pair in ("TextShift+Projected", "Cache+Shift"):
        with pytest.raises(ConfigError, match=r".*\+.*: (a learner with a backward|the first of two)"):
            build_trainer(config("DiCap", opts=["TRAINER.DICAP.LEARNER", pair]))
    trainer = trained("DiCap", opts=["TRAINER.DICAP.LEARNER", "TextShift+Shift"])
    assert set(trainer.learner.state_dict()) == {"learners.0.shift", "learners.1.shift"}
    assert all(p.abs().sum() > 0 for p in trainer.learner.parameters())


def test_a_penalty_cannot_take_the_place_of_the_tasks_loss(monkeypatch):
    trainer = build_trainer(config("TextShift"))
    trainer.before_train()
    monkeypatch.setattr(type(trainer.learner), "penalties", lambda self, f, t, batch: {"ce": f.sum()})
    with pytest.raises(ValueError, match="TextShift: two losses are called ce"):
        trainer.loss(trainer.parse_batch_train(next(iter(trainer.train_loader_x))))
    trainer.close_writer()


def test_the_average_over_the_epochs_is_what_is_tested():
    trainer = trained("Averaged")
    torch.testing.assert_close(trainer.learner.shift, trainer.learner.total / 2)


def test_a_learner_decides_how_its_gradients_are_combined():
    trainer = build_trainer(config("Projected"))
    trainer.before_train()
    trainer.num_batches, trainer.batch_idx = 10, 0
    shift = trainer.learner.shift
    with torch.no_grad():
        shift.normal_(std=0.05, generator=torch.Generator().manual_seed(1))
    batch = next(iter(trainer.train_loader_x))
    parsed = trainer.parse_batch_train(batch)
    _, losses = trainer.loss(parsed)
    (task,) = torch.autograd.grad(losses["ce"], shift, retain_graph=True)
    (general,) = torch.autograd.grad(losses["general"], shift)
    expected = task - (task @ general).clamp_max(0) / general.square().sum() * general
    trainer.forward_backward(batch)
    torch.testing.assert_close(shift.grad, expected)
    assert shift.grad @ general > -1e-6
    trainer.close_writer()


def test_penalties_are_added_to_the_tasks_loss_and_logged():
    trainer = build_trainer(config("TextShift", opts=["TRAINER.TEXTSHIFT.PULL", "3"]))
    trainer.before_train()
    trainer.num_batches, trainer.batch_idx = 10, 0
    with torch.no_grad():
        trainer.learner.shift.fill_(0.02)
    summary = trainer.forward_backward(next(iter(trainer.train_loader_x)))
    assert summary["pull"] > 0 and summary["loss"] == pytest.approx((summary["ce"] + summary["pull"]).item())
    trainer.close_writer()


def test_batches_carry_index_view_and_group_or_none():
    trainer = build_trainer(config("Shift"))
    trainer.before_train()
    batch = trainer.parse_batch_train(next(iter(trainer.train_loader_x)))
    assert batch["index"].shape == batch["view"].shape == batch["target"].shape and batch["group"] is None
    cfg = build_cfg(
        config_path("datasets", "causal_shapes"),
        config_path("trainers/CoOp", "tiny"),
        "Shift",
        output_dir="shapes",
        seed=1,
        opts=[
            *SHORT,
            "DATASET.CAUSALSHAPES.RHO",
            "0.5",
            "DATASET.CAUSALSHAPES.PER_CLASS_TRAIN",
            "4",
            "DATASET.CAUSALSHAPES.PER_CLASS_VAL",
            "1",
            "DATASET.CAUSALSHAPES.PER_CLASS_TEST",
            "1",
        ],
    )
    shapes = build_trainer(cfg)
    shapes.before_train()
    batch = shapes.parse_batch_train(next(iter(shapes.train_loader_x)))
    items = [shapes.dm.dataset.train_x[i] for i in batch["index"].tolist()]
    names = [shapes.dm.dataset.groups[item.impath] for item in items]
    assert batch["group"].tolist() == [["aligned", "conflicting"].index(name) for name in names]
    assert len(set(shapes._group.tolist())) == 2
    fresh = build_trainer(config("PixelPrompt"))
    fresh.before_train()
    batch = fresh.parse_batch_train(next(iter(fresh.train_loader_x)))
    assert batch["view"] is None and batch["img"].dim() == 4 and batch["target"].equal(batch["label"])
    for each in (trainer, shapes, fresh):
        each.close_writer()


def test_texts_may_change_at_any_time(random_clip):
    clip = random_clip("vit")
    options = SimpleNamespace(n_ctx=4, ctx_init="", csc=False, class_token_position="middle")
    torch.manual_seed(0)
    model = LearnedCLIP(clip, build_learner("CoOp", clip, options, ["cat", "old tree", "bus"], "a photo of a {}."))
    f = F.normalize(torch.randn(2, 32, generator=torch.Generator().manual_seed(0)), dim=-1)
    three = model.score(f)
    captions = ["a caption that is much longer than any name of a class", "cat"]
    two = model.score(f, captions)
    assert two.shape == (2, 2) and torch.allclose(two[:, 1], three[:, 0], atol=1e-4)
    with model.evaluating():  # what was encoded for one list of texts is not taken for another
        assert torch.equal(model.score(f), three) and torch.equal(model.score(f, captions), two)
        assert torch.equal(model.score(f), three)
    with torch.inference_mode():
        model.score(f, ["dog", "sea"])
    model.bind(["dog", "sea"])
    model(f).sum().backward()  # training may follow texts that were bound in inference mode
    assert model.learner.ctx.grad.abs().sum() > 0


# -- nothing is silently wrong -----------------------------------------------------------------------------------------


def model_of(clip, cls, **options):
    learner = cls(clip, SimpleNamespace(**options), ["cat", "dog"], "a photo of a {}.")
    learner.bind(["cat", "dog"])
    return LearnedCLIP(clip, learner)


def vector():
    return nn.Parameter(torch.zeros(32))


class Base(Learner):
    def __init__(self, *args):
        super().__init__(*args)
        self.shift = vector()


class ReadsTheImage(Base):  # says shared, but its text depends on the image
    TEXT = "shared"

    def text(self, f=None):
        return F.normalize(self.hand_text() + (f @ torch.eye(32))[:, None] * self.shift, dim=-1)


class FirstImageOnly(Base):
    TEXT = "per_image"

    def text(self, f=None):
        return F.normalize(self.hand_text() + f[0] + self.shift, dim=-1)


class MovesImages(Base):
    def image(self, x):
        return F.normalize(x + self.shift, dim=-1)


class ForgetsText(Base):
    TEXT = "shared"


class LearnsNothing(Learner):
    IMAGE = "features"

    def image(self, x):
        return x


class LearnsAllTheSame(Base):
    FIT = "none"


class HasNoFormula(Learner):
    FIT = "closed_form"


class Tower(Base):
    IMAGE = "tower"

    def image(self, x):
        return F.normalize(self.clip.encode_image(x) + self.shift, dim=-1)


class UndeclaredProbe(Base):  # its weights are of the classes of the training
    def logits(self, f, t):
        return super().logits(f, t) + f @ self.shift.expand(2, -1).T


class Stash(Base):
    IMAGE, TEXT = "features", "shared"

    def image(self, x):
        self.seen = x
        return F.normalize(x + self.shift, dim=-1)

    def text(self, f=None):
        return F.normalize(self.hand_text() + self.seen[0], dim=-1)


class Unnormalised(Base):
    IMAGE = "features"

    def image(self, x):
        return 3 * (x + self.shift)


class FitsNothing(Learner):
    FIT = "none"

    def fit(self, features, labels, val=None):
        raise AssertionError


@pytest.mark.parametrize(
    "cls, message",
    [
        (UndeclaredProbe, "UndeclaredProbe: CLASSES is any|must match the size of tensor"),
        (Stash, "Stash: TEXT is shared, but its text features change with the images"),
        (Unnormalised, "Unnormalised: its image features are not of unit length"),
        (FitsNothing, "FitsNothing: FIT is none, but it defines the method fit"),
        (MovesImages, "MovesImages: IMAGE is frozen, but it defines the method image"),
        (ForgetsText, "ForgetsText: TEXT is shared, but it does not define the method text"),
        (LearnsNothing, "LearnsNothing: FIT is steps, but it has no parameters that take a gradient"),
        (LearnsAllTheSame, "LearnsAllTheSame: FIT is none, but it has parameters that take a gradient"),
        (HasNoFormula, "HasNoFormula: FIT is closed_form, but it does not define the method fit"),
    ],
)
def test_facts_that_contradict_the_class_are_refused(random_clip, cls, message):
    with pytest.raises((ConfigError, RuntimeError), match=message):
        model_of(random_clip("vit"), cls)


@pytest.fixture
def plug():
    """plug(cls) makes a learner a method for one test."""
    from dassl.engine import TRAINER_REGISTRY

    from dicap.trainer import register

    names = []

    def add(cls):
        cls.__module__ = "somewhere"
        register(cls)
        names.append(cls.__name__)
        return cls.__name__

    yield add
    for name in names:
        del LEARNERS[name], TRAINER_REGISTRY._obj_map[name]


class Wide(Learner):
    """For the tiny CLIP: features of 128."""

    IMAGE = "features"

    def __init__(self, *args):
        super().__init__(*args)
        self.shift = nn.Parameter(torch.zeros(128))

    def image(self, x):
        return F.normalize(x + self.shift, dim=-1)


def test_state_that_no_file_would_keep_is_refused(plug):
    class Forgetful(Wide):
        def after_epoch(self, epoch, epochs):
            self.average = {"shift": self.shift.detach().clone()}

    class Moves(Wide):
        def __init__(self, *args):
            super().__init__(*args)
            self.mean, self.steps, self.constant = torch.zeros(128), [0], torch.ones(2)

        def after_epoch(self, epoch, epochs):
            self.mean += self.shift.detach()
            self.steps[0] += 1

    for cls, names in ((Forgetful, "average"), (Moves, "mean, steps")):
        with pytest.raises(ConfigError, match=f"{cls.__name__}: {names} would not be saved: use register_buffer"):
            build_trainer(config(plug(cls))).train()


def test_weights_of_clip_that_change_are_refused_before_features_are_cached(plug):
    class Rude(Wide):
        def __init__(self, clip, *args):
            super().__init__(clip, *args)
            next(clip.visual.parameters()).data.add_(1)

    with pytest.raises(ConfigError, match="Rude changes the weights of CLIP, but IMAGE is features"):
        build_trainer(config(plug(Rude)))


def test_a_parameter_that_no_group_has_is_refused(plug):
    class Partial(Wide):
        def parameter_groups(self, lr):
            self.more = nn.Parameter(torch.zeros(1))
            return [{"params": [self.shift], "lr": lr}]

    with pytest.raises(ConfigError, match="Partial: no group of parameter_groups has more"):
        build_trainer(config(plug(Partial)))


def test_a_parameter_that_is_fitted_is_trained_saved_and_loaded(plug):
    class TrainedKeys(Wide):  # as Tip-Adapter-F's
        FITTED = ("keys",)

        def __init__(self, *args):
            super().__init__(*args)
            self.register_parameter("keys", None)

        def fit(self, features, labels, val=None):
            self.keys = nn.Parameter(features.mean((0, 1)))

        def image(self, x):
            return F.normalize(x + self.shift + (0 if self.keys is None else self.keys), dim=-1)

    name = plug(TrainedKeys)
    trainer = trained(name)
    start = trainer.views.mean((0, 1))
    assert not torch.equal(trainer.learner.keys, start)
    again = build_trainer(config(name, out="again"))
    again.load_model("out")
    assert torch.equal(again.learner.keys, trainer.learner.keys)
    state = trainer.learner.state_dict()
    del state["keys"]
    with pytest.raises(ConfigError, match="TrainedKeys: keys, which `fit` makes, is not in the file"):
        build_trainer(config(name, out="third")).learner.load(state, "a file")
    pair = ["TRAINER.DICAP.LEARNER", f"TextShift+{name}"]
    both = trained("DiCap", out="both", opts=pair)
    loaded = build_trainer(config("DiCap", out="loaded", opts=pair))
    loaded.load_model("both")
    assert torch.equal(loaded.learner.learners[1].keys, both.learner.learners[1].keys)


def test_another_learner_does_not_take_over_a_killed_run():
    run(config("DiCap:Shift", out="one"))
    Path("one/result.json").unlink()
    with pytest.raises(ValueError, match="TRAINER.DICAP.LEARNER was Shift and is Averaged"):
        run(config("DiCap:Averaged", out="one"))


def test_frozen_texts_and_logits_are_not_rounded_under_autocast():
    trainer = build_trainer(config("ImageShift", opts=["TRAINER.IMAGESHIFT.PREC", "bf16"]))
    fresh = trainer.learner.hand_text().clone()
    trainer.learner._hand_text = None
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(trainer.learner.hand_text(), fresh)
        f = F.normalize(torch.randn(3, 128), dim=-1)
        assert trainer.learner.logits(f.bfloat16(), fresh.bfloat16()).dtype == torch.float32


def test_an_objective_of_ones_own_weighs_groups_and_keeps_its_state(plug):
    """As GroupDRO: its state is a registered module, which is resumed; only learners are loaded for a test."""
    from dassl.engine import TRAINER_REGISTRY

    from dicap.options import Option
    from dicap.trainer import PREC, LearnerTrainer

    class Weights(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("q", torch.ones(2))

    class GroupWeights(LearnerTrainer):
        OPTIONS = {"LEARNER": Option("Shift", "what is trained"), "PREC": PREC}
        RESUMABLE = True

        def build_model(self):
            super().build_model()
            self.weights = Weights()
            self.register_model("weights", self.weights)

        def objective(self, batch, f, t, losses):
            of_group = torch.zeros(2).index_add(0, batch["group"], losses.detach())
            self.weights.q = self.weights.q * (0.01 * of_group).exp()
            return {"ce": (self.weights.q[batch["group"]] * losses).mean()}

    TRAINER_REGISTRY.register()(GroupWeights)
    try:
        few = [
            x
            for part, n in (("TRAIN", 4), ("VAL", 1), ("TEST", 1))
            for x in (f"DATASET.CAUSALSHAPES.PER_CLASS_{part}", str(n))
        ]
        cfg = build_cfg(
            config_path("datasets", "causal_shapes"),
            config_path("trainers/CoOp", "tiny"),
            "GroupWeights",
            output_dir="dro",
            seed=1,
            opts=[*SHORT, *few, "DATASET.CAUSALSHAPES.RHO", "0.5"],
        )
        trainer = build_trainer(cfg)
        trainer.train()
        saved = torch.load("dro/weights/model.pth.tar-2", weights_only=True)["state_dict"]["q"]
        assert torch.equal(saved, trainer.weights.q) and (saved > 1).all()
        state = torch.load("dro/resume/epoch-2.pt", weights_only=True)["models"]["weights"]["state_dict"]
        assert torch.equal(state["q"], saved)
        again = build_trainer(cfg)
        again.load_model("dro")
        assert torch.equal(again.learner.shift, trainer.learner.shift)
    finally:
        del TRAINER_REGISTRY._obj_map["GroupWeights"]


def test_a_text_that_depends_on_the_image_without_saying_so_cannot_score_a_batch(random_clip):
    f = F.normalize(torch.randn(3, 32), dim=-1)
    with pytest.raises(TypeError):  # it gets no image: it cannot score all of them with the first one's text
        model_of(random_clip("vit"), ReadsTheImage)(f)
    with pytest.raises(ValueError, match=r"FirstImageOnly: TEXT is per_image.*\(2, 3, 32\).*\(3, 32\)"):
        model_of(random_clip("vit"), FirstImageOnly)(f)


def test_a_tower_is_never_given_cached_features(random_clip):
    with pytest.raises(ValueError, match="Tower changes the image tower: it needs images, not features"):
        model_of(random_clip("vit"), Tower)(torch.zeros(1, 32))
    with pytest.raises(ConfigError, match="INPUT.VIEWS is 4, but PixelPrompt changes the image tower"):
        build_trainer(config("PixelPrompt", opts=["INPUT.VIEWS", "4"]))


def test_a_fact_that_is_none_is_refused():
    with pytest.raises(ValueError, match="IMAGE is 'featurs'; allowed: frozen, features, tower"):
        Facts(image="featurs")


def test_a_file_that_does_not_fit_is_refused_with_names_and_sizes(random_clip):
    clip, options = random_clip("vit"), SimpleNamespace(n_ctx=4, ctx_init="", csc=False, class_token_position="end")
    learner = build_learner("CoOp", clip, options, ["cat", "dog"], "a photo of a {}.")
    state = learner.state_dict()
    learner.load({**state, "token_prefix": torch.zeros(2, 1, 32)}, "a published file")
    for wrong, message in (
        ({"ctx": torch.zeros(5, 128)}, r"x.pth does not fit \(ctx: expected \(4, 128\), the file has \(5, 128\)\)"),
        ({}, r"ctx: expected \(4, 128\), the file has none"),
        ({**state, "more": torch.zeros(1)}, r"more: expected none, the file has \(1,\)"),
    ):
        with pytest.raises(ConfigError, match=message):
            learner.load(wrong, "x.pth")
    assert torch.equal(learner.ctx, state["ctx"])


def test_names_of_learners_are_looked_up_among_dicaps_own():
    assert learner_class("CoOp").__module__ == "dicap.trainers.coop"
    pair = learner_class("CoOp+Shift")
    assert [part.__name__ for part in pair.parts] == ["CoOp", "Shift"]
    for name in ("Vanilla", "CoOp+", "CoOp+Shift+Shift"):
        with pytest.raises(ConfigError, match="unknown learner .*there are: "):
            learner_class(name)
