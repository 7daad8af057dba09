"""The GPU's benchmark without a GPU: what is read, counted and written. The checks themselves are tests/test_gpu.py's."""

import sys
import time
from argparse import Namespace
from pathlib import Path

import pytest
import torch

ROOT = str(Path(__file__).parents[1])
sys.path.insert(0, ROOT)  # benchmarks is no part of the package
from benchmarks import gpu, harness, sides, textbook  # noqa: E402
from dicap.learner import LearnedCLIP  # noqa: E402

sys.path.remove(ROOT)
QUICK = Namespace(device="cpu", rounds=1, quick=True, classes=None, precisions=("fp32", "bf16"))


def test_without_a_gpu_it_says_why_and_ends_with_2(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    page = tmp_path / "page.md"
    for version, reason in ((None, "is built without CUDA"), ("13.0", "finds no CUDA device")):
        monkeypatch.setattr(torch.version, "cuda", version)
        assert gpu.main(["--page", str(page)]) == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1 and "needs an NVIDIA GPU" in error and reason in error
    assert not page.exists()


def test_the_page_of_made_up_figures():
    session = gpu.Session(0)
    session.checks = [
        gpu.Check("good [a]", "passed", "error 1e-7", 0.25),
        gpu.Check("bad", "failed", reason="a | b\nc"),
        gpu.Check("late", "not run", reason="the time was up"),
    ]
    session.rows = [
        harness.Row("CoCoOp step", 3.0, 0.2, goal=10, limit=20),
        harness.Row("CoOp step, peak", 2**31, 2**30, unit="B"),
    ]
    session.peaks = [gpu.Peak("CoOp, budget 1 GiB", 2**30, 1.5 * 2**30)]
    text = gpu.page(session, "on a made-up GPU", 5, 90)
    assert "Measured on a made-up GPU. TF32 off. The command took 1.5 minutes." in text
    assert "**Checks: 1 passed, 1 failed, 1 not run.**" in text
    lines = text.splitlines()
    assert lines.index("| bad | **failed** |  |  | a / b c |") < lines.index(
        "| good [a] | passed | error 1e-7 | 0.2 |  |"
    )
    assert "| late | not run |  |  | the time was up |" in text
    assert "| CoCoOp step | 3.00 s | 200 ms | 15.0 | 10 | 20.0 | 75% |  |" in text
    assert "| CoCoOp step | 10 | 15.0 | 20.0 | 75% | met |" in text
    assert "| CoOp step, peak | 2.00 GiB | 1.00 GiB | 2.0 |" in text
    assert "| CoOp, budget 1 GiB | 1.00 GiB | 1.50 GiB | 1.50 |" in text
    assert session.peaks[0].check.result == "failed" and gpu.Peak("x", 100, 125).check.result == "passed"


TESTS = """
import pytest

@pytest.mark.gpu
@pytest.mark.parametrize("device", ["cuda"])
def test_a_thing(device, record_property):
    record_property("relative error", "1e-6")

@pytest.mark.gpu
def test_another():
    assert 1 == 2, "not the same"

@pytest.mark.gpu
def test_skipped():
    pytest.skip("not here")

def test_unmarked():
    raise AssertionError
"""


def test_marked_tests_are_run_and_read(tmp_path, monkeypatch):
    (tmp_path / "pyproject.toml").write_text('[tool.pytest.ini_options]\nmarkers = ["gpu"]\n')
    (tmp_path / "test_made_up.py").write_text(TESTS)
    monkeypatch.setattr(gpu, "ROOT", tmp_path)
    good, bad, skipped = gpu.run_tests(tmp_path, str(tmp_path))
    assert (good.name, good.result, good.measured) == ("a thing[cuda]", "passed", "relative error: 1e-6")
    assert (bad.name, bad.result) == ("another", "failed") and "not the same" in bad.reason
    assert (skipped.result, skipped.reason) == ("not run", "not here")
    late = gpu.run_tests(tmp_path / "nothing", str(tmp_path), 0)
    assert late[-1].result == "failed" and late[-1].reason == "not done after 0 s"
    (empty,) = gpu.run_tests(tmp_path / "nothing", str(tmp_path / "no_such_file.py"))
    assert (empty.result, empty.reason) == ("failed", "pytest ran none; its output says why")


def test_steps_and_peaks_are_measured(monkeypatch):
    monkeypatch.setattr(gpu, "peak", lambda step, device: step() or 1000)
    session = gpu.Session(time.monotonic() + 600)
    session.measure(QUICK)
    assert [row.unit for row in session.rows] == ["s", "s", "s", "s", "B"] * 2
    assert [row.goal for row in session.rows] == [*5 * [None], *4 * [10], None]
    assert len(session.peaks) == 4 and [check.result for check in session.checks] == ["passed"] * 4


def test_what_differs_or_does_not_fit_is_told_and_the_rest_is_measured(monkeypatch):
    def peak(step, device):
        raise torch.cuda.OutOfMemoryError

    right = textbook.encode_prompts
    monkeypatch.setattr(textbook, "encode_prompts", lambda clip, x, eot: right(clip, x, eot - 1))
    monkeypatch.setattr(gpu, "peak", peak)
    session = gpu.Session(time.monotonic() + 600)
    session.measure(QUICK)
    assert not session.rows and not session.peaks
    assert [check.result for check in session.checks] == ["failed", "failed", "not run"] * 2 + ["not run"] * 4
    assert "differ from the textbook formula" in session.checks[0].reason
    late = gpu.Session(time.monotonic() - 1)
    late.measure(QUICK)
    assert {check.reason for check in late.checks} == {"the time was up"} and len(late.checks) == 10


@pytest.mark.parametrize("method, prefixes", [("CoOp", 1), ("CoCoOp", 8)])
def test_what_is_planned_is_the_budget_or_all_tokens(method, prefixes):
    clip, names = harness.make_clip(quick=True), harness.CALTECH101_BASE[:5]
    f = sides.random_features(clip, 8)

    def planned(budget):
        return gpu.planned(LearnedCLIP(clip, sides.make_learner(method, clip, names, text_memory=budget)), f)

    assert planned(1e-4) == 1e-4 * 2**30
    tokens = sides.PREFIX + sum(harness.suffix_lens(harness.prompt_tokens(names)[1]))  # one sequence
    assert planned(4.0) == pytest.approx(prefixes * tokens * 4 * 128 * 3 * 14, rel=0.01)


def test_a_peak_is_that_of_the_second_step_minus_before(monkeypatch):
    allocated, steps = [100], []
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: None)
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda device: steps.append("reset"))
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: allocated[0])
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: 500)
    assert gpu.peak(lambda: steps.append("step"), "cuda") == 400 and steps == ["step", "reset", "step"]
