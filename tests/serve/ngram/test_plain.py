"""The answer in numpy, against sums in int64, float64 networks, and what must hold of any bag of n-grams."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from serve.errors import InputError
from serve.ngram.file import Model
from serve.ngram.keys import ORDERS, word_key
from serve.ngram.plain import Plain, means, slots, tanh
from serve.ngram.words import Characters, words
from tests.serve.ngram.models import TEXTS, model

MASK = (1 << 64) - 1


def by_hand(model: Model, text: str) -> tuple[np.ndarray, int]:
    """The sum of a text's rows in int64 and how many there are, with a dictionary for a look-up."""
    known = {int(key): slot for slot, key in enumerate(model.keys) if key}
    keys = [word_key(word) for word in words(text, model.characters)]
    total, hits = np.zeros(model.rows.shape[1], np.int64), 0
    for order in range(1, model.orders + 1):
        for start in range(len(keys) - order + 1):
            key = 0
            for one in keys[start : start + order]:
                key = (key * 0xA0761D6478BD642F + one) & MASK
            if key in known:
                total += model.rows[known[key]]
                hits += 1
    return total, hits


def network_by_hand(model: Model, means: Sequence[np.ndarray]) -> np.ndarray:
    """In float64."""
    features = np.asarray(means[0], np.float64)
    if model.inputs == 2:
        left, right = (np.asarray(one, np.float64) for one in means)
        features = np.concatenate([left, right, left * right, abs(left - right)])
    hidden = model.dense_weight.astype(np.float64) @ features + model.dense_bias
    hidden = np.tanh(hidden) if model.activation == "tanh" else np.maximum(hidden, 0)
    return model.out_weight.astype(np.float64) @ hidden + model.out_bias


def mean_by_hand(model: Model, text: str) -> np.ndarray:
    total, hits = by_hand(model, text)
    return total * model.scale.astype(np.float64) / max(hits, 1)


@pytest.mark.parametrize("orders", [1, 2, 3, 4])
def test_sums_are_exact_in_any_company(orders: int, table: Characters, texts: list[str]) -> None:
    some = [*texts[:150], *TEXTS, "", " ".join(TEXTS) * 9]
    made = model(table, [*texts[:300:2], *TEXTS], orders=orders, width=16)
    plain = Plain(replace(made, scale=np.ones(16, np.float32)), max_words=1000)
    found, ends = plain.slots(some)
    got = means(plain.model, found, ends)
    counts = np.diff(ends, prepend=0)
    expected = [by_hand(made, text) for text in some]
    assert counts.tolist() == [hits for _, hits in expected]
    assert sum(counts) > 1000 and 0 in counts
    sums = np.stack([total for total, _ in expected])
    np.testing.assert_array_equal(got, sums.astype(np.float32) / np.maximum(counts, 1).astype(np.float32)[:, None])


def test_more_rows_than_are_summed_at_once(
    monkeypatch: pytest.MonkeyPatch, table: Characters, texts: list[str]
) -> None:
    made = model(table, texts[:200])
    plain = Plain(made, max_words=1000)
    whole = plain.texts(texts[:300])
    for hits in (1, 7, 100):
        monkeypatch.setattr("serve.ngram.plain.HITS", hits)
        for one, other in zip(whole, plain.texts(texts[:300]), strict=True):
            np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("activation", ["tanh", "relu"])
@pytest.mark.parametrize("inputs", [1, 2])
def test_logits_are_those_of_the_network_in_float64(
    activation: str, inputs: int, table: Characters, texts: list[str]
) -> None:
    made = model(table, texts[:200], inputs=inputs, activation=activation, labels=3)
    some = [*texts[:60], *TEXTS, ""]
    asked = some if inputs == 1 else list(zip(some, some[::-1], strict=True))
    logits, read, cut = Plain(made, max_words=1000).texts(asked)
    assert logits.dtype == np.float32 and read.dtype == np.int64 and cut.dtype == np.bool_
    for text, row, count in zip(asked, logits, read, strict=True):
        parts = [text] if isinstance(text, str) else list(text)
        np.testing.assert_allclose(
            row, network_by_hand(made, [mean_by_hand(made, part) for part in parts]), rtol=1e-4, atol=1e-4
        )
        assert count == sum(len(words(part, table)) for part in parts)
    assert not cut.any() and len({tuple(row) for row in logits.tolist()}) > 40


