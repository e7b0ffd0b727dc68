"""What a teacher was asked once is read ever after."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from accelerate import Accelerator

from compress import answers
from compress.batches import Batches
from serve.encode import Encoded


def batches(rows: list[list[int]], types: list[list[int]] | None = None) -> Batches:
    kinds = types or [[0] * len(row) for row in rows]
    encoded = Encoded([np.array(row) for row in rows], [np.array(kind) for kind in kinds], [False] * len(rows))
    return Batches(None, encoded, np.zeros(len(rows), np.int64), size=2)  # type: ignore[arg-type]  # nothing is padded


class Counting:
    """Answers a text's sum and length, and remembers whom it was asked about."""

    def __init__(self, fails_at: int | None = None) -> None:
        self.asked: list[tuple[int, ...]] = []
        self.fails_at = fails_at

    def __call__(self, data: Batches) -> np.ndarray:
        if self.fails_at is not None and len(self.asked) >= self.fails_at:
            raise KeyboardInterrupt
        self.asked += [tuple(ids.tolist()) for ids in data.encoded.ids]
        return np.array([[ids.sum(), len(ids)] for ids in data.encoded.ids], np.float32)


def ask(answer: Counting, data: Batches, folder: Path) -> np.ndarray:
    return answers.logits(lambda: answer, data, folder, Accelerator(cpu=True), "teacher")


def expected(rows: list[list[int]]) -> np.ndarray:
    return np.array([[sum(row), len(row)] for row in rows], np.float32)


ROWS = [[at, *range(at % 5)] for at in range(1, 24)]


def test_answers_come_in_the_order_of_the_texts_and_twins_are_asked_once(tmp_path: Path) -> None:
    answer, rows = Counting(), [*ROWS, ROWS[3], ROWS[0]]
    assert np.array_equal(ask(answer, batches(rows), tmp_path), expected(rows))
    assert len(answer.asked) == len(set(answer.asked)) == len(ROWS)


def test_another_corpus_asks_for_what_is_new(tmp_path: Path) -> None:
    ask(Counting(), batches(ROWS), tmp_path)
    answer, rows = Counting(), [[100, 1], *ROWS[5:9], [101]]
    assert np.array_equal(ask(answer, batches(rows), tmp_path), expected(rows))
    assert sorted(answer.asked) == [(100, 1), (101,)]
    assert [path.name for path in tmp_path.iterdir()] == [answers.WHOLE]


def test_a_stop_loses_the_part_under_way_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answers, "PART", 5)
    with pytest.raises(KeyboardInterrupt):
        ask(Counting(fails_at=10), batches(ROWS), tmp_path)
    answer = Counting()
    assert np.array_equal(ask(answer, batches(ROWS), tmp_path), expected(ROWS))
    assert len(answer.asked) == len(ROWS) - 10


def test_the_same_pieces_parted_otherwise_are_another_text() -> None:
    one, other = (batches([[1, 2, 3]], [kind]).encoded for kind in ([0, 0, 1], [0, 1, 1]))
    assert answers.names_of(one) != answers.names_of(other)


def test_processes_share_the_asking(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second of two, played first by hand: each asks for every other part, and both read all."""
    monkeypatch.setattr(answers, "PART", 4)
    shares: list[Any] = [Counting(), Counting()]
    for rank in (1, 0):
        data = batches(ROWS)
        data.rank, data.world = rank, 2
        names = answers.names_of(data.encoded)
        answers.ask(shares[rank], data, np.arange(len(ROWS)), names, tmp_path, Accelerator(cpu=True), "teacher")
    assert sorted(shares[0].asked + shares[1].asked) == sorted(map(tuple, ROWS))
    assert abs(len(shares[0].asked) - len(shares[1].asked)) <= 4
    untouched = Counting()
    assert np.array_equal(ask(untouched, batches(ROWS), tmp_path), expected(ROWS)) and not untouched.asked
