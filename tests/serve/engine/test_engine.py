"""Whole networks: any shape, any company, every path; and what is refused."""

import re
import threading
import tracemalloc

import numpy as np
import pytest

from serve.engine import build, library, runtime
from serve.engine.library import Compiled, paths
from serve.engine.network import Declined
from tests.serve.engine.networks import PATHS, compiled, network

SHAPES = {
    "plain": {},
    "one layer, one head": {"heads": (1,), "neurons": (16,)},
    "odd widths": {"width": 40, "size": 20, "heads": (2, 2), "neurons": (33, 7)},
    "small heads": {"size": 4, "heads": (4, 3)},
    "large heads": {"size": 80, "heads": (1, 2)},
    "shrunk": {"heads": (2, 0, 1), "neurons": (48, 5, 0)},
    "nothing left": {"heads": (0,), "neurons": (0,)},
    "static": {"step": 0.03},
    "16x4": {"width": 64, "neurons": (128, 64), "sparse": "16x4@0.8"},
    "4x1": {"width": 64, "neurons": (128, 64), "sparse": "4x1@0.8"},
    "4x4": {"width": 64, "neurons": (128, 64), "sparse": "4x4@0.8"},
    "relu": {"activation": "relu", "head_activation": "relu"},
    "tanh": {"activation": "gelu_new", "head_activation": "gelu"},
    "roberta": {"first_position": 2, "pad": 1, "types": 1, "positions": 42},
    "first token": {"labels": 0},
    "mean": {"labels": 0, "reads": "mean", "width": 40, "size": 20},
    "mean, one long": {"labels": 0, "reads": "mean", "unit": True},
    "classified mean": {"reads": "mean"},
    "labels of tokens": {"reads": "all", "step": 0.03},
    "every token": {"labels": 0, "reads": "all", "width": 40, "size": 20},
}


def texts(count: int, longest: int, seed: int = 0) -> tuple[list[np.ndarray], list[np.ndarray]]:
    rng = np.random.default_rng(seed)
    lengths = rng.integers(1, longest + 1, count)
    return [rng.integers(0, 60, n) for n in lengths], [np.sort(rng.integers(0, 2, n)) for n in lengths]


def split(answers: np.ndarray, ids: list[np.ndarray]) -> list[np.ndarray]:
    """Answers to each token, text by text."""
    return np.split(answers, np.cumsum([len(row) for row in ids])[:-1])


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("shape", SHAPES)
def test_an_answer_is_the_same_in_any_company(shape: str, path: str) -> None:
    if not paths().get(path):
        pytest.skip(f"this processor has no path {path}")
    made = network(**SHAPES[shape])  # type: ignore[arg-type]
    engine = compiled(made, path)
    ids, types = texts(40, engine.longest)
    kinds = types if engine.types > 1 else None
    together = engine.run(ids, kinds)
    assert np.isfinite(together).all() and together.std(0).min() > 1e-3
    parts = split(together, ids) if engine.each_token else list(together[:, None])
    for at, row in enumerate(ids):
        np.testing.assert_array_equal(engine.run([row], kinds and [kinds[at]]), parts[at])
    np.testing.assert_array_equal(engine.run(ids[::-1], kinds and kinds[::-1]), np.concatenate(parts[::-1]))


@pytest.mark.parametrize("shape", SHAPES)
def test_paths_agree(shape: str) -> None:
    """Products are the same integers; real numbers are rounded in other places, so that some bytes differ by one."""
    made = network(**SHAPES[shape])  # type: ignore[arg-type]
    ids, types = texts(60, 40)
    reference = compiled(made, "plain").run(ids, types if len(made.types) > 1 else None)
    for path, runs in paths().items():
        if runs:
            found = compiled(made, path).run(ids, types if len(made.types) > 1 else None)
            error = np.sqrt(np.mean((found - reference) ** 2)) / reference.std()
            assert error < 0.05, (path, error)


