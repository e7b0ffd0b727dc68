"""Vectors of texts that are compared in pairs: what of them is held against a score."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


def cosines(first: Array, second: Array) -> Array:
    """[N] of vectors [N, D] and [N, D]; 0 where one of the two is zero."""
    first, second = np.asarray(first, np.float64), np.asarray(second, np.float64)
    lengths = np.linalg.norm(first, axis=-1) * np.linalg.norm(second, axis=-1)
    return np.asarray(np.einsum("nd,nd->n", first, second) / np.where(lengths > 0, lengths, 1.0))


def compared(vectors: Array, labels: Array) -> tuple[Array, Array]:
    """Cosines [N] and scores [N] of vectors [2N, D] and labels [2N]: a pair's texts stand side by side.

    Raises ValueError unless both texts of each pair have its score.
    """
    vectors, labels = np.asarray(vectors), np.asarray(labels)
    if vectors.ndim != 2 or labels.shape != vectors.shape[:1] or len(labels) % 2 or not len(labels):
        got = f"{vectors.shape} and {labels.shape}"
        raise ValueError(f"vectors must be [2N, D] and labels [2N] with N > 0, got {got}")
    if not np.array_equal(labels[::2], labels[1::2], equal_nan=True):
        raise ValueError("texts of a pair must stand side by side, each with the pair's score; some scores differ")
    return cosines(vectors[::2], vectors[1::2]), labels[::2]
