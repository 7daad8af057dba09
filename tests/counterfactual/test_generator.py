"""The public class, over the table of generators: determinism, storage, batches, errors, degenerate inputs."""

import ast
import dataclasses
import graphlib
import json
from pathlib import Path

import pytest
import reference
import scm
import torch
from safetensors import safe_open

import dicap.counterfactual
from dicap.counterfactual import CounterfactualGenerator, GeneratorConfig
from dicap.counterfactual.config import generator_options
from dicap.counterfactual.diagnostics import hsic_p
from dicap.counterfactual.generator import FORMAT

F32 = 1e-5


def same(one, other, tolerance=0.0):
    return all(
        torch.allclose(getattr(one, field.name).double(), getattr(other, field.name).double(), atol=tolerance, rtol=0)
        for field in dataclasses.fields(one)
    )


def answer(generator, images, targets, rows=slice(None), train_on="full"):
    return generator.counterfactual(images.features[rows, 0], images.labels[rows], targets[rows], train_on=train_on)


def test_answers_have_the_documented_shapes(generator, images, targets):
    for train_on in ("full", "minimal"):
        result = answer(generator, images, targets, train_on=train_on)
        assert result.features.shape == (48, 2, 32) and not result.features.requires_grad
        assert torch.allclose(result.features.norm(dim=-1), torch.ones(48, 2), atol=F32)
        for name in ("valid", "start_time", "kappa", "margin", "w"):
            assert getattr(result, name).shape == (48, 2), name
        assert result.valid.dtype == torch.bool and bool(((result.kappa >= 0) & (result.kappa <= 1)).all())
        assert bool((result.margin[result.valid] >= generator.config.delta).all())
    single = generator.counterfactual(images.features[:, 0], images.labels, targets[:, 0])
    assert single.features.shape == (48, 1, 32)


@pytest.mark.parametrize("train_on", ["full", "minimal"])
def test_12_batched_is_one_by_one(generator, images, targets, train_on):
    together = answer(generator, images, targets, train_on=train_on)
    for row in (0, 17, 47):
        alone = answer(generator, images, targets, slice(row, row + 1), train_on)
        tolerance = F32 if generator.config.generator != "eps" else 1e-3  # eps divides by A = 1e-3 at the ceiling
        assert torch.allclose(alone.features[0], together.features[row], atol=tolerance)


def test_17_the_seed_decides(generator, images, targets):
    config = generator.config
    twin = CounterfactualGenerator(config).fit(images.features, images.labels, images.texts, logit_scale=20.0)
    assert same(answer(twin, images, targets), answer(generator, images, targets))
    other = CounterfactualGenerator(dataclasses.replace(config, seed=6)).fit(
        images.features, images.labels, images.texts
    )
    changed = not same(answer(other, images, targets), answer(generator, images, targets))
    assert changed == (config.generator in ("gskip", "v", "eps"))


def test_6_the_own_class_changes_nothing_but_by_the_reconstruction(generator, images):
    f = images.features[:, 0]
    null = generator.counterfactual(f, images.labels, images.labels).features[:, 0]
    latents = generator.abduct(f, images.texts[images.labels])
    assert torch.allclose(null, generator.reconstruct(latents), atol=F32)
    if generator.config.generator in (
        "shift",
        "gauss",
        "gskip",
    ):  # networks alone reconstruct after more than a moment's training
        assert (null - f).norm(dim=1).max() < 1e-4
    if generator.config.generator != "shift":
        assert torch.allclose(generator.predict(latents, images.texts[0], start=0.0), f, atol=F32)


