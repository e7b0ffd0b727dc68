"""The service is told to end while it answers: what it has taken, it answers."""

from __future__ import annotations

import socket
import time
from threading import Event, Thread

import numpy as np

from benchmarks.http import HOST
from benchmarks.reliability.judge import Found, Row, found, row
from benchmarks.reliability.load import Load, Plan, Sent, send
from benchmarks.reliability.outcome import FIRST_STATUS
from benchmarks.reliability.service import Place

SECONDS = 5.0  # of load before the signal
WITHIN = 60.0  # seconds to end
CLIENTS = 8
SHARE = 0.5  # of what a closed loop gets, for the open loop beside it
SETTLE = 0.2  # seconds in which clients see that their connections are gone


class Door:
    """Knocks on a port every few milliseconds until it is closed; `open_until` is the last time at which it was not."""

    def __init__(self, port: int) -> None:
        self.port, self.open_until, self._stop = port, 0.0, Event()
        self._thread = Thread(target=self._knock, daemon=True)

    def __enter__(self) -> Door:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _knock(self) -> None:
        while not self._stop.is_set():
            begun = time.perf_counter()
            try:
                socket.create_connection((HOST, self.port), timeout=1).close()
            except ConnectionRefusedError:
                return
            except OSError:
                continue
            self.open_until = begun
            time.sleep(0.002)


def check(place: Place) -> Found:
    rows, statuses = list[Row](), dict[str, dict[str, int]]()
    for workers in (1, 2):
        more, counts = _round(place, workers)
        rows, statuses = rows + more, statuses | counts
    return found(rows, statuses=statuses)


def _round(place: Place, workers: int) -> tuple[list[Row], dict[str, dict[str, int]]]:
    seconds, plain = place.seconds or SECONDS, place.plain()
    with place.start(workers, {}) as service:
        rate = send(service.port, Plan(plain, clients=CLIENTS, seconds=max(0.5, seconds / 5)), place.scratch).rate()
        closed = Plan(plain, clients=CLIENTS, leave=True)
        opened = Plan(plain, phases=((max(1.0, rate * SHARE), seconds + WITHIN),))
        with Load(service.port, closed, place.scratch) as first, Load(service.port, opened, place.scratch) as second:
            time.sleep(seconds)
            with Door(service.port) as door:
                signalled = time.perf_counter()
                code, took = service.end(WITHIN)
                time.sleep(SETTLE)
            loads = {"closed loop": first.stop(), "open loop": second.stop()}
    many = "1 worker" if workers == 1 else f"{workers} workers"
    return judged(loads, max(signalled, door.open_until), code, took, many)


def judged(
    loads: dict[str, Sent], until: float, code: int | None, took: float, title: str
) -> tuple[list[Row], dict[str, dict[str, int]]]:
    """`until`: the last time at which the port was open; what was sent before that must have an answer."""
    rows, statuses = list[Row](), dict[str, dict[str, int]]()
    for name, sent in loads.items():
        owed = ~np.isnan(sent.sent) & (sent.sent < until)
        lost = int((owed & (sent.status < FIRST_STATUS)).sum())
        bad = int((owed & (sent.status >= 500) & (sent.status != 503)).sum())
        rows.append(row(f"{title}, {name}: sent before the port closed", int(owed.sum()), "requests", least=1))
        rows.append(row(f"{title}, {name}: of these without an answer", lost, most=0))
        rows.append(row(f"{title}, {name}: of these 5xx but 503", bad, most=0))
        statuses[f"{title}, {name}"] = sent.statuses()
    rows.append(row(f"{title}: exit code", code, least=0, most=0))
    rows.append(row(f"{title}: until it had ended", took, "s", most=WITHIN))
    return rows, statuses
