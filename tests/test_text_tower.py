"""The text tower and the learners of prompts against the textbook formula (77 padded tokens, one image at a time)."""

from types import SimpleNamespace

import pytest
import torch
from reference_clip import cocoop_logits, coop_logits

import dicap.learner
from dicap import discover, text_tower
from dicap.backbones import tokenize
from dicap.learner import LearnedCLIP, build_learner
from dicap.options import ConfigError

discover.load_all()

NAMES = ["striped star", "cat", "red-winged_blackbird of the northern marshes"]  # unequal lengths, odd count


def learn(name, clip, texts, n_ctx=16, ctx_init="", csc=False, position="end", template="a photo of a {}."):
    """A learner by its name, on a CLIP."""
    options = SimpleNamespace(n_ctx=n_ctx, ctx_init=ctx_init, csc=csc, class_token_position=position, template=template)
    return build_learner(name, clip, options, texts, template)


def prompted(name, clip, texts, *args, **kwargs):
    return LearnedCLIP(clip, learn(name, clip, texts, *args, **kwargs))


def relative(a, b):
    return ((a - b).norm() / b.norm()).item()


def features(clip, b):
    f = torch.randn(b, clip.text_projection.shape[1], generator=torch.Generator().manual_seed(b))
    return torch.nn.functional.normalize(f, dim=-1)


def tokens_and_lens(n_ctx, words=""):
    tokens = tokenize([f"{words or ' '.join(['X'] * n_ctx)} {name.replace('_', ' ')}." for name in NAMES])
    return tokens, (tokenize([name.replace("_", " ") for name in NAMES]).argmax(-1) - 1).tolist()


@pytest.mark.parametrize("tower", ["vit", "resnet"])
def test_plain_prompts_equal_clips_own_encode_text(random_clip, tower):
    clip = random_clip(tower)
    sentences = [f"a photo of a {name.replace('_', ' ')}." for name in NAMES]
    own, learner = clip.encode_text(tokenize(sentences)), learn("ZeroshotCLIP", clip, NAMES)
    assert relative(learner.text_tower(text_tower.embed(clip, sentences))[0], own) < 1e-5
    assert relative(learner.text(), torch.nn.functional.normalize(own, dim=-1)) < 1e-5


@pytest.mark.parametrize("position", ["end", "middle", "front"])
@pytest.mark.parametrize("csc", [False, True])
@pytest.mark.parametrize("b", [1, 5])
def test_static_context_equals_the_textbook_forward_and_gradient(random_clip, position, csc, b):
    clip = random_clip("vit")
    torch.manual_seed(3)
    model = prompted("CoOp", clip, NAMES, n_ctx=5, csc=csc, position=position)
    ctx = model.learner.ctx
    f, weights = features(clip, b), torch.linspace(-1, 1, b * len(NAMES)).view(b, -1)
    logits = model(f)
    (logits * weights).sum().backward()
    plain = ctx.detach().clone().requires_grad_()
    expected = coop_logits(clip, plain, *tokens_and_lens(5), f, position)
    (expected * weights).sum().backward()
    assert relative(logits, expected) < 1e-5
    assert plain.grad.norm() > 0
    assert relative(ctx.grad, plain.grad) < 1e-5


@pytest.mark.parametrize("b", [1, 4])
def test_conditional_context_equals_one_image_at_a_time(random_clip, b):
    clip = random_clip("vit")
    torch.manual_seed(4)
    prompt = learn("CoCoOp", clip, NAMES, ctx_init="a photo of a")
    model, f = LearnedCLIP(clip, prompt), features(clip, b)
    weights = torch.linspace(-1, 1, b * len(NAMES)).view(b, -1)
    logits = model(f)
    (logits * weights).sum().backward()
    got = {name: p.grad.clone() for name, p in prompt.named_parameters()}
    prompt.zero_grad()
    expected = cocoop_logits(clip, prompt.ctx, prompt.meta_net, *tokens_and_lens(4, "a photo of a"), f)
    (expected * weights).sum().backward()
    assert relative(logits, expected) < 1e-5
    for name, p in prompt.named_parameters():
        assert relative(got[name], p.grad) < 2e-5, name


MANY = [f"{'very ' * (k % 6)}{word} {k}" for k, word in enumerate(["cat", "old tree", "bus", "striped star"] * 6)]


def gradients(model, f):
    prompt, logits = model.learner, model(f)
    prompt.zero_grad()
    (logits * torch.linspace(-1, 1, logits.numel()).view_as(logits)).sum().backward()
    return logits.detach(), {name: p.grad.clone() for name, p in prompt.named_parameters()}


def tiny_memory(model, tokens):
    """A budget that lets so many tokens through at once."""
    layers, d = len(model.clip.transformer.resblocks), model.clip.text_projection.shape[0]
    model.learner.text_tower.memory = tokens * 4 * d * layers * text_tower.KEPT / 2**30


