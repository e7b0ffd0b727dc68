"""Timing: raw samples in, percentiles and rates out.

A *window* is one target's turn: the same texts for every target, passed over until `seconds` have
gone by. Turns go round robin over the targets, so that what drifts (clock rate, neighbours) hits
all of them alike, and ratios are taken within a round, where they are fair.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from serve.encode import Text

PERCENTILES = (50, 90, 99)
WARM = 0.1  # share of a window's time that is run before the clock starts

T = TypeVar("T")


@dataclass(frozen=True)
class Window:
    """What one turn gave. `calls` are the raw samples."""

    calls: list[float]  # seconds of each call
    wall: float  # seconds
    cpu: float  # seconds of CPU, all threads (of the server for HTTP)
    texts: int
    tokenise: float | None  # seconds a text for tokenisation alone; None where it cannot be seen apart

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def window(
    predict: Callable[[Sequence[Text]], Any],
    tokenise: Callable[[Sequence[Text]], Any],
    texts: Sequence[Text],
    *,
    batch: int,
    seconds: float,
) -> Window:
    """Whole passes over `texts` in arrival order, in calls of `batch`, until `seconds` have gone by."""
    calls = [texts[first : first + batch] for first in range(0, len(texts), batch)]
    warm_until = time.perf_counter() + WARM * seconds
    for call in calls:
        predict(call)
        if time.perf_counter() >= warm_until:
            break
    gc.collect()
    samples: list[float] = []
    cpu, start = time.process_time(), time.perf_counter()
    before = start
    while before - start < seconds or not samples:
        for call in calls:
            predict(call)
            now = time.perf_counter()
            samples.append(now - before)
            before = now
    wall, cpu = before - start, time.process_time() - cpu
    passes = len(samples) // len(calls)
    return Window(samples, wall, cpu, passes * len(texts), _tokenise(tokenise, calls, len(texts)))


def _tokenise(tokenise: Callable[[Sequence[Text]], Any], calls: list[Sequence[Text]], texts: int) -> float:
    start = time.perf_counter()
    for call in calls:
        tokenise(call)
    return (time.perf_counter() - start) / texts


def turns(targets: Sequence[T], rounds: int) -> Iterator[tuple[int, T]]:
    """(round, target): every target once a round; each round starts one target later, so that none is always first."""
    for number in range(rounds):
        shift = number % max(1, len(targets))
        for target in (*targets[shift:], *targets[:shift]):
            yield number, target


def percentiles(samples: Sequence[float]) -> dict[str, float]:
    """{"p50", "p90", "p99"} of seconds, in milliseconds."""
    values = np.percentile(np.asarray(samples) * 1000, PERCENTILES)
    return {f"p{which}": float(value) for which, value in zip(PERCENTILES, values, strict=True)}


def summary(windows: Sequence[Window]) -> dict[str, Any]:
    """The measured part of a row: percentiles over all raw samples, the median rate of the windows and their range."""
    rates = [part.texts / part.wall for part in windows]
    texts = sum(part.texts for part in windows)
    cpu, wall = sum(part.cpu for part in windows), sum(part.wall for part in windows)
    apart = [part.tokenise for part in windows if part.tokenise is not None]
    return {
        "texts_per_second": float(np.median(rates)),
        "texts_per_second_windows": rates,
        "spread": {"low": min(rates), "high": max(rates)},
        "latency_ms": percentiles([sample for part in windows for sample in part.calls]),
        "samples": sum(len(part.calls) for part in windows),
        "cpu_seconds_per_text": cpu / texts,
        "cores_used": cpu / wall,
        "tokenise_seconds_per_text": float(np.median(apart)) if apart else None,
    }


def peak_memory(pid: int | str = "self") -> int | None:
    """High-water mark of a process's resident memory in bytes; None where the system does not tell.

    `ru_maxrss` would not do: a child inherits its parent's through fork and exec.
    """
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return None
    found = [int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:")]
    return found[0] if found else None
