"""Which units leave under a budget: schedules and greedy choices, as arithmetic on plain numbers."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass


def removed(progress: float) -> float:
    """Zhu and Gupta's curve: share of the way to the target at `progress` in [0, 1] of the removal."""
    return 1 - (1 - progress) ** 3


def moments(rounds: int, begin: float, end: float) -> list[float]:
    """Progress of each round: from `begin` to `end` in equal steps."""
    return [begin + (end - begin) * k / max(rounds - 1, 1) for k in range(rounds)]


@dataclass
class Half:
    """One half of a block while units leave it: its attention, or its FFN."""

    units: list[int]  # that stay, the least important first
    prices: list[float]  # theirs
    time: Callable[[int], float]  # of a half with so many units
    step: int  # units that leave together

    def offers(self, *, whole: bool) -> list[tuple[float, float, int]]:
        """(price, time saved, units) of what may leave next."""
        now, counts = len(self.units), {min(self.step, len(self.units))}
        counts |= {now} if whole else set()
        return [(sum(self.prices[:n]), self.time(now) - self.time(now - n), n) for n in sorted(counts) if n]

    def leave(self, count: int) -> None:
        del self.units[:count], self.prices[:count]


def cheapest_first(halves: Sequence[Half], spare: float, *, whole: bool = True) -> float:
    """Take the lowest price for time saved until `spare` time is saved, but never the last unit of all.

    `whole` also offers all that is left of a half at once. Returns the time that was saved, which is less than
    `spare` when nothing is left to take.
    """
    saved = 0.0
    while saved < spare - 1e-9:
        left = sum(len(half.units) for half in halves)
        offers = [
            (price / time, price, at, time, count)
            for at, half in enumerate(halves)
            for price, time, count in half.offers(whole=whole)
            if time > 0 and count < left
        ]
        if not offers:
            break
        _, _, at, time, count = min(offers)
        halves[at].leave(count)
        saved += time
    return saved


def lowest(scores: Sequence[Sequence[float]], count: int) -> list[list[int]]:
    """What stays of each row when the `count` lowest of all scores together are gone."""
    ranked = sorted((score, row, unit) for row, part in enumerate(scores) for unit, score in enumerate(part))
    gone = {(row, unit) for _, row, unit in ranked[:count]}
    return [[unit for unit in range(len(part)) if (row, unit) not in gone] for row, part in enumerate(scores)]
