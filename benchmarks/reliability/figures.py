"""Arithmetic of the checks: arrivals, percentiles, a slope with its interval, and the time until things are normal."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

STEP = 0.1  # seconds between the windows of `settled`


def arrivals(phases: Sequence[tuple[float, float]], seed: int) -> NDArray[np.float64]:
    """Seconds from the start at which a Poisson process of (rate a second, seconds) phases has its arrivals."""
    generator = np.random.default_rng(seed)
    found, start = list[NDArray[np.float64]](), 0.0
    for rate, seconds in phases:
        # Given their number, arrivals of a Poisson process are independent and uniform.
        count = generator.poisson(rate * seconds)
        found.append(start + np.sort(generator.uniform(0.0, seconds, count)))
        start += seconds
    return np.concatenate(found) if found else np.zeros(0)


def percentile(samples: ArrayLike, which: float) -> float | None:
    """None of no samples."""
    values = np.asarray(samples)
    return float(np.percentile(values, which)) if values.size else None


def latencies(seconds: ArrayLike) -> dict[str, float | None]:
    """{"p50", "p99"} in milliseconds."""
    return {f"p{which}": percentile(np.asarray(seconds) * 1e3, which) for which in (50, 99)}


@dataclass(frozen=True)
class Slope:
    value: float
    low: float  # of the interval that holds the true one in 95 of 100 cases, if what is left over is white noise
    high: float


def slope(x: ArrayLike, y: ArrayLike) -> Slope | None:
    """Of the least-squares line; None of fewer than three points or of points that have one x."""
    x, y = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    if len(x) < 3 or np.ptp(x) == 0:
        return None
    apart = x - x.mean()
    squares = float(apart @ apart)
    value = float(apart @ (y - y.mean())) / squares
    left = y - y.mean() - value * apart
    freedom = len(x) - 2
    error = float(np.sqrt(left @ left / freedom / squares))
    wide = student(0.975, freedom) * error
    return Slope(value, value - wide, value + wide)


def student(probability: float, freedom: int) -> float:
    """Quantile of Student's t, exact for one and two degrees of freedom, else by Hill's expansion (CACM 396, 1970)."""
    if freedom == 1:
        return float(np.tan(np.pi * (probability - 0.5)))
    if freedom == 2:
        both = 2 * probability - 1
        return float(both * np.sqrt(2 / (1 - both**2)))
    tail = 2 * (1 - probability)
    a = 1 / (freedom - 0.5)
    b = 48 / a**2
    c = ((20700 * a / b - 98) * a - 16) * a + 96.36
    d = ((94.5 / (b + c) - 3) / b + 1) * np.sqrt(a * np.pi / 2) * freedom
    y = (d * tail) ** (2 / freedom)
    if y > 0.05 + a:
        x = NormalDist().inv_cdf(tail / 2)
        y = x**2
        if freedom < 5:
            c += 0.3 * (freedom - 4.5) * (x + 0.6)
        c = (((0.05 * d * x - 5) * x - 7) * x - 2) * x + b + c
        y = (((((0.4 * y + 6.3) * y + 36) * y + 94.5) / c - y - 3) / b + 1) * x
        y = np.expm1(a * y**2)
    else:
        inner = 1 / (((freedom + 6) / (freedom * y) - 0.089 * d - 0.822) * (freedom + 2) * 3)
        y = ((inner + 0.5 / (freedom + 4)) * y - 1) * (freedom + 1) / (freedom + 2) + 1 / y
    return float(np.sqrt(freedom * y))


def settled(
    at: NDArray[Any], seconds: NDArray[Any], *, after: float, until: float, normal: float, window: float
) -> float | None:
    """Seconds from `after` to the first window of requests whose p99 is at most `normal`; None if there is none.

    `at` is when each request was due and `seconds` how long it took, both in seconds; infinity for no good answer.
    Windows are `window` long and begin STEP apart; one with no requests says nothing.
    """
    start = after
    while start + window <= until + 1e-9:
        inside = seconds[(at >= start) & (at < start + window)]
        # The higher of the neighbours: what lies between a number and infinity is infinity.
        if inside.size and np.percentile(inside, 99, method="higher" if np.isinf(inside).any() else "linear") <= normal:
            return start - after
        start += STEP
    return None
