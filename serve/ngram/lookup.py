"""From the key of an n-gram to its row in one step: perfect hashing by displacement.

A key's bucket holds one number, the displacement, that moves all keys of the bucket to slots which no other key has.
(After Fox, Heath, Chen and Daoud, "Practical minimal perfect hash functions for large databases", 1992; here a key's
slots lie on a line through the table, so that any slot is free to any key.)
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from serve.ngram.keys import Keys

Slots = NDArray[np.int64]

LOAD = 1.04  # slots for a key, at least
FEWEST = 16  # slots, and how many more a small table has
DISPLACEMENTS = 1 << 16
SEEDS = 100
STEP, STEPS = 20, (1 << 20) - 1  # bits of a hash that say how far a displacement moves its key
TAG = 40  # bits of a hash that are left out below those of the tag


@dataclass(frozen=True)
class Lookup:
    """The key of each slot (0 where it is empty), the displacement of each bucket, and two odd numbers to hash with."""

    keys: Keys  # [M], a power of two
    displacement: NDArray[np.uint16]  # [M / 4]
    multipliers: tuple[int, int]

    def tags(self) -> NDArray[np.uint8]:
        """8 bits of the key of each slot, which are looked at first: most keys that are not there end at them."""
        return ((self.keys * np.uint64(self.multipliers[0])) >> np.uint64(TAG)).astype(np.uint8)


class _Full(Exception):
    """A bucket has no displacement; other multipliers may do."""


def build(keys: Keys) -> Lookup:
    """The look-up of these keys. Raises ValueError where one is 0 or comes twice."""
    if not len(keys) or not keys.all():
        raise ValueError("a look-up needs at least one key, and none that is 0: 0 marks an empty slot")
    if len(np.unique(keys)) < len(keys):
        raise ValueError(f"the keys of {len(keys)} n-grams must differ, but {len(keys) - len(np.unique(keys))} do not")
    size = FEWEST
    while size < LOAD * len(keys) + FEWEST:
        size *= 2
    for seed in range(SEEDS):
        odd = np.random.default_rng(seed).integers(0, 1 << 63, 2).tolist()
        multipliers = (2 * odd[0] + 1, 2 * odd[1] + 1)
        try:
            return _placed(keys, size, multipliers)
        except _Full:
            continue
    raise AssertionError(f"no seed places {len(keys)} keys")


def find(lookup: Lookup, keys: Keys) -> Slots:
    """The slot of each key; the number of slots where it is not there."""
    bucket, start, step = _hashed(keys, len(lookup.keys), len(lookup.displacement), lookup.multipliers)
    slot = (start + lookup.displacement[bucket] * step) & (len(lookup.keys) - 1)
    return np.where((lookup.keys[slot] == keys) & (keys != 0), slot, len(lookup.keys))


def _hashed(keys: Keys, slots: int, buckets: int, multipliers: tuple[int, int]) -> tuple[Slots, Slots, Slots]:
    """A key's bucket, its slot at displacement 0, and how far one more displacement moves it."""
    first, second = (keys * np.uint64(multiplier) for multiplier in multipliers)
    start = (second >> np.uint64(64 - _bits(slots))).astype(np.int64)
    step = ((second >> np.uint64(STEP)) & np.uint64(STEPS)).astype(np.int64) | 1
    return (first >> np.uint64(64 - _bits(buckets))).astype(np.int64), start, step


def _bits(power: int) -> int:
    return power.bit_length() - 1


def _placed(keys: Keys, size: int, multipliers: tuple[int, int]) -> Lookup:
    """Buckets of most keys first, all of one size at once."""
    table = Lookup(np.zeros(size, np.uint64), np.zeros(size // 4, np.uint16), multipliers)
    bucket, start, step = _hashed(keys, size, size // 4, multipliers)
    order = np.argsort(bucket, kind="stable")
    counts = np.bincount(bucket, minlength=size // 4)
    firsts = np.cumsum(counts) - counts
    taken = np.zeros(size, dtype=bool)
    for count in range(int(counts.max()), 0, -1):
        buckets = np.nonzero(counts == count)[0]
        members = order[firsts[buckets][:, None] + np.arange(count)]  # [buckets, count], into keys
        found, slots = _moved(taken, start[members], step[members])
        table.displacement[buckets] = found
        table.keys[slots] = keys[members]
    return table


def _moved(taken: NDArray[np.bool_], start: Slots, step: Slots) -> tuple[Slots, Slots]:
    """The first displacement of each bucket [B] whose slots are free, and these slots [B, count], taken from now on."""
    displacements, places = np.zeros(len(start), np.int64), np.empty_like(start)
    owner = np.empty(len(taken), dtype=np.int64)
    left = np.arange(len(start))
    slots = start.copy()
    for displacement in range(min(DISPLACEMENTS, len(taken))):  # then the slots come again
        free = np.nonzero(~taken[slots].any(axis=1))[0]
        inside = np.sort(slots[free], axis=1)
        free = free[(inside[:, 1:] != inside[:, :-1]).all(axis=1)]
        # Of buckets that want the same slot one gets it: whichever numpy writes last.
        owner[slots[free]] = free[:, None]
        free = free[(owner[slots[free]] == free[:, None]).all(axis=1)]
        taken[slots[free]] = True
        displacements[left[free]], places[left[free]] = displacement, slots[free]
        others = np.ones(len(left), dtype=bool)
        others[free] = False
        left, slots, step = left[others], slots[others], step[others]
        if not len(left):
            return displacements, places
        slots = (slots + step) & (len(taken) - 1)
    raise _Full
