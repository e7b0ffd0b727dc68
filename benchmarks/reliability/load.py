"""This end of the load: its plan, its process, and what became of each request."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.reliability import outcome
from benchmarks.reliability.figures import latencies
from benchmarks.remote import environment


@dataclass(frozen=True)
class Plan:
    """Open loop if there are `phases`, which are (requests a second, seconds); else closed."""

    messages: Sequence[str]  # whole requests, a character a byte
    phases: tuple[tuple[float, float], ...] = ()
    clients: int = 1
    seconds: float = 1e9
    count: int | None = None
    leave: bool = False  # closed loop: whoever is refused does not come again
    seed: int = 0


@dataclass(frozen=True)
class Sent:
    """An entry a request; times in seconds of time.perf_counter, which all processes share."""

    due: NDArray[np.float64]
    sent: NDArray[np.float64]  # when the last byte had gone; NaN for never
    done: NDArray[np.float64]
    status: NDArray[np.int16]  # see benchmarks.reliability.outcome
    ports: NDArray[np.uint16]  # of the client's end
    begun: float
    ended: float
    cpu: float  # seconds of processor time of the sender

    def __len__(self) -> int:
        return len(self.due)

    @property
    def seconds(self) -> NDArray[np.float64]:
        """How long each took from when it was due; infinity for what was not answered with 200."""
        return np.where(self.good, self.done - self.due, np.inf)

    @property
    def good(self) -> NDArray[np.bool_]:
        return np.equal(self.status, 200)

    def part(self, start: float, end: float) -> Sent:
        """Requests that were due from `start` until before `end`."""
        inside = (self.due >= start) & (self.due < end)
        columns = {name: getattr(self, name)[inside] for name in ("due", "sent", "done", "status", "ports")}
        return Sent(**columns, begun=start, ended=end, cpu=self.cpu)

    def statuses(self) -> dict[str, int]:
        return {outcome.named(status): count for status, count in sorted(Counter(self.status.tolist()).items())}

    def rate(self) -> float:
        """Good answers a second, over the time from its begin to its end."""
        return float(self.good.sum()) / (self.ended - self.begun)

    def latency(self) -> dict[str, float | None]:
        """In milliseconds, of good answers."""
        return latencies((self.done - self.due)[self.good])

    def behind(self) -> float:
        """p99 of the milliseconds that the sender itself was late to send."""
        known = ~np.isnan(self.sent)
        return float(np.percentile((self.sent - self.due)[known], 99) * 1e3) if known.any() else 0.0

    def client(self) -> float:
        """Microseconds of the sender's processor time a request."""
        return self.cpu / max(1, len(self)) * 1e6


class Load:
    """A running sender. `with` ends it, whatever happens."""

    def __init__(self, port: int, plan: Plan, scratch: Path) -> None:
        self._result = scratch / f"load-{time.perf_counter_ns()}.npz"
        told = self._result.with_suffix(".json")
        told.write_text(json.dumps({"port": port, **asdict(plan)}), encoding="utf-8")
        self.process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.reliability.sender", str(told), str(self._result)],
            env=environment(1),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
        )

    def __enter__(self) -> Load:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"the sender ended with exit code {self.process.wait()} before it began")
        self.begun = float(json.loads(line)["begun"])
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()

    def running(self) -> bool:
        return self.process.poll() is None

    def stop(self) -> Sent:
        """End it early; what it had sent."""
        self.process.terminate()
        return self.wait()

    def wait(self) -> Sent:
        if code := self.process.wait():
            raise RuntimeError(f"the sender ended with exit code {code}; its error is above")
        with np.load(self._result) as found:
            columns: dict[str, Any] = dict(found)
        columns |= {name: float(columns[name]) for name in ("begun", "ended", "cpu")}
        return Sent(**columns)


def send(port: int, plan: Plan, scratch: Path) -> Sent:
    """The whole of a plan."""
    with Load(port, plan, scratch) as load:
        return load.wait()
