"""Vectors compared in pairs, against torch's cosines and scipy's correlations."""

import numpy as np
import pytest
import scipy.stats
import torch

from serve import measures
from serve.pairs import compared, cosines


def pairs(count: int = 150, size: int = 12) -> tuple[np.ndarray, np.ndarray]:
    """Vectors [2N, D] of every length, and scores [2N] with many ties, the higher the nearer."""
    rng = np.random.default_rng(5)
    scores = rng.integers(0, 11, count) / 2.0
    first = rng.normal(size=(count, size))
    second = scores[:, None] * first + 4 * rng.normal(size=(count, size))
    vectors = np.stack([first, 7 * second], axis=1).reshape(2 * count, size)
    return vectors.astype(np.float32), scores.repeat(2)


def oracle(vectors: np.ndarray) -> np.ndarray:
    first, second = torch.from_numpy(vectors).double().unflatten(0, (-1, 2)).unbind(1)
    return torch.nn.functional.cosine_similarity(first, second).numpy()


def test_cosines_are_those_of_torch() -> None:
    vectors, _ = pairs()
    np.testing.assert_allclose(cosines(vectors[::2], vectors[1::2]), oracle(vectors), atol=1e-12)
    np.testing.assert_allclose(cosines([[3.0, 4.0]], [[4.0, 3.0]]), [24 / 25])
    assert cosines([[0.0, 0.0]], [[1.0, 0.0]]).tolist() == [0.0]


@pytest.mark.parametrize(("metric", "of"), [("cosine_spearman", "spearmanr"), ("cosine_pearson", "pearsonr")])
def test_the_metric_of_vectors_is_scipys_of_cosines(metric: str, of: str) -> None:
    vectors, labels = pairs()
    expected = getattr(scipy.stats, of)(oracle(vectors), labels[::2]).statistic
    assert 0.5 < expected < 0.99
    assert measures.measure(metric, vectors, labels) == pytest.approx(expected)
    found = measures.interval(metric, vectors, labels)
    assert found["value"] == pytest.approx(expected)
    assert found["low"] < expected < found["high"]
    assert measures.higher_is_better(metric)


def test_an_interval_counts_pairs_and_not_texts() -> None:
    """Oracle: the interval of the cosines themselves."""
    vectors, labels = pairs()
    assert measures.interval("cosine_spearman", vectors, labels) == measures.interval(
        "spearman", oracle(vectors), labels[::2]
    )


def test_vectors_agree_by_the_cosines_that_they_give() -> None:
    vectors, _ = pairs()
    turned, _ = np.linalg.qr(np.random.default_rng(0).normal(size=(12, 12)))
    wider = np.concatenate([vectors @ turned, np.zeros_like(vectors)], axis=1)
    assert measures.agreement(wider, vectors, kind="embedding")["value"] == pytest.approx(1, abs=1e-6)
    blurred = vectors + np.random.default_rng(1).normal(size=vectors.shape) * np.abs(vectors).mean()
    found = measures.agreement(blurred, vectors, kind="embedding")["value"]
    assert found == pytest.approx(scipy.stats.pearsonr(oracle(blurred), oracle(vectors)).statistic)
    assert found < 0.99


@pytest.mark.parametrize(
    ("vectors", "labels", "complaint"),
    [
        (np.ones((4, 2)), np.array([1.0, 1, 2, 3]), "side by side"),
        (np.ones((3, 2)), np.ones(3), "2N"),
        (np.ones((4, 2)), np.ones(2), "2N"),
        (np.ones((0, 2)), np.ones(0), "2N"),
    ],
)
def test_texts_that_are_no_pairs_are_refused(vectors: np.ndarray, labels: np.ndarray, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        compared(vectors, labels)


def test_vectors_that_are_not_finite_are_refused() -> None:
    with pytest.raises(ValueError, match="vectors must be finite"):
        measures.measure("cosine_spearman", np.full((4, 2), np.nan), np.array([0.0, 0, 1, 1]))
