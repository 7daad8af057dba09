"""The prompted text tower and the prompts against the textbook formula (77 padded tokens, one image at a time)."""
import pytest
import torch
from reference_clip import cocoop_logits, coop_logits

from dicap import text_tower
from dicap.backbones import tokenize
from dicap.options import ConfigError
from dicap.prompts import ConditionalContext, FixedPrompt, PromptedCLIP, StaticContext, load_prompt

NAMES = ["striped star", "cat", "red-winged_blackbird of the northern marshes"]  # unequal lengths, odd count


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
    model = PromptedCLIP(clip, FixedPrompt(clip, NAMES, "a photo of a {}."))
    own = clip.encode_text(tokenize([f"a photo of a {name.replace('_', ' ')}." for name in NAMES]))
    got = model.text_tower(model.prompt_learner())[0]
    assert relative(got, own) < 1e-5


@pytest.mark.parametrize("position", ["end", "middle", "front"])
@pytest.mark.parametrize("csc", [False, True])
@pytest.mark.parametrize("b", [1, 5])
def test_static_context_equals_the_textbook_forward_and_gradient(random_clip, position, csc, b):
    clip = random_clip("vit")
    torch.manual_seed(3)
    model = PromptedCLIP(clip, StaticContext(clip, NAMES, n_ctx=5, csc=csc, position=position))
    ctx = model.prompt_learner.ctx
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
    prompt = ConditionalContext(clip, NAMES, ctx_init="a photo of a")
    model, f = PromptedCLIP(clip, prompt), features(clip, b)
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


def test_splitting_by_prefix_changes_nothing(random_clip, monkeypatch):
    clip = random_clip("vit")
    model, f = PromptedCLIP(clip, ConditionalContext(clip, NAMES, n_ctx=3)), features(clip, 5)
    whole = model(f)
    monkeypatch.setattr(text_tower, "TOKENS_AT_ONCE", 1)
    assert relative(model(f), whole) < 1e-6


def test_what_stands_behind_the_end_is_never_seen(random_clip):
    clip = random_clip("vit")
    model = PromptedCLIP(clip, StaticContext(clip, NAMES, n_ctx=2))
    before = model.encode_text()
    prompt = model.prompt_learner
    for k, end in enumerate(prompt.eot.tolist()):
        prompt.name[k, end + 1 :] = 7.0
    assert torch.equal(model.encode_text(), before)


def test_context_starts_from_words(random_clip):
    clip = random_clip("vit")
    prompt = StaticContext(clip, NAMES, n_ctx=16, ctx_init="a photo of a")
    assert torch.equal(prompt.ctx, clip.token_embedding(tokenize(["a photo of a"]))[0, 1:5])
    fixed = PromptedCLIP(clip, FixedPrompt(clip, NAMES, "a photo of a {}.")).encode_text()
    assert relative(PromptedCLIP(clip, prompt).encode_text(), fixed) < 1e-6


def test_saved_names_are_the_familys_and_hold_no_class_count(random_clip):
    clip = random_clip("vit")
    assert set(StaticContext(clip, NAMES, 4).state_dict()) == {"ctx"}
    prompt = ConditionalContext(clip, NAMES, 4)
    assert set(prompt.state_dict()) == {"ctx", *(f"meta_net.linear{i}.{p}" for i in (1, 2) for p in ("weight", "bias"))}
    load_prompt(ConditionalContext(clip, ["dog", "old tree"], 4), prompt.state_dict(), "here")


def test_a_published_state_dict_loads_and_a_wrong_one_names_the_sizes(random_clip):
    clip = random_clip("vit")
    d = clip.positional_embedding.shape[1]
    published = {"ctx": torch.ones(4, d).half(), "token_prefix": torch.zeros(9, 1, d), "token_suffix": torch.zeros(9, 72, d)}
    prompt = StaticContext(clip, NAMES, 4)
    load_prompt(prompt, published, "theirs")
    assert torch.equal(prompt.ctx, torch.ones(4, d))
    with pytest.raises(ConfigError, match=r"theirs does not fit \(ctx: this prompt has \(4, .*the file \(16,"):
        load_prompt(prompt, {"ctx": torch.ones(16, d)}, "theirs")


def test_too_long_prompts_name_the_class(random_clip):
    clip = random_clip("vit")
    with pytest.raises(ConfigError, match="word word"):
        StaticContext(clip, ["word " * 80], 4)
    with pytest.raises(ValueError, match="CLIP's context has 77"):
        prompts = StaticContext(clip, NAMES, 4)()
        PromptedCLIP(clip, StaticContext(clip, NAMES, 4)).text_tower(
            text_tower.Prompts(prompts.prefix.repeat(1, 20, 1), prompts.suffix, prompts.eot))
