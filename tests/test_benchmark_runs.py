"""Benchmarks of whole jobs, memory and growth run at their smallest, and the page is made of what they write. No timing is judged."""

import json
import math
import os
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

ROOT = str(Path(__file__).parents[1])
sys.path.insert(0, ROOT)  # benchmarks is no part of the package
from benchmarks import base_to_new, counterfactual_cost, growth, harness, memory, performance  # noqa: E402
from benchmarks.sides import make_learner  # noqa: E402
from dicap.learner import LearnedCLIP  # noqa: E402

sys.path.remove(ROOT)


@pytest.fixture(autouse=True)
def in_this_process(monkeypatch, embedded_data):
    """Threads stay as they are; peaks are not measured in processes of their own, which take seconds to start."""
    threads = torch.get_num_threads()
    monkeypatch.setattr(harness, "peak_memory", lambda prepare, *args: prepare(*args)() or 1000 * args[2])
    yield
    torch.set_num_threads(threads)


def figures(benchmark, tmp_path, *arguments):
    """What a benchmark writes, each figure of it finite."""
    path = tmp_path / "figures.json"
    assert benchmark.main(["--quick", "--threads", "1", "--json", str(path), *arguments]) == 0
    found = json.loads(path.read_text())
    for row in found["rows"]:
        assert all(math.isfinite(row[key]) for key in ("textbook", "dicap", "ratio")), row
    return found


def test_base_to_new(tmp_path, capsys):
    found = figures(base_to_new, tmp_path)
    assert [row["figure"].split(":")[0] for row in found["rows"]][::2] == ["CoOp", "CoCoOp", "the whole tiny main job"]
    assert found["rows"][-1]["goal"] == 2 and found["rows"][-1]["textbook"] > 0 < found["rows"][-1]["dicap"]
    assert "beside DiCap's: 4 of 4 runs get exactly as many test images right" in found["notes"][0]
    table = [line.split(" | ") for line in found["notes"] if line.startswith("| causal_shapes")]
    assert [line[2:] for line in table] == [["125", "0 |"], ["25", "0 |"]]  # 25 tests; 25 shots x 4 views


def test_the_textbook_side_encodes_each_picture_whenever_it_is_asked_for(random_clip, tmp_path):
    clip, images, seen = random_clip("vit"), torch.randn(3, 3, 32, 32), []
    with base_to_new.side(base_to_new.TEXTBOOK, tmp_path) as door:
        model = LearnedCLIP(clip, make_learner("ZeroshotCLIP", clip, ["one", "two words"], template="a {}."))
        f = model.encode_image(images)
        hook = clip.visual.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
        assert torch.allclose(model.image(f[[2, 0]]), f[[2, 0]], atol=1e-6)
        hook.remove()
        text = model.text(f)
        assert os.environ["DICAP_CACHE"] == "off"
    assert torch.equal(seen[0], images[[2, 0]]) and door.images == 3
    assert model.image(f) is f  # outside, nothing is patched
    assert torch.allclose(text, model.text(f), atol=1e-5) and not torch.equal(text, model.text(f))


def test_a_nudge_is_as_small_as_rounding(random_clip, tmp_path):
    made = {}
    for name in (base_to_new.OURS, base_to_new.NUDGED):
        with base_to_new.side(name, tmp_path):
            made[name] = make_learner("CoOp", random_clip("vit"), ["one"]).ctx.data
    gap = (made[base_to_new.OURS] - made[base_to_new.NUDGED]).abs().max() / made[base_to_new.OURS].abs().max()
    assert 0 < gap < 5e-7


def test_counterfactual_cost(tmp_path):
    found = figures(counterfactual_cost, tmp_path)
    assert [row["goal"] for row in found["rows"]] == [1, 20]
    parts = [line for line in found["notes"] if line.startswith("| tiny recipe") or line.startswith("| vit_b16")]
    assert len(parts) == 2 and all(row["dicap"] > 0 for row in found["rows"])


def test_memory(tmp_path):
    found = figures(memory, tmp_path)
    assert [row["goal"] for row in found["rows"]] == [5, 5, 1, 5, 5, 1] and all(
        row["unit"] == "B" for row in found["rows"]
    )
    assert found["rows"][2]["textbook"] == 8 * 2**30 and found["rows"][5]["textbook"] == 16 * 2**30
    assert sum(line.startswith(("| CoOp |", "| CoCoOp |")) for line in found["notes"]) == 6


