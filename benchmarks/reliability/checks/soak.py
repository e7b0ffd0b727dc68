"""Very many requests: what memory and latency come to."""

from __future__ import annotations

import time

import numpy as np

from benchmarks.reliability.figures import latencies, slope
from benchmarks.reliability.judge import Found, found, row
from benchmarks.reliability.load import Load, Plan, Sent
from benchmarks.reliability.service import Place, cores

CLIENTS = 16
WARM = 0.2  # of the requests, in which pools and caches fill
SAMPLES = 200  # of memory over the soak, at least every few seconds
EVERY = (0.05, 5.0)  # seconds between them, at least and at most
PER = 100_000  # requests that the slope is for
FLAT = 1e6  # bytes a PER requests
NOISE = 4e6  # bytes in all: what an allocator and a page cache may do without a leak
SHARE = 0.05  # of the requests, at the start and at the end, whose p99 are compared


def check(place: Place) -> Found:
    with place.start(cores(), place.keyed()) as service:
        plan = Plan(place.plain(), clients=CLIENTS, count=place.requests)
        at, memory, pause = list[float](), list[float](), EVERY[0]
        before = service.cpu()
        with Load(service.port, plan, place.scratch) as load:
            begun = time.perf_counter()
            while load.running():
                at.append(time.perf_counter())
                memory.append(float(service.memory()))
                # More seldom the longer it takes: SAMPLES or so, whatever the speed.
                pause = min(EVERY[1], max(EVERY[0], (time.perf_counter() - begun) / SAMPLES * 4))
                _sleep(pause, load)
            sent = load.wait()
        cpu = service.cpu() - before
    return judged(sent, np.array(at), np.array(memory), cpu / max(1, len(sent)) * 1e6)


def judged(sent: Sent, at: np.ndarray, memory: np.ndarray, cpu: float) -> Found:
    """`memory` in bytes at the times `at`; `cpu` the server's microseconds a request."""
    during = at <= sent.done.max() if len(sent) else np.zeros(len(at), dtype=bool)
    at, memory = at[during], memory[during]
    answered = np.searchsorted(np.sort(sent.done), at).astype(np.float64)
    late = answered >= WARM * len(sent)
    line = slope(answered[late] / PER, memory[late])
    span = float(np.ptp(answered[late])) / PER if late.any() else 0.0
    part = max(1, int(SHARE * len(sent)))
    took = (sent.done - sent.due)[sent.good]
    first, last = latencies(took[:part])["p99"], latencies(took[-part:])["p99"]
    rows = [
        row("requests", len(sent)),
        row("not answered with 200", len(sent) - int(sent.good.sum()), most=0),
        row("good answers", sent.rate(), "requests/s"),
        row("memory, first and last", f"{memory[0] / 1e6:.1f} and {memory[-1] / 1e6:.1f} MB" if len(memory) else None),
        row(f"slope of memory a {PER:,} requests", line.value / 1e6 if line else None, "MB"),
        row("its 95 % interval", f"{line.low / 1e6:.3f} to {line.high / 1e6:.3f} MB" if line else None),
        # The lower end: what is surely there. A short soak cannot tell a leak from noise below NOISE.
        row(
            "surely gained after the warm-up",
            line.low * span / 1e6 if line else None,
            "MB",
            most=max(FLAT * span, NOISE) / 1e6,
        ),
        row("p99 of the first requests", first, "ms"),
        row("p99 of the last, of the first's", last / first if first and last else None, "times", most=2.0),
        row("the sender's CPU, of the server's, a request", sent.client() / cpu if cpu else None, "%", most=1.0),
    ]
    samples = [[int(count), int(size)] for count, size in zip(answered, memory, strict=True)]
    return found(rows, statuses=sent.statuses(), memory_samples=samples, client_us=sent.client(), server_us=cpu)


def _sleep(seconds: float, load: Load) -> None:
    until = time.perf_counter() + seconds
    while load.running() and time.perf_counter() < until:
        time.sleep(0.02)