def test_7_the_generators_conditional_abduction_frees_the_latent_of_the_class():
    """On fresh images of a Gaussian world: 40 draws of 20 images in each of three classes, HSIC at 5 %."""
    means, half = scm.means(3, 3, spread=1.5, seed=4), reference.root(scm.covariance((0.1, 0.5, 1.0)))

    def draw(shots, seed):
        labels = torch.arange(3).repeat_interleave(shots)
        return scm.on_the_sphere(means[labels] + scm.noise(3 * shots, 3, seed) @ half), labels

    for abduct, low, high in (("cond", 0, 4), ("marg", 38, 40)):
        config = scm.small(generator="gauss", means="class", pca_k=3, abduct=abduct)
        fitted, texts = CounterfactualGenerator(config), torch.eye(3)
        fitted.fit(*draw(2000, 1000), texts)
        latents = [(fitted.abduct(f, texts[y]).z, y) for f, y in (draw(20, seed) for seed in range(40))]
        rejected = sum(hsic_p(latent, y, seed) <= 0.05 for seed, (latent, y) in enumerate(latents))
        assert low <= rejected <= high, (abduct, rejected)


def test_the_default_generator_agrees_with_the_shift(images, targets):
    """With a shared covariance and do(Y), the full counterfactual is the shift of the class effects."""
    full = {}
    for name in ("shift", "gauss", "gskip"):
        fitted = CounterfactualGenerator(scm.small(generator=name)).fit(images.features, images.labels, images.texts)
        full[name] = answer(fitted, images, targets).features
    assert (full["gauss"] - full["shift"]).norm(dim=-1).max() < 0.01
    assert (full["gskip"] - full["shift"]).norm(dim=-1).mean() < 0.05


def test_saved_and_loaded_answers_are_bit_equal(generator, images, targets, tmp_path):
    path = tmp_path / "generator.safetensors"
    generator.save(path)
    loaded = CounterfactualGenerator.load(path)
    assert loaded.config == generator.config and loaded.logit_scale == 20.0
    for train_on in ("full", "minimal"):
        assert same(
            answer(loaded, images, targets, train_on=train_on), answer(generator, images, targets, train_on=train_on)
        )
    with safe_open(path, framework="pt") as file:
        assert json.loads(file.metadata()["config"])["generator"] == generator.config.generator
    assert [entry.name for entry in tmp_path.iterdir()] == ["generator.safetensors"]  # no temporary left


def test_a_failed_save_leaves_the_old_file(gauss, tmp_path, monkeypatch):
    path = tmp_path / "generator.safetensors"
    gauss.save(path)
    before = path.read_bytes()
    monkeypatch.setattr("os.replace", lambda *_: (_ for _ in ()).throw(OSError("full")))
    with pytest.raises(OSError, match="full"):
        gauss.save(path)
    assert path.read_bytes() == before and len(list(tmp_path.iterdir())) == 1


def test_files_that_are_no_generators_are_refused(gauss, tmp_path):
    from safetensors.torch import save_file

    path = tmp_path / "generator.safetensors"
    with pytest.raises(FileNotFoundError, match="generator"):
        CounterfactualGenerator.load(path)
    gauss.save(path)
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(ValueError, match="does not hold a complete"):
        CounterfactualGenerator.load(path)
    save_file({"a": torch.zeros(1)}, path)
    with pytest.raises(ValueError, match="format None, expected"):
        CounterfactualGenerator.load(path)
    save_file({"a": torch.zeros(1)}, path, {"format": FORMAT, "config": gauss.config.to_json()})
    with pytest.raises(ValueError, match="does not hold"):
        CounterfactualGenerator.load(path)


