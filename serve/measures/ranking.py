"""Metrics of candidates that are ranked for a question: mean average precision, mean reciprocal rank, precision of the
first. Each is a mean over the questions that have right candidates and wrong ones; the others say nothing of a ranking.

Candidates of equal score have no order, so a question's value is the mean over all orders of theirs, in closed form:
McSherry, Najork 2008, "Computing Information Retrieval Performance Measures Efficiently in the Presence of Tied
Scores", https://doi.org/10.1007/978-3-540-78646-7_38. The order in which rows come changes nothing.

A ranking comes as `ties`: (candidates, right ones among them) for each score, the highest first.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Ties = Sequence[tuple[int, int]]


def average_precision(ties: Ties) -> float:
    """The mean, over right candidates, of the share of right ones down to their rank.

    Among n tied candidates, r of them right, each rank holds a right one in r / n of the orders; then
    (j - 1) (r - 1) / (n - 1) of the j - 1 before it are right on average.
    """
    total, above, hits = 0.0, 0, 0
    for n, r in ties:
        j = np.arange(1, n + 1)
        total += r / n * float(((hits + 1 + (j - 1) * (r - 1) / max(n - 1, 1)) / (above + j)).sum())
        above, hits = above + n, hits + r
    return total / hits


def reciprocal_rank(ties: Ties) -> float:
    """1 / the rank of the first right candidate."""
    above = 0
    for n, r in ties:
        if r:
            value, none_yet = 0.0, 1.0  # none_yet: share of the orders with no right one down to rank j - 1
            for j in range(1, n - r + 2):
                left = n - j + 1
                value += none_yet * r / left / (above + j)
                none_yet *= (left - r) / left
            return value
        above += n
    raise AssertionError("a question without a right candidate is left out")


def precision_at_1(ties: Ties) -> float:
    """1 if the first candidate is right, else 0."""
    n, r = ties[0]
    return r / n


OF_RANKINGS: dict[str, Callable[[Ties], float]] = {
    "map": average_precision,
    "mrr": reciprocal_rank,
    "p@1": precision_at_1,
}


def of_questions(metric: str, scores: Array, right: Array, texts: Sequence[Any] | None) -> Array:
    """The metric's value [Q] of each question that has right and wrong candidates, questions in order of their text.

    `scores` [N] and `right` [N] (bool) are of `texts` [N], pairs of a question and a candidate.
    Raises ValueError where no question counts, or where texts are none or no pairs.
    """
    groups = questions(metric, texts)
    if len(groups) != len(scores):
        raise ValueError(f"{metric} needs as many texts as logits, got {len(groups)} and {len(scores)}")
    order = np.lexsort((-scores, groups))
    groups, scores, right = groups[order], scores[order], right[order]
    bounds = [*np.flatnonzero(np.diff(groups, prepend=-1)), len(groups)]
    values = [
        OF_RANKINGS[metric](_ties(scores[low:high], right[low:high]))
        for low, high in pairwise(bounds)
        if 0 < right[low:high].sum() < high - low
    ]
    if not values:
        raise ValueError(f"{metric} needs a question with right and wrong candidates, and the data has none")
    return np.array(values)


def questions(metric: str, texts: Sequence[Any] | None) -> Array:
    """A number [N] for each text: which question it is of, the first text of a pair."""
    if not texts or not isinstance(texts[0], tuple):
        got = "single texts" if texts else "no texts"
        raise ValueError(f"{metric} ranks candidates for a question, so texts must be pairs of the two, got {got}")
    return np.unique([question for question, _ in texts], return_inverse=True)[1]


def _ties(scores: Array, right: Array) -> list[tuple[int, int]]:
    """Of one question, whose scores fall."""
    starts = np.flatnonzero(np.diff(scores, prepend=np.inf))
    hits = np.add.reduceat(right.astype(np.int64), starts)
    return list(zip(np.diff([*starts, len(scores)]).tolist(), hits.tolist(), strict=True))
