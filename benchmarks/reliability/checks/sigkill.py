"""One of two workers is killed while both answer."""

from __future__ import annotations

import os
import signal
import time
from contextlib import suppress
from dataclasses import dataclass, field
from threading import Event, Thread

import numpy as np

from benchmarks.http import BadAnswer
from benchmarks.peers.load import Driver
from benchmarks.reliability.judge import Found, found, row
from benchmarks.reliability.load import Load, Plan, Sent
from benchmarks.reliability.outcome import FIRST_STATUS
from benchmarks.reliability.service import Counted, Place, Service, fallen

SECONDS = 5.0  # of load before the kill
CLIENTS = 16
AGAIN_WITHIN = 2.0  # seconds
PATIENCE = 60.0  # seconds for the replacement
EVERY = 0.05  # seconds


@dataclass
class Watch:
    """Reads the counters every so often, and keeps what went back."""

    service: Service
    back: list[str] = field(default_factory=list)
    reads: int = 0
    unanswered: int = 0

    def __enter__(self) -> Watch:
        self._stop = Event()
        self._thread = Thread(target=self._read, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _read(self) -> None:
        last: Counted = {}
        while not self._stop.wait(EVERY):
            try:
                now = self.service.counters()
            except (OSError, BadAnswer):  # handed to the worker that was killed
                self.unanswered += 1
                continue
            self.reads += 1
            self.back += fallen(last, now)
            last = now


def check(place: Place) -> Found:
    seconds, plain = place.seconds or SECONDS, place.plain()
    with place.start(2, {}) as service:
        load = Load(service.port, Plan(plain, clients=CLIENTS), place.scratch)
        with load, Watch(service) as watch:
            time.sleep(seconds)
            before, owners = service.pids(), service.owners()
            workers = {pid: ports for pid, ports in owners.items() if pid != service.root.pid}
            if len(workers) < 2:
                raise ValueError(
                    f"connections are held by {len(workers)} processes besides the first; two workers must"
                )
            victim = max(workers, key=lambda pid: len(workers[pid]))
            killed = time.perf_counter()
            os.kill(victim, signal.SIGKILL)
            again = replaced(service, place.messages[0], before)
            time.sleep(seconds)
            sent = load.stop()
        ended = service.ended()
    return judged(sent, killed, workers[victim], again, watch, victim, ended)


def replaced(service: Service, message: bytes, before: set[int]) -> tuple[int, float] | None:
    """The process that answers in the killed one's place, and when it had; None if there is none in time."""
    until = time.perf_counter() + PATIENCE
    while time.perf_counter() < until:
        with suppress(OSError, BadAnswer), Driver(service.port, 1) as driver:
            driver.ask(message)
            answered = time.perf_counter()
            port = driver.connections[0].wire.getsockname()[1]
            for pid, ports in service.owners().items():
                if port in ports and pid not in before:
                    return pid, answered
        time.sleep(EVERY)
    return None


def judged(
    sent: Sent,
    killed: float,
    ports: set[int],
    again: tuple[int, float] | None,
    watch: Watch,
    victim: int,
    ended: int | None,
) -> Found:
    """`ports`: the clients' ends of the killed worker's connections; `again`: its replacement, and when it answered."""
    # The sender was stopped with requests under way, which nobody lost.
    wrong = (sent.status < FIRST_STATUS) & (sent.done < sent.ended - 0.1) | (sent.status >= 400)
    there = np.isin(sent.ports, list(ports)) & (sent.due < killed + 1.0)
    answers = np.sort(sent.done[sent.good & (sent.done >= killed)])
    gap = float(np.diff(np.concatenate([[killed], answers])).max()) if answers.size else None
    rows = [
        row("requests while it happened", len(sent)),
        row("failed, on connections of the killed worker", int((wrong & there).sum())),
        row("failed, on all others", int((wrong & ~there).sum()), most=0),
        row("longest time without an answer after the kill", gap, "s", most=AGAIN_WITHIN),
        row("until its replacement answered", again[1] - killed if again else None, "s", most=AGAIN_WITHIN),
        row("counters that went back", len(watch.back), most=0),
        row("times that counters were read", watch.reads, least=2),
        row("the service ended by itself", int(ended is not None), most=0),
    ]
    pids = {"killed": victim, "replacement": again[0] if again else None}
    more = {"counters_back": watch.back[:20], "counters_unanswered": watch.unanswered}
    return found(rows, statuses=sent.statuses(), **pids, **more)
