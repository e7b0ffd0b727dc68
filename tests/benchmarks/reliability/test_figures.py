"""Arithmetic of the checks against closed forms, numpy and scipy."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from benchmarks.reliability.figures import arrivals, latencies, percentile, settled, slope, student


def test_arrivals_are_a_poisson_process() -> None:
    rate, seconds, runs = 50.0, 4.0, 400
    found = [arrivals([(rate, seconds)], seed) for seed in range(runs)]
    counts = np.array([len(times) for times in found])
    mean = rate * seconds
    # The mean of a Poisson number is its variance; bounds are five standard errors.
    assert abs(counts.mean() - mean) < 5 * np.sqrt(mean / runs)
    assert abs(counts.var(ddof=1) / mean - 1) < 5 * np.sqrt(2 / runs)
    gaps = np.concatenate([np.diff(times) for times in found[:40]])
    assert stats.kstest(gaps, "expon", args=(0, 1 / rate)).pvalue > 0.001
    assert abs(np.corrcoef(gaps[:-1], gaps[1:])[0, 1]) < 5 / np.sqrt(len(gaps))


def test_arrivals_keep_to_their_phases_and_their_seed() -> None:
    phases = [(100.0, 2.0), (1000.0, 1.0), (0.0, 5.0), (100.0, 2.0)]
    times = arrivals(phases, 3)
    assert np.all(np.diff(times) >= 0) and times[0] >= 0 and times[-1] < 10
    counts, _ = np.histogram(times, [0, 2, 3, 8, 10])
    assert counts[2] == 0
    for count, mean in zip(counts[[0, 1, 3]], (200, 1000, 200), strict=True):
        assert abs(count - mean) < 5 * np.sqrt(mean)
    assert np.array_equal(times, arrivals(phases, 3)) and not np.array_equal(times, arrivals(phases, 4)[: len(times)])
    assert len(arrivals([], 0)) == 0


def test_percentiles_are_those_of_numpy_and_none_of_nothing() -> None:
    samples = np.random.default_rng(1).exponential(size=1001)
    ordered = np.sort(samples)
    assert percentile(samples, 99) == ordered[990] and percentile(samples, 50) == ordered[500]
    assert latencies(samples) == {"p50": pytest.approx(1e3 * ordered[500]), "p99": pytest.approx(1e3 * ordered[990])}
    assert percentile([], 50) is None


@pytest.mark.parametrize("count", [3, 4, 5, 10, 200])
def test_the_slope_and_its_interval_are_those_of_linregress(count: int) -> None:
    generator = np.random.default_rng(count)
    x = np.sort(generator.uniform(0, 10, count))
    y = 3.0 * x + 100 + generator.normal(size=count)
    found, told = slope(x, y), stats.linregress(x, y)
    assert found is not None
    wide = stats.t.ppf(0.975, count - 2) * told.stderr
    assert found.value == pytest.approx(told.slope, rel=1e-9)
    assert found.low == pytest.approx(told.slope - wide, rel=2e-3, abs=1e-3)
    assert found.high == pytest.approx(told.slope + wide, rel=2e-3, abs=1e-3)


def test_there_is_no_slope_of_two_points_or_of_one_place() -> None:
    assert slope([0, 1], [0, 1]) is None
    assert slope([1, 1, 1], [0, 1, 2]) is None


def test_students_quantiles_are_those_of_scipy() -> None:
    freedoms = [1, 2, 3, 4, 5, 7, 10, 30, 100, 1000]
    for freedom in freedoms:
        for probability in (0.9, 0.975, 0.995):
            assert student(probability, freedom) == pytest.approx(stats.t.ppf(probability, freedom), rel=5e-4)


def test_things_are_settled_from_the_first_window_that_is_normal() -> None:
    at = np.arange(0, 10, 0.01)
    seconds = np.where(at < 2.0, 0.5, 0.01)
    seconds[at < 1.0] = np.inf  # shed
    ends = {"after": 0.0, "until": 10.0, "normal": 0.02, "window": 0.5}
    assert settled(at, seconds, **ends) == pytest.approx(2.0, abs=0.11)
    assert settled(at, np.full(len(at), 0.01), **ends) == 0.0
    assert settled(at, np.full(len(at), np.inf), **ends) is None
    assert settled(at[:0], seconds[:0], **ends) is None
