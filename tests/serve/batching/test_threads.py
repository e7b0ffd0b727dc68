"""Model threads, with a model that waits where the test wants it to."""

import random
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from serve.batching import Batcher, BatchFacts, Ticket
from serve.encode import Encoded
from serve.engines import Logits
from serve.errors import BackendError, Expired, NotReady, Overloaded
from tests.serve.batching.asked import answers, encoded, packers

PATIENCE = 60.0  # seconds until a test gives up; none waits for it to pass


class Told:
    """What `done` was told."""

    def __init__(self) -> None:
        self.calls: list[list[int]] = []
        self.tickets: dict[int, Ticket] = {}
        self._came = threading.Condition()

    def __call__(self, ended: list[Ticket]) -> None:
        with self._came:
            self.calls.append([one.caller for one in ended])
            for one in ended:
                assert one.caller not in self.tickets, "told twice"
                self.tickets[one.caller] = one
            self._came.notify_all()

    def wait(self, count: int) -> None:
        with self._came:
            assert self._came.wait_for(lambda: len(self.tickets) >= count, PATIENCE)


class Model:
    """Answers while `open` is set; `asked` has the requests of each run, and `busy` a permit for each run begun."""

    def __init__(self) -> None:
        self.open, self.busy = threading.Event(), threading.Semaphore(0)
        self.open.set()
        self.asked: list[list[int]] = []
        self.broken: set[int] = set()

    def __call__(self, asked: Encoded) -> Logits:
        self.asked.append([int(row[0]) // 1000 for row in asked.ids])
        self.busy.release()
        assert self.open.wait(PATIENCE)
        if self.broken & set(self.asked[-1]):
            raise RuntimeError("this text breaks it")
        return answers(asked)


Make = Callable[..., Batcher]


@pytest.fixture
def told() -> Told:
    return Told()


@pytest.fixture
def model() -> Model:
    return Model()


@pytest.fixture
def make(told: Told, model: Model) -> Iterator[Make]:
    made: list[Batcher] = []

    def one(kind: str = "ragged", **fields: Any) -> Batcher:
        fields = {"packer": packers()[kind], "done": told, "max_queued_tokens": 10**6, **fields}
        made.append(Batcher(fields.pop("run", model), **fields))
        return made[-1]

    yield one
    model.open.set()
    for one_made in made:
        one_made.close()


def held(batcher: Batcher, model: Model) -> None:
    """Its one thread in a run of request 0, which ends when the model is opened."""
    model.open.clear()
    batcher.submit(encoded(0, [2]), 0)
    assert model.busy.acquire(timeout=PATIENCE)


@pytest.mark.parametrize("kind", packers())
@pytest.mark.parametrize("threads", [1, 3])
def test_every_request_gets_its_answers_in_order(make: Make, told: Told, kind: str, threads: int) -> None:
    facts: list[BatchFacts] = []
    batcher = make(kind, threads=threads, observe=facts.append)
    rng = random.Random(0)
    asked = {name: [rng.randint(2, 30) for _ in range(rng.choice([1, 1, 1, 20]))] for name in range(120)}

    def client(first: int) -> None:
        for name in range(first, 120, 4):
            batcher.submit(encoded(name, asked[name]), name)

    clients = [threading.Thread(target=client, args=(first,)) for first in range(4)]
    for one in clients:
        one.start()
    for one in clients:
        one.join()
    batcher.close()
    assert told.tickets.keys() == asked.keys() and batcher.queued_tokens == batcher.waiting == 0
    for name, lengths in asked.items():
        one = told.tickets[name]
        assert one.error is None and one.queued >= 0 and one.inference > 0
        np.testing.assert_array_equal(one.values, [[1000 * name + at, length] for at, length in enumerate(lengths)])
    assert sum(one.texts for one in facts) == sum(map(len, asked.values()))
    assert sum(one.tokens for one in facts) == sum(map(sum, asked.values()))
    assert all(one.padded_tokens >= one.tokens and one.seconds > 0 for one in facts)


def test_a_free_thread_takes_one_text_at_once_and_then_all_that_came(make: Make, told: Told, model: Model) -> None:
    batcher = make()
    held(batcher, model)
    for name in (1, 2, 3):
        batcher.submit(encoded(name, [4]), name)
    assert (batcher.queued_tokens, batcher.waiting, model.asked) == (12, 3, [[0]])
    model.open.set()
    told.wait(4)
    assert model.asked == [[0], [1, 2, 3]] and told.calls == [[0], [1, 2, 3]]


@pytest.mark.parametrize("kind", packers())
def test_a_large_request_is_spread_over_all_threads(make: Make, told: Told, kind: str) -> None:
    together = threading.Barrier(4)

    def run(asked: Encoded) -> Logits:
        together.wait(PATIENCE)
        return answers(asked)

    batcher = make(kind, threads=4, run=run)
    batcher.submit(encoded(7, [12] * 4), 7)
    told.wait(1)
    np.testing.assert_array_equal(told.tickets[7].values, [[7000 + at, 12] for at in range(4)])


def test_a_thread_without_work_sleeps(make: Make, told: Told, monkeypatch: pytest.MonkeyPatch) -> None:
    looked: list[int] = []
    batcher = make(threads=2)
    take = batcher._queue.take
    monkeypatch.setattr(batcher._queue, "take", lambda *given: [looked.append(1), take(*given)][1])
    batcher.submit(encoded(1, [2]), 1)
    told.wait(1)
    time.sleep(0.05)
    assert len(looked) <= 4  # one thread for the request and once more after it; the other was not woken


def test_what_came_too_late_is_never_run(make: Make, told: Told, model: Model) -> None:
    batcher = make()
    held(batcher, model)
    batcher.submit(encoded(1, [2, 2]), 1, deadline=time.perf_counter())
    batcher.submit(encoded(2, [2]), 2, deadline=time.perf_counter() + 3600)
    model.open.set()
    told.wait(3)
    assert isinstance(told.tickets[1].error, Expired) and told.tickets[1].values is None
    assert told.tickets[2].error is None and model.asked == [[0], [2]]


def test_what_was_given_up_is_neither_run_nor_told(make: Make, told: Told, model: Model) -> None:
    batcher = make()
    held(batcher, model)
    left = batcher.submit(encoded(1, [9]), 1)
    batcher.submit(encoded(2, [2]), 2)
    batcher.cancel(left)
    batcher.cancel(left)
    assert (batcher.queued_tokens, batcher.waiting) == (2, 1)
    model.open.set()
    told.wait(2)
    batcher.cancel(told.tickets[2])  # too late, and no harm
    assert told.tickets.keys() == {0, 2} and model.asked == [[0], [2]]


def test_a_request_that_breaks_the_model_fails_alone(
    make: Make, told: Told, model: Model, caplog: pytest.LogCaptureFixture
) -> None:
    batcher = make()
    held(batcher, model)
    model.broken = {2}
    for name in (1, 2, 3):
        batcher.submit(encoded(name, [2]), name)
    model.open.set()
    told.wait(4)
    assert model.asked == [[0], [1, 2, 3], [1], [2], [3]]
    error = told.tickets[2].error
    assert isinstance(error, BackendError) and "this text breaks it" in str(error.__cause__)
    assert "breaks" not in str(error) and "a run of 3 requests failed" in caplog.text
    for name in (1, 3):
        np.testing.assert_array_equal(told.tickets[name].values, [[1000 * name, 2]])


def test_a_wrong_number_of_answers_is_an_error(make: Make, told: Told) -> None:
    batcher = make(run=lambda asked: np.zeros((7, 2), np.float32))
    batcher.submit(encoded(1, [2]), 1)
    told.wait(1)
    assert isinstance(told.tickets[1].error, BackendError) and "7 answers to 1 texts" in str(told.tickets[1].error)


def test_threads_outlive_whoever_is_told(make: Make, told: Told, caplog: pytest.LogCaptureFixture) -> None:
    def done(ended: list[Ticket]) -> None:
        told(ended)
        raise RuntimeError("the loop is closed")

    def observe(facts: BatchFacts) -> None:
        raise RuntimeError("no metrics")

    batcher = make(done=done, observe=observe)
    for name in range(3):
        batcher.submit(encoded(name, [2]), name)
        told.wait(name + 1)
    batcher.close()
    assert "the loop is closed" in caplog.text and "no metrics" in caplog.text


def test_a_full_queue_says_when_to_come_again(make: Make, told: Told, model: Model) -> None:
    batcher = make(max_queued_tokens=10)
    held(batcher, model)
    batcher.submit(encoded(1, [8]), 1)
    with pytest.raises(Overloaded, match="8 tokens of at most 10 wait; try again in 1 s") as caught:
        batcher.submit(encoded(2, [3]), 2)
    assert caught.value.retry_after == 1.0
    model.open.set()
    told.wait(2)
    batcher.submit(encoded(3, [300]), 3)  # more than all of it
    told.wait(3)


def test_closing_answers_what_was_admitted(make: Make, told: Told, model: Model) -> None:
    batcher = make(threads=1)
    held(batcher, model)
    for name in range(1, 30):
        batcher.submit(encoded(name, [12]), name)
    closing = threading.Thread(target=batcher.close)
    closing.start()
    while not batcher._closing:
        time.sleep(0.001)
    with pytest.raises(NotReady, match="shutting down"):
        batcher.submit(encoded(30, [2]), 30)
    model.open.set()
    closing.join(PATIENCE)
    assert told.tickets.keys() == set(range(30)) and all(one.error is None for one in told.tickets.values())
    batcher.close()
