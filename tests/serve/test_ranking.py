"""Ranking metrics against tables worked out by hand, scikit-learn, and every order that ties may come in."""

import itertools
from collections.abc import Sequence

import numpy as np
import pytest
import sklearn.metrics

from serve import measures

Question = tuple[Sequence[float], Sequence[int]]  # scores and labels of its candidates


def rows(*asked: Question) -> tuple[np.ndarray, np.ndarray, list[tuple[str, str]]]:
    """Logits [N, 2], labels [N] and texts [N]."""
    scores = np.concatenate([np.asarray(scores, float) for scores, _ in asked])
    labels = np.concatenate([np.asarray(labels) for _, labels in asked])
    texts = [(f"question {q}", f"candidate {c}") for q, (scores, _) in enumerate(asked) for c in range(len(scores))]
    return np.stack([np.zeros_like(scores), scores], 1), labels, texts


def value(metric: str, *asked: Question) -> float:
    logits, labels, texts = rows(*asked)
    return measures.measure(metric, logits, labels, texts=texts)


# Right candidates at ranks 1, 3; 2; 3, 4. Worked out by hand: AP (1 + 2/3) / 2, 1/2, (1/3 + 2/4) / 2.
TABLE: list[Question] = [([0.9, 0.5, 0.7], [1, 1, 0]), ([0.1, 0.8], [1, 0]), ([4, 3, 2, 1], [0, 0, 1, 1])]


@pytest.mark.parametrize(
    ("metric", "expected"), [("map", (5 / 6 + 1 / 2 + 5 / 12) / 3), ("mrr", (1 + 1 / 2 + 1 / 3) / 3), ("p@1", 1 / 3)]
)
def test_metrics_of_a_table_worked_out_by_hand(metric: str, expected: float) -> None:
    assert value(metric, *TABLE) == pytest.approx(expected)


def questions(count: int, *, ties: bool, seed: int = 5) -> list[Question]:
    """Each with right and wrong candidates."""
    generator = np.random.default_rng(seed)
    found: list[Question] = []
    while len(found) < count:
        labels = generator.integers(0, 2, generator.integers(2, 7))
        scores = generator.integers(0, 3, len(labels)) if ties else generator.normal(size=len(labels))
        if 0 < labels.sum() < len(labels):
            found.append((scores, labels))
    return found


def test_average_precision_without_ties_equals_scikit_learn() -> None:
    asked = questions(60, ties=False)
    expected = np.mean([sklearn.metrics.average_precision_score(labels, scores) for scores, labels in asked])
    assert value("map", *asked) == pytest.approx(expected)


ORACLES = {  # of labels from the first rank on
    "map": lambda ranked: np.mean([np.mean(ranked[: at + 1]) for at in np.flatnonzero(ranked)]),
    "mrr": lambda ranked: 1 / (1 + np.flatnonzero(ranked)[0]),
    "p@1": lambda ranked: float(ranked[0]),
}


@pytest.mark.parametrize("metric", ORACLES)
def test_ties_give_the_mean_over_all_their_orders(metric: str) -> None:
    asked = questions(40, ties=True)
    expected = []
    for scores, labels in asked:
        orders = [np.array(order) for order in itertools.permutations(range(len(labels)))]
        sorted_ones = [order for order in orders if (np.diff(np.asarray(scores)[order]) <= 0).all()]
        expected.append(np.mean([ORACLES[metric](np.asarray(labels)[order]) for order in sorted_ones]))
    assert value(metric, *asked) == pytest.approx(np.mean(expected))


@pytest.mark.parametrize("metric", ORACLES)
def test_the_order_of_rows_changes_nothing(metric: str) -> None:
    logits, labels, texts = rows(*questions(30, ties=True))
    shuffled = np.random.default_rng(0).permutation(len(texts))
    found = measures.measure(metric, logits[shuffled], labels[shuffled], texts=[texts[row] for row in shuffled])
    assert found == pytest.approx(measures.measure(metric, logits, labels, texts=texts))


def test_a_model_that_always_says_the_same_gets_what_chance_gives() -> None:
    """One right candidate of n: the mean of 1 / rank is the n-th harmonic number over n."""
    asked = [([0.0] * 4, [0, 0, 1, 0])]
    harmonic = (1 + 1 / 2 + 1 / 3 + 1 / 4) / 4
    assert value("map", *asked) == value("mrr", *asked) == pytest.approx(harmonic)
    assert value("p@1", *asked) == 0.25


def test_questions_without_right_or_wrong_candidates_do_not_count() -> None:
    for metric in ORACLES:
        assert value(metric, *TABLE, ([1, 2], [0, 0]), ([1, 2], [1, 1])) == value(metric, *TABLE)
    with pytest.raises(ValueError, match="a question with right and wrong candidates"):
        value("map", ([1, 2], [0, 0]), ([1, 2], [1, 1]))


@pytest.mark.parametrize("metric", ORACLES)
def test_the_interval_is_over_questions(metric: str) -> None:
    """Oracle: a plain loop that draws questions."""
    asked = questions(80, ties=True)
    each = np.array([value(metric, one) for one in asked])
    generator = np.random.default_rng(3)
    means = [each[generator.integers(0, len(each), len(each))].mean() for _ in range(4000)]
    logits, labels, texts = rows(*asked)
    found = measures.interval(metric, logits, labels, texts=texts, resamples=4000)
    assert found["value"] == pytest.approx(each.mean())
    assert [found["low"], found["high"]] == pytest.approx(np.quantile(means, [0.025, 0.975]), abs=0.01)
    assert found == measures.interval(metric, logits, labels, texts=texts, resamples=4000)


def test_bad_input_is_refused() -> None:
    logits, labels, texts = rows(*TABLE)
    for given, got in ((None, "no texts"), (["one"] * len(labels), "single texts")):
        with pytest.raises(ValueError, match=f"pairs of the two, got {got}"):
            measures.measure("map", logits, labels, texts=given)
    with pytest.raises(ValueError, match="as many texts"):
        measures.measure("map", logits, labels, texts=texts[1:])
    with pytest.raises(ValueError, match=r"\[N, 2\]"):
        measures.measure("mrr", logits[:, :1], labels, texts=texts)
    with pytest.raises(ValueError, match="class indices"):
        measures.measure("p@1", logits, labels + 1, texts=texts)
    with pytest.raises(ValueError, match="finite"):
        measures.interval("map", logits * np.nan, labels, texts=texts)
