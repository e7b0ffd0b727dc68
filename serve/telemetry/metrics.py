"""What the service counts, in Prometheus' text format."""

import asyncio
import os
import time
from collections import Counter as Counted
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING

import numpy as np

from serve.errors import BantamError, Expired, Overloaded
from serve.telemetry.catalogue import ASKED, COUNTED, ERROR_TYPES, INFO, REASONS, ROUTES, STATUSES
from serve.telemetry.counters import Counters
from serve.telemetry.exposition import page
from serve.telemetry.regions import Regions

if TYPE_CHECKING:
    from serve.batching.ticket import BatchFacts


TOGETHER = 256  # requests that are counted at once
SOON = 0.05  # seconds until then where fewer come: what a killed worker had not counted yet, and others do not see


class Metrics:
    """Everything that the service counts. With `path`, over all workers; `claim` False: to read them only."""

    def __init__(
        self,
        *,
        model: str,
        runtime: str,
        version: str,
        path: Path | None = None,
        workers: int = 1,
        claim: bool = True,
    ) -> None:
        self._counters = counters = Counters(COUNTED, path=path, workers=workers, claim=claim)
        self._common = {"model": model}
        self._info = {"model": model, "runtime": runtime, "version": version}
        self.queued_tokens = counters.gauge("bantam_queued_tokens")
        self.waiting = counters.gauge("bantam_waiting_requests")
        self.in_progress = counters.gauge("bantam_requests_in_progress")
        self._requests = {
            (route, int(status)): counters.counter("bantam_requests_total", route, status)
            for route in ROUTES
            for status in STATUSES[:-1]
        }
        self._seconds = {route: counters.histogram("bantam_request_seconds", route) for route in ROUTES}
        self._errors = {name: counters.counter("bantam_errors_total", name) for name in ERROR_TYPES}
        self._shed = {reason: counters.counter("bantam_shed_total", reason) for reason in REASONS}
        self._expired = counters.counter("bantam_expired_total")
        self._cancelled = counters.counter("bantam_cancelled_total")
        self._texts = counters.counter("bantam_texts_total")
        self._tokens = counters.counter("bantam_tokens_total")
        self._truncated = counters.counter("bantam_truncated_texts_total")
        self._queue = counters.histogram("bantam_queue_seconds")
        self._inference = counters.histogram("bantam_inference_seconds")
        self._request_texts = counters.histogram("bantam_request_texts")
        self._batch_texts = counters.histogram("bantam_batch_texts")
        self._batch_tokens = counters.histogram("bantam_batch_tokens")
        self._padded = counters.counter("bantam_padded_tokens_total")
        self._busy = counters.counter("bantam_model_seconds_total")
        self._cpu = _Processor(counters) if claim else None
        self._lock = Lock()  # of what model threads count
        self._planned = False
        self._answered = list[tuple[str, int, float]]()
        self._computed = list[tuple[int, int, int, float, float]]()
        self._straight = list[tuple[int, int, float]]()

    def answered(self, route: str, status: int, seconds: float) -> None:
        """Any request that got an answer, whatever it was."""
        self._answered.append((route, status, seconds))
        if not self._planned or len(self._answered) >= TOGETHER:
            self._plan()

    def computed(self, *, texts: int, tokens: int, truncated: int, queued: float, inference: float) -> None:
        """What the model did for an answered request."""
        self._computed.append((texts, tokens, truncated, queued, inference))
        if not self._planned:
            self._plan()

    def straight(self, *, tokens: int, texts: int, seconds: float) -> None:
        """A run of a model that needs no thread: counted as `batch`, on the event loop."""
        self._straight.append((tokens, texts, seconds))
        if not self._planned:
            self._plan()

    def flush(self) -> None:
        """Count what was only noted."""
        self._planned = False
        answered, self._answered = self._answered, []
        for (route, status), count in Counted((route, status) for route, status, _ in answered).items():
            counter = self._requests.get((route, status))
            if counter is None:
                counter = self._counters.counter("bantam_requests_total", route, "other")
            counter.inc(count)
        for route in {route for route, _, _ in answered}:
            self._seconds[route].observe_all([seconds for other, _, seconds in answered if other == route])
        if self._computed:
            texts, tokens, truncated, queued, inference = zip(*self._computed, strict=True)
            self._computed = []
            self._texts.inc(sum(texts))
            self._tokens.inc(sum(tokens))
            self._truncated.inc(sum(truncated))
            self._request_texts.observe_all(texts)
            self._queue.observe_all(queued)
            self._inference.observe_all(inference)
        if self._straight:
            tokens, texts, seconds = zip(*self._straight, strict=True)
            self._straight = []
            self._runs(tokens, tokens, texts, seconds)

    def _plan(self) -> None:
        """Together they take 0.4 of the time that each takes alone."""
        if len(self._answered) < TOGETHER:
            with suppress(RuntimeError):  # no event loop
                asyncio.get_running_loop().call_later(SOON, self.flush)
                self._planned = True
                return
        self.flush()

    def failed(self, error: Exception) -> None:
        """An error that was answered; `answered` counts the request."""
        name = error.error_type if isinstance(error, BantamError) else "Backend"
        (self._errors.get(name) or self._errors["other"]).inc()
        if isinstance(error, Overloaded):
            self._shed[error.reason].inc()
        elif isinstance(error, Expired):
            self._expired.inc()

    def cancelled(self) -> None:
        """A client that left before its answer."""
        self._cancelled.inc()

    def batch(self, facts: "BatchFacts") -> None:
        """A run of the model; from any thread."""
        self._runs([facts.tokens], [facts.padded_tokens], [facts.texts], [facts.seconds])

    def _runs(
        self, tokens: Sequence[int], padded: Sequence[int], texts: Sequence[int], seconds: Sequence[float]
    ) -> None:
        with self._lock:
            self._batch_texts.observe_all(texts)
            self._batch_tokens.observe_all(tokens)
            self._padded.inc(sum(padded))
            self._busy.inc(sum(seconds))
            if self._cpu is not None:
                self._cpu.count()

    def text(self) -> bytes:
        """The page for GET /metrics."""
        self.flush()
        with self._lock:
            if self._cpu is not None:
                self._cpu.count(now=True)
        workers = processes(self._counters.regions)
        known = {
            "process_start_time_seconds": self._counters.regions.created,
            "process_resident_memory_bytes": float(sum(map(resident, workers))),
            "bantam_workers": float(len(workers)),
        }
        return (
            page((INFO,), {INFO.name: np.ones((1, 1))}, self._info)
            + page(COUNTED, self._counters.sums(), self._common)
            + page(ASKED, {name: np.full((1, 1), value) for name, value in known.items()}, self._common)
        )

    def close(self) -> None:
        """This worker ends; its place is the next one's."""
        self.flush()
        self._counters.close()


class _Processor:
    """Processor seconds of this worker, on top of what its place's former owner had used."""

    def __init__(self, counters: Counters) -> None:
        self._seconds = counters.gauge("process_cpu_seconds_total")
        self._before = self._seconds.get()
        self._next = 0.0  # to ask takes microseconds, so that it is asked once a second

    def count(self, *, now: bool = False) -> None:
        clock = time.monotonic()
        if now or clock >= self._next:
            self._next = clock + 1.0
            self._seconds.set(self._before + time.process_time())


def processes(regions: Regions) -> list[int]:
    """The workers that run."""
    return [pid for at in range(regions.used) if (pid := regions.process(at))]


def resident(pid: int) -> int:
    """Bytes of memory that a process holds; 0 where the system does not say."""
    try:
        with open(f"/proc/{pid}/statm", "rb") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0
