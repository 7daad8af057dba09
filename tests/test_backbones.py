"""CLIPs by name: what loads, what is refused, and that nothing read runs code."""

import importlib.util
import json
import os
import pickle
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import save_file

from dicap.backbones import load_clip, weights_digest
from dicap.backbones.package import clip_package
from dicap.learner import Learner
from dicap.options import ConfigError


def test_importing_clip_leaves_no_stand_in_for_pkg_resources():
    if importlib.util.find_spec("pkg_resources") is not None:
        pytest.skip("this setuptools still has pkg_resources")
    code = "import sys, dicap.backbones.package as p; p.clip_package(); print('pkg_resources' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "False"


@pytest.mark.parametrize("tower", ["vit", "resnet"])
@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
def test_a_state_dict_comes_back_bit_for_bit(random_clip, tmp_path, tower, suffix):
    clip, path = random_clip(tower), tmp_path / f"weights{suffix}"
    state = {key: value.contiguous() for key, value in clip.state_dict().items()}
    save_file(state, path) if suffix == ".safetensors" else torch.save({"state_dict": state}, path)
    loaded = load_clip(str(path))
    assert weights_digest(loaded) == weights_digest(clip)
    assert loaded.visual.input_resolution == 32 and not any(p.requires_grad for p in loaded.parameters())
    image = torch.linspace(-1, 1, 3 * 32 * 32).view(1, 3, 32, 32)
    assert torch.equal(loaded.encode_image(image), clip.encode_image(image))


def test_loading_leaves_the_random_state_alone(random_clip, tmp_path):
    path = tmp_path / "weights.pt"
    torch.save(random_clip("vit").state_dict(), path)
    before = torch.get_rng_state()
    load_clip(str(path))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_named(random_clip, tmp_path, bad):
    state, path = dict(random_clip("vit").state_dict()), tmp_path / "weights.pt"
    state["visual.proj"] = state["visual.proj"].clone()
    state["visual.proj"][1, 1] = bad
    torch.save(state, path)
    with pytest.raises(FloatingPointError, match=f"{path}: visual.proj holds NaN or Inf"):
        load_clip(str(path))


def test_digest_sees_every_bit(random_clip):
    clip = random_clip("vit")
    before = weights_digest(clip)
    clip.ln_final.bias[3] += 1e-6
    changed = weights_digest(clip)
    clip.ln_final.bias[3] = 0
    assert changed != before and weights_digest(clip) == before


@pytest.mark.parametrize(
    "content, message",
    [
        (
            lambda clip: {k: v for k, v in clip.state_dict().items() if k != "text_projection"},
            "not a CLIP of OpenAI's architecture",
        ),
        (lambda clip: {"a": 1}, "holds no state dict of tensors"),
        (lambda clip: torch.zeros(3), "holds no state dict of tensors"),
    ],
)
def test_other_tensors_are_refused(random_clip, tmp_path, content, message):
    path = tmp_path / "weights.pt"
    torch.save(content(random_clip("vit")), path)
    with pytest.raises(ConfigError, match=message) as error:
        load_clip(str(path))
    assert "weights.pt" in str(error.value)


class Evil:
    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return os.mkdir, (str(self.mark),)


@pytest.mark.parametrize(
    "write", [lambda x, p: torch.save({"state_dict": x}, p), lambda x, p: p.write_bytes(pickle.dumps(x))]
)
def test_a_hostile_file_is_refused_and_runs_nothing(tmp_path, write):
    path, mark = tmp_path / "evil.pt", tmp_path / "ran"
    write(Evil(mark), path)
    with pytest.raises(ConfigError, match="evil.pt cannot be read as plain tensors"):
        load_clip(str(path))
    assert not mark.exists()


def test_a_torchscript_archive_that_openai_did_not_publish_is_refused(tmp_path):
    path = tmp_path / "script.pt"
    torch.jit.script(torch.nn.Linear(2, 2)).save(str(path))
    with pytest.raises(ConfigError, match="script.pt is a TorchScript archive.*SHA-256"):
        load_clip(str(path))


def test_unknown_names_and_precisions_list_what_there_is():
    with pytest.raises(ConfigError, match="'ViT-B/17': no such file.*ViT-B/16"):
        load_clip("ViT-B/17")
    with pytest.raises(ConfigError, match="precision is 'bf8'; allowed: fp32, bf16, amp, fp16"):
        load_clip("tiny", precision="bf8")


def test_openais_names_go_through_the_clip_package(monkeypatch, tmp_path):
    """The clip package downloads and checks; what it returns must carry a digest that OpenAI published."""
    fake = tmp_path / "ViT-B-16.pt"
    torch.jit.script(torch.nn.Linear(2, 2)).save(str(fake))
    asked = []
    monkeypatch.setattr(clip_package().clip, "_download", lambda url, root: asked.append(url) or str(fake))
    with pytest.raises(ConfigError, match="none that OpenAI published"):
        load_clip("ViT-B/16")
    assert asked == [clip_package().clip._MODELS["ViT-B/16"]]


@pytest.mark.parametrize("quick_gelu", [True, False])
def test_open_clip_models_give_open_clips_features(tmp_path, quick_gelu):
    open_clip = pytest.importorskip("open_clip")
    name = f"small-{quick_gelu}"
    config = {
        "embed_dim": 32,
        "quick_gelu": quick_gelu,
        "vision_cfg": {"image_size": 32, "layers": 2, "width": 64, "patch_size": 16},
        "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 128, "heads": 2, "layers": 2},
    }
    (tmp_path / f"{name}.json").write_text(json.dumps(config))
    open_clip.add_model_config(tmp_path)
    torch.manual_seed(0)
    clip = load_clip(f"open_clip:{name}/")  # loading compares the features and raises
    assert clip.visual.input_resolution == 32
    torch.manual_seed(0)
    theirs = (
        open_clip.create_model(name)
        .eval()
        .encode_text(open_clip.tokenize(["a photo of a cat.", "a photo of a sea lion."]))
    )
    learner = Learner(clip, SimpleNamespace(), (), "a photo of a {}.")
    learner.bind(("cat", "sea lion"))
    assert torch.allclose(learner.text(), torch.nn.functional.normalize(theirs, dim=-1), atol=1e-5)
    config["text_cfg"]["heads"] = 4  # not OpenAI's: a head is 64 wide
    (tmp_path / f"{name}-heads.json").write_text(json.dumps(config))
    open_clip.add_model_config(tmp_path)
    with pytest.raises(ConfigError, match="heads/ is not of OpenAI's architecture: features differ"):
        load_clip(f"open_clip:{name}-heads/")
    with pytest.raises(ConfigError, match="open_clip:nothing"):
        load_clip("open_clip:nothing/at-all")
