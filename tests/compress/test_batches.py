"""Which examples an update sees depends on the seed and the update alone."""

import numpy as np
import pytest
import torch

from compress.batches import Batches
from serve.encode import Encoded
from tests.compress.toy import Pieces, examples


def rows_of(data: Batches, step: int) -> list[int]:
    return sorted(int(row) for batch in data.update(step) for row in batch["rows"])


def test_an_epoch_sees_every_example_once() -> None:
    data = examples(51)
    assert len(data) == 7
    for epoch in (0, 1):
        seen = np.concatenate([data.rows(epoch * 7 + step) for step in range(7)])
        assert sorted(seen) == list(range(51))


def test_epochs_differ_and_seeds_repeat() -> None:
    data = examples()
    assert rows_of(data, 0) != rows_of(data, len(data))
    assert rows_of(data, 9) == rows_of(examples(), 9)
    assert any(rows_of(data, step) != rows_of(examples(seed=1), step) for step in range(6))


@pytest.mark.parametrize(("world", "accumulate"), [(1, 1), (2, 1), (3, 2), (8, 1), (1, 11)])
def test_an_update_is_the_same_for_any_number_of_processes(world: int, accumulate: int) -> None:
    whole = examples(51)
    shares = [examples(51, world=world, rank=rank, accumulate=accumulate) for rank in range(world)]
    for step in range(len(whole)):
        assert sorted(row for share in shares for row in rows_of(share, step)) == rows_of(whole, step)


def test_texts_of_like_length_share_an_update() -> None:
    data = examples(4000)
    padding = [1 - b["attention_mask"].float().mean().item() for step in range(len(data)) for b in data.update(step)]
    assert np.mean(padding) < 0.05


def test_sorted_gives_each_example_once_longest_first() -> None:
    batches = list(examples(51).sorted(8))
    assert sorted(int(r) for b in batches for r in b["rows"]) == list(range(51))
    widths = [b["input_ids"].shape[1] for b in batches]
    assert widths == sorted(widths, reverse=True)


@pytest.mark.parametrize(("world", "accumulate"), [(1, 1), (2, 1), (3, 2), (1, 5)])
def test_pairs_stay_side_by_side(world: int, accumulate: int) -> None:
    whole = examples(70, together=2)
    shares = [examples(70, together=2, world=world, rank=rank, accumulate=accumulate) for rank in range(world)]
    assert len(whole) == 9
    for step in range(2 * len(whole)):
        parts = [batch["rows"] for share in shares for batch in share.update(step)]
        for rows in parts:
            assert (rows[::2] % 2 == 0).all() and torch.equal(rows[::2] + 1, rows[1::2])
        assert sorted(torch.cat(parts).tolist()) == sorted(whole.rows(step))
        assert len(whole.rows(step)) == (6 if step % 9 == 8 else 8)
    seen = np.concatenate([whole.rows(step) for step in range(9)])
    assert sorted(seen) == list(range(70))


def test_a_text_without_a_mate_is_seen_too() -> None:
    data = Batches(Pieces(), Encoded([np.arange(5, 8)] * 7, [], []), np.full(7, np.nan), size=5, together=2)
    assert sorted(np.concatenate([data.rows(step) for step in range(len(data))])) == list(range(7))
    assert max(len(data.rows(step)) for step in range(len(data))) == 4
