"""CLIPs by name: what loads, what is refused, and that nothing read runs code."""

import copy
import importlib.util
import json
import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from urllib.error import URLError

import pytest
import torch
from safetensors.torch import save_file

from dicap.backbones import load_clip, tiny, tokenize, weights_digest
from dicap.backbones.package import clip_package
from dicap.learner import Learner
from dicap.options import ConfigError


def test_importing_clip_leaves_no_stand_in_for_pkg_resources():
    if importlib.util.find_spec("pkg_resources") is not None:
        pytest.skip("this setuptools still has pkg_resources")
    code = "import sys, dicap.backbones.package as p; p.clip_package(); print('pkg_resources' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "False"


def test_in_a_fork_with_a_clip_of_its_own_ours_is_the_installed_one(tmp_path):
    """As in PromptSRC and MaPLe: `import clip` stays the fork's, for the fork's trainers."""
    model = "class CLIP: pass\ndef build_model(state_dict, design_details): return CLIP()\n"
    files = {"__init__.py": "from .clip import *\n", "clip.py": "from .model import build_model\n", "model.py": model}
    (tmp_path / "clip").mkdir()
    for name, text in files.items():
        (tmp_path / "clip" / name).write_text(text)
    code = (
        "import clip.clip, sys; sys.path.append(sys.argv[1]); from dicap.backbones import load_clip, tokenize\n"
        "import clip.model; load_clip('tiny').encode_text(tokenize(['a cat']))\n"
        "print(sys.modules['clip'].__file__, clip.model.build_model({}, {}).__class__.__module__)"
    )
    command = [sys.executable, "-c", code, str(Path(__file__).parents[1])]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.stdout.split() == [str(tmp_path / "clip" / "__init__.py"), "clip.model"], done.stderr


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


def cut(clip, **changes):
    """A CLIP's state dict with other tensors; None leaves one out."""
    state = {**clip.state_dict(), **{key.replace("__", "."): value for key, value in changes.items()}}
    return {key: value for key, value in state.items() if value is not None}


@pytest.mark.parametrize(
    "content, message",
    [
        (
            lambda clip: cut(clip, text_projection=None),
            "not a CLIP of OpenAI's architecture .KeyError: 'text_projection'",
        ),
        (lambda clip: cut(clip, visual__proj=torch.ones(9)), "not a CLIP of OpenAI's architecture .*size mismatch"),
        (lambda clip: cut(clip, ln_final__weight=torch.ones(10**6)), "not a CLIP .*size mismatch"),  # 12 TB a layer
        (lambda clip: cut(clip, positional_embedding=torch.ones(32, 128)), "32 tokens a text of 49408, not 77"),
        (lambda clip: torch.nn.Linear(2, 2).state_dict(), "not a CLIP of OpenAI's architecture"),
        (lambda clip: {"a": 1}, "holds no state dict of tensors"),
        (lambda clip: torch.zeros(3), "holds no state dict of tensors"),
    ],
)
def test_other_tensors_are_refused(random_clip, tmp_path, content, message):
    path = tmp_path / "weights.pt"
    torch.save(content(random_clip("vit")), path)
    with pytest.raises(ConfigError, match=f"weights.pt.*{message}"):
        load_clip(str(path))


def test_the_shipped_weights_are_those_of_their_card(monkeypatch, tmp_path):
    for path in (tiny.PATH, tiny.PATH.with_suffix(".md")):
        shutil.copy(path, tmp_path)
    monkeypatch.setattr(tiny, "PATH", tmp_path / "tiny.safetensors")
    load_clip("tiny")
    data = bytearray(tiny.PATH.read_bytes())
    data[-1] ^= 1
    tiny.PATH.write_bytes(data)
    with pytest.raises(ConfigError, match="tiny.safetensors is damaged.*install dicap again"):
        load_clip("tiny")


class Evil:
    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return os.mkdir, (str(self.mark),)


@pytest.mark.parametrize(
    "write, message",
    [
        (lambda x, p: torch.save({"state_dict": x}, p), "holds no state dict of tensors"),
        (
            lambda x, p: torch.save({"state_dict": {"a": torch.ones(1), "b": x}}, p),
            "holds no state dict of tensors .b is none",
        ),
        (lambda x, p: p.write_bytes(pickle.dumps(x)), "is damaged"),
    ],
)
def test_a_hostile_file_is_refused_and_runs_nothing(tmp_path, write, message):
    path, mark = tmp_path / "evil.pt", tmp_path / "ran"
    write(Evil(mark), path)
    with pytest.raises(ConfigError, match=f"evil.pt {message}"):
        load_clip(str(path))
    assert not mark.exists()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("tower", ["vit", "resnet"])
def test_a_torchscript_archive_gives_its_tensors_and_torch_loads_none_of_it(random_clip, tmp_path, monkeypatch, tower):
    """As OpenAI publishes its weights: half, with sizes beside them."""
    clip = copy.deepcopy(random_clip(tower))
    clip.input_resolution = torch.tensor(32)
    inputs = {"encode_image": torch.zeros(1, 3, 32, 32), "encode_text": tokenize(["a"])}
    script = torch.jit.trace_module(clip, inputs, check_trace=False).half()
    script.save(str(tmp_path / "clip.pt"))
    for module, name in ((torch, "load"), (torch.jit, "load")):
        monkeypatch.setattr(module, name, lambda *_, **__: pytest.fail("torch reads the file"))
    loaded = load_clip(str(tmp_path / "clip.pt"))
    assert weights_digest(loaded) == weights_digest(copy.deepcopy(random_clip(tower)).half().float())


def test_unknown_names_and_precisions_list_what_there_is():
    with pytest.raises(ConfigError, match="'ViT-B/17': no such file.*ViT-B/16"):
        load_clip("ViT-B/17")
    with pytest.raises(ConfigError, match="precision is 'bf8'; allowed: fp32, bf16, amp, fp16"):
        load_clip("tiny", precision="bf8")


def test_openais_names_go_through_the_clip_package(random_clip, monkeypatch, tmp_path):
    """The clip package downloads a file and checks its SHA-256."""
    path, asked = tmp_path / "ViT-B-16.pt", []
    torch.save(random_clip("vit").state_dict(), path)
    monkeypatch.setattr(clip_package().clip, "_download", lambda url, root: asked.append(url) or str(path))
    assert weights_digest(load_clip("ViT-B/16")) == weights_digest(random_clip("vit"))
    assert asked == [clip_package().clip._MODELS["ViT-B/16"]]
    monkeypatch.undo()
    monkeypatch.setattr("urllib.request.urlopen", lambda url: (_ for _ in ()).throw(URLError("no network")))
    monkeypatch.setattr("dicap.backbones.DOWNLOADS", tmp_path / "empty")
    with pytest.raises(
        ConfigError, match="ViT-B/16 cannot be downloaded from https.*no network.*put the file into .*empty"
    ):
        load_clip("ViT-B/16")


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
