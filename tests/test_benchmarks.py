"""The benchmarks' commands at their smallest, and the harness against numbers made by hand. No time is asserted."""

import argparse
import functools
import importlib
import itertools
import json
import math
import sys
from pathlib import Path

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))  # benchmarks is no part of the package
from benchmarks import evaluation, harness, sides, text_tower, textbook, training_step  # noqa: E402

sys.path.remove(str(ROOT))

COMMANDS = {"text_tower": text_tower, "training_step": training_step, "evaluation": evaluation}


@pytest.fixture(scope="module")
def clip():
    return harness.make_clip(quick=True)


# ---- the commands


@pytest.mark.parametrize("name", COMMANDS)
def test_a_quick_run_checks_first_then_prints_finite_ratios(name, tmp_path, capsys):
    assert COMMANDS[name].main(["--quick", "--device", "cpu", "--json", str(tmp_path / "rows.json")]) == 0
    lines = capsys.readouterr().out.splitlines()
    checks = [i for i, line in enumerate(lines) if line.startswith("same numbers")]
    assert checks and max(checks) < lines.index(next(line for line in lines if line.startswith("| figure")))
    report = json.loads((tmp_path / "rows.json").read_text())
    assert report["quick"] and f"torch {torch.__version__}" in report["machine"]
    assert len(report["rows"]) == 4 and {row["figure"].split()[0] for row in report["rows"]} == {"CoOp", "CoCoOp"}
    for row in report["rows"]:
        assert row["textbook"] > 0 and row["dicap"] > 0
        assert (
            math.isfinite(row["ratio"])
            and row["limit"] > 1
            and row["reached"] == pytest.approx(row["ratio"] / row["limit"])
        )
        assert sum(row["figure"] in line for line in lines) >= 1


@pytest.mark.parametrize("name", ["training_step", "evaluation"])
def test_both_rows_of_a_method_have_the_same_textbook_side_which_encodes_images(name, tmp_path, monkeypatch):
    encoded, right = [], textbook.image_features
    monkeypatch.setattr(textbook, "image_features", lambda clip, x: encoded.append(len(x)) or right(clip, x))
    COMMANDS[name].main(["--quick", "--device", "cpu", "--methods", "CoCoOp", "--json", str(tmp_path / "rows.json")])
    fresh, cached = json.loads((tmp_path / "rows.json").read_text())["rows"]
    assert fresh["textbook"] == cached["textbook"] and fresh["limit"] < cached["limit"]
    if name == "evaluation":
        assert fresh["dicap"] > cached["dicap"]  # by the image tower
        assert encoded == [evaluation.CHECKED, evaluation.FEW["image tower"], evaluation.FEW["image tower"]]
    else:
        assert encoded == [1] * 4  # two checks, one warm-up, one round


@pytest.mark.parametrize("method, textbook_side, ours", [("CoCoOp", 50 * 2, 5 * 3), ("CoOp", 2, 3)])
def test_an_evaluation_is_the_sum_of_its_parts(clip, monkeypatch, method, textbook_side, ours):
    seconds = {"image tower": 1, "textbook": 2, "DiCap": 3}  # of 2, 2 and 20 images; CoOp's text side is of a batch
    monkeypatch.setattr(
        harness, "interleaved", lambda sides, *_, **__: {name: harness.Timing(*3 * [seconds[name]]) for name in sides}
    )
    names, args = harness.CALTECH101_BASE[:3], argparse.Namespace(full=False, rounds=1, device="cpu", precision="fp32")
    fresh, cached = evaluation.measure(method, clip, names, args)
    assert (fresh.textbook, fresh.dicap) == (textbook_side + 50, ours + 50)
    assert (cached.textbook, cached.dicap) == (textbook_side + 50, ours)
    (before, left), images = (
        sides.text_counts(clip, method, names, 100, backward=False),
        harness.image_counts(clip, 100),
    )
    assert (fresh.limit, cached.limit) == ((before + images) / (left + images), (before + images) / left)
    args.full = True
    assert evaluation.measure(method, clip, names, args)[0].textbook == 2 + 1


@pytest.mark.parametrize("name", COMMANDS)
def test_a_formula_that_is_a_little_wrong_is_not_timed(name, monkeypatch, capsys):
    right = textbook.encode_prompts
    monkeypatch.setattr(textbook, "encode_prompts", lambda clip, x, eot: right(clip, x, eot - 1))  # reads the full stop
    with pytest.raises(
        SystemExit, match="logits.* differ from the textbook formula by more than 1e-05; nothing is timed"
    ):
        COMMANDS[name].main(["--quick", "--device", "cpu"])
    assert "| figure" not in capsys.readouterr().out


def test_a_wrong_gradient_is_seen_where_the_logits_agree(clip, monkeypatch):
    names = harness.CALTECH101_BASE[:3]
    plain, ours = sides.make_sides("CoOp", clip, names)
    f, label = sides.random_features(clip, 2), sides.random_labels(clip, 2, 3)
    sides.check_step("right", (plain, ours), (f, f), label)
    encode = ours.text
    monkeypatch.setattr(ours, "text", lambda f: 2 * encode(f) - encode(f).detach())  # same value, twice the gradient
    with pytest.raises(SystemExit, match="wrong: gradient of ctx differ"):
        sides.check_step("wrong", (plain, ours), (f, f), label)