def test_a_text_alone_has_the_bits_it_has_among_others(table: Characters, texts: list[str]) -> None:
    plain = Plain(model(table, texts[:200]), max_words=1000)
    together = plain.texts(texts[:100])[0]
    alone = np.concatenate([plain.texts([text])[0] for text in texts[:100]])
    np.testing.assert_array_equal(together.view(np.uint32), alone.view(np.uint32))


def test_with_single_words_their_order_does_not_matter(table: Characters) -> None:
    plain = Plain(model(table, orders=1), max_words=100)
    ordered = "the movie was good it is a dull film and i like it".split()
    shuffled = [" ".join(np.random.default_rng(seed).permutation(ordered)) for seed in range(10)]
    logits = plain.texts([" ".join(ordered), *shuffled])[0]
    assert (logits == logits[0]).all()
    longer = Plain(model(table, orders=2), max_words=100).texts([" ".join(ordered), " ".join(ordered[::-1])])[0]
    assert (longer[0] != longer[1]).any()


def test_doubling_a_text_of_single_words_changes_nothing(table: Characters) -> None:
    made = replace(model(table, orders=1), scale=np.ones(32, np.float32))
    plain = Plain(made, max_words=100)
    for text in TEXTS:
        once, twice = (means(made, *plain.slots([one])) for one in (text, f"{text} {text}"))
        np.testing.assert_array_equal(once, twice)
        assert once.any()


def test_texts_without_a_known_ngram_have_the_answer_of_the_biases(table: Characters) -> None:
    made = model(table)
    empty = network_by_hand(made, [np.zeros(32)])
    logits = Plain(made, max_words=100).texts(["", " ", "...", "wholly unseen", "\0\x01", "雨 🙂"])[0]
    np.testing.assert_allclose(logits, np.tile(empty, (6, 1)), atol=1e-5)
    assert len({tuple(row) for row in logits.tolist()}) == 1


def test_only_the_first_words_are_read(table: Characters) -> None:
    plain = Plain(model(table), max_words=5)
    long = "great dull film it isn't even funny really good movie"
    logits, read, cut = plain.texts([long, "great dull film it is", "great dull film it is !", ""])
    assert read.tolist() == [5, 5, 5, 0]
    assert cut.tolist() == [True, False, True, False]
    np.testing.assert_array_equal(logits[0], plain.texts(["great dull film it is"])[0][0])
    pairs = Plain(model(table, inputs=2), max_words=5)
    logits, read, cut = pairs.texts([(long, "good"), ("good", long), ("good", "good")])
    assert read.tolist() == [6, 6, 2] and cut.tolist() == [True, True, False]


def test_no_texts_have_no_answers(table: Characters) -> None:
    for inputs in (1, 2):
        logits, read, cut = Plain(model(table, inputs=inputs), max_words=5).texts([])
        assert logits.shape == (0, 2) and read.shape == cut.shape == (0,)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("half \ud83d of a pair", "text 1 holds half of a surrogate pair"),
        (("a", "b"), "text 1 must be a single string"),
        (3, "text 1 must be a string or a pair"),
        (None, "text 1 must be a string or a pair"),
    ],
)
def test_what_is_no_text_is_an_input_error(table: Characters, text: object, said: str) -> None:
    with pytest.raises(InputError, match=said):
        Plain(model(table), max_words=5).texts(["good", text])  # type: ignore[list-item]


def test_a_single_text_is_no_pair(table: Characters) -> None:
    with pytest.raises(InputError, match="text 0 must be a pair of strings"):
        Plain(model(table, inputs=2), max_words=5).texts(["good"])


def test_tanh_is_within_its_bound() -> None:
    near = np.concatenate([np.linspace(-12, 12, 200_001), np.logspace(-30, 38, 20_001), [0.0]]).astype(np.float32)
    values = np.concatenate([near, -near])
    found = tanh(values)
    assert found.dtype == np.float32 and (abs(found) <= 1).all()
    assert abs(found - np.tanh(values.astype(np.float64))).max() < 2e-7
    np.testing.assert_array_equal(tanh(-values), -found)


def test_slots_are_those_of_the_model(table: Characters) -> None:
    made = model(table, orders=ORDERS)
    plain = Plain(made, max_words=100)
    flat, ends = plain.word_keys(TEXTS)
    found, found_ends = slots(made, flat, ends)
    lengths = np.diff(ends, prepend=0)
    assert np.diff(found_ends, prepend=0).tolist() == [
        sum(max(0, length - order) for order in range(ORDERS)) for length in lengths.tolist()
    ]
    assert made.keys[found].all()
