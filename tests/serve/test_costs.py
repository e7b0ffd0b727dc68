"""What runs take, measured of engines that take a known time."""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from serve import costs, engines
from serve.costs import GROUPS, Costs, measured
from serve.encode import Feeds, WordPieces
from serve.runtime import Session

MS = 0.001


@pytest.fixture
def pieces(tiny: Any) -> WordPieces:
    return Session(tiny.artefact).pieces


def engine(seconds: Callable[[int, int], float]) -> engines.Engine:
    """Works for as long as `seconds` says of a run of texts of some length."""

    def run(feeds: Feeds) -> engines.Logits:
        texts, length = feeds["input_ids"].shape
        end = time.process_time() + seconds(texts, length)
        while time.process_time() < end:
            pass
        return np.zeros((texts, 2), np.float32)

    return run


def table(one: engines.Engine, pieces: WordPieces, *, alone: bool = False) -> Costs:
    return measured(one, pieces, alone=alone, device="cpu", threads=1)


def test_the_table_is_what_runs_take(pieces: WordPieces, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(costs, "ROUNDS", 2)
    found = table(engine(lambda texts, length: MS + 0.01 * MS * texts * length), pieces)
    assert found.lengths == (8, 16, 24) and not found.ragged
    for length, row in zip(found.lengths, found.seconds, strict=True):
        wanted = [MS + 0.01 * MS * size * length for size in GROUPS]
        assert row == pytest.approx(wanted, rel=0.5) and all(np.array(row) >= wanted)
    assert found.groups() == {8: 32, 16: 32, 24: 32}


def test_larger_groups_are_left_once_they_are_slower(pieces: WordPieces, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(costs, "ROUNDS", 2)
    found = table(engine(lambda texts, length: MS * texts**1.5), pieces)
    assert [len(row) for row in found.seconds] == [3, 3, 3] and found.groups() == {8: 1, 16: 1, 24: 1}


def test_where_groups_are_never_formed_none_is_measured(pieces: WordPieces) -> None:
    found = table(engine(lambda texts, length: 0.1 * MS), pieces, alone=True)
    assert [len(row) for row in found.seconds] == [1, 1, 1]


def test_measuring_ends_in_time(pieces: WordPieces, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(costs, "SECONDS", 0.05)
    start = time.process_time()
    found = table(engine(lambda texts, length: 20 * MS), pieces)
    assert time.process_time() - start < 1.0
    assert found.lengths == (8,) and len(found.seconds[0]) == 1


def test_an_engine_without_padding_is_measured_by_tokens(pieces: WordPieces) -> None:
    class Ragged:
        def __call__(self, feeds: Feeds) -> engines.Logits:
            raise AssertionError("padded")

        def ragged(self, ids: Any, types: Any) -> engines.Logits:
            return engine(lambda texts, length: MS + 0.1 * MS * texts)({"input_ids": np.zeros((len(ids), 1), np.int64)})

    found = table(Ragged(), pieces)
    assert found.ragged and found.lengths == (24,) and len(found.seconds[0]) == len(GROUPS)
    assert found.tokens(1.03) == 24 * 32 and found.tokens(4.0) == 24 * 4  # 1.1, 0.6, 0.35, .. 0.131 ms each


@pytest.mark.parametrize("runtime", ["onnxruntime", "auto"])
def test_a_session_knows_its_costs_once_they_were_measured(
    tiny: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, runtime: str
) -> None:
    monkeypatch.setenv("BANTAM_CACHE", str(tmp_path))
    session = Session(tiny.artefact, runtime=runtime)
    found = session.costs()
    (kept,) = (tmp_path / "batches").glob("*.json")
    assert found is not None and found.lengths == (8, 16, 24)
    assert Costs.model_validate(json.loads(kept.read_text())) == found
    monkeypatch.setattr("sys.executable", "/bin/false")
    assert Session(tiny.artefact, runtime=session.runtime).costs() == found
    assert Session(tiny.artefact, runtime=session.runtime, batch=1).costs() is None  # other runs, not measured yet
    kept.write_text('{"lengths": [8], "seconds": [[-1]]}')
    assert session.costs() is None  # damaged, and measuring fails
