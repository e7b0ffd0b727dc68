"""How long the service takes from nothing to ready, and what its workers hold in memory."""

from __future__ import annotations

import tempfile

import numpy as np

from benchmarks.reliability.judge import Found, found, row
from benchmarks.reliability.load import Plan, send
from benchmarks.reliability.service import Place

TIMES = 3
REQUESTS = 300  # a worker, before its memory is measured
READY = 2.0  # seconds
SECOND = 0.5  # of the first worker's memory, for a second one


def check(place: Place) -> Found:
    with place.start(1, {}):
        pass  # so that the cache holds what it can
    warm = [_start(place, {}) for _ in range(TIMES)]
    empty = list[float]()
    for _ in range(TIMES):
        with tempfile.TemporaryDirectory(dir=place.scratch) as folder:
            empty.append(_start(place, {"BANTAM_CACHE": folder}))
    one, two = _memory(place, 1), _memory(place, 2)
    return judged(warm, empty, one, two)


def judged(warm: list[float], empty: list[float], one: float, two: float) -> Found:
    """Seconds of each start; bytes of all processes with one worker and with two."""
    rows = [
        row("start to ready, median", float(np.median(warm)), "s", most=READY),
        row("start to ready, longest", max(warm), "s"),
        row("start to ready with an empty cache, median", float(np.median(empty)), "s"),
        row("memory of one worker", one / 1e6, "MB"),
        row("memory that a second adds", (two - one) / 1e6, "MB"),
        row("memory that a second adds, of the first", (two - one) / one, "%", most=SECOND),
    ]
    return found(rows, warm_seconds=warm, empty_seconds=empty, memory_bytes=[one, two])


def _start(place: Place, variables: dict[str, str]) -> float:
    with place.start(1, variables) as service:
        return service.start_seconds


def _memory(place: Place, workers: int) -> float:
    with place.start(workers, {}) as service:
        send(service.port, Plan(place.plain(), clients=4 * workers, count=REQUESTS * workers), place.scratch)
        return float(service.memory())
