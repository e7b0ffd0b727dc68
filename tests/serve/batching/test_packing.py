"""The partition against all partitions; budgets and shares against tables made by hand."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate
from typing import cast

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serve.batching import packer
from serve.batching.packing import Alone, Padded, Ragged
from serve.costs import GROUPS, Costs

COSTS = Costs(lengths=(8, 64), seconds=((1.0, 1.2, 1.6, 2.4), (8.0, 15.0, 32.0, 70.0)))


def partitions(rows: list[int]) -> Iterator[list[list[int]]]:
    """Every way to put rows into groups, neighbours or not."""
    if not rows:
        yield []
        return
    first, *rest = rows
    for found in partitions(rest):
        yield [[first], *found]
        for at, group in enumerate(found):
            yield [*found[:at], [first, *group], *found[at + 1 :]]


class Table:
    """Any costs where longer texts take longer, and where groups pay or do not."""

    def __init__(self, rows: list[list[float]]) -> None:
        self.lengths, self._rows = range(1, len(rows) + 1), np.cumsum(rows, axis=0).tolist()

    def runs(self, length: int) -> list[float]:
        row: list[float] = self._rows[length - 1]
        return row


LONGEST = 6
steps = st.lists(st.floats(0.1, 5.0), min_size=3, max_size=3)
tables = st.lists(steps, min_size=LONGEST, max_size=LONGEST).map(Table)


@settings(max_examples=60, deadline=None)
@given(tables, st.lists(st.integers(1, LONGEST), min_size=1, max_size=6), st.integers(1, 3 * LONGEST))
def test_no_partition_takes_less_time(table: Table, lengths: list[int], tokens: int) -> None:
    def seconds(groups: Iterable[Sequence[int]]) -> float:
        total = 0.0
        for group in groups:
            longest = max(group)
            if len(group) > 1 and (len(group) > 3 or longest * len(group) > tokens):
                return float("inf")
            total += table.runs(longest)[len(group) - 1]
        return total

    descending = sorted(lengths, reverse=True)
    sizes, told = Padded(cast(Costs, table), tokens=tokens).partition(descending, tokens)
    ends = list(accumulate(sizes))
    assert ends[-1] == len(lengths)
    assert seconds(descending[end - size : end] for size, end in zip(sizes, ends, strict=True)) == pytest.approx(told)
    assert told == pytest.approx(min(map(seconds, partitions(lengths))))


def test_costs_are_read_between_what_was_measured() -> None:
    assert COSTS.runs(8) == pytest.approx([1.0, 1.2, 1.4, 1.6, 1.8, 2.0, 2.2, 2.4])
    assert COSTS.runs(3) == COSTS.runs(8)
    assert COSTS.runs(64) == pytest.approx([8.0, 15.0, 23.5])  # 4 texts take longer than twice 2
    assert COSTS.runs(36) == pytest.approx([4.5, 8.1, 12.45])
    assert COSTS.runs(128) == pytest.approx([16.0, 30.0, 47.0])
    assert COSTS.groups() == {8: 8, 64: 2}


@pytest.mark.parametrize("lengths", [[], [8, 4], [8, 8]])
def test_costs_that_make_no_sense_are_refused(lengths: list[int]) -> None:
    with pytest.raises(ValueError, match="ascending"):
        Costs(lengths=tuple(lengths), seconds=((1.0,),) * len(lengths))
    for row in ((), (0.0,), (1.0,) * (len(GROUPS) + 1)):
        with pytest.raises(ValueError, match="positive"):
            Costs(lengths=(8,), seconds=(row,))


def test_the_oldest_runs_with_those_of_its_length() -> None:
    packing = Padded(COSTS, tokens=4096)
    assert packing.pick([8, 60, 8, 60, 7, 8], waiting=10**6, free=1) == [0, 2, 4, 5]
    assert packing.pick([60, 8, 8, 60, 7, 8], waiting=10**6, free=1) == [0, 3]
    assert packing.describe() == {"padding": True, "max_batch_tokens": 4096, "groups": {"8": 8, "64": 2}}


def test_a_group_slower_than_its_parts_is_not_formed() -> None:
    slower = Costs(lengths=(8, 64), seconds=((1.0, 2.1, 4.4), (8.0, 17.0, 36.0)))
    packing = Padded(slower, tokens=4096)
    assert packing.texts == 1 and packing.partition([60, 60, 8, 8, 8], 4096)[0] == [1] * 5


def test_a_padded_run_keeps_to_its_tokens_unless_one_text_has_more() -> None:
    packing = Padded(COSTS, tokens=20)
    assert packing.pick([8] * 6, waiting=10**6, free=1) == [0, 1]
    assert packing.pick([60, 60], waiting=10**6, free=1) == [0]


def test_free_threads_share_where_that_costs_little() -> None:
    linear = Costs(lengths=(8, 64), seconds=((1.0, 1.9, 3.7), (8.0, 15.2, 29.6)))
    packing = Padded(linear, tokens=4096)
    assert [len(packing.pick([8] * 4, waiting=32, free=free)) for free in (1, 2, 4, 9)] == [4, 2, 1, 1]
    dear = Padded(COSTS, tokens=4096)  # two of 2 take 2.4 s, one of 4 only 1.6; of 8 texts two of 4 take 3.2, not 2.4
    assert [len(dear.pick([8] * 4, waiting=32, free=free)) for free in (1, 2, 4)] == [4, 4, 4]
    some = Padded(Costs(lengths=(8,), seconds=((1.0, 1.7, 3.0),)), tokens=4096)
    assert [len(some.pick([8] * 4, waiting=32, free=free)) for free in (1, 2, 4)] == [4, 2, 2]  # four of 1 take 4 s


def test_a_ragged_run_takes_texts_up_to_its_tokens() -> None:
    packing = Ragged(100, least=40)
    assert packing.pick([30, 30, 30, 30], waiting=10**6, free=1) == [0, 1, 2]
    assert packing.pick([300, 1], waiting=10**6, free=1) == [0]
    assert packing.pick([30, 30, 30, 30], waiting=120, free=2) == [0, 1]
    assert packing.pick([20, 20, 20, 20], waiting=80, free=4) == [0, 1]  # runs of fewer than 40 tokens are slow
    assert packing.padded(30, 3, 70) == 70 and Padded(COSTS, tokens=1).padded(30, 3, 70) == 90


def test_the_packer_goes_by_what_is_known() -> None:
    ragged = Costs(ragged=True, lengths=(25,), seconds=((1.0, 1.6, 3.0, 5.8, 11.5),))
    made = packer(ragged, max_batch_tokens=10_000, alone=True)  # answers of such engines never depend on mates
    assert isinstance(made, Ragged) and made.describe() == {"padding": False, "max_batch_tokens": 200}
    assert packer(ragged, max_batch_tokens=60).tokens == 60
    assert isinstance(packer(COSTS, max_batch_tokens=60), Padded)
    assert isinstance(packer(COSTS, max_batch_tokens=60, alone=True), Alone)
    assert isinstance(packer(None, max_batch_tokens=60), Alone) and Alone().pick([3], waiting=3, free=1) == [0]