COOP_FILE = """
from benchmarks import textbook
from dicap.backbones import tokenize
from dassl.engine import TRAINER_REGISTRY
from torch import nn
import torch

class CustomCLIP(nn.Module):
    def __init__(self, cfg, names, clip):
        super().__init__()
        assert cfg.TRAINER.COOP.CTX_INIT == "a photo of a" and cfg.INPUT.SIZE[0] == clip.visual.input_resolution
        print("chatter")
        self.__dict__["clip"], self.image_encoder, self.prompt_learner = clip, clip.visual, nn.Module()
        self.prompt_learner.ctx = nn.Parameter(torch.zeros(4, 128))
        self.tokens = tokenize([f"a photo of a {name}." for name in names])
    def forward(self, f):
        return textbook.coop_logits(self.clip, self.prompt_learner.ctx, self.tokens, [], self.image_encoder(f))
"""


def test_coops_own_module_is_checked_and_timed_beside(tmp_path, monkeypatch, capsys):
    monkeypatch.syspath_prepend(str(ROOT))
    with pytest.raises(SystemExit, match="no trainers/coop.py there; give a clone"):
        sides.coop_repository(tmp_path, "CoOp", harness.make_clip(quick=True), ["cat"])
    (tmp_path / "trainers").mkdir()
    (tmp_path / "trainers" / "coop.py").write_text(COOP_FILE)
    text_tower.main(["--quick", "--device", "cpu", "--methods", "CoOp", "--coop", str(tmp_path)])
    out = capsys.readouterr().out
    assert "same numbers, CoOp, CoOp's own module" in out and "chatter" not in out
    assert out.count("the textbook formula") == 2  # one line a figure


@pytest.mark.parametrize(
    "flags, message", [(["--precision", "amp", "--device", "cpu"], "needs a GPU"), (["--rounds", "0"], "at least 1")]
)
def test_flags_that_mean_nothing_are_refused(flags, message, capsys):
    with pytest.raises(SystemExit):
        text_tower.main(["--quick", *flags])
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("method", sides.METHODS)
def test_bf16_runs_and_moves_what_is_learned(clip, method):
    _, ours = sides.make_sides(method, clip, ["cat", "dog"])
    before = ours.learner.ctx.detach().clone()
    step = sides.make_step(ours, sides.random_features(clip, 1), torch.tensor([1]), "bf16")
    step()
    assert not torch.equal(ours.learner.ctx, before) and ours.learner.ctx.dtype == torch.float32
    assert sides.make_inference(lambda x: x @ x.t(), torch.ones(2, 2), "bf16")().dtype == torch.bfloat16


# ---- names


def test_so_many_classes_as_asked(capsys):
    training_step.main(["--quick", "--device", "cpu", "--methods", "CoCoOp", "--classes", "4", "60"])
    rows = [
        line.split("|")[1].split(",")[-1].strip()
        for line in capsys.readouterr().out.splitlines()
        if line.startswith("| CoCoOp")
    ]
    assert rows == ["4 classes"] * 2 + ["60 classes"] * 2


def test_names_have_the_lengths_that_are_told():
    names = harness.CALTECH101_BASE
    tokens, lens = harness.prompt_tokens(names)
    assert len(set(names)) == 50 and tokens.shape == (50, 77)
    assert 77 * 50 / (sides.PREFIX + sum(harness.suffix_lens(lens))) == pytest.approx(
        21.9, abs=0.05
    )  # the issue's token ratio
    assert tokens.argmax(-1).tolist() == [sides.PREFIX + n - 1 for n in harness.suffix_lens(lens)]
    many = harness.synthetic_names(1000)
    assert len(set(many)) == 1000 and many[:10] == harness.synthetic_names(10)
    lens = harness.prompt_tokens(many)[1]
    assert {n: lens.count(n) for n in set(lens)} == harness.IMAGENET_LENGTHS
    assert sum(lens[:50]) / 50 == pytest.approx(sum(lens) / 1000, rel=0.1)  # a part is like the whole


def test_classes_of_the_random_clip_do_not_collapse(clip):
    tokens, _ = harness.prompt_tokens(harness.CALTECH101_BASE)
    text = textbook.unit(textbook.encode_prompts(clip, clip.token_embedding(tokens), tokens.argmax(-1)))
    cosines = (text @ text.t())[~torch.eye(50, dtype=torch.bool)]
    assert cosines.mean() < 0.8 and not clip.token_embedding.weight.requires_grad


# ---- the check, times and memory


def test_compare_knows_what_is_not_the_same(capsys):
    x = torch.tensor([3.0, 4.0])
    assert harness.relative(x * 1.5, x) == pytest.approx(0.5)
    harness.compare("alike", {"a": x * (1 + 5e-6)}, {"a": x})
    assert "alike: a 5" in capsys.readouterr().out
    for wrong in (x * (1 + 2e-5), x * math.nan):
        with pytest.raises(SystemExit, match="other: a differ"):
            harness.compare("other", {"a": wrong}, {"a": x})


