"""Which of the waiting texts share a run.

A packer sees the lengths of the first texts in the queue, the oldest one first, and says which of them the next run
takes. The oldest is always among them.
"""

from collections.abc import Sequence
from typing import Any, Protocol

from serve.costs import Costs

NEARLY = 1.03  # of the least time a token: the fewest tokens within it make a full run of a ragged engine
SPREAD = 1.25  # of the work in large runs: what smaller ones may take where threads would stand idle
WINDOW = 64  # texts that a packer looks at, at most


class Packer(Protocol):
    texts: int  # that it wants to see, at most
    tokens: int  # of a run at most, padding included, unless its one text is longer
    sorts: bool  # whether a request's texts are to be taken in the order of their lengths

    def pick(self, lengths: Sequence[int], *, waiting: int, free: int) -> list[int]:
        """Which of these texts run now, of `waiting` tokens in all and with `free` threads to take them."""
        ...

    def padded(self, longest: int, texts: int, tokens: int) -> int:
        """Tokens that such a run computes, with padding."""
        ...

    def describe(self) -> dict[str, Any]:
        """For people: what it goes by."""
        ...


class Ragged:
    """For engines that need no padding: texts as they come, up to a budget of tokens."""

    sorts = False

    def __init__(self, tokens: int, *, least: int = 1) -> None:
        self.tokens, self.texts = tokens, max(tokens // 2, 1)  # a text has two tokens at least
        self._least = min(least, tokens)  # tokens from which a run is nearly as quick, each of them, as a full one

    def pick(self, lengths: Sequence[int], *, waiting: int, free: int) -> list[int]:
        left = min(self.tokens, max(-(-waiting // free), self._least)) - lengths[0]
        for at, length in enumerate(lengths[1:], 1):
            left -= length
            if left < 0:
                return list(range(at))
        return list(range(len(lengths)))

    def padded(self, longest: int, texts: int, tokens: int) -> int:
        return tokens

    def describe(self) -> dict[str, Any]:
        return {"padding": False, "max_batch_tokens": self.tokens}


class Alone:
    """Each text in a run of its own: for files whose answers depend on batch mates, and where nothing was measured."""

    sorts, texts, tokens = False, 1, 0

    def pick(self, lengths: Sequence[int], *, waiting: int, free: int) -> list[int]:
        return [0]

    def padded(self, longest: int, texts: int, tokens: int) -> int:
        return longest * texts

    def describe(self) -> dict[str, Any]:
        return {"padding": False, "max_batch_tokens": None, "groups": 1}


class Padded:
    """For runtimes that pad: groups of like length, such that all in sight takes the least time by measured costs."""

    sorts = True

    def __init__(self, costs: Costs, *, tokens: int) -> None:
        self.tokens = tokens
        self._costs, self._table = costs, dict[int, list[float]]()
        largest = max(len(costs.runs(length)) for length in costs.lengths)
        self.texts = 1 if largest == 1 else min(max(16, 4 * largest), WINDOW)

    def pick(self, lengths: Sequence[int], *, waiting: int, free: int) -> list[int]:
        order = sorted(range(len(lengths)), key=lengths.__getitem__, reverse=True)
        descending = [lengths[row] for row in order]
        sizes, seconds = self.partition(descending, self.tokens)
        for threads in range(free, 1, -1):
            if waiting >= threads * self.tokens:  # there is a whole run for each
                break
            narrower, longer = self.partition(descending, -(-waiting // threads))
            if longer <= SPREAD * seconds:
                sizes = narrower
                break
        start, oldest = 0, order.index(0)
        for size in sizes:
            if oldest < start + size:
                return sorted(order[start : start + size])
            start += size
        raise AssertionError("the groups hold all texts")

    def partition(self, descending: Sequence[int], tokens: int) -> tuple[list[int], float]:
        """Sizes of the groups into which texts, longest first, are best cut, and the seconds that they take.

        The least over all partitions where longer texts take longer: of groups of given sizes none can be quicker than
        those that hold neighbours. best[i] is the least for the texts from i on.
        """
        count = len(descending)
        best, sizes = [0.0] * (count + 1), [1] * count
        for at in range(count - 1, -1, -1):
            row = self._row(descending[at])
            most = min(len(row), count - at, max(tokens // descending[at], 1))
            least, size = row[0] + best[at + 1], 1
            for more in range(2, most + 1):
                seconds = row[more - 1] + best[at + more]
                if seconds < least:
                    least, size = seconds, more
            best[at], sizes[at] = least, size
        groups, at = list[int](), 0
        while at < count:
            groups.append(sizes[at])
            at += sizes[at]
        return groups, best[0]

    def _row(self, length: int) -> list[float]:
        found = self._table.get(length)
        if found is None:
            found = self._table[length] = self._costs.runs(length)
        return found

    def padded(self, longest: int, texts: int, tokens: int) -> int:
        return longest * texts

    def describe(self) -> dict[str, Any]:
        groups = {
            str(length): max(1, min(size, self.tokens // length)) for length, size in self._costs.groups().items()
        }
        return {"padding": True, "max_batch_tokens": self.tokens, "groups": groups}


def packer(costs: Costs | None, *, max_batch_tokens: int, alone: bool = False) -> Packer:
    """`costs`: of the runtime on this host, None where unknown. `alone`: answers of the file depend on batch mates."""
    if costs is None or (alone and not costs.ragged):
        return Alone()
    if costs.ragged:
        return Ragged(min(max_batch_tokens, costs.tokens(NEARLY)), least=costs.tokens(SPREAD))
    return Padded(costs, tokens=max_batch_tokens)
