"""Metrics as functions of counts: of a confusion matrix, or of how often each example was drawn.

One matrix or one row of counts gives the metric, a thousand of them its value in a thousand resamples.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


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


def spearman(outputs: Array, targets: Array, weights: Array) -> Array:
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
    "spearman": spearman,
    "mse": _mse,
}
