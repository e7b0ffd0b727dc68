"""Clocks and percentiles, on targets whose times are known."""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np
import pytest

from benchmarks import measure
from benchmarks.measure import Window


def test_percentiles_equal_numpys_on_the_raw_samples() -> None:
    samples = np.random.default_rng(0).exponential(0.01, 997)
    found = measure.percentiles(samples.tolist())
    expected = {f"p{which}": np.percentile(samples, which) * 1000 for which in (50, 90, 99)}
    assert found == pytest.approx(expected)


def test_a_target_that_sleeps_has_the_latency_rate_and_idle_cpu_it_must_have() -> None:
    seen: list[int] = []

    def predict(texts: Sequence[str]) -> None:
        seen.append(len(texts))
        time.sleep(0.004)

    window = measure.window(predict, lambda texts: time.sleep(0.001), ["a"] * 10, batch=4, seconds=0.2)
    assert set(seen) == {4, 2}  # the last call of a pass has what is left
    assert window.wall >= 0.2
    assert len(window.calls) % 3 == 0 and window.texts == len(window.calls) // 3 * 10
    found = measure.summary([window])
    # A busy machine wakes a sleeper late but never early.
    assert 4.0 <= found["latency_ms"]["p50"] < 40.0
    assert 10 / 0.12 < found["texts_per_second"] <= 10 / 0.012
    assert sum(window.calls) == pytest.approx(window.wall)
    assert found["cores_used"] < 0.5
    assert 0.0003 <= found["tokenise_seconds_per_text"] < 0.003


def test_a_target_that_computes_uses_one_core() -> None:
    def predict(texts: Sequence[str]) -> None:
        end = time.process_time() + 0.005
        while time.process_time() < end:
            pass

    found = measure.summary([measure.window(predict, len, ["a", "b"], batch=1, seconds=0.1)])
    assert found["cpu_seconds_per_text"] == pytest.approx(0.005, rel=0.2)
    assert found["cores_used"] <= 1.05


def test_a_window_passes_over_all_texts_even_when_time_is_up() -> None:
    seen: list[str] = []
    measure.window(lambda texts: seen.extend(texts), len, list("abcdef"), batch=2, seconds=1e-9)
    assert seen[-6:] == list("abcdef")


def test_targets_take_turns_and_none_is_always_first() -> None:
    order = list(measure.turns(["a", "b", "c"], 4))
    rounds = [[name for number, name in order if number == which] for which in range(4)]
    assert rounds == [["a", "b", "c"], ["b", "c", "a"], ["c", "a", "b"], ["a", "b", "c"]]
    assert [number for number, _ in order] == sorted(number for number, _ in order)


def test_summary_takes_medians_of_windows_and_percentiles_of_all_calls() -> None:
    windows = [Window([wall], wall, wall / 2, 10, 1e-5 * wall) for wall in (1.0, 2.0, 5.0)]
    found = measure.summary(windows)
    assert found["texts_per_second"] == 5.0
    assert found["texts_per_second_windows"] == [10.0, 5.0, 2.0]
    assert found["spread"] == {"low": 2.0, "high": 10.0}
    assert found["latency_ms"]["p50"] == 2000.0
    assert (found["samples"], found["cpu_seconds_per_text"], found["cores_used"]) == (3, 4 / 30, 0.5)
    assert found["tokenise_seconds_per_text"] == pytest.approx(2e-5)


def test_peak_memory_is_a_high_water_mark() -> None:
    before = measure.peak_memory()
    if before is None:
        pytest.skip("this system does not tell")
    held = np.ones(400_000_000, dtype=np.uint8)
    after = measure.peak_memory()
    del held
    assert after is not None and after >= before
    assert after > 350_000_000
    assert measure.peak_memory() == pytest.approx(after, rel=0.01)  # the kernel counts in batches of pages
    assert measure.peak_memory(2**30) is None
