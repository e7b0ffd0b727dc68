"""Oracle: scipy."""

import numpy as np
import pytest
import scipy.stats

from benchmarks.study.statistics import difference, mean, t_probability, t_quantile


@pytest.mark.parametrize("freedom", [1, 2, 3, 4, 5, 9, 30, 101])
def test_quantiles_of_student_are_those_of_scipy(freedom: int) -> None:
    assert t_quantile(0.95, freedom) == pytest.approx(scipy.stats.t.ppf(0.975, freedom), rel=1e-9)
    assert t_probability(1.3, freedom) == pytest.approx(1 - 2 * scipy.stats.t.sf(1.3, freedom), rel=1e-9)


@pytest.mark.parametrize("count", [2, 3, 5, 12])
def test_a_paired_difference_is_scipys_paired_t_test(count: int) -> None:
    rng = np.random.default_rng(count)
    mine, theirs = rng.normal(80, 3, count), rng.normal(79, 3, count)
    found = difference([*(mine - theirs)])
    expected = scipy.stats.ttest_rel(mine, theirs).confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), rel=1e-9)
    assert found.value == pytest.approx((mine - theirs).mean())


def test_a_mean_has_the_sample_deviation() -> None:
    assert mean([1.0, 2.0, 4.0]).spread == pytest.approx(np.std([1, 2, 4], ddof=1))


def test_one_seed_has_no_spread_and_no_interval() -> None:
    assert mean([3.0]).spread is None
    assert (difference([3.0]).low, difference([3.0]).high, difference([3.0]).value) == (None, None, 3.0)


def test_the_interval_holds_the_truth_as_often_as_it_says() -> None:
    """5000 studies of 3 seeds with a true difference of 1.5: 95 % of the intervals must hold it."""
    pairs = np.random.default_rng(0).normal(1.5, 2.0, (5000, 3))
    intervals = [difference([*row]) for row in pairs]
    held = np.mean([one.low < 1.5 < one.high for one in intervals])
    assert held == pytest.approx(0.95, abs=0.01)