@pytest.mark.parametrize("kind", ["CoOp", "CoCoOp"])
@pytest.mark.parametrize("tokens", [1, 70, 120])  # less than a sequence, one, two
def test_parts_under_a_budget_give_the_logits_and_gradients_of_the_whole(random_clip, kind, tokens, monkeypatch):
    clip = random_clip("vit")
    torch.manual_seed(5)
    model, f = prompted(kind, clip, MANY, n_ctx=3), features(clip, 5)
    whole, expected = gradients(model, f)
    tiny_memory(model, tokens)
    calls, encode = [], model.learner.text_tower._encode
    monkeypatch.setattr(model.learner.text_tower, "_encode", lambda *args: calls.append(1) or encode(*args))
    logits, got = gradients(model, f)
    assert len(calls) > 2 and len(calls) % 2 == 0  # in parts, each once more in the backward pass
    assert relative(logits, whole) < 1e-6 and torch.equal(logits.argmax(-1), whole.argmax(-1))
    assert all(relative(got[name], expected[name]) < 1e-5 for name in expected)


def test_the_budget_counts_what_the_gradient_keeps(random_clip):
    clip = random_clip("vit")
    model, f = prompted("CoCoOp", clip, MANY, n_ctx=3), features(clip, 8)
    prompts, kept, tower = model.learner.prompts(f), {}, model.learner.text_tower
    with torch.autograd.graph.saved_tensors_hooks(
        lambda x: kept.__setitem__(x.untyped_storage().data_ptr(), x) or x, lambda x: x
    ):  # kept alive: no address twice
        tower(prompts)
    weights = {p.untyped_storage().data_ptr() for p in clip.parameters()}
    seen = sum(x.untyped_storage().nbytes() for at, x in kept.items() if at not in weights)
    n, _, size, _ = text_tower.pack_classes(prompts.lens, 4, 128, torch.device("cpu")).mask.shape
    tower.memory = seen / 2**30
    assert 0.7 < tower.tokens_at_once(True, torch.device("cpu")) / (len(f) * n * size) < 1.3


def test_parts_without_a_gradient_are_not_computed_twice(random_clip, monkeypatch):
    clip = random_clip("vit")
    model, f = prompted("CoCoOp", clip, MANY, n_ctx=3), features(clip, 5)
    whole = model(f).detach()
    monkeypatch.setattr(text_tower, "CACHED", 100)
    calls, encode = [], model.learner.text_tower._encode
    monkeypatch.setattr(model.learner.text_tower, "_encode", lambda *args: calls.append(1) or encode(*args))
    with torch.no_grad():
        assert relative(model(f), whole) < 1e-6
    assert len(calls) > 1


@pytest.mark.parametrize("lens", [(3,), (2, 2), tuple(1 + k * 7 % 11 for k in range(40)), (60, *[3] * 50)])
@pytest.mark.parametrize("n_prefix", [1, 5, 17])
def test_a_class_sees_its_prefix_and_itself_and_nothing_else(lens, n_prefix):
    pack = text_tower.pack_classes(lens, n_prefix, 128, torch.device("cpu"))
    n, size = pack.rows.shape
    suffix = torch.arange(sum(lens))
    owner = torch.repeat_interleave(torch.arange(len(lens)), torch.tensor(lens))
    first = torch.tensor((0, *lens)).cumsum(0)[:-1]
    where = pack.ends.flatten()[pack.order]
    sequence = pack.order // pack.ends.shape[1]
    for c, (length, end, i) in enumerate(zip(lens, where.tolist(), sequence.tolist())):
        span = slice(end - n_prefix - length + 1, end - n_prefix + 1)
        assert torch.equal(suffix[pack.rows[i, span]], suffix[owner == c])
        assert pack.positions[i, span].tolist() == list(range(n_prefix, n_prefix + length))
        for k in range(length):
            seen = pack.mask[i, 0, end - length + 1 + k].nonzero().flatten().tolist()
            assert seen == [*range(n_prefix), *range(end - length + 1, end - length + 2 + k)]
    assert all(
        pack.mask[i, 0, k].nonzero().flatten().tolist() == list(range(k + 1)) for i in range(n) for k in range(n_prefix)
    )
    assert len(set(pack.order.tolist())) == len(lens) == len(first)
    waste = n * size / sum(lens)
    assert waste < 1.15 or n == 1, waste


def test_a_packing_first_asked_for_in_inference_mode_serves_training_too(random_clip):
    clip = random_clip("vit")
    model, f = prompted("CoOp", clip, NAMES, 9), features(clip, 2)
    with torch.inference_mode():
        model.bind(["first seen", "so long a name, seen here first"])
        model.text(f)
    assert gradients(model, f)[1]["ctx"].abs().sum() > 0


def test_one_long_name_costs_its_own_tokens_only():
    short = text_tower.pack_classes((3,) * 200, 5, 512, torch.device("cpu"))
    mixed = text_tower.pack_classes((60, *(3,) * 200), 5, 512, torch.device("cpu"))
    assert mixed.rows.numel() < short.rows.numel() + 60 + 0.1 * 660


