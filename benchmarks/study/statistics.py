"""Means, spreads and paired differences over seeds.

Student, 1908, "The probable error of a mean", Biometrika 6; quantiles by Abramowitz and Stegun, 1964, "Handbook of
Mathematical Functions", 26.7.3 and 26.7.4.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Mean:
    value: float
    spread: float | None  # standard deviation of one run, n - 1 in the denominator; None for n = 1
    n: int


@dataclass(frozen=True)
class Difference:
    """Mean of paired differences d_i, and its 95 % interval: mean(d) -+ t(0.975, n - 1) sd(d) / sqrt(n)."""

    value: float
    low: float | None  # None for n = 1: one pair tells nothing of its spread
    high: float | None
    pairs: tuple[float, ...]


def mean(values: Sequence[float]) -> Mean:
    """Of at least one value."""
    middle = math.fsum(values) / len(values)
    return Mean(middle, deviation(values) if len(values) > 1 else None, len(values))


def deviation(values: Sequence[float]) -> float:
    """The sample standard deviation of two values or more."""
    middle = math.fsum(values) / len(values)
    return math.sqrt(math.fsum((value - middle) ** 2 for value in values) / (len(values) - 1))


def difference(pairs: Sequence[float]) -> Difference:
    """What one arm has over another: `pairs` holds (its value - the other's) for each seed that both have run.

    Pairing takes out what a seed does to both: the split, the teacher, the order of examples. The interval holds
    if the differences are about normal over seeds; it speaks of other seeds, not of other test texts.
    """
    found = mean(pairs)
    if found.spread is None:
        return Difference(found.value, None, None, tuple(pairs))
    reach = t_quantile(0.95, found.n - 1) * found.spread / math.sqrt(found.n)
    return Difference(found.value, found.value - reach, found.value + reach, tuple(pairs))


def t_probability(t: float, freedom: int) -> float:
    """P(|T| < t) for Student's T of `freedom` degrees: a finite sum (26.7.3 for odd ones, 26.7.4 for even)."""
    angle = math.atan(t / math.sqrt(freedom))
    sine, cosine = math.sin(angle), math.cos(angle)
    if freedom == 1:
        return 2 * angle / math.pi
    odd = freedom % 2
    term = total = cosine if odd else 1.0
    for k in range(3 if odd else 2, freedom - 1, 2):
        term *= (k - 1) / k * cosine**2
        total += term
    return 2 / math.pi * (angle + sine * total) if odd else sine * total


def t_quantile(probability: float, freedom: int) -> float:
    """The t with P(|T| < t) = `probability`, by halving; to about 1e-12."""
    assert freedom >= 1 and 0 < probability < 1
    low, high = 0.0, 1.0
    while t_probability(high, freedom) < probability:
        high *= 2
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if t_probability(middle, freedom) < probability else (low, middle)
    return (low + high) / 2
