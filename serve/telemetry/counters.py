"""Counters, gauges and histograms, of one worker or summed over several.

counter     one slot for each combination of label values
histogram   one slot a bucket (not cumulative), one for what is above all of them, one for the sum
"""

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from serve.telemetry.regions import Regions

FEW = 16  # values that are quicker one by one


@dataclass(frozen=True)
class Metric:
    name: str
    kind: Literal["counter", "gauge", "histogram"]
    help: str
    labels: tuple[tuple[str, tuple[str, ...]], ...] = ()  # each with all values that it can have
    buckets: tuple[float, ...] = ()  # upper bounds, inclusive
    sparse: bool = False  # many combinations of labels: a series is shown from its first count on

    @property
    def series(self) -> list[tuple[str, ...]]:
        """Every combination of label values, in the order of their slots."""
        return list(product(*(values for _, values in self.labels)))

    @property
    def width(self) -> int:
        """Slots of one series."""
        return len(self.buckets) + 2 if self.kind == "histogram" else 1

    @property
    def slots(self) -> int:
        return self.width * len(self.series)


class Counter:
    __slots__ = ("_at", "_slots")

    def __init__(self, slots: "memoryview[float]", at: int) -> None:
        self._slots = slots
        self._at = at

    def inc(self, by: float = 1.0) -> None:
        self._slots[self._at] += by


class Gauge:
    __slots__ = ("_at", "_slots")

    def __init__(self, slots: "memoryview[float]", at: int) -> None:
        self._slots = slots
        self._at = at

    def set(self, value: float) -> None:
        self._slots[self._at] = value

    def add(self, by: float) -> None:
        self._slots[self._at] += by

    def get(self) -> float:
        """This worker's own."""
        return self._slots[self._at]


class Histogram:
    __slots__ = ("_at", "_bounds", "_slots", "_sum")

    def __init__(self, slots: "memoryview[float]", at: int, bounds: tuple[float, ...]) -> None:
        self._slots = slots
        self._at = at
        self._sum = at + len(bounds) + 1
        self._bounds = bounds

    def observe(self, value: float) -> None:
        self._slots[self._at + bisect_left(self._bounds, value)] += 1.0
        self._slots[self._sum] += value

    def observe_all(self, values: Sequence[float]) -> None:
        """The same of many."""
        if len(values) < FEW:
            for value in values:
                self.observe(value)
            return
        slots, start = np.asarray(self._slots), self._at
        places = np.searchsorted(self._bounds, values)
        slots[start : self._sum] += np.bincount(places, minlength=len(self._bounds) + 1)
        slots[self._sum] += sum(values)


class Counters:
    """The slots of some metrics. With `path`, sums go over all workers that opened it; it is made by the first.

    A slot must have one writer at a time: several threads that count the same thing share a lock.
    """

    def __init__(
        self, metrics: Sequence[Metric], *, path: Path | None = None, workers: int = 1, claim: bool = True
    ) -> None:
        self.metrics = tuple(metrics)
        self._starts: dict[str, int] = {}
        slots = 0
        for metric in self.metrics:
            self._starts[metric.name] = slots
            slots += metric.slots
        self._by_name = {metric.name: metric for metric in self.metrics}
        self._is_gauge = np.repeat([metric.kind == "gauge" for metric in self.metrics], [m.slots for m in self.metrics])
        self.regions = Regions(path, slots=slots, fingerprint=repr(self.metrics), workers=workers, claim=claim)
        if self.regions.taken_over:  # the dead one's queue is not ours; its counts stay
            for at in np.flatnonzero(self._is_gauge):
                self.regions.own[int(at)] = 0.0

    def counter(self, name: str, *labels: str) -> Counter:
        return Counter(self.regions.own, self._at(name, labels))

    def gauge(self, name: str, *labels: str) -> Gauge:
        return Gauge(self.regions.own, self._at(name, labels))

    def histogram(self, name: str, *labels: str) -> Histogram:
        return Histogram(self.regions.own, self._at(name, labels), self._by_name[name].buckets)

    def _at(self, name: str, labels: tuple[str, ...]) -> int:
        metric = self._by_name[name]
        return self._starts[name] + metric.width * metric.series.index(labels)

    def sums(self) -> dict[str, NDArray[np.float64]]:
        """[series, slots of a series] of each metric, over all workers; gauges over those that run."""
        total = np.zeros(len(self._is_gauge))
        for at, view in enumerate(self.regions.views()):
            values = np.array(view)
            total += values if self.regions.alive(at) else np.where(self._is_gauge, 0.0, values)
        return {
            metric.name: total[start : start + metric.slots].reshape(-1, metric.width)
            for metric, start in zip(self.metrics, self._starts.values(), strict=True)
        }

    def close(self) -> None:
        """This worker ends: its gauges are 0, its counts stay."""
        for at in np.flatnonzero(self._is_gauge):
            self.regions.own[int(at)] = 0.0
        self.regions.close()
