"""Accepts connections and hands each to the worker that has the fewest open.

Workers that accept from one socket take what they can: of 8 connections one of two workers had 8, 8 and 6. A connection
that is handed over waits about a tenth of a millisecond longer once, and each of its requests finds an even load.
"""

import socket
import time
from contextlib import suppress

from serve.launch.board import CLOSED, Board
from serve.launch.door import AT_ONCE, hand, receive

EMPTY, MORE, STUCK = range(3)  # nobody waits any longer; perhaps somebody does; nobody could be taken now


class Spread:
    def __init__(self, workers: int) -> None:
        pairs = [socket.socketpair() for _ in range(workers)]
        for end in (end for pair in pairs for end in pair):
            end.setblocking(False)
        # Both ends stay open here: what a worker that died had not taken is not lost with it.
        self.ends = [ours for ours, _ in pairs]
        self.workers_ends = [theirs for _, theirs in pairs]
        self.board = Board(workers)
        self.ready = [False] * workers
        self._handed = [0] * workers
        self._last = 0
        self._held: socket.socket | None = None  # accepted, and every queue was full

    def open(self, worker: int) -> int:
        """Connections that a worker has, with those on their way to it."""
        return self._handed[worker] - self.board.get(worker, CLOSED)

    def accept(self, listening: socket.socket) -> int:
        """Take callers, AT_ONCE at most."""
        for _ in range(AT_ONCE):
            if not any(self.ready):
                return STUCK
            try:
                self._held = self._held or listening.accept()[0]
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return EMPTY
            except OSError:  # too many open files
                return STUCK
            if not self.give(self._held):
                return STUCK
            self._held = None
        return MORE

    def accept_rest(self, listening: socket.socket, seconds: float = 5.0) -> None:
        """All that wait: closing a port resets the connections in its queue."""
        until = time.monotonic() + seconds
        while (left := self.accept(listening)) != EMPTY and any(self.ready) and time.monotonic() < until:
            time.sleep(0.01 if left == STUCK else 0)

    def give(self, connection: socket.socket) -> bool:
        """To the ready worker with the fewest connections, in turn where several have; False where none takes it."""
        count = len(self.ready)
        ready = [worker for worker in range(count) if self.ready[worker]]
        for worker in sorted(ready, key=lambda worker: (self.open(worker), (worker - self._last - 1) % count)):
            if hand(self.ends[worker], connection):
                self._handed[worker] += 1
                self._last = worker
                connection.close()  # the worker has its own descriptor of it
                return True
        return False

    def greeted(self, worker: int) -> None:
        """A worker has said that it is ready."""
        self.ends[worker].recv(1)
        self.ready[worker] = True

    def died(self, worker: int) -> None:
        """Its connections are gone; those that it had not taken yet go to others, or wait for its replacement."""
        self.ready[worker] = False
        waiting = list[socket.socket]()
        while handed := receive(self.workers_ends[worker]):
            waiting += handed
        with suppress(BlockingIOError):
            self.ends[worker].recv(1)  # a "ready" that nobody had read
        self._handed[worker] = self.board.get(worker, CLOSED)
        for connection in waiting:
            if not self.give(connection) and hand(self.ends[worker], connection):
                self._handed[worker] += 1
                connection.close()

    def close(self) -> None:
        for end in (*self.ends, *self.workers_ends, *filter(None, [self._held])):
            end.close()
