"""Rates: one worker against a token bucket refilled step by step; several within their bound."""

import multiprocessing
import random
import signal
import time
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

import pytest

from serve.access import rates as module
from serve.access.keys import Key, Limits
from serve.access.rates import ROWS, Rates
from serve.errors import Overloaded

spawn = multiprocessing.get_context("spawn")


class Clock:
    now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    found = Clock()
    monkeypatch.setattr(module.time, "monotonic", found)
    return found


def key(rate: float | None = None, burst: float | None = None, concurrent: int | None = None, name: str = "a") -> Key:
    return Key(name, Limits(rate, burst, concurrent), b"")


def admits(rates: Rates, of: Key) -> bool:
    try:
        rates.admit(of)
    except Overloaded:
        return False
    return True


class Textbook:
    """A bucket that is refilled at every look."""

    def __init__(self, rate: float, burst: float, now: float) -> None:
        self.rate, self.burst, self.tokens, self.last = rate, burst, burst, now

    def wait(self, now: float) -> float:
        """Seconds until the next token; 0: one was taken."""
        self.tokens = min(self.burst, self.tokens + (now - self.last) * self.rate)
        self.last = now
        if self.tokens >= 1 - 1e-6:
            self.tokens -= 1
            return 0.0
        return (1 - self.tokens) / self.rate


@pytest.mark.parametrize(("rate", "burst"), [(10.0, 5.0), (0.5, 1.0), (1000.0, 3.0), (3.0, 40.0)])
@pytest.mark.parametrize("workers", [1, 3])
def test_a_bucket_gives_what_a_textbooks_does(
    rate: float, burst: float, workers: int, clock: Clock, tmp_path: Path
) -> None:
    """Workers in turn, so that none is in the middle of counting: then several are exact too."""
    together = [Rates(path=tmp_path / "rates", workers=workers) for _ in range(workers)]
    for each in together:
        each._regions.clock = clock.now
    textbook, random_ = Textbook(rate, burst, clock.now), random.Random(0)
    answers = []
    for _ in range(2_000):
        clock.now += random_.choices([0.0, 0.1, 0.5, 2.0, 50.0], [50, 30, 15, 4, 1])[0] / rate
        expected = textbook.wait(clock.now)
        found = 0.0
        try:
            rates = random_.choice(together)
            rates.release(rates.admit(key(rate, burst)))
        except Overloaded as error:
            found = error.retry_after
        assert found == pytest.approx(expected, abs=1e-5 / rate)
        answers.append(found > 0)
    assert 100 < sum(answers) < 1_900


def test_a_refusal_says_what_is_full(clock: Clock) -> None:
    rates = Rates()
    rates.admit(key(2.0, 1.0))
    with pytest.raises(Overloaded, match="may ask 2 times a second") as caught:
        rates.admit(key(2.0, 1.0))
    assert (caught.value.reason, caught.value.retry_after) == ("rate", pytest.approx(0.5))


def test_who_waits_as_told_is_admitted_at_once(clock: Clock) -> None:
    rates = Rates()
    for rate in (0.3, 7.0, 1234.5):
        of = key(rate, 1.0, name=str(rate))
        for _ in range(50):
            try:
                rates.admit(of)
            except Overloaded as error:
                clock.now += error.retry_after
                rates.admit(of)


def test_burst_is_one_seconds_worth_unless_told(clock: Clock) -> None:
    rates = Rates()
    assert sum(admits(rates, key(20.0)) for _ in range(100)) == 20
    assert sum(admits(rates, key(0.1, name="slow")) for _ in range(100)) == 1
    assert all(admits(rates, key(name="free")) for _ in range(100))


def test_concurrency_counts_what_has_not_ended(clock: Clock) -> None:
    rates, of = Rates(), key(1000.0, 1000.0, concurrent=2)
    first, _ = rates.admit(of), rates.admit(of)
    with pytest.raises(Overloaded, match="2 requests at once") as caught:
        rates.admit(of)
    assert (caught.value.reason, caught.value.retry_after) == ("concurrency", 1.0)
    rates.release(first)
    assert admits(rates, of)
    assert not admits(rates, of)


def test_what_concurrency_refuses_costs_no_token(clock: Clock) -> None:
    rates, of = Rates(), key(1.0, 2.0, concurrent=1)
    lease = rates.admit(of)
    assert not any(admits(rates, of) for _ in range(10))
    rates.release(lease)
    assert admits(rates, of)


def test_new_limits_hold_at_once_and_what_runs_ends_rightly(clock: Clock) -> None:
    rates = Rates()
    old = rates.admit(key(1.0, 1.0, concurrent=1))
    assert not admits(rates, key(1.0, 1.0, concurrent=1))
    new = key(5.0, 5.0, concurrent=1)
    lease = rates.admit(new)
    rates.release(old)
    assert not admits(rates, new)
    rates.release(lease)
    assert admits(rates, new)


def test_names_do_not_share(clock: Clock) -> None:
    rates = Rates()
    assert [admits(rates, key(1.0, 1.0, name=f"n{i}")) for i in range(1000)] == [True] * 1000
    assert [admits(rates, key(1.0, 1.0, name=f"n{i}")) for i in range(1000)] == [False] * 1000


def test_endless_changes_of_limits_find_room(clock: Clock) -> None:
    rates = Rates()
    for at in range(3 * ROWS):
        rates.release(rates.admit(key(1.0 + at, 1.0)))


def hammer(path: Path, workers: int, start: Barrier, seconds: float, answers: Any) -> None:
    rates = Rates(path=path, workers=workers)
    of, admitted = key(200.0, 50.0), 0
    start.wait(timeout=60)
    begun = time.monotonic()
    while time.monotonic() - begun < seconds:
        admitted += admits(rates, of)
    answers.put((begun, time.monotonic(), admitted))


def test_workers_that_hammer_together_stay_within_the_bound(tmp_path: Path) -> None:
    workers = 3
    start, answers = spawn.Barrier(workers), spawn.Queue()
    processes = [
        spawn.Process(target=hammer, args=(tmp_path / "rates", workers, start, 1.0, answers), daemon=True)
        for _ in range(workers)
    ]
    for process in processes:
        process.start()
    found = [answers.get(timeout=60) for _ in processes]
    for process in processes:
        process.join()
    seconds = max(end for _, end, _ in found) - min(begun for begun, _, _ in found)
    total = sum(admitted for *_, admitted in found)
    assert 0.95 * 200.0 * 1.0 + 50.0 - workers <= total <= 50.0 + 200.0 * seconds + (workers - 1) + 1


def hold(path: Path, held: Any) -> None:
    rates = Rates(path=path, workers=2)
    for _ in range(2):
        rates.admit(key(concurrent=2))
    held.put(True)
    signal.pause()


def test_requests_that_died_with_their_worker_hold_no_place(tmp_path: Path) -> None:
    rates, held = Rates(path=tmp_path / "rates", workers=2), spawn.Queue()
    process = spawn.Process(target=hold, args=(tmp_path / "rates", held), daemon=True)
    process.start()
    assert held.get(timeout=60)
    assert not admits(rates, key(concurrent=2))
    process.kill()
    process.join()
    assert admits(rates, key(concurrent=2))
    assert Rates(path=tmp_path / "rates", workers=2)._own[rates.admit(key(concurrent=2))] == 0.0  # taken over, emptied
