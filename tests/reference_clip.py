"""The textbook formulas of CLIP's prompts, for tests: those that the benchmarks time (benchmarks is no part of the package)."""

import sys
from pathlib import Path

ROOT = str(Path(__file__).parents[1])
sys.path.insert(0, ROOT)
from benchmarks.textbook import cocoop_logits, coop_logits  # noqa: E402

sys.path.remove(ROOT)
__all__ = ["cocoop_logits", "coop_logits"]
