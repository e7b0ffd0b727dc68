"""How often a key may ask and how much at once, right over several workers without a lock between them.

A token bucket of `burst` tokens that refills at `rate` a second and gives one to each request. After N requests by
time t its debt (what is missing to full) is

    debt(t) = N - rate t + idle(t),    idle(t) = max over s <= t of (rate s - N(s))

where `idle` is what ran over while it was full. N is a sum, which each worker adds to by counting its own requests, and
`idle` a maximum, to which each adds its own: so each writes only its own slots, all read all, and an update is never
lost. One worker alone is exact. Of W workers, each can have one request under way that others do not see yet: up to
W - 1 requests more than allowed at a time, never more in the long run (the same holds for `concurrent`), and after a
rest up to W - 1 tokens less.

A name finds its slots by a hash of name, rate and burst: an exchanged key keeps its debt, new limits start full.
"""

import hashlib
import math
import struct
import time
from pathlib import Path

from serve.access.keys import Key, Limits
from serve.errors import Overloaded
from serve.telemetry.regions import Regions

WIDTH = 4  # slots of a bucket: tag, requests admitted, idle, requests not yet answered
TAG, ADMITTED, IDLE, ACTIVE = range(WIDTH)
ROWS = 2048  # buckets of a worker
SLACK = 1e-6  # tokens; rounding must not refuse who waited as long as told
RETRY = 1.0  # seconds, when a request must end first: nobody knows when
_row = struct.Struct("=4d").unpack_from


class Bucket:
    __slots__ = ("at", "burst", "concurrent", "home", "limits", "rate", "tag")

    def __init__(self, limits: Limits, tag: float) -> None:
        self.limits = limits
        self.rate = limits.rate or 0.0
        self.burst = max(1.0, limits.burst or self.rate)
        self.concurrent = limits.concurrent or 0
        self.tag = tag
        self.home = int(tag) % ROWS * WIDTH  # where to look for it first
        self.at = self.home  # where this worker's region has it


class Rates:
    """The buckets of all keys. `path`: a file that all workers of the service open."""

    def __init__(self, *, path: Path | None = None, workers: int = 1) -> None:
        self._regions = Regions(path, slots=ROWS * WIDTH, fingerprint="rates", workers=workers)
        self._own = self._regions.own
        if self._regions.taken_over:
            for at in range(ACTIVE, ROWS * WIDTH, WIDTH):  # the dead one's requests have ended
                self._own[at] = 0.0
        self._buckets: dict[str, Bucket] = {}
        self._known = 1  # regions in use at the last look
        self._others: list[tuple[int, memoryview[float]]] = []

    def admit(self, key: Key) -> int:
        """Count a request in, and get what `release` takes once it has ended. Raises Overloaded."""
        bucket = self._buckets.get(key.name)
        if bucket is None or (bucket.limits is not key.limits and bucket.limits != key.limits):
            bucket = self._open(key)
        own, at = self._own, bucket.at
        _, admitted, idle, active = _row(own, at * 8)
        if (used := self._regions.used) > 1:
            if used != self._known:
                self._known, self._others = used, self._regions.others()
            admitted, idle, active = self._together(bucket, admitted, idle, active)
        if bucket.concurrent and active >= bucket.concurrent and self._truly_active(bucket) >= bucket.concurrent:
            raise Overloaded(
                f"this API key may have {bucket.concurrent} requests at once; wait for an answer",
                retry_after=RETRY,
                reason="concurrency",
            )
        if bucket.rate:
            refilled = (time.monotonic() - self._regions.clock) * bucket.rate
            idle = max(idle, refilled - admitted)
            short = admitted - refilled + idle + 1.0 - bucket.burst
            if short > SLACK:
                raise Overloaded(
                    f"this API key may ask {bucket.rate:g} times a second; try again later",
                    retry_after=short / bucket.rate,
                    reason="rate",
                )
            own[at + IDLE] = idle
            own[at + ADMITTED] += 1.0
        own[at + ACTIVE] += 1.0
        return at + ACTIVE

    def release(self, admitted: int) -> None:
        """A request has ended, however it did; `admitted` is what `admit` gave."""
        self._own[admitted] -= 1.0

    def close(self) -> None:
        self._regions.close()

    def _together(self, bucket: Bucket, admitted: float, idle: float, active: float) -> tuple[float, float, float]:
        """This worker's counts with those of all others."""
        for _, view in self._others:
            tag, more, other, running = _row(view, bucket.home * 8)
            if tag != bucket.tag:
                tag, more, other, running = _row(view, _find(view, bucket) * 8)
            if tag == bucket.tag:
                admitted += more
                active += running
                idle = max(idle, other)
        return admitted, idle, active

    def _truly_active(self, bucket: Bucket) -> float:
        """Requests under way, without those that died with their worker: asked only where they would refuse one."""
        active = self._own[bucket.at + ACTIVE]
        for region, view in self._others:
            at = _find(view, bucket)
            if view[at] == bucket.tag and self._regions.alive(region):
                active += view[at + ACTIVE]
        return active

    def _open(self, key: Key) -> Bucket:
        limits = key.limits
        text = f"{key.name} {limits.rate} {limits.burst}"
        tag = float(1 + int.from_bytes(hashlib.sha256(text.encode()).digest()[:6], "big"))
        bucket = Bucket(limits, tag)
        bucket.at = _find(self._own, bucket)
        if self._own[bucket.at] != tag:
            self._make_room()
            bucket.at = _find(self._own, bucket)
            self._own[bucket.at + ADMITTED], self._own[bucket.at + IDLE] = 0.0, -math.inf
            self._own[bucket.at] = tag  # last: from here on others count it in
        self._buckets[key.name] = bucket
        return bucket

    def _make_room(self) -> None:
        """After very many changes of limits: start anew with every bucket that nobody is using."""
        tags = range(0, ROWS * WIDTH, WIDTH)
        if sum(self._own[at] != 0.0 for at in tags) < ROWS * 3 // 4:
            return
        self._buckets.clear()
        for at in tags:
            if self._own[at + ACTIVE] == 0.0:
                self._own[at] = 0.0


def _find(view: "memoryview[float]", bucket: Bucket) -> int:
    """Where a region has this bucket, or the free place where it would be."""
    at = bucket.home
    while view[at] != bucket.tag and view[at] != 0.0:
        at = (at + WIDTH) % (ROWS * WIDTH)
    return at