def test_timings_take_turns_and_are_medians():
    now, order = [0.0], []
    durations = {"a": itertools.chain([100.0], [5.0, 1.0, 3.0]), "b": itertools.chain([100.0], [10.0, 20.0, 60.0])}

    def side(name):
        order.append(name)
        now[0] += next(durations[name])

    times = harness.interleaved({name: functools.partial(side, name) for name in "ab"}, 3, clock=lambda: now[0])
    assert "".join(order) == "ababbaab"  # the first pair warms up
    assert times == {"a": harness.Timing(3, 1, 5), "b": harness.Timing(20, 10, 60)}
    assert times["a"].times(2).plus(times["b"]) == harness.Timing(26, 12, 70)


PEAKS = """
def prepare(size):
    b"x" * (2 * size)  # a higher peak, before
    return lambda: b"x" * size
"""


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs Linux's /proc")
def test_memory_is_the_peak_minus_what_was_there_before(tmp_path, monkeypatch):
    (tmp_path / "peaks_of_the_test.py").write_text(PEAKS)
    for path in (ROOT, tmp_path):  # the fresh process imports from both
        monkeypatch.syspath_prepend(str(path))
    prepare = importlib.import_module("peaks_of_the_test").prepare
    assert harness.peak_memory(prepare, 200 * 2**20) == pytest.approx(200 * 2**20, rel=0.05)


# ---- counts


def test_a_blocks_count_by_hand():
    assert harness.block_counts(3, 6, 2) == 3 * 12 * 4 + 6 * 4
    assert harness.block_counts(3, 6, 2, backward=True) == 2 * 3 * 12 * 4 + 3 * 6 * 4
    assert harness.block_counts(3, 6, 2, queries=1) == 3 * 2 * 4 + 10 * 4 + 6 * 4


def test_the_shortest_count_pair_by_pair(clip):
    d, prefix, suffixes = 128, 5, [3, 6, 4]
    pairs = len([(i, j) for i in range(prefix) for j in range(i + 1)])
    pairs += sum(prefix + j + 1 for n in suffixes for j in range(n))
    tokens, ends = prefix + sum(suffixes), sum(prefix + n for n in suffixes)
    expected = (
        2 * (12 * tokens * d * d + 2 * pairs * d) + 2 * tokens * d * d + 3 * 10 * d * d + 2 * ends * d
    )  # 3 blocks
    assert harness.shortest_counts(clip, 1, prefix, suffixes, backward=False) == expected
    assert harness.shortest_counts(clip, 7, prefix, suffixes, backward=False) == 7 * expected


def test_counts_are_what_torch_counts(clip):
    plain, _ = sides.make_sides("CoOp", clip, harness.CALTECH101_BASE[:5])
    with sdpa_kernel(SDPBackend.MATH):  # attention as matrix products, which the counter sees
        for backward in (False, True):
            with FlopCounterMode(display=False) as counter, torch.set_grad_enabled(backward):
                logits = plain(sides.random_features(clip, 1))
                if backward:
                    logits.sum().backward()
            assert counter.get_total_flops() / 2 == pytest.approx(harness.textbook_counts(clip, 5, backward), rel=0.002)
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            clip.encode_image(sides.random_images(clip, 3))
        assert counter.get_total_flops() / 2 == pytest.approx(harness.image_counts(clip, 3), rel=0.02)


def test_the_limit_of_the_issues_sizes():
    """ViT-B/16's text side is 12 blocks of width 512: what is left of 77 tokens, the last block's saving included."""
    shape = torch.empty(77, 512, device="meta")
    clip = torch.nn.Module()
    clip.positional_embedding, clip.transformer = shape, torch.nn.Module()
    clip.transformer.resblocks = [None] * 12
    before, left = sides.text_counts(clip, "CoCoOp", harness.CALTECH101_BASE, 1, backward=True)
    assert before / left == pytest.approx(23.8, abs=0.05)
    assert sides.text_counts(clip, "CoCoOp", harness.CALTECH101_BASE, 3, backward=True) == (3 * before, 3 * left)
    assert sides.text_counts(clip, "CoOp", harness.CALTECH101_BASE, 32, backward=True) == (before, left)


# ---- the table


def test_a_row_by_hand():
    times = {"textbook": harness.Timing(6.0, 5.4, 6.6), "DiCap": harness.Timing(0.5, 0.5, 0.55)}
    row = harness.timed_row("step", times, goal=8, limit=24.0)
    assert (row.ratio, row.reached) == (12, 0.5)
    assert row.cells() == ["step", "6.00 s", "500 ms", "12.0", "8", "24.0", "50%", "-10%..+10% and +0%..+10%"]
    assert harness.Row("x", 3 * 2**30, 2**29, unit="B").cells()[:4] == ["x", "3.00 GiB", "512.0 MiB", "6.0"]
    assert harness.table([row])[0].count("|") == harness.table([row])[2].count("|") == len(harness.COLUMNS) + 1