def test_every_length_up_to_the_longest() -> None:
    made = network(positions=300)
    for path, runs in paths().items():
        if runs:
            engine = compiled(made, path)
            ids = [np.random.default_rng(n).integers(0, 60, n) for n in range(1, engine.longest + 1)]
            together = engine.run(ids)
            for n in (1, 2, 15, 16, 17, 95, 96, 97, 299, 300):
                np.testing.assert_array_equal(engine.run([ids[n - 1]])[0], together[n - 1])


def test_padded_feeds_give_what_ragged_texts_give() -> None:
    engine = runtime.Engine(compiled(network()))
    ids, types = texts(9, 40)
    feeds = {name: np.zeros((9, 40), np.int64) for name in ("input_ids", "attention_mask", "token_type_ids")}
    for at, (row, kinds) in enumerate(zip(ids, types, strict=True)):
        feeds["input_ids"][at, : len(row)], feeds["token_type_ids"][at, : len(row)] = row, kinds
        feeds["attention_mask"][at, : len(row)] = 1
    np.testing.assert_array_equal(engine(feeds), engine.ragged(ids, types))


def test_padded_feeds_of_each_token_give_zeros_at_the_padding() -> None:
    engine = runtime.Engine(compiled(network(reads="all", types=1)))
    ids = texts(9, 40)[0]
    feeds = {name: np.zeros((9, 44), np.int64) for name in ("input_ids", "attention_mask")}
    for at, row in enumerate(ids):
        feeds["input_ids"][at, 4 : 4 + len(row)], feeds["attention_mask"][at, 4 : 4 + len(row)] = row, 1
    padded = engine(feeds)
    assert padded.shape == (9, 44, 3) and not padded[feeds["attention_mask"] == 0].any()
    np.testing.assert_array_equal(padded[feeds["attention_mask"] == 1], engine.ragged(ids, None))


@pytest.mark.parametrize("threads", [1, 2])
def test_no_padded_texts_no_answers(threads: int) -> None:
    none = {name: np.zeros((0, 7), np.int64) for name in ("input_ids", "attention_mask", "token_type_ids")}
    assert runtime.Engine(compiled(network()), threads)(none).shape == (0, 3)
    assert runtime.Engine(compiled(network(reads="all")), threads)(none).shape == (0, 7, 3)


def test_heads_without_linears_answer_what_they_read() -> None:
    """The mean, the first and their unit vectors, from all tokens by numpy."""
    ids = texts(30, 40)[0]
    every = split(compiled(network(labels=0, reads="all", width=40, size=20)).run(ids), ids)
    oracles = {"first": [rows[0] for rows in every], "mean": [rows.astype(np.float64).mean(0) for rows in every]}
    for reads, rows in oracles.items():
        expected, options = np.stack(rows), {"labels": 0, "reads": reads, "width": 40, "size": 20}
        found = compiled(network(**options)).run(ids)  # type: ignore[arg-type]
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
        found = compiled(network(**options, unit=True)).run(ids)  # type: ignore[arg-type]
        expected = expected / np.linalg.norm(expected, axis=1, keepdims=True)
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_a_pass_has_room_for_a_long_text_after_short_ones() -> None:
    lengths = [127, 400, 1, 126, 400, 128, 128, 1, 400, 400, *[1] * 127, 400]
    ids = [np.random.default_rng(at).integers(0, 60, length) for at, length in enumerate(lengths)]
    for path, runs in paths().items():
        if runs:
            engine = compiled(network(positions=400, reads="all"), path)
            alone = {at: engine.run([ids[at]]) for at in (0, 1, 4, 5, 8, len(ids) - 1)}
            together = split(engine.run(ids), ids)
            for at, expected in alone.items():
                np.testing.assert_array_equal(together[at], expected)