def test_a_flipped_bit_in_a_saved_generator_is_noticed_or_changes_nothing(gauss, images, targets, tmp_path):
    path = tmp_path / "generator.safetensors"
    gauss.save(path)
    whole, expected = path.read_bytes(), answer(gauss, images, targets)
    header = 8 + int.from_bytes(whole[:8], "little")
    places = [*range(0, header, 7), *range(header, len(whole), len(whole) // 200)]
    noticed = 0
    for place in places:
        path.write_bytes(whole[:place] + bytes([whole[place] ^ (1 << place % 8)]) + whole[place + 1 :])
        try:
            assert same(answer(CounterfactualGenerator.load(path), images, targets), expected), place
        except ValueError as error:
            noticed += 1
            assert str(path) in str(error)
    assert noticed > 0.95 * len(places)


def test_autocast_and_inference_mode_change_nothing(generator, images, targets):
    plain = answer(generator, images, targets)
    with torch.autocast("cpu", torch.bfloat16):
        assert same(answer(generator, images, targets), plain)
    with torch.inference_mode():
        assert same(answer(generator, images, targets), plain)
    half = generator.counterfactual(images.features[:, 0].half(), images.labels, targets)
    assert torch.allclose(half.features, plain.features, atol=0.02 if generator.config.generator != "eps" else 10)


def test_other_texts_than_those_of_the_fit(gauss, images):
    """A text is a text: classes never seen, in any order."""
    f = images.features[:4, 0]
    order = torch.tensor([3, 1, 0, 5, 2, 4])
    known = gauss.counterfactual(f, images.labels[:4], torch.full((4,), 3))
    moved = gauss.counterfactual(
        f, torch.full((4,), 2), torch.zeros(4, dtype=torch.long), conditions=images.texts[order]
    )
    assert torch.allclose(known.features, moved.features, atol=F32)
    unseen = torch.nn.functional.normalize(scm.noise(3, 32, seed=40).float(), dim=1)
    result = gauss.counterfactual(
        f, torch.zeros(4, dtype=torch.long), torch.ones(4, dtype=torch.long), conditions=unseen
    )
    assert bool(torch.isfinite(result.margin).all())


def test_equal_texts_are_one_class_to_the_judge(gauss, images):
    f, y, one = images.features[:4, 0], images.labels[:4], torch.ones(4, dtype=torch.long)
    doubled = torch.cat([images.texts, images.texts[1:2]])
    assert torch.allclose(
        gauss.counterfactual(f, y, one, conditions=doubled).margin, gauss.counterfactual(f, y, one).margin
    )


def test_classifier_guidance_raises_the_margin(images, targets):
    margins = []
    for gamma in (0.0, 0.05):
        fitted = CounterfactualGenerator(scm.small(generator="gauss", gamma=gamma))
        fitted.fit(images.features, images.labels, images.texts)
        with torch.inference_mode():
            margins.append(answer(fitted, images, targets).margin.mean())
    assert margins[1] > margins[0] + 0.01


def test_the_text_head_can_judge(images, targets):
    config = scm.small(generator="gauss", judge="text", delta=-1e3)
    fitted = CounterfactualGenerator(config).fit(images.features, images.labels, images.texts, logit_scale=20.0)
    result = answer(fitted, images, targets)
    logits = 20.0 * result.features @ images.texts.T
    own = logits.gather(2, targets[..., None])[..., 0]
    rest = logits.scatter(2, targets[..., None], -torch.inf).amax(2)
    assert torch.allclose(result.margin, own - rest, atol=1e-4) and bool(result.valid.all())


DEGENERATE = {
    "one shot, two classes": {"patterns": 1, "shapes": 2, "shots": 1},
    "one shot": {"patterns": 2, "shapes": 3, "shots": 1},
    "two classes": {"patterns": 1, "shapes": 2, "shots": 16},
    "ten classes' half": {"patterns": 1, "shapes": 5, "shots": 16, "views": 4},
}


@pytest.mark.parametrize("case", DEGENERATE)
@pytest.mark.parametrize("name", ["gskip", "gauss", "shift"])
def test_few_classes_and_shots(case, name):
    images = scm.scenes(1.0, width=32, **DEGENERATE[case])
    fitted = CounterfactualGenerator(scm.small(generator=name)).fit(images.features, images.labels, images.texts)
    target = (images.labels + 1) % len(images.texts)
    for train_on in ("full", "minimal"):
        result = fitted.counterfactual(images.features[:, 0], images.labels, target, train_on=train_on)
        assert bool(torch.isfinite(result.features).all() & torch.isfinite(result.margin).all())


def test_a_class_without_images_is_reached_through_its_text(images):
    without = images.labels != 5
    fitted = CounterfactualGenerator(scm.small(generator="gskip"))
    fitted.fit(images.features[without], images.labels[without], images.texts)
    result = fitted.counterfactual(images.features[:8, 0], images.labels[:8], torch.full((8,), 5))
    assert result.valid.float().mean() > 0.5


def test_a_text_an_image_is_the_fit_by_labels_where_texts_are_those_of_classes(generator, images, targets):
    captions = images.texts[images.labels]
    by_text = CounterfactualGenerator(generator.config).fit(images.features, None, captions, logit_scale=20.0)
    assert torch.allclose(by_text.conditions, generator.conditions)
    for train_on in ("full", "minimal"):
        expected = answer(generator, images, targets, train_on=train_on)
        assert same(answer(by_text, images, targets, train_on=train_on), expected, F32)
    rows = torch.arange(48)  # the indices may also refer to captions: rows of the same class
    other = torch.stack([(images.labels == column[:, None]).float().argmax(1) for column in targets.T], 1)
    by_row = by_text.counterfactual(images.features[:, 0], rows, other, conditions=captions)
    assert same(by_row, answer(generator, images, targets), F32)


def test_every_image_may_have_a_text_of_its_own(generator, images):
    f, captions = images.features[:, 0], images.texts[images.labels] + 0.05 * scm.noise(48, 32, seed=8).float()
    fitted = CounterfactualGenerator(generator.config).fit(images.features, None, captions, logit_scale=20.0)
    assert fitted.conditions.shape == (48, 32)
    rows = torch.arange(48)
    for train_on in ("full", "minimal"):
        moved = fitted.counterfactual(f, rows, rows.roll(8), train_on=train_on)
        assert bool(torch.isfinite(moved.features).all() & torch.isfinite(moved.margin).all())
    reconstruction = fitted.reconstruct(fitted.abduct(f, captions))
    assert torch.allclose(fitted.counterfactual(f, rows, rows).features[:, 0], reconstruction, atol=F32)
    if generator.config.generator in ("shift", "gauss", "gskip"):
        assert (reconstruction - f).norm(dim=1).max() < 1e-4
    with pytest.raises(ValueError, match="expected 48 rows, one per feature"):
        fitted.fit(images.features, None, images.texts)


def test_features_without_views(images):
    one = CounterfactualGenerator(scm.small(generator="gauss")).fit(images.features[:, 0], images.labels, images.texts)
    assert one.abduct(images.features[:3, 0], images.texts[0]).z.shape == (3, 12)


def broken(images, **changes):
    given = {"features": images.features, "labels": images.labels, "conditions": images.texts} | changes
    return lambda: CounterfactualGenerator(scm.small(generator="gauss")).fit(**given)


def test_errors_of_fit_name_what_is_wrong(images):
    nan = images.features.clone()
    nan[7, 0, 3] = float("nan")
    cases = {
        "first is row 7": broken(images, features=nan),
        "divide by": broken(images, features=3 * images.features),
        r"expected \(N, V, e\)": broken(images, features=images.features[:0]),
        "one per image": broken(images, labels=images.labels[:-1]),
        "allow 0 to 5": broken(images, labels=images.labels + 1),
        "expected long": broken(images, labels=images.labels.float()),
        "of 1 class": broken(images, labels=torch.zeros_like(images.labels)),
        "are equal": broken(images, conditions=images.texts[:1].expand(6, -1)),
        "expected .rows": broken(images, conditions=images.texts[0]),
        "nothing to learn": broken(images, features=images.features[:1].expand(48, -1, -1)),
        "at least 2": broken(images, features=images.features[:1], labels=images.labels[:1]),
    }
    for message, act in cases.items():
        with pytest.raises(ValueError, match=message):
            act()
    single = {"features": images.features[:8], "labels": images.labels[:8], "conditions": images.texts[:1]}
    with pytest.raises(ValueError, match="at least 2 classes"):
        broken(images, **single)()


def test_errors_of_the_text_judge(images):
    with pytest.raises(ValueError, match="logit_scale"):
        CounterfactualGenerator(scm.small(judge="text")).fit(images.features, images.labels, images.texts)
    with pytest.raises(ValueError, match="judge='gauss'"):
        fit = CounterfactualGenerator(scm.small(judge="text")).fit
        fit(images.features, images.labels, images.texts[:, :5], logit_scale=20.0)


def test_errors_of_use(gauss, images, targets, tmp_path):
    f, y = images.features[:, 0], images.labels
    fresh = CounterfactualGenerator()
    for act in (
        lambda: fresh.save(tmp_path / "x"),
        lambda: fresh.counterfactual(f, y, y),
        lambda: fresh.abduct(f, images.texts[0]),
    ):
        with pytest.raises(ValueError, match="not fitted"):
            act()
    cases = {
        "train_on='half'": lambda: gauss.counterfactual(f, y, y, train_on="half"),
        "target from": lambda: gauss.counterfactual(f, y, y + 1),
        "expected .48,.": lambda: gauss.counterfactual(f, y[:3], y),
        "NaN": lambda: gauss.counterfactual(f * float("nan"), y, y),
        "expected .rows, 32": lambda: gauss.counterfactual(f[:, :5], y, y),
        "different texts": lambda: gauss.counterfactual(f[:0], y[:0], targets[:0]),
        "one per feature": lambda: gauss.abduct(f, images.texts[:2]),
    }
    for message, act in cases.items():
        with pytest.raises(ValueError, match=message):
            act()


@pytest.mark.parametrize(
    "settings",
    [
        {"generator": "gan"},
        {"w": "1"},
        {"steps": 1},
        {"steps": 2.5},
        {"gamma": -1.0},
        {"seed": -1},
        {"ema": 1.0},
        {"w": float("nan")},
        {"generator": "shift"},
        {"generator": "shift", "search": "line", "w": 2.0},
        {"pca_k": True},
    ],
)
def test_settings_are_checked(settings):
    with pytest.raises(ValueError, match=next(iter(settings))):
        GeneratorConfig(**settings)


def test_options_are_the_settings_that_users_change_and_their_bounds_are_the_configurations():
    options = generator_options()
    assert list(options) == (
        "generator abduct means train_data pca_k steps fixed_point train_steps w gamma search judge delta".split()
    )
    for name, (default, why, choices, least) in options.items():
        assert why and default == getattr(GeneratorConfig(), name)
        rest = {"search": "line"} if name == "generator" else {}
        for allowed in choices or (least,):
            assert getattr(GeneratorConfig(**(rest | {name: allowed})), name) == allowed
        with pytest.raises(ValueError, match=name):
            GeneratorConfig(**{name: "other" if choices else least - 1})
    assert all(field.metadata["why"] for field in dataclasses.fields(GeneratorConfig))


def test_settings_travel_as_json():
    config = scm.small(w=2, delta=1)
    assert GeneratorConfig.from_json(config.to_json()) == config and isinstance(config.w, float)
    with pytest.raises(ValueError, match="sigma"):
        GeneratorConfig.from_json('{"sigma": 1}')


def test_shift_has_no_time(images):
    fitted = CounterfactualGenerator(scm.small(generator="shift")).fit(images.features, images.labels, images.texts)
    latents = fitted.abduct(images.features[:2, 0], images.texts[0])
    with pytest.raises(ValueError, match="neither"):
        fitted.predict(latents, images.texts[1], start=0.5)


def test_few_images_are_seen_at_most_so_many_times(images, targets):
    def moved(**settings):
        config = scm.small(generator="gskip", batch=16, **settings)  # 48 images: 3 batches a pass
        return answer(
            CounterfactualGenerator(config).fit(images.features, images.labels, images.texts), images, targets
        )

    assert same(moved(train_steps=500, passes=2), moved(train_steps=6))
    assert not same(moved(train_steps=6), moved(train_steps=5))


def test_imports_within_the_package_point_one_way():
    folder = Path(dicap.counterfactual.__file__).parent
    imports = {}
    for file in folder.glob("[!_]*.py"):
        nodes = [
            node for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.ImportFrom) and node.level
        ]
        imports[file.stem] = {name for node in nodes for name in [node.module, *(alias.name for alias in node.names)]}
    graphlib.TopologicalSorter(imports).prepare()  # raises CycleError
