"""The ONNX file against the answer in numpy, on texts and on whole tables of random keys."""

from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from compress.export.ngram_onnx import to_onnx
from serve.ngram.encode import NGrams
from serve.ngram.file import Model, write
from serve.ngram.plain import Plain
from serve.ngram.words import Characters
from tests.serve.ngram.models import TEXTS, model

SOME = [*TEXTS, "", "unknown", "it", "the movie", "The movie was good, really good! " * 20]


def session(model: Model, folder: Path) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(str(to_onnx(model, folder / "model.onnx")), options)


def ngrams(model: Model, folder: Path, max_length: int = 1000) -> NGrams:
    write(folder / "ngrams.safetensors", model)
    return NGrams(folder / "ngrams.safetensors", max_length=max_length)


@pytest.mark.parametrize("activation", ["tanh", "relu"])
@pytest.mark.parametrize(("orders", "inputs"), [(1, 1), (2, 1), (3, 2), (4, 1), (4, 2)])
def test_its_answers_are_those_of_numpy(
    orders: int, inputs: int, activation: str, table: Characters, texts: list[str], tmp_path: Path
) -> None:
    made = model(table, [*texts[:200:2], *TEXTS], orders=orders, inputs=inputs, activation=activation, labels=3)
    some = [*SOME, *texts[:100]]
    asked = some if inputs == 1 else list(zip(some, some[::-1], strict=True))
    encoder = ngrams(made, tmp_path)
    run = session(made, tmp_path)
    encoded = encoder.encode(asked)
    expected = Plain(made, max_words=1000).texts(asked)[0]
    (got,) = run.run(["logits"], encoder.batch(encoded, range(len(asked))))
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5)
    assert len({tuple(row) for row in got.round(4).tolist()}) > 50
    for row in range(len(SOME)):  # alone, with no padding of its own
        (alone,) = run.run(["logits"], encoder.batch(encoded, [row]))
        np.testing.assert_allclose(alone[0], expected[row], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("orders", [1, 2, 3, 4])
def test_its_sums_are_exact(orders: int, table: Characters, texts: list[str], tmp_path: Path) -> None:
    """A network that hands the mean through: one neuron a column, ReLU of it and of its negative."""
    width = 16
    both = np.concatenate([np.eye(width), -np.eye(width)]).astype(np.float32)
    through = {
        "scale": np.ones(width, np.float32),
        "dense_weight": both,
        "dense_bias": np.zeros(2 * width, np.float32),
        "out_weight": both.T.copy(),
        "out_bias": np.zeros(width, np.float32),
    }
    known = [*texts[:200:2], *TEXTS]
    made = model(table, known, orders=orders, width=width, activation="relu", **through)
    some = [*SOME, *texts[:200]]
    encoder = ngrams(made, tmp_path)
    encoded = encoder.encode(some)
    (got,) = session(made, tmp_path).run(["logits"], encoder.batch(encoded, range(len(some))))
    found, ends = encoder.table_rows(encoded)
    for row, (start, end) in enumerate(zip([0, *ends[:-1]], ends, strict=True)):
        total = made.rows[found[start:end]].sum(axis=0, dtype=np.int64)
        np.testing.assert_array_equal(got[row], total.astype(np.float32) / np.float32(max(end - start, 1)))
    assert len(found) > 1000


def test_words_may_be_none_or_fewer_than_orders(table: Characters, tmp_path: Path) -> None:
    made = model(table, orders=4)
    run = session(made, tmp_path)
    empty = Plain(made, max_words=9).texts([""])[0]
    for length in (0, 1, 2, 3, 9):
        (got,) = run.run(["logits"], {"words": np.zeros((2, length), np.int64)})
        np.testing.assert_allclose(got, np.tile(empty, (2, 1)), atol=1e-6)


def test_padding_is_no_part_of_an_ngram(table: Characters, tmp_path: Path) -> None:
    """A kept key that is a word's followed by nothing would be found in the padding alone."""
    made = model(table, ["film"], orders=2)
    key = int(Plain(made, max_words=9).word_keys(["film"])[0][0])
    trap = key * 0xA0761D6478BD642F % (1 << 64)
    from serve.ngram.lookup import build

    lookup = build(np.array([key, trap], np.uint64))
    assert len(lookup.keys) == len(made.keys)
    rows = np.ones_like(made.rows)
    rows[:-1][lookup.keys == key] = 3
    rows[:-1][lookup.keys == 0] = rows[-1] = 0
    parts = {"keys": lookup.keys, "tags": lookup.tags(), "displacement": lookup.displacement, "rows": rows}
    made = model(table, ["film"], orders=2, multipliers=lookup.multipliers, **parts)
    (got,) = session(made, tmp_path).run(["logits"], {"words": np.array([[key, 0, 0]], np.uint64).view(np.int64)})
    np.testing.assert_allclose(got, Plain(made, max_words=9).texts(["film"])[0], rtol=1e-5)


def test_encoding_pads_with_zeros_and_marks_the_second_text(table: Characters, tmp_path: Path) -> None:
    encoder = ngrams(model(table, inputs=2), tmp_path, max_length=3)
    encoded = encoder.encode([("the film", "it was not good"), ("", "good")])
    assert encoded.truncated == [True, False]
    assert [row.tolist() for row in encoded.types] == [[0, 0, 1, 1, 1], [1]]
    feeds = encoder.batch(encoded, [1, 0])
    assert {name: feed.shape for name, feed in feeds.items()} == {"words": (2, 2), "words_2": (2, 3)}
    assert feeds["words"][0].tolist() == [0, 0] and feeds["words_2"][0, 1:].tolist() == [0, 0]
    np.testing.assert_array_equal(feeds["words_2"][1], encoded.ids[0][2:])
    _, ends = encoder.table_rows(encoded)
    assert len(ends) == 4
