"""What a model's answers are worth: metrics, and intervals by the percentile bootstrap over examples.

A bootstrap resample is a vector of how often each example was drawn. Every classification metric
here is a function of the confusion matrix alone, and the confusion matrix of a resample is one
multinomial draw over its cells; so a thousand resamples cost a thousand small matrices, whatever
the number of examples. Correlations and errors are computed from the draw counts as weights.

Shapes: N examples, C classes, R resamples. Regression has logits [N, 1] or [N]. Metrics named cosine_ take vectors
[2N, D] and labels [2N] in the place of logits and labels: the texts of a pair stand side by side, with its score each.

Efron and Tibshirani, 1993, "An Introduction to the Bootstrap", chapter 13.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from serve.pairs import compared

Floats = NDArray[np.floating[Any]]
Array = NDArray[Any]

WEIGHTS_AT_ONCE = 4_000_000  # draw counts held in memory while resampling


# --- of confusion matrices [..., C, C], rows = labels, columns = predictions


def _accuracy(confusion: Array) -> Array:
    return np.asarray(np.trace(confusion, axis1=-2, axis2=-1) / confusion.sum((-2, -1)))


def _f1_of_each(confusion: Array) -> Array:
    """F1 [..., C]; NaN for a class that is neither a label nor a prediction."""
    hits = np.diagonal(confusion, axis1=-2, axis2=-1)
    total = confusion.sum(-1) + confusion.sum(-2)
    return np.where(total > 0, 2 * hits / np.maximum(total, 1), np.nan)


def _macro_f1(confusion: Array) -> Array:
    return np.asarray(np.nanmean(_f1_of_each(confusion), axis=-1))


def _f1(confusion: Array) -> Array:
    if confusion.shape[-1] > 2:
        return _macro_f1(confusion)
    return np.nan_to_num(_f1_of_each(confusion)[..., 1])  # no positive anywhere: 0, as scikit-learn has it


def _matthews(confusion: Array) -> Array:
    """Gorodkin, 2004, eq. 8. NaN where only one class is among the labels, 0 where only one is predicted."""
    counts = confusion.astype(np.float64)
    total, right = counts.sum((-2, -1)), np.trace(counts, axis1=-2, axis2=-1)
    labels, predictions = counts.sum(-1), counts.sum(-2)
    numerator = right * total - (labels * predictions).sum(-1)
    spread = (total**2 - (labels**2).sum(-1)) * (total**2 - (predictions**2).sum(-1))
    value = np.where(spread > 0, numerator / np.sqrt(np.maximum(spread, 1)), 0.0)
    return np.where((labels > 0).sum(-1) > 1, value, np.nan)


# --- of outputs [N], targets [N] and weights [R, N] (how often each example was drawn)


def _pearson(outputs: Array, targets: Array, weights: Array) -> Array:
    """NaN where the targets do not vary, 0 where the outputs do not (a collapsed model knows nothing)."""
    return _correlation(outputs[None, :], targets[None, :], weights)


def _spearman(outputs: Array, targets: Array, weights: Array) -> Array:
    return _correlation(_ranks(outputs, weights), _ranks(targets, weights), weights)


def _mse(outputs: Array, targets: Array, weights: Array) -> Array:
    return np.asarray((weights @ (outputs - targets) ** 2) / weights.sum(-1))


def _correlation(x: Array, y: Array, weights: Array) -> Array:
    total = weights.sum(-1, keepdims=True)
    dx, dy = x - (weights * x).sum(-1, keepdims=True) / total, y - (weights * y).sum(-1, keepdims=True) / total
    xx, yy, xy = (weights * dx * dx).sum(-1), (weights * dy * dy).sum(-1), (weights * dx * dy).sum(-1)
    x_varies, y_varies = _varies(x, weights, xx), _varies(y, weights, yy)
    value = np.where(x_varies, xy / np.sqrt(np.where(x_varies & y_varies, xx * yy, 1.0)), 0.0)
    return np.where(y_varies, np.clip(value, -1.0, 1.0), np.nan)


def _varies(x: Array, weights: Array, squares: Array) -> Array:
    """Whether a resample holds two different values; rounding leaves a little variance in a constant."""
    drawn = weights > 0
    highest = np.where(drawn, x, -np.inf).max(-1)
    lowest = np.where(drawn, x, np.inf).min(-1)
    return np.asarray((highest > lowest) & (squares > 0))


def _ranks(values: Array, weights: Array) -> Array:
    """Average ranks [R, N] of the values within each resample, ties and repeated draws sharing theirs."""
    _, place = np.unique(values, return_inverse=True)
    order = np.argsort(place, kind="stable")
    starts = np.flatnonzero(np.diff(place[order], prepend=-1))
    held = np.add.reduceat(weights[:, order], starts, axis=1)
    ranks = np.cumsum(held, axis=1) - held + (held + 1) / 2
    return np.asarray(ranks[:, place])


OF_CONFUSION: dict[str, Callable[[Array], Array]] = {
    "accuracy": _accuracy,
    "f1": _f1,
    "macro_f1": _macro_f1,
    "matthews": _matthews,
}
OF_VALUES: dict[str, Callable[[Array, Array, Array], Array]] = {
    "pearson": _pearson,
    "spearman": _spearman,
    "mse": _mse,
}
OF_COSINES = {"cosine_spearman": "spearman", "cosine_pearson": "pearson"}  # what the cosine is judged by


def accuracy(logits: Floats, labels: Array) -> float:
    return measure("accuracy", logits, labels)


def f1(logits: Floats, labels: Array) -> float:
    """F1 of class 1 where there are two classes, else the mean over classes."""
    return measure("f1", logits, labels)


def macro_f1(logits: Floats, labels: Array) -> float:
    """Mean F1 over the classes that occur among labels or predictions."""
    return measure("macro_f1", logits, labels)


def matthews(logits: Floats, labels: Array) -> float:
    return measure("matthews", logits, labels)


def pearson(logits: Floats, labels: Array) -> float:
    return measure("pearson", logits, labels)


def spearman(logits: Floats, labels: Array) -> float:
    return measure("spearman", logits, labels)


def mse(logits: Floats, labels: Array) -> float:
    return measure("mse", logits, labels)


def cosine_spearman(vectors: Floats, labels: Array) -> float:
    """Spearman's correlation of the cosine of two texts' vectors with their score."""
    return measure("cosine_spearman", vectors, labels)


def cosine_pearson(vectors: Floats, labels: Array) -> float:
    return measure("cosine_pearson", vectors, labels)


METRICS: dict[str, Callable[[Floats, Array], float]] = {
    "accuracy": accuracy,
    "f1": f1,
    "macro_f1": macro_f1,
    "matthews": matthews,
    "pearson": pearson,
    "spearman": spearman,
    "mse": mse,
    "cosine_spearman": cosine_spearman,
    "cosine_pearson": cosine_pearson,
}
DEFAULT_METRIC = {"classification": "accuracy", "regression": "spearman", "embedding": "cosine_spearman"}


def higher_is_better(metric: str) -> bool:
    _known(metric)
    return metric != "mse"


def measure(metric: str, logits: Floats, labels: Array) -> float:
    """The metric of logits [N, C] against labels [N] (class indices, or floats for regression).

    A model that answers always the same scores 0 in "matthews", "pearson" and "spearman". Labels
    that are all the same leave those three undefined: a ValueError.
    """
    _known(metric)
    metric, logits, labels = _of_pairs(metric, logits, labels)
    if metric in OF_CONFUSION:
        value = OF_CONFUSION[metric](_confusion(logits, labels))
    else:
        outputs, targets = _values(logits, labels)
        value = OF_VALUES[metric](outputs, targets, np.ones((1, len(targets))))[0]
    return _defined(float(value), metric)


def interval(
    metric: str, logits: Floats, labels: Array, *, resamples: int = 1000, seed: int = 0, level: float = 0.95
) -> dict[str, float]:
    """{"value", "low", "high"}: the metric and its percentile bootstrap interval.

    Resamples in which the metric is undefined (one class only among the labels) are left out.
    """
    value = measure(metric, logits, labels)
    metric, logits, labels = _of_pairs(metric, logits, labels)
    generator = np.random.default_rng(seed)
    if metric in OF_CONFUSION:
        draws = _resampled_confusion(metric, _confusion(logits, labels), resamples, generator)
    else:
        draws = _resampled_values(metric, *_values(logits, labels), resamples, generator)
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
    _finite(np.asarray(reference), "reference logits")
    chosen = np.asarray(reference).argmax(-1)
    return interval("accuracy", logits, chosen, resamples=resamples, seed=seed, level=level)


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


# --- vectors of pairs


def _of_pairs(metric: str, logits: Floats, labels: Array) -> tuple[str, Floats, Array]:
    """What is to be measured of vectors, as a metric of values; anything else as it is."""
    if metric not in OF_COSINES:
        return metric, logits, labels
    _finite(np.asarray(logits), "vectors")
    return OF_COSINES[metric], *compared(logits, labels)


def _neighbours(vectors: Floats) -> Array:
    """Cosines [N] of vectors [2N, D]."""
    return compared(vectors, np.zeros(len(vectors)))[0]


# --- checks


def _known(metric: str) -> None:
    if metric not in METRICS:
        near = difflib.get_close_matches(metric, METRICS, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"metric must be one of {', '.join(METRICS)}, got {metric!r}{hint}")


def _confusion(logits: Floats, labels: Array) -> Array:
    logits, labels = np.asarray(logits), np.asarray(labels)
    if logits.ndim != 2 or labels.ndim != 1 or len(logits) != len(labels) or not len(labels):
        raise ValueError(f"logits must be [N, C] and labels [N] with N > 0, got {logits.shape} and {labels.shape}")
    _finite(logits, "logits")
    classes = logits.shape[1]
    if not np.issubdtype(labels.dtype, np.integer) or labels.min() < 0 or labels.max() >= classes:
        got = f"{labels.dtype} in [{labels.min()}, {labels.max()}]"
        raise ValueError(f"labels must be class indices below {classes}, got {got}")
    cells = np.bincount(labels.astype(np.int64) * classes + logits.argmax(1), minlength=classes * classes)
    return cells.reshape(classes, classes)


def _values(logits: Floats, labels: Array) -> tuple[Array, Array]:
    outputs, targets = np.asarray(logits, dtype=np.float64), np.asarray(labels, dtype=np.float64)
    if targets.ndim != 1 or outputs.size != len(targets) or not len(targets):
        got = f"{outputs.shape} and {targets.shape}"
        raise ValueError(f"outputs must be [N] or [N, 1] and labels [N] with N > 0, got {got}")
    _finite(outputs, "outputs")
    _finite(targets, "labels")
    return outputs.reshape(-1), targets


def _finite(values: Array, what: str) -> None:
    if not np.isfinite(values).all():
        raise ValueError(f"{what} must be finite, got {int((~np.isfinite(values)).sum())} NaN or infinite values")


def _defined(value: float, metric: str) -> float:
    if np.isnan(value):
        raise ValueError(f"{metric} needs at least two different labels in the data, got one only")
    return value
