"""The parent of several workers: hands out connections, replaces workers that end, and ends them all when told to."""

import logging
import selectors
import signal
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from serve.errors import BantamError
from serve.launch.board import BEATS
from serve.launch.process import Process, Starter
from serve.launch.server import GRACE
from serve.launch.spread import STUCK, Spread

TRIES = 5  # ends of a worker in a row, each before it was ready
PAUSE = 0.1  # seconds after the first of them; twice as long after each further one
STUCK_PAUSE = 0.05  # seconds before callers are tried again whom nobody could take
BEAT = 1.0  # seconds between two looks at whether workers live
HUNG = 30  # looks in a row at which a worker's event loop had not moved
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)  # each means: stop

log = logging.getLogger("bantam.serve")


@dataclass
class Seat:
    """A worker's place, which its replacement takes."""

    process: Process | None = None
    ends: int = 0  # in a row, before it was ready
    start_at: float = 0.0  # when to start the next process
    beats: int = 0
    missed: int = 0


class Supervisor:
    def __init__(self, starter: Starter, spread: Spread, port: socket.socket, opened: Callable[[], None]) -> None:
        """`port` is bound; `opened`, called when workers are ready, listens on it."""
        self._starter, self._spread, self._port, self._opened = starter, spread, port, opened
        self._seats = [Seat() for _ in spread.ready]
        self._selector = selectors.DefaultSelector()
        self._bell, self._ringer = socket.socketpair()  # signals come as bytes
        self._listening = False
        self._accept_at = 0.0
        self._beat_at = time.monotonic() + BEAT
        self._stopping = False

    def run(self) -> None:
        """Until a signal says stop. BantamError: a worker ends again and again before it is ready."""
        for end in (self._bell, self._ringer):
            end.setblocking(False)
        before: dict[int, Any] = {
            number: signal.signal(number, lambda *_: None) for number in (*SIGNALS, signal.SIGCHLD)
        }
        wakeup = signal.set_wakeup_fd(self._ringer.fileno(), warn_on_full_buffer=False)
        self._selector.register(self._bell, selectors.EVENT_READ, self._hear)
        for index, end in enumerate(self._spread.ends):
            self._selector.register(end, selectors.EVENT_READ, lambda index=index: self._greet(index))
        try:
            while not self._stopping:
                self._start_due()
                for key, _ in self._selector.select(self._accept_or_wait()):
                    key.data()
                self._check_beats()
        finally:
            self._end()
            signal.set_wakeup_fd(wakeup)
            for number, handler in before.items():
                signal.signal(number, handler)
            self._selector.close()
            self._bell.close()
            self._ringer.close()

    def _accept_or_wait(self) -> float:
        """Seconds to sleep at most. Callers wait in the port's own queue while nobody can take them."""
        now = time.monotonic()
        wanted = self._listening and any(self._spread.ready) and now >= self._accept_at
        if wanted != (self._port in self._selector.get_map()):
            if wanted:
                self._selector.register(self._port, selectors.EVENT_READ, self._accept)
            else:
                self._selector.unregister(self._port)
        due = [seat.start_at for seat in self._seats if seat.process is None]
        return max(0.0, min([self._beat_at, *due, *([self._accept_at] if self._accept_at > now else [])]) - now)

    def _accept(self) -> None:
        if self._spread.accept(self._port) == STUCK:
            self._accept_at = time.monotonic() + STUCK_PAUSE

    def _greet(self, index: int) -> None:
        self._spread.greeted(index)
        self._seats[index].ends = 0
        self._open_once()

    def _open_once(self) -> None:
        """Not for the first worker alone, who would have all callers for good; but one that fails is not waited for."""
        tried = all(ready or seat.ends for ready, seat in zip(self._spread.ready, self._seats, strict=True))
        if tried and any(self._spread.ready) and not self._listening:
            self._opened()
            self._listening = True

    def _hear(self) -> None:
        numbers = self._bell.recv(4096)
        if any(number in SIGNALS for number in numbers):
            self._stopping = True
        elif signal.SIGCHLD in numbers:
            for index in self._ended():
                self._replace(index)

    def _ended(self) -> list[int]:
        return [index for index, seat in enumerate(self._seats) if seat.process and seat.process.poll() is not None]

    def _replace(self, index: int) -> None:
        seat = self._seats[index]
        assert seat.process
        status, was_ready = seat.process.poll(), self._spread.ready[index]
        self._spread.died(index)
        seat.process = None
        seat.ends = 0 if was_ready else seat.ends + 1
        log.error("worker %d ended with %s and is replaced", index, status)
        if seat.ends == TRIES:
            raise BantamError(f"a worker ended {TRIES} times before it was ready, at last with {status}; see above")
        self._open_once()
        seat.start_at = time.monotonic() + (PAUSE * 2 ** (seat.ends - 1) if seat.ends else 0)

    def _start_due(self) -> None:
        for index, seat in enumerate(self._seats):
            if seat.process is None and time.monotonic() >= seat.start_at:
                seat.beats = seat.missed = 0
                seat.process = self._starter.start(index, close=(self._port, self._bell, self._ringer, self._selector))

    def _check_beats(self) -> None:
        """A worker whose event loop stands still answers nobody, and is ended."""
        if time.monotonic() < self._beat_at:
            return
        self._beat_at = time.monotonic() + BEAT
        for index, seat in enumerate(self._seats):
            beats = self._spread.board.get(index, BEATS)
            seat.missed = seat.missed + 1 if self._spread.ready[index] and beats == seat.beats else 0
            seat.beats = beats
            if seat.missed >= HUNG and seat.process:
                log.error("worker %d has stood still for %g s and is ended", index, HUNG * BEAT)
                seat.process.send_signal(signal.SIGKILL)

    def _end(self) -> None:
        """No new callers; those that have come are answered within GRACE."""
        if self._listening:
            self._spread.accept_rest(self._port)
        self._port.close()
        processes = [seat.process for seat in self._seats if seat.process]
        for process in processes:
            process.send_signal(signal.SIGTERM)
        until = time.monotonic() + GRACE + 5
        while any(process.poll() is None for process in processes):
            if time.monotonic() > until:
                log.error("workers that did not end are killed")
                for process in processes:
                    process.send_signal(signal.SIGKILL)
                until = float("inf")
            time.sleep(0.01)
        self._spread.close()
