"""What runs of a runtime take on this host: the table that `serve.batching` packs by, and how it is measured."""

import time
from bisect import bisect_left
from collections.abc import Callable, Sequence
from typing import Any, Self

import numpy as np
from pydantic import BaseModel, ConfigDict, model_validator

from serve.encode import Encoded, WordPieces
from serve.engines import Engine, once

GROUPS = (1, 2, 4, 8, 16, 32)  # texts a run
LENGTHS = (8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192)  # tokens of each, up to the model's most
RAGGED = 25  # tokens of each, for engines that need no padding: a sentence, and no multiple of what they do at once
SECONDS = 3.0  # of work, for all of the table; a round that has begun is ended
ROUNDS = 15  # at most; the median counts, since the best of many short runs beats the best of few long ones
OFTEN = 8  # texts of each size a round, or one run


class Costs(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    ragged: bool = False  # runs cost by their tokens, and nothing is padded
    lengths: tuple[int, ...]  # tokens of a text, ascending
    seconds: tuple[tuple[float, ...], ...]  # of each length, of a run of GROUPS[0], GROUPS[1], .. texts

    @model_validator(mode="after")
    def _check(self) -> Self:
        if not self.lengths or len(self.lengths) != len(self.seconds) or list(self.lengths) != sorted({*self.lengths}):
            raise ValueError("there must be one row of seconds for each of the ascending lengths")
        if not all(0 < len(row) <= len(GROUPS) and min(row) > 0 for row in self.seconds):
            raise ValueError(f"a row must have 1 to {len(GROUPS)} positive seconds")
        return self

    def runs(self, length: int) -> list[float]:
        """Seconds of a run of 1, 2, .. texts of that length: of as many texts as may pay."""
        at = bisect_left(self.lengths, length)
        if at == 0:
            return self._runs(0)
        if at == len(self.lengths):  # longer than all that there was time for
            return [one * length / self.lengths[-1] for one in self._runs(-1)]
        low, high = self.lengths[at - 1], self.lengths[at]
        share = (length - low) / (high - low)
        return [(1 - share) * a + share * b for a, b in zip(self._runs(at - 1), self._runs(at), strict=False)]

    def _runs(self, at: int) -> list[float]:
        row, best = self.seconds[at], GROUPS[self._best(at)]
        # A group of twice the best is two of the best.
        most = min(2 * best - 1, GROUPS[len(row) - 1])
        found: list[float] = np.interp(range(1, most + 1), GROUPS[: len(row)], row).tolist()
        return found

    def _best(self, at: int) -> int:
        each = [seconds / size for seconds, size in zip(self.seconds[at], GROUPS, strict=False)]
        return each.index(min(each))

    def groups(self) -> dict[int, int]:
        """The group size that answers most texts a second, by the texts' length."""
        return {length: GROUPS[self._best(at)] for at, length in enumerate(self.lengths)}

    def tokens(self, within: float) -> int:
        """The fewest tokens of a ragged run that takes at most `within` times the least time a token."""
        each = [seconds / size for seconds, size in zip(self.seconds[0], GROUPS, strict=False)]
        return self.lengths[0] * next(
            size for one, size in zip(each, GROUPS, strict=False) if one <= within * min(each)
        )


def measured(engine: Engine, pieces: WordPieces, *, alone: bool, device: str, threads: int) -> Costs:
    """The table of an engine; of runs of one text where groups are never formed (`alone`)."""
    # A second of one thread's work is one of processor time: busy neighbours do not choose. Several threads wait, too.
    clock = time.process_time if threads == 1 and device == "cpu" else time.perf_counter
    ragged = getattr(engine, "ragged", None) is not None
    longest = pieces.max_length
    lengths = [min(RAGGED, longest)] if ragged else [*(one for one in LENGTHS if one < longest), longest]
    known = np.array(sorted(pieces.vocabulary().values()))
    left, rows, done = SECONDS, list[tuple[float, ...]](), list[int]()
    for at, length in enumerate(lengths):
        runs = _Runs(engine, pieces, known, length, clock)
        row = runs.row(1 if alone and not ragged else len(GROUPS), left / (len(lengths) - at))
        left -= runs.spent
        rows.append(row)
        done.append(length)
        if left <= 0:
            break
    return Costs(ragged=ragged, lengths=tuple(done), seconds=tuple(rows))


class _Runs:
    """Runs of texts of one length, timed. No runtime looks at what a text says, so they are word pieces at random."""

    def __init__(self, engine: Engine, pieces: WordPieces, known: Any, length: int, clock: Callable[[], float]) -> None:
        self._engine, self._pieces, self._clock = engine, pieces, clock
        rng = np.random.default_rng(length)
        ids = [rng.choice(known, length) for _ in range(GROUPS[-1])]
        self._texts = Encoded(ids, [np.zeros_like(row) for row in ids], [False] * len(ids))
        self.spent = 0.0  # seconds

    def row(self, most: int, seconds: float) -> tuple[float, ...]:
        """Of the first `most` GROUPS, or fewer where a text takes longer in each of two larger groups in turn."""
        rounds = [list[float]()]
        for size in GROUPS[:most]:
            self._run(size)  # what is made ready by the first run of a shape
            rounds[0].append(self._run(size))
            if _rises_twice(rounds[0]) or self.spent > seconds:
                break
        sizes = GROUPS[: len(rounds[0])]
        while len(rounds) < ROUNDS and self.spent < seconds:  # in turn, so that all sizes see the same neighbours
            rounds.append([self._run(size) for size in sizes])
        return tuple(np.median(rounds, axis=0).tolist())

    def _run(self, size: int) -> float:
        """Seconds of one, by as many as have OFTEN texts."""
        some = Encoded(self._texts.ids[:size], self._texts.types[:size], self._texts.truncated[:size])
        times = max(1, OFTEN // size)
        start = self._clock()
        for _ in range(times):
            once(self._engine, self._pieces, some)
        taken = max(self._clock() - start, 1e-9)
        self.spent += taken
        return taken / times


def _rises_twice(seconds: Sequence[float]) -> bool:
    each = [one / size for one, size in zip(seconds, GROUPS, strict=False)][-3:]
    return len(each) == 3 and each[0] < each[1] < each[2]