@pytest.mark.parametrize("reads", ["first", "all"])
@pytest.mark.parametrize("threads", [1, 2])
def test_a_huge_batch_takes_little_memory_beside_its_answers(reads: str, threads: int) -> None:
    """300 kB a thread, where the ids of all would take 3 MB: Python's and numpy's memory, that of C being fixed."""
    one = compiled(network(positions=128, heads=(1,), neurons=(16,), reads=reads))
    engine = runtime.Engine(one, threads)
    ids = [np.random.default_rng(at % 100).integers(0, 60, 128) for at in range(2000)]
    engine.ragged(ids[:threads], None)
    tracemalloc.start()
    try:
        answers = engine.ragged(ids, None)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak - answers.nbytes < threads * 300_000
    rows = len(answers) // len(ids)
    assert rows == (128 if reads == "all" else 1)
    for at in (0, 1, 63, 64, 65, 999, 1999):  # at and beside the ends of slices, too
        np.testing.assert_array_equal(one.run([ids[at]]), answers[rows * at : rows * (at + 1)])


def test_texts_of_all_lengths_are_the_same_in_any_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    ids, types = texts(200, 40)
    for reads in ("first", "mean", "all"):
        engine = compiled(network(reads=reads))
        whole = engine.run(ids, types)
        for tokens in (1, 40, 100):
            monkeypatch.setattr(library, "SLICE", tokens)
            np.testing.assert_array_equal(engine.run(ids, types), whole)


def test_threads_give_the_same_and_may_share_an_engine() -> None:
    one, ids = compiled(network()), texts(101, 40)[0]
    alone = one.run(ids)
    for threads in (2, 3, 7):
        np.testing.assert_array_equal(runtime.Engine(one, threads).ragged(ids, None), alone)
        np.testing.assert_array_equal(runtime.Engine(one, threads).ragged(ids[:2], None), alone[:2])
    found: dict[int, np.ndarray] = {}

    def work(at: int) -> None:
        for _ in range(5):
            found[at] = one.run(ids)

    workers = [threading.Thread(target=work, args=(at,)) for at in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert all((found[at] == alone).all() for at in range(4))


def test_no_texts_no_answers() -> None:
    assert compiled(network()).run([]).shape == (0, 3)


@pytest.mark.parametrize(
    ("ids", "types", "complaint"),
    [
        ([[]], None, "empty or too long"),
        ([[1] * 41], None, "empty or too long"),
        ([[1, 60]], None, "not in the vocabulary"),
        ([[1, -1]], None, "not in the vocabulary"),
        ([[1, 2]], [[0, 2]], "token type"),
        ([[1, 2]], [[0, -1]], "token type"),
    ],
)
def test_what_cannot_be_run_is_an_error(ids: list[list[int]], types: list[list[int]] | None, complaint: str) -> None:
    engine: Compiled = compiled(network())
    kinds = [np.array(row) for row in types] if types else None
    with pytest.raises(ValueError, match=complaint):
        engine.run([np.array(row, np.int64) for row in ids], kinds)


def test_a_library_of_other_sources_declines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(library, "ABI", library.ABI + 1)
    library.library.cache_clear()
    try:
        with pytest.raises(Declined, match=r"other sources; run: python -m serve\.engine\.build"):
            library.library()
    finally:
        library.library.cache_clear()


def test_nothing_is_allocated_once_a_workspace_is_made() -> None:
    """By name: the sources ask for memory where a model is opened and a workspace made, and nowhere else.

    arena.h says how aligned memory is asked for. The n-grams' workspace also grows, with the longest text that it has
    met.
    """
    asking = re.compile(r"\b(?:malloc|calloc|realloc|aligned_alloc|aligned_memory|alloca)\(")
    asked = {path.name: len(asking.findall(path.read_text("utf-8"))) for path in build.SOURCE.iterdir()}
    found = {name: count for name, count in asked.items() if count}
    assert len(asked) > 10 and found == {"arena.h": 2, "engine.c": 3, "ngram.c": 3, "ngram_open.c": 2}
