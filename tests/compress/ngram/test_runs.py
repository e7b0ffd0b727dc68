"""Counts of keys against numpy's `unique`: kept in memory or on disk, of few or many keys, within the memory given."""

import tempfile
import tracemalloc
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from compress.ngram.runs import MOST, RANGES, Counts, Keys, Runs

MEMORY = 1 << 18  # a buffer of 16,384 keys and room for 8,192 entries


def counted(chunks: Iterable[Keys], folder: Path, memory: int = MEMORY) -> tuple[Keys, Counts, int]:
    with Runs(memory=memory, folder=folder) as runs:
        for chunk in chunks:
            runs.add(chunk)
        keys, counts = zip(*runs.counts(), strict=True)
        return np.concatenate(keys), np.concatenate(counts), runs.spilled


def skewed(size: int, different: int, seed: int) -> Keys:
    """Keys of every range, the smallest and the largest among them, a few of which make up most."""
    rng = np.random.default_rng(seed)
    known = rng.integers(0, 2**64, different, dtype=np.uint64)
    known[:2] = 0, 2**64 - 1
    return known[(different * rng.random(size) ** 4).astype(int)]


@pytest.mark.parametrize("ordered", [False, True])  # ordered: each run has few of the ranges
@pytest.mark.parametrize(("size", "different", "spills"), [(1, 5, 0), (9_000, 5_000, 0), (200_000, 90_000, 1)])
def test_counts_are_those_of_unique(size: int, different: int, spills: int, ordered: bool, tmp_path: Path) -> None:
    keys = skewed(size, different, seed=size)
    found, counts, spilled = counted(np.array_split(np.sort(keys) if ordered else keys, 7), tmp_path)
    wanted, often = np.unique(keys, return_counts=True)
    np.testing.assert_array_equal(found, wanted)
    np.testing.assert_array_equal(counts, often)
    assert bool(spilled) == bool(spills)


@pytest.mark.parametrize("times", [MOST - 1, MOST, MOST + 1, 2 * MOST, 2 * MOST + 1, 40_000])
def test_a_key_may_come_more_often_than_one_entry_can_say(times: int, tmp_path: Path) -> None:
    keys = np.repeat(np.array([7, 8, 7 << 54], dtype=np.uint64), [1, times, 2])
    found, counts, _ = counted([keys], tmp_path)
    assert dict(zip(found.tolist(), counts.tolist(), strict=True)) == {7: 1, 8: times, 7 << 54: 2}


def test_no_keys_have_no_counts(tmp_path: Path) -> None:
    with Runs(memory=MEMORY, folder=tmp_path) as runs:
        runs.add(np.empty(0, dtype=np.uint64))
        assert list(runs.counts()) == []


def test_memory_stays_within_what_was_given(tmp_path: Path) -> None:
    memory, largest = 1 << 23, 0
    rng = np.random.default_rng(0)
    tracemalloc.start()
    try:
        with Runs(memory=memory, folder=tmp_path) as runs:
            for _ in range(20):
                runs.add(rng.integers(0, 2**64, 100_000, dtype=np.uint64))
            added = tracemalloc.get_traced_memory()[1]
            tracemalloc.reset_peak()
            for keys, _ in runs.counts():
                largest = max(largest, len(keys))
            merged = tracemalloc.get_traced_memory()[1]
            assert runs.spilled > memory  # so all of it would not have fitted
    finally:
        tracemalloc.stop()
    assert largest > 20 * 100_000 / RANGES
    chunk = 8 * 100_000  # the caller's
    assert memory / 2 < added <= memory * 3 / 4 + chunk
    assert merged <= memory * 3 / 4 + chunk  # a run that the buffer ended with, then what stays and one range


def test_too_many_different_keys_are_refused_before_they_are_merged(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    keys = rng.integers(0, 2**64, 110_000, dtype=np.uint64) >> np.uint64(4)  # 64 ranges, each with room for 1,365
    assert len(counted([keys[:70_000]], tmp_path)[0]) == 70_000
    with pytest.raises(ValueError, match=r"at least [\d,]+ bytes, got 262,144; raise it"):
        counted([keys], tmp_path)


def test_a_full_disk_is_one_error_that_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*, dir: Path, buffering: int) -> Any:
        assert dir == tmp_path
        return open("/dev/full", "r+b", buffering=buffering)

    monkeypatch.setattr(tempfile, "TemporaryFile", full)
    with pytest.raises(ValueError, match="No space left on device; free space there, name another folder"):
        counted([skewed(100_000, 90_000, seed=0)], tmp_path)


def test_a_folder_that_is_not_there_is_one_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="missing: after 0 bytes No such file or directory; free space there, name"):
        counted([skewed(100_000, 90_000, seed=0)], tmp_path / "missing")
