"""Named metrics of logits and labels, and what must hold of these."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from serve.measures.formulas import OF_CONFUSION, OF_VALUES, Array
from serve.measures.ranking import OF_RANKINGS, of_questions
from serve.pairs import compared

Floats = NDArray[np.floating[Any]]

OF_COSINES = {"cosine_spearman": "spearman", "cosine_pearson": "pearson"}  # what the cosine is judged by
RANKED = tuple(OF_RANKINGS)  # metrics of candidates by question
METRICS = (*OF_CONFUSION, *OF_VALUES, *RANKED, *OF_COSINES)
DEFAULT_METRIC = {"classification": "accuracy", "regression": "spearman", "embedding": "cosine_spearman"}


def higher_is_better(metric: str) -> bool:
    _known(metric)
    return metric != "mse"


def measure(metric: str, logits: Floats, labels: Array, *, texts: Sequence[Any] | None = None) -> float:
    """The metric of logits [N, C] against labels [N] (class indices, or floats for regression).

    Those of RANKED ask for `texts` [N], pairs of a question and a candidate, and for two classes, the second one right.
    A model that answers always the same scores 0 in "matthews", "pearson" and "spearman". Labels
    that are all the same leave those three undefined: a ValueError.
    """
    _known(metric)
    if metric in RANKED:
        return float(ranked(metric, logits, labels, texts).mean())
    metric, logits, labels = of_pairs(metric, logits, labels)
    if metric in OF_CONFUSION:
        value = OF_CONFUSION[metric](confusion_of(logits, labels))
    else:
        outputs, targets = values_of(logits, labels)
        value = OF_VALUES[metric](outputs, targets, np.ones((1, len(targets))))[0]
    return _defined(float(value), metric)


def of_pairs(metric: str, logits: Floats, labels: Array) -> tuple[str, Floats, Array]:
    """What is to be measured of vectors, as a metric of values; anything else as it is."""
    if metric not in OF_COSINES:
        return metric, logits, labels
    check_finite(np.asarray(logits), "vectors")
    return OF_COSINES[metric], *compared(logits, labels)


def ranked(metric: str, logits: Floats, labels: Array, texts: Sequence[Any] | None) -> Array:
    """A metric of RANKED for each question [Q]; candidates are ranked by how much the second class leads."""
    logits, labels = np.asarray(logits, np.float64), np.asarray(labels)
    if logits.ndim != 2 or logits.shape[1] != 2:
        raise ValueError(f"{metric} ranks by two classes, wrong and right: logits must be [N, 2], got {logits.shape}")
    confusion_of(logits, labels)  # for what it checks
    return of_questions(metric, logits[:, 1] - logits[:, 0], labels == 1, texts)


# --- checks


def _known(metric: str) -> None:
    if metric not in METRICS:
        near = difflib.get_close_matches(metric, METRICS, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"metric must be one of {', '.join(METRICS)}, got {metric!r}{hint}")


def confusion_of(logits: Floats, labels: Array) -> Array:
    logits, labels = np.asarray(logits), np.asarray(labels)
    if logits.ndim != 2 or labels.ndim != 1 or len(logits) != len(labels) or not len(labels):
        raise ValueError(f"logits must be [N, C] and labels [N] with N > 0, got {logits.shape} and {labels.shape}")
    check_finite(logits, "logits")
    classes = logits.shape[1]
    if not np.issubdtype(labels.dtype, np.integer) or labels.min() < 0 or labels.max() >= classes:
        got = f"{labels.dtype} in [{labels.min()}, {labels.max()}]"
        raise ValueError(f"labels must be class indices below {classes}, got {got}")
    cells = np.bincount(labels.astype(np.int64) * classes + logits.argmax(1), minlength=classes * classes)
    return cells.reshape(classes, classes)


def values_of(logits: Floats, labels: Array) -> tuple[Array, Array]:
    outputs, targets = np.asarray(logits, dtype=np.float64), np.asarray(labels, dtype=np.float64)
    if targets.ndim != 1 or outputs.size != len(targets) or not len(targets):
        got = f"{outputs.shape} and {targets.shape}"
        raise ValueError(f"outputs must be [N] or [N, 1] and labels [N] with N > 0, got {got}")
    check_finite(outputs, "outputs")
    check_finite(targets, "labels")
    return outputs.reshape(-1), targets


def check_finite(values: Array, what: str) -> None:
    if not np.isfinite(values).all():
        raise ValueError(f"{what} must be finite, got {int((~np.isfinite(values)).sum())} NaN or infinite values")


def _defined(value: float, metric: str) -> float:
    if np.isnan(value):
        raise ValueError(f"{metric} needs at least two different labels in the data, got one only")
    return value