def test_peaks_are_of_the_side_and_the_budget_that_are_asked_for(monkeypatch):
    asked = []
    monkeypatch.setattr(harness, "peak_memory", lambda prepare, *args: asked.append(prepare(*args).__closure__) or 1)
    memory.peak("textbook", "CoOp", 3, 2, True)
    memory.peak("DiCap", "CoOp", 3, 2, True, budget=0.25)
    models = [
        next(cell.cell_contents for cell in cells if isinstance(cell.cell_contents, torch.nn.Module)) for cells in asked
    ]
    assert (
        not isinstance(models[0], LearnedCLIP)
        and isinstance(models[1], LearnedCLIP)
        and models[1].learner.text_tower.memory == 0.25
    )


def test_token_ratios():
    prefix, names = 5, harness.suffix_lens(harness.prompt_tokens(harness.CALTECH101_BASE)[1])
    assert memory.token_ratio("CoOp", 50, 32) == memory.token_ratio("CoCoOp", 50, 4) == 77 * 50 / (prefix + sum(names))
    assert growth.tokens_of(["cat", "two words"], images=3, n_ctx=4) == 3 * (5 + 3 + 4)


def test_growth(tmp_path):
    found = figures(growth, tmp_path)
    assert len(found["rows"]) == 4 and all("R^2" in note for note in found["notes"][:4])
    assert sum(line.startswith("| size") for line in found["notes"]) == 5


def test_a_line_is_fitted():
    line = growth.Line.fit({1: 5.0, 2: 7.0, 4: 11.0})
    assert line.slope == pytest.approx(2) and line.start == pytest.approx(3) and line.r2 == pytest.approx(1)
    assert growth.Line.fit({1: 0.0, 2: 1.0, 3: 0.0, 4: 1.0}).r2 == pytest.approx(0.2)


def written(folder, benchmark, rows, same=""):
    """A benchmark's files as it leaves them."""
    args = SimpleNamespace(
        device="cpu", precision="fp32", rounds=7, quick=False, json=folder / f"{benchmark.name}.json"
    )
    harness.finish(f"Title of {benchmark.module}", rows, args, ["A note."])
    (folder / f"{benchmark.name}.txt").write_text(f"something\n{same}\n")


def test_the_page_is_made_of_former_figures(tmp_path):
    first, second = performance.benchmarks(gpu=False)[:2]
    written(tmp_path, first, [harness.Row("a step", 12.0, 1.0, goal=8, limit=16)], "same numbers, a step: 1e-7")
    written(
        tmp_path,
        second,
        [
            harness.Row("another", 3.0, 1.0, goal=8, limit=16),
            harness.Row("no goal", 2.0, 1.0),
            harness.Row("peak", 9.0, 1.0, goal=8, unit="B"),
        ],
    )
    page = tmp_path / "docs" / "page.md"
    assert performance.main(["--from", str(tmp_path), "--page", str(page)]) == 0
    text = page.read_text()
    assert (
        "| a step | 8 | 12.0 | 16.0 | 75% | met |" in text and "| another | 8 | 3.0 | 16.0 | 19% | **missed** |" in text
    )
    assert "| peak, memory | 8 | 9.0 |" in text  # not to be taken for a time
    assert "## Title of text_tower" in text and "| a step | 1e-7 |" in text and "A note." in text
    assert (
        "| no goal | 2.00 s | 1.00 s | 2.0 |" in text and harness.machine() in text and "A GPU: none was there." in text
    )
    (tmp_path / f"{second.name}.json").write_text('{"rows": [{"figure": 1}]}')
    with pytest.raises(SystemExit, match="training_step.json is no benchmark's JSON"):
        performance.main(["--from", str(tmp_path), "--page", str(page)])
    assert page.read_text() == text
    with pytest.raises(SystemExit, match="no figures there"):
        performance.main(["--from", str(tmp_path / "docs"), "--page", str(page)])


def test_a_benchmark_that_fails_leaves_the_page(tmp_path, monkeypatch):
    failing = performance.Benchmark("no_such_benchmark", (), "")
    with pytest.raises(SystemExit, match="benchmarks.no_such_benchmark failed with 1"):
        performance.measure(failing, tmp_path, [])
    with pytest.raises(SystemExit):
        performance.main(["--quick"])  # would overwrite the page with what is no result


def test_a_gpu_is_measured_where_there_is_one():
    with_gpu = performance.benchmarks(gpu=True)
    assert [b.name for b in with_gpu if b.gpu] == ["text_tower-cuda", "training_step-cuda", "evaluation-cuda"]
    assert all(("--device", "cpu") == b.arguments[-2:] for b in with_gpu if not b.gpu)
    assert [b.command for b in with_gpu if b.module == "base_to_new"] == [
        "python -m benchmarks.base_to_new --shorten 4 --device cpu"
    ]
    assert not any("--shorten" in b.command for b in performance.benchmarks(gpu=True, whole=True))
    assert len({b.name for b in with_gpu}) == len(with_gpu) and not any(
        b.gpu for b in performance.benchmarks(gpu=False)
    )
