"""How often each of a stream of 64-bit keys came, exactly, for more keys than fit in memory.

Keys fill a buffer. A full buffer is sorted and becomes a *run*: one entry for each different key, ordered by key. Runs
that do not fit in memory go to one file on disk. The runs are merged range by range; a range is the keys that share
their highest RANGE bits, so an entry has room for a count in these bits' place:

    entry = low 54 bits of the key << 10 | count, which is 1 to 1023; a key that came more often has several entries

A run knows where each of its ranges ends. Entries of a range are counted by one sort of plain integers.
"""

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Self

import numpy as np
from numpy.typing import NDArray

Keys = NDArray[np.uint64]
Counts = NDArray[np.int64]

RANGE = 10  # bits
RANGES = 1 << RANGE
MOST = RANGES - 1  # the largest count of one entry
SHIFT = np.uint64(RANGE)
PER_ENTRY = 48  # bytes that merging takes for each entry of a range: itself, its key, place and count, and copies


@dataclass(frozen=True)
class Run:
    ends: Counts  # [RANGES + 1]: range r is entries ends[r] to ends[r + 1]
    entries: Keys | None  # None for a run on disk
    start: int = 0  # its first byte there


class Runs:
    """Takes keys by `add` and then gives each key's count once, by `counts`.

    Holds at most `memory` bytes: half is the buffer, a quarter the runs that stay, and a quarter is left to the caller;
    while runs are merged the buffer's half is the caller's too, and merging takes the last quarter. What is on disk has
    no name in `folder`, so that nothing is left there however the process ends.
    """

    def __init__(self, *, memory: int, folder: Path | None = None) -> None:
        self.memory, self.folder = memory, folder or Path(tempfile.gettempdir())
        self.buffer = np.empty(memory // 2 // 8, dtype=np.uint64)  # takes memory only as it fills
        self.filled = 0
        self.room = memory // 4
        self.runs: list[Run] = []
        self.sizes = np.zeros(RANGES, dtype=np.int64)  # entries of each range, over all runs
        self.file: IO[bytes] | None = None
        self.spilled = 0  # bytes on disk

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.file:
            self.file.close()

    def add(self, keys: Keys) -> None:
        """Take keys, in any order. Raises ValueError where the disk does, or for far too many different keys."""
        while len(keys):
            taken = keys[: len(self.buffer) - self.filled]
            self.buffer[self.filled : self.filled + len(taken)] = taken
            self.filled += len(taken)
            keys = keys[len(taken) :]
            if self.filled == len(self.buffer):
                self._end_run()

    def counts(self) -> Iterator[tuple[Keys, Counts]]:
        """Every different key and its count, keys rising, a range at a time. Nothing can be added any more."""
        self._end_run()
        self.buffer = self.buffer[:0].copy()
        for part in np.flatnonzero(self.sizes).tolist():
            entries, filled = np.empty(self.sizes[part], dtype=np.uint64), 0
            for run in self.runs:
                first, end = run.ends[part : part + 2].tolist()
                self._read(run, first, entries[filled : filled + end - first])
                filled += end - first
            entries.sort()
            yield unpacked(entries, part)

    def _end_run(self) -> None:
        entries, ends = packed(self.buffer[: self.filled])
        self.filled = 0
        self.sizes += np.diff(ends)
        if (least := 4 * PER_ENTRY * int(self.sizes.max())) > self.memory:
            raise ValueError(
                f"so many different n-grams need more memory: at least {least:,} bytes, got {self.memory:,}; "
                "raise it, or count fewer texts or lower orders"
            )
        if entries.nbytes <= self.room:
            self.room -= entries.nbytes
            self.runs.append(Run(ends, entries.copy()))
        else:
            self.runs.append(Run(ends, None, self._spill(entries)))

    def _spill(self, entries: Keys) -> int:
        """Append to the file; where the first byte went."""
        start = self.spilled
        try:
            if self.file is None:  # unbuffered: a full disk shows where it is written, and not when it is closed
                self.file = tempfile.TemporaryFile(dir=self.folder, buffering=0)  # noqa: SIM115 - closed by __exit__
            left = entries.view(np.uint8).data
            self.file.seek(start)
            while left:
                left = left[self.file.write(left) :]
        except OSError as error:
            raise ValueError(
                f"n-grams that do not fit in {self.memory:,} bytes go to files in {self.folder}: after "
                f"{self.spilled:,} bytes {error.strerror or error}; free space there, name another folder, or give "
                "more memory"
            ) from error
        self.spilled += entries.nbytes
        return start

    def _read(self, run: Run, first: int, into: Keys) -> None:
        if run.entries is not None:
            into[:] = run.entries[first : first + len(into)]
            return
        assert self.file is not None
        self.file.seek(run.start + 8 * first)
        left = into.view(np.uint8).data
        while left:
            got: int = self.file.readinto(left)  # type: ignore[attr-defined]
            if not got:
                raise ValueError(f"n-grams on disk in {self.folder} ended early; look at the disk and count again")
            left = left[got:]


def packed(keys: Keys) -> tuple[Keys, Counts]:
    """Entries of these keys and where each range ends. The keys are sorted, and overwritten with the entries."""
    keys.sort()
    tops = np.arange(1, RANGES, dtype=np.uint64) << np.uint64(64 - RANGE)
    bounds = [0, *np.searchsorted(keys, tops).tolist(), len(keys)]
    ends = np.zeros(RANGES + 1, dtype=np.int64)
    for part in range(RANGES):  # entries are no more than their keys, so none is overwritten before it is read
        entries = _entries(keys[bounds[part] : bounds[part + 1]])
        ends[part + 1] = ends[part] + len(entries)
        keys[ends[part] : ends[part + 1]] = entries
    return keys[: ends[-1]], ends


def _entries(keys: Keys) -> Keys:
    if not len(keys):
        return keys
    starts = _starts(keys)
    counts = np.diff(starts, append=len(keys))
    entries = keys[starts] << SHIFT
    if counts.max() > MOST:
        times = (counts + MOST - 1) // MOST
        entries = np.repeat(entries, times)
        rest = counts - (times - 1) * MOST
        counts = np.full(len(entries), MOST)
        counts[np.cumsum(times) - 1] = rest
    return entries | counts.astype(np.uint64)


def unpacked(entries: Keys, part: int) -> tuple[Keys, Counts]:
    """Keys and counts of one range's sorted entries."""
    keys = entries >> SHIFT
    starts = _starts(keys)
    entries &= np.uint64(MOST)
    return keys[starts] | np.uint64(part << (64 - RANGE)), np.add.reduceat(entries.view(np.int64), starts)


def _starts(ordered: Keys) -> Counts:
    """Where each different value begins."""
    return np.flatnonzero(np.concatenate(([True], ordered[1:] != ordered[:-1])))
