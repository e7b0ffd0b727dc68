"""The line of tickets, with no threads and a clock of the test's own."""

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from serve.batching.packing import Packer
from serve.batching.queue import Queue
from serve.batching.ticket import Run, Ticket
from serve.errors import BackendError, Expired
from tests.serve.batching.asked import TOKENS, answers, packers, ticket

MOST = 60  # tokens that may wait


def drain(queue: Queue, *, now: float = 0.0) -> list[list[tuple[int, int]]]:
    """(request, text) of every run until nothing waits."""
    found = []
    while run := queue.take(now, 1):
        found.append([(part.caller, row) for part, rows in run.parts for row in rows])
        queue.finish(run, answers(run.encoded()), now)
    return found


class Life(RuleBasedStateMachine):
    """Requests come, run, fail, expire and are given up in any order."""

    @initialize(kind=st.sampled_from(sorted(packers())), threads=st.integers(1, 3))
    def start(self, kind: str, threads: int) -> None:
        self.packer: Packer = packers()[kind]
        self.queue = Queue(self.packer, max_tokens=MOST, threads=threads)
        self.now, self.threads = 1.0, threads
        self.tickets: list[Ticket] = []
        self.running: list[Run] = []
        self.told: list[Ticket] = []
        self.cancelled: set[int] = set()
        self.taken: set[tuple[int, int]] = set()

    @rule(lengths=st.lists(st.integers(2, 30), min_size=1, max_size=9), patience=st.none() | st.integers(0, 5))
    def come(self, lengths: list[int], patience: int | None) -> None:
        before, waiting = self.queue.tokens, self.queue.waiting
        one = ticket(len(self.tickets), lengths, deadline=None if patience is None else self.now + patience)
        one.admitted = self.now
        if self.queue.add(one):
            self.tickets.append(one)
            assert self.queue.tokens <= MOST or not waiting
        else:
            assert waiting and before + sum(lengths) > MOST

    @precondition(lambda self: len(self.running) < self.threads)
    @rule()
    def take(self) -> None:
        run = self.queue.take(self.now, self.threads - len(self.running))
        self.told += self.queue.expired()
        if run is None:
            assert not self.queue.waiting
            return
        self.running.append(run)
        padded = self.packer.padded(run.longest, run.texts, run.tokens)
        assert run.texts == 1 or padded <= TOKENS
        for part, rows in run.parts:
            assert part not in self.told and part.caller not in self.cancelled
            assert part.deadline is None or part.deadline > self.now
            assert part.queued == part.started - part.admitted >= 0
            for row in rows:
                assert (part.caller, row) not in self.taken
                self.taken.add((part.caller, row))

    @precondition(lambda self: self.running)
    @rule(which=st.integers(0, 2))
    def finish(self, which: int) -> None:
        run = self.running.pop(which % len(self.running))
        self.told += self.queue.finish(run, answers(run.encoded()), self.now)

    @precondition(lambda self: self.running)
    @rule(which=st.integers(0, 2))
    def fail(self, which: int) -> None:
        run = self.running.pop(which % len(self.running))
        for one in run.alone():
            if self.queue.still(one, self.now):
                ((part, _),) = one.parts
                assert part.caller not in self.cancelled and (part.deadline is None or part.deadline > self.now)
                self.told += self.queue.fail(one, RuntimeError("broken"), self.now)
            self.told += self.queue.expired()

    @precondition(lambda self: self.tickets)
    @rule(which=st.integers(0, 50))
    def leave(self, which: int) -> None:
        one = self.tickets[which % len(self.tickets)]
        if one not in self.told:
            self.cancelled.add(one.caller)
        self.queue.cancel(one)

    @rule()
    def wait(self) -> None:
        self.now += 1.0

    @invariant()
    def counts_are_right(self) -> None:
        if hasattr(self, "queue"):
            waiting = [one for one in self.tickets if not one.ended and one.left]
            tokens = sum(one.lengths[row] for one in waiting for row in one.left)
            assert (self.queue.waiting, self.queue.tokens) == (len(waiting), tokens)

    def teardown(self) -> None:
        if not hasattr(self, "queue"):
            return
        while self.queue.waiting or self.running:
            while self.running:
                self.finish(0)
            self.take()
        assert self.queue.take(self.now, 1) is None and self.queue.tokens == self.queue.waiting == 0
        self.told += self.queue.expired()
        callers = [one.caller for one in self.told]
        assert sorted([*callers, *self.cancelled]) == list(range(len(self.tickets)))  # each exactly once
        for one in self.told:
            assert (one.values is None) == (one.error is not None) and one.ended
            if one.error is None:
                wanted = [[1000 * one.caller + at, length] for at, length in enumerate(one.lengths)]
                np.testing.assert_array_equal(one.values, wanted)
            else:
                assert isinstance(one.error, Expired | BackendError)


TestLife = Life.TestCase
TestLife.settings = settings(max_examples=60, stateful_step_count=25, deadline=None)


@pytest.mark.parametrize("kind", packers())
def test_one_text_behind_a_thousand_waits_for_one_run(kind: str) -> None:
    queue = Queue(packers()[kind], max_tokens=10**6)
    for name, texts in enumerate((1000, 1, 1000, 1)):
        queue.add(ticket(name, [5] * texts))
    runs = drain(queue)
    first = {name: next(at for at, run in enumerate(runs) if name in dict(run)) for name in range(4)}
    assert first[0] == 0 and first[1] <= 1 and first[2] <= 2 and first[3] <= 3
    assert sorted(row for run in runs for row in run) == [
        (name, row) for name, texts in enumerate((1000, 1, 1000, 1)) for row in range(texts)
    ]


def test_short_texts_of_many_requests_share_a_run() -> None:
    queue = Queue(packers()["padded"], max_tokens=10**6)
    for name, length in enumerate((2, 12, 2, 12, 2)):
        queue.add(ticket(name, [length]))
    assert drain(queue) == [[(0, 0), (2, 0), (4, 0)], [(1, 0), (3, 0)]]


def test_what_has_no_room_is_refused_save_by_an_empty_queue() -> None:
    queue = Queue(packers()["alone"], max_tokens=100)
    assert queue.add(ticket(0, [500]))
    assert not queue.add(ticket(1, [1]))
    assert queue.take(0.0, 1) is not None and queue.tokens == 0
    assert queue.add(ticket(2, [60])) and queue.add(ticket(3, [40])) and not queue.add(ticket(4, [1]))


@pytest.mark.parametrize(("threads", "wanted"), [(1, 30.0), (2, 15.0), (100, 1.0)])
def test_come_again_when_what_waits_is_done(threads: int, wanted: float) -> None:
    queue = Queue(packers()["alone"], max_tokens=1000, threads=threads)
    queue.add(ticket(0, [300]))
    assert queue.retry_after() == 1.0  # nothing is known
    for _ in range(3):
        queue.ran(100, 10.0)
    assert queue.retry_after() == pytest.approx(wanted)
    for _ in range(100):  # slower now
        queue.ran(1, 10.0)
    assert queue.retry_after() == pytest.approx(60.0 if threads < 100 else 30.0, rel=0.1)


def test_who_would_wait_beyond_half_of_its_time_is_told_at_once() -> None:
    queue = Queue(packers()["alone"], max_tokens=10_000)
    queue.ran(100, 1.0)
    assert queue.add(ticket(0, [300], deadline=1.0))  # nothing waits
    assert queue.wait() == pytest.approx(3.0)
    assert not queue.add(ticket(1, [1], deadline=5.9)) and queue.add(ticket(2, [1], deadline=6.1))
    assert queue.add(ticket(3, [1]))
