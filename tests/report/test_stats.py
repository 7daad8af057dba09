"""Paired differences against scipy's paired t test; measures of one draw."""

import numpy as np
import pytest
from scipy import stats

from dicap.report.stats import difference
from dicap.report.table import measures_of


def test_the_interval_is_that_of_the_paired_t_test():
    rng = np.random.default_rng(0)
    one, other = rng.normal(60, 3, 8), rng.normal(58, 3, 8)
    found = difference(dict(enumerate(one)), dict(enumerate(other)))
    test = stats.ttest_rel(one, other)
    low, high = test.confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((low, high)) and found.n == 8
    assert found.mean == pytest.approx((one - other).mean()) and found.half == pytest.approx((high - low) / 2)
    assert found.error == pytest.approx(stats.sem(one - other))
    assert found.excludes_zero == (test.pvalue < 0.05)


@pytest.mark.parametrize("gain, excludes", [([1.0, 1.1, 0.9], True), ([-1.0, -1.1, -0.9], True), ([1, -1, 0.5], False)])
def test_which_intervals_exclude_zero(gain, excludes):
    zero = dict.fromkeys(range(3), 0.0)
    assert difference(dict(enumerate(gain)), zero).excludes_zero is excludes


def test_only_draws_that_both_have_are_paired():
    """By draw, not by position: what both share cancels."""
    found = difference({3: 30.0, 1: 10.0, 2: 20.0}, {1: 9.0, 2: 18.9, 3: 29.1, 9: 100.0})
    assert found.n == 3 and found.mean == pytest.approx(1.0)
    assert difference({1: 10.0, 2: 20.0}, {1: 9.0, 9: 1.0}) is None  # one pair has no spread
    assert difference({}, {1: 1.0}) is None


def test_measures_of_a_draw(make_result):
    groups = {"aligned": 80.0, "conflicting": 40.0}
    found = measures_of(make_result(value=60.0, groups=groups), make_result(value=40.0, split="new"))
    assert found == {"base": 60.0, "new": 40.0, "combined": pytest.approx(48.0), "worst_group": 40.0}
    assert "worst_group" not in measures_of(make_result(), make_result(split="new"))
