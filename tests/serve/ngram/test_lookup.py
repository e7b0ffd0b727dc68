"""Perfect hashing: every key finds its own slot, and no other finds any."""

import numpy as np
import pytest

from serve.ngram.lookup import FEWEST, LOAD, build, find


@pytest.fixture(scope="module")
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.mark.parametrize("count", [1, 2, 15, 16, 100, 485, 958, 20_000])
def test_each_key_finds_its_own_slot(count: int, rng: np.random.Generator) -> None:
    keys = rng.integers(1, 1 << 64, count, dtype=np.uint64)
    lookup = build(keys)
    slots = find(lookup, keys)
    np.testing.assert_array_equal(lookup.keys[slots], keys)
    assert len(set(slots.tolist())) == count == np.count_nonzero(lookup.keys)


def test_of_a_million_other_keys_none_is_found(rng: np.random.Generator) -> None:
    lookup = build(rng.integers(1, 1 << 64, 1900, dtype=np.uint64))
    others = rng.integers(0, 1 << 64, 1_000_000, dtype=np.uint64)
    found = find(lookup, others)
    assert (found == len(lookup.keys)).all() and len(found) == 1_000_000


def test_neighbouring_keys_find_none() -> None:
    """Keys that differ in one bit."""
    keys = np.arange(1, 5000, dtype=np.uint64)
    lookup = build(keys)
    others = keys[:, None] ^ (np.uint64(1) << np.arange(13, 64, dtype=np.uint64))
    assert (find(lookup, others.reshape(-1)) == len(lookup.keys)).all()


def test_zero_is_not_found_in_an_empty_slot() -> None:
    for key in range(1, 20):
        lookup = build(np.array([key], np.uint64))
        assert find(lookup, np.zeros(2, np.uint64)).tolist() == [len(lookup.keys)] * 2


def test_the_slot_is_the_contracts_for_each_key_alone(rng: np.random.Generator) -> None:
    """In Python's own whole numbers."""
    keys = rng.integers(1, 1 << 64, 700, dtype=np.uint64)
    lookup = build(keys)
    m, b = len(lookup.keys).bit_length() - 1, len(lookup.displacement).bit_length() - 1
    assert len(lookup.keys) == 1 << m and len(lookup.displacement) == 1 << b
    tags = lookup.tags()
    for key, slot in zip(keys.tolist(), find(lookup, keys).tolist(), strict=True):
        first, second = (key * multiplier % (1 << 64) for multiplier in lookup.multipliers)
        step = second >> 20 & (1 << 20) - 1 | 1
        assert slot == ((second >> 64 - m) + int(lookup.displacement[first >> 64 - b]) * step) % (1 << m)
        assert tags[slot] == first >> 40 & 0xFF
    assert lookup.multipliers[0] % 2 == lookup.multipliers[1] % 2 == 1


def test_slots_are_the_least_power_of_two_that_leaves_room(rng: np.random.Generator) -> None:
    for count in (1, 15, 100, 1000, 5000):
        size = len(build(rng.integers(1, 1 << 64, count, dtype=np.uint64)).keys)
        assert size / 2 < LOAD * count + FEWEST <= size


def test_the_same_keys_give_the_same_table(rng: np.random.Generator) -> None:
    keys = rng.integers(1, 1 << 64, 3000, dtype=np.uint64)
    first, second = build(keys), build(keys)
    np.testing.assert_array_equal(first.keys, second.keys)
    np.testing.assert_array_equal(first.displacement, second.displacement)


def test_a_key_that_comes_twice_is_refused() -> None:
    with pytest.raises(ValueError, match="keys of 4 n-grams must differ, but 1 do not"):
        build(np.array([5, 7, 5, 9], np.uint64))


@pytest.mark.parametrize("keys", [[], [3, 0]])
def test_no_keys_and_a_key_of_zero_are_refused(keys: list[int]) -> None:
    with pytest.raises(ValueError, match="at least one key, and none that is 0"):
        build(np.array(keys, np.uint64))
