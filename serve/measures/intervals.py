"""Intervals by the percentile bootstrap over examples, or over questions where candidates are ranked.

A resample is a vector of how often each example was drawn. Every classification metric here is a function of the
confusion matrix alone, and the confusion matrix of a resample is one multinomial draw over its cells; so a thousand
resamples cost a thousand small matrices, whatever the number of examples. Correlations and errors are computed from the
draw counts as weights.

Efron and Tibshirani, 1993, "An Introduction to the Bootstrap", chapter 13.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from serve.measures.formulas import OF_CONFUSION, OF_VALUES, Array
from serve.measures.metrics import (
    DEFAULT_METRIC,
    RANKED,
    Floats,
    check_finite,
    confusion_of,
    measure,
    of_pairs,
    ranked,
    values_of,
)
from serve.pairs import compared

WEIGHTS_AT_ONCE = 4_000_000  # draw counts held in memory while resampling


def interval(
    metric: str,
    logits: Floats,
    labels: Array,
    *,
    texts: Sequence[Any] | None = None,
    resamples: int = 1000,
    seed: int = 0,
    level: float = 0.95,
) -> dict[str, float]:
    """{"value", "low", "high"}: the metric and its percentile bootstrap interval. `texts` are as in `measure`.

    Resamples in which the metric is undefined (one class only among the labels) are left out.
    """
    generator = np.random.default_rng(seed)
    if metric in RANKED:
        values = ranked(metric, logits, labels, texts)
        return _spread(float(values.mean()), _resampled_means(values, resamples, generator), level)
    value = measure(metric, logits, labels)
    metric, logits, labels = of_pairs(metric, logits, labels)
    if metric in OF_CONFUSION:
        draws = _resampled_confusion(metric, confusion_of(logits, labels), resamples, generator)
    else:
        draws = _resampled_values(metric, *values_of(logits, labels), resamples, generator)
    return _spread(value, draws, level)


def agreement(
    logits: Floats, reference: Floats, *, kind: str, resamples: int = 1000, seed: int = 0, level: float = 0.95
) -> dict[str, float]:
    """{"value", "low", "high"}: share of texts given the reference's label.

    For regression Pearson's correlation with the reference; for embeddings that of the cosines of neighbouring texts,
    rows 0 and 1, 2 and 3 and so on, so that vectors of another size can be compared too.
    """
    if kind not in DEFAULT_METRIC:
        raise ValueError(f"kind must be one of {', '.join(DEFAULT_METRIC)}, got {kind!r}")
    if kind == "embedding":
        kind, logits, reference = "regression", _neighbours(logits), _neighbours(reference)
    if kind == "regression":
        targets = np.asarray(reference, dtype=np.float64).reshape(len(reference))
        return interval("pearson", logits, targets, resamples=resamples, seed=seed, level=level)
    if np.shape(logits) != np.shape(reference):
        raise ValueError(f"logits and reference must have one shape, got {np.shape(logits)} and {np.shape(reference)}")
    check_finite(np.asarray(reference), "reference logits")
    chosen = np.asarray(reference).argmax(-1)
    return interval("accuracy", logits, chosen, resamples=resamples, seed=seed, level=level)


def _neighbours(vectors: Floats) -> Array:
    """Cosines [N] of vectors [2N, D]."""
    return compared(vectors, np.zeros(len(vectors)))[0]


# --- resampling


def _resampled_confusion(metric: str, confusion: Array, resamples: int, generator: np.random.Generator) -> Array:
    total = int(confusion.sum())
    drawn = generator.multinomial(total, confusion.ravel() / total, size=resamples)
    return OF_CONFUSION[metric](drawn.reshape(resamples, *confusion.shape))


def _resampled_values(
    metric: str, outputs: Array, targets: Array, resamples: int, generator: np.random.Generator
) -> Array:
    pieces = [OF_VALUES[metric](outputs, targets, weights) for weights in _weights(len(targets), resamples, generator)]
    return np.concatenate(pieces)


def _resampled_means(values: Array, resamples: int, generator: np.random.Generator) -> Array:
    return np.concatenate([weights @ values for weights in _weights(len(values), resamples, generator)]) / len(values)


def _weights(examples: int, resamples: int, generator: np.random.Generator) -> Iterator[Array]:
    """Draw counts [r, N] in pieces that fit in memory, R rows in all."""
    at_once = max(1, WEIGHTS_AT_ONCE // examples)
    for first in range(0, resamples, at_once):
        rows = min(at_once, resamples - first)
        draws = generator.integers(0, examples, size=(rows, examples)) + np.arange(rows)[:, None] * examples
        yield np.bincount(draws.ravel(), minlength=rows * examples).reshape(rows, examples).astype(np.float64)


def _spread(value: float, draws: Array, level: float) -> dict[str, float]:
    defined = draws[~np.isnan(draws)]
    if not len(defined):
        return {"value": value, "low": value, "high": value}
    low, high = np.quantile(defined, [(1 - level) / 2, (1 + level) / 2])
    return {"value": value, "low": float(low), "high": float(high)}
