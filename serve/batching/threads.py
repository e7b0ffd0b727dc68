"""Model threads that share one queue."""

import logging
from _thread import LockType, allocate_lock
from collections.abc import Callable
from threading import Thread
from time import perf_counter
from typing import Any

from serve.batching.packing import Packer
from serve.batching.queue import Queue
from serve.batching.ticket import BatchFacts, Run, Ticket
from serve.encode import Encoded
from serve.engines import Logits
from serve.errors import BackendError, NotReady, Overloaded

log = logging.getLogger("bantam.serve")


class Batcher:
    """Answers requests with a model, several a run where that pays. All of it may be called from any thread.

    `run` answers texts in one run as they are given, from several threads at once; see `Session.run`. `done` is told,
    from a model thread, of tickets that have ended, all of a run's together; of cancelled ones it is told nothing.
    `observe` is told of each run. Nobody waits for company: a free thread takes what is there.
    """

    def __init__(
        self,
        run: Callable[[Encoded], Logits],
        *,
        packer: Packer,
        done: Callable[[list[Ticket]], None],
        max_queued_tokens: int,
        threads: int = 1,
        observe: Callable[[BatchFacts], None] | None = None,
    ) -> None:
        self._model, self.packer, self._done, self._observe = run, packer, done, observe
        self._queue = Queue(packer, max_tokens=max_queued_tokens, threads=threads)
        self._most = max_queued_tokens
        self._lock = allocate_lock()
        self._asleep: list[LockType] = []  # a lock for each thread that sleeps, released by whoever wakes it
        self._closing, self._free = False, threads  # threads that have no run
        self._threads = [Thread(target=self._serve, name=f"model-{at}", daemon=True) for at in range(threads)]
        for thread in self._threads:
            thread.start()

    @property
    def queued_tokens(self) -> int:
        """Tokens that no run has taken yet."""
        return self._queue.tokens

    @property
    def waiting(self) -> int:
        """Requests that have such."""
        return self._queue.waiting

    @property
    def idle(self) -> int:
        """Threads that sleep: what is submitted now is run at once."""
        return len(self._asleep)

    def submit(self, encoded: Encoded, caller: Any = None, *, deadline: float | None = None) -> Ticket:
        """A ticket that knows its `caller`. `deadline` in seconds of time.perf_counter(): what has not started then
        never will, and the ticket ends with Expired.

        Raises Overloaded where the queue has no room, NotReady after `close`.
        """
        lengths = encoded.lengths()
        assert lengths, "a request has texts"
        ticket = Ticket(caller, None, None, 0.0, 0.0, encoded, lengths, deadline, perf_counter())
        ticket.left, ticket.tokens = list(range(len(lengths))), sum(lengths)
        with self._lock:
            if self._closing:
                raise NotReady("the service is shutting down")
            if not self._queue.add(ticket):
                raise self._overloaded()
            gate = self._asleep.pop() if self._asleep else None
        if gate is not None:
            gate.release()
        return ticket

    def check_room(self, deadline: float | None) -> None:
        """Overloaded where `submit` would surely refuse: to be asked before texts are turned into tokens."""
        if self._queue.full(1, perf_counter(), deadline):
            raise self._overloaded()

    def _overloaded(self) -> Overloaded:
        after = self._queue.retry_after()
        waiting = f"{self._queue.tokens} tokens of at most {self._most} wait"
        return Overloaded(f"the model is overloaded: {waiting}; try again in {after:.0f} s", retry_after=after)

    def cancel(self, ticket: Ticket) -> None:
        """What has not started never will. `done` may still be told where the ticket ends at this moment."""
        with self._lock:
            self._queue.cancel(ticket)

    def close(self) -> None:
        """Answer what was admitted, then end the threads. Waits for that."""
        with self._lock:
            self._closing, asleep, self._asleep = True, self._asleep, []
        for gate in asleep:
            gate.release()
        for thread in self._threads:
            thread.join()

    def _serve(self) -> None:
        gate, run = allocate_lock(), None
        gate.acquire()
        while True:
            with self._lock:
                self._free += run is not None
                run = self._queue.take(perf_counter(), self._free)
                self._free -= run is not None
                expired = self._queue.expired()
                closing = self._closing
                if run is None and not closing:
                    self._asleep.append(gate)
                other = self._asleep.pop() if run and self._queue.waiting and self._asleep else None
            if other is not None:
                other.release()
            if expired:
                self._tell(expired)
            if run is not None:
                self._answer(run)
            elif closing:
                return
            else:
                gate.acquire()  # until it is woken

    def _answer(self, run: Run) -> None:
        start = perf_counter()
        try:
            values = self._model(run.encoded())
            if len(values) != run.texts:
                raise BackendError(f"the model gave {len(values)} answers to {run.texts} texts")
        except Exception as error:  # a thread that ended with it would leave all others waiting
            self._failed(run, error)
            return
        end = perf_counter()
        with self._lock:
            ended = self._queue.finish(run, values, end)
            self._queue.ran(run.tokens, end - start)
        if ended:
            self._tell(ended)
        if self._observe is not None:
            padded = self.packer.padded(run.longest, run.texts, run.tokens)
            self._tell_of(BatchFacts(run.tokens, padded, run.texts, end - start))

    def _failed(self, run: Run, error: Exception) -> None:
        """The request that broke it ends; others that shared its run are answered."""
        if len(run.parts) > 1:
            log.warning("a run of %d requests failed and each is run alone: %r", len(run.parts), error)
            for one in run.alone():
                self._again(one)
            return
        with self._lock:
            ended = self._queue.fail(run, error, perf_counter())
        if ended:
            self._tell(ended)

    def _again(self, run: Run) -> None:
        with self._lock:
            known = self._queue.still(run, perf_counter())
            expired = self._queue.expired()
        if expired:
            self._tell(expired)
        if known:
            self._answer(run)

    def _tell(self, ended: list[Ticket]) -> None:
        try:
            self._done(ended)
        except Exception:  # the same reason
            log.exception("%d answers could not be delivered", len(ended))

    def _tell_of(self, facts: BatchFacts) -> None:
        assert self._observe is not None
        try:
            self._observe(facts)
        except Exception:
            log.exception("a run could not be counted")