def test_a_class_alone_has_the_features_it_has_among_others(random_clip):
    clip = random_clip("vit")
    together = learn("ZeroshotCLIP", clip, MANY).text()
    alone = torch.cat([learn("ZeroshotCLIP", clip, [name]).text() for name in MANY])
    assert relative(together, alone) < 1e-6


@pytest.mark.parametrize("position", ["middle", "front"])
def test_a_name_that_ends_in_a_full_stop_is_cut_where_the_textbook_cuts(random_clip, position):
    clip = random_clip("vit")
    names = ["st. john's dr.", "cat"]
    torch.manual_seed(6)
    model, f = prompted("CoOp", clip, names, n_ctx=4, position=position), features(clip, 2)
    tokens = tokenize([f"X X X X {name}." for name in names])
    lens = (tokenize(names).argmax(-1) - 1).tolist()
    assert relative(model(f), coop_logits(clip, model.learner.ctx, tokens, lens, f, position)) < 1e-5


@pytest.mark.parametrize("dtype, bound", [(torch.bfloat16, 0.03), (torch.float16, 0.005)])  # 8 and 11 bits of mantissa
def test_autocast_stays_within_its_own_rounding(random_clip, dtype, bound):
    clip = random_clip("vit")
    torch.manual_seed(7)
    model, f = prompted("CoCoOp", clip, MANY, n_ctx=3), features(clip, 2)
    logits, expected = gradients(model, f)
    with torch.autocast("cpu", dtype):
        low, got = gradients(model, f)
        text = model.text(f).detach()
        inside = model.learner.logits(f, text)
    outside = model.learner.logits(f, text)
    assert inside.dtype == torch.float32 and torch.equal(inside, outside)  # the last product is not rounded
    assert 1e-6 < relative(low, logits) < bound
    assert all(
        relative(got[name], expected[name]) < 3 * bound and got[name].dtype == torch.float32 for name in expected
    )


def test_context_starts_from_words(random_clip):
    clip = random_clip("vit")
    learner = learn("CoOp", clip, NAMES, n_ctx=16, ctx_init="a photo of a")
    assert torch.equal(learner.ctx, clip.token_embedding(tokenize(["a photo of a"]))[0, 1:5])
    assert relative(learner.text(), learn("ZeroshotCLIP", clip, NAMES).text()) < 1e-6


def test_saved_names_are_the_familys_and_hold_no_class_count(random_clip):
    clip = random_clip("vit")
    assert set(learn("CoOp", clip, NAMES, 4).state_dict()) == {"ctx"}
    learner = learn("CoCoOp", clip, NAMES, 4)
    layers = (f"meta_net.linear{i}.{p}" for i in (1, 2) for p in ("weight", "bias"))
    assert set(learner.state_dict()) == {"ctx", *layers}
    learn("CoCoOp", clip, ["dog", "old tree"], 4).load(learner.state_dict(), "here")


def test_a_published_state_dict_loads_and_a_wrong_one_names_the_sizes(random_clip):
    clip = random_clip("vit")
    d = clip.positional_embedding.shape[1]
    published = {
        "ctx": torch.ones(4, d).half(),
        "token_prefix": torch.zeros(9, 1, d),
        "token_suffix": torch.zeros(9, 72, d),
    }
    learner = learn("CoOp", clip, NAMES, 4)
    learner.load(published, "theirs")
    assert torch.equal(learner.ctx, torch.ones(4, d))
    with pytest.raises(ConfigError, match=r"theirs does not fit \(ctx: expected \(4, .*the file has \(16,"):
        learner.load({"ctx": torch.ones(16, d)}, "theirs")


def test_too_long_prompts_name_the_class(random_clip):
    clip = random_clip("vit")
    with pytest.raises(ConfigError, match="word word"):
        learn("CoOp", clip, ["word " * 80], 4)
    learner = learn("CoOp", clip, NAMES, 4)
    prompts = learner.prompts(None)
    with pytest.raises(ValueError, match="CLIP's context has 77"):
        learner.text_tower(text_tower.Prompts(prompts.prefix.repeat(1, 20, 1), prompts.suffix, prompts.lens))


def test_images_go_through_the_tower_in_slices_on_a_cpu(random_clip, monkeypatch):
    clip = random_clip("vit")
    model, images = prompted("ZeroshotCLIP", clip, NAMES, template="{}"), torch.rand(7, 3, 32, 32)
    sizes, encode = [], clip.encode_image
    monkeypatch.setattr(clip, "encode_image", lambda part: sizes.append(len(part)) or encode(part))
    whole = model.encode_image(images)
    monkeypatch.setattr(dicap.learner, "IMAGES_AT_ONCE", 3 * 32 * 32)
    assert relative(model.encode_image(images), whole) < 1e-6 and sizes == [7, 3, 3, 1]
