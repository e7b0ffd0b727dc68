"""The n-gram student in numpy: what runs where the C was not built, and the reference that it agrees with bit for bit.

Every float operation is one IEEE rounding in an order that is laid down here, so that neither the processor nor the
texts that run together change an answer. Shapes: N texts, C labels, D width of a row, F features, H neurons.
"""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from serve.encode import Text, check_texts
from serve.errors import InputError
from serve.ngram.file import Model
from serve.ngram.keys import Ends, Keys, ngram_keys, word_keys
from serve.ngram.lookup import Slots, find

Floats = NDArray[np.float32]
Answers = tuple[Floats, NDArray[np.int64], NDArray[np.bool_]]  # logits [N, C], words of each text, whether it was cut

HITS = 1 << 16  # rows that are in memory at once, save for a text that has more


class Plain:
    """Answers texts with a model, of which at most `max_words` words each are read (of each of a pair's texts)."""

    def __init__(self, model: Model, *, max_words: int) -> None:
        self.model, self.max_words = model, max_words

    def texts(self, texts: Sequence[Text]) -> Answers:
        check_texts(texts)
        parts = flattened(texts, self.model.inputs)
        flat, ends, truncated = cut(*word_keys(parts, self.model.characters), self.max_words)
        paired = (len(texts), self.model.inputs)
        rows_NID = means(self.model, *slots(self.model, flat, ends)).reshape(*paired, self.model.rows.shape[1])
        words: NDArray[np.int64] = np.diff(ends, prepend=0).reshape(paired).sum(1)
        return network(self.model, rows_NID), words, np.logical_or.reduce(truncated.reshape(paired), axis=1)

    def word_keys(self, texts: Sequence[str]) -> tuple[Keys, Ends]:
        """The keys of the words that are read of each text, and where each text's end."""
        return cut(*word_keys(texts, self.model.characters), self.max_words)[:2]

    def slots(self, texts: Sequence[str]) -> tuple[Slots, Ends]:
        """The rows of the kept n-grams of each text, and where each text's end."""
        return slots(self.model, *self.word_keys(texts))


def flattened(texts: Sequence[Text], inputs: int) -> list[str]:
    """Single texts, or the two of each pair one after the other. Raises InputError where one has not `inputs` parts."""
    for at, text in enumerate(texts):
        if (2 if isinstance(text, tuple) else 1) != inputs:
            raise InputError(f"text {at} must be {'a pair of strings' if inputs == 2 else 'a single string'}")
    return [part for text in texts for part in (text if isinstance(text, tuple) else (text,))]


def cut(flat: Keys, ends: Ends, max_words: int) -> tuple[Keys, Ends, NDArray[np.bool_]]:
    """The first `max_words` keys of each text, where they end, and which texts had more."""
    lengths = np.diff(ends, prepend=0)
    at = np.arange(len(flat)) - np.repeat(ends - lengths, lengths)
    return flat[at < max_words], np.cumsum(np.minimum(lengths, max_words)), lengths > max_words


def slots(model: Model, flat: Keys, ends: Ends) -> tuple[Slots, Ends]:
    """The rows of the n-grams that are kept, in the order of `ngram_keys`, and where each text's end."""
    keys, key_ends = ngram_keys(flat, ends, model.orders)
    found = find(model.lookup, keys)
    hits = found < len(model.keys)
    return found[hits], np.concatenate([[0], np.cumsum(hits)])[key_ends]


def means(model: Model, found: Slots, ends: Ends) -> Floats:
    """The mean row [N, D] of each text, or zeros where it has none."""
    sums = np.zeros((len(ends), model.rows.shape[1]), dtype=np.int32)
    first = start = 0
    while first < len(ends):
        last = max(int(np.searchsorted(ends, start + HITS, side="right")), first + 1)
        rows = model.rows[found[start : ends[last - 1]]]
        lengths = np.diff(ends[first:last], prepend=start)
        some = np.nonzero(lengths)[0]
        if len(some):
            starts = (ends[first:last] - lengths)[some] - start
            sums[first + some] = np.add.reduceat(rows, starts, axis=0, dtype=np.int32)
        first, start = last, int(ends[last - 1])
    counts = np.maximum(np.diff(ends, prepend=0), 1).astype(np.float32)
    return (sums.astype(np.float32) * model.scale) / counts[:, None]


def network(model: Model, means_NID: Floats) -> Floats:
    """Logits [N, C] of the mean rows of each text, or of both texts of each pair."""
    features = means_NID[:, 0]
    if model.inputs == 2:
        left, right = means_NID[:, 0], means_NID[:, 1]
        features = np.concatenate([left, right, left * right, np.abs(left - right)], axis=1)
    hidden = ACTIVATIONS[model.activation](dense(features, model.dense_weight, model.dense_bias))
    return dense(hidden, model.out_weight, model.out_bias)


def dense(features_NF: Floats, weight_HF: Floats, bias_H: Floats) -> Floats:
    """Weight times feature, one feature after the other: BLAS would choose an order of its own."""
    total = np.repeat(bias_H[None], len(features_NF), axis=0)
    for feature in range(features_NF.shape[1]):
        total += features_NF[:, feature, None] * weight_HF[:, feature]
    return total


def relu(values: Floats) -> Floats:
    return np.maximum(values, np.float32(0))


def tanh(values: Floats) -> Floats:
    """Within 2e-7, of + * / and comparisons only: a convergent of Lambert's continued fraction at a quarter of the
    argument, x (105 + 10 x^2) / (105 + 45 x^2 + x^4), and twice tanh 2x = 2 tanh x / (1 + tanh^2 x). At 9 it is 1.
    """
    x = np.clip(values, np.float32(-9), np.float32(9)) * np.float32(0.25)
    square = x * x
    found = x * (np.float32(105) + np.float32(10) * square)
    found = found / (np.float32(105) + square * (np.float32(45) + square))
    for _ in range(2):
        found = (found + found) / (np.float32(1) + found * found)
    result: Floats = found
    return result


ACTIVATIONS: dict[str, Callable[[Floats], Floats]] = {"tanh": tanh, "relu": relu}
