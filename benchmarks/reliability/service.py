"""The service under test, or any other server that answers in its way: its processes, memory, counters and end."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil
from prometheus_client.parser import text_string_to_metric_families

from benchmarks.http import HOST, BadAnswer, free_port
from benchmarks.peers import environment
from benchmarks.peers.catalogue import KEY, keys_in, served
from benchmarks.peers.load import Driver
from benchmarks.peers.process import Processes

READY_WITHIN = 120.0  # seconds
POLL = 0.005  # seconds
ROOT = Path(__file__).parents[2]

Counted = dict[tuple[str, tuple[tuple[str, str], ...]], float]  # (name, labels) -> value


class Service(Processes):
    def __init__(self, command: Callable[[int], Sequence[str]], variables: Mapping[str, str]) -> None:
        """`command` is told the port. Returns once it is ready; ValueError if it does not get there."""
        self.port = free_port()
        self.begun = time.perf_counter()
        super().__init__(command(self.port), variables, ROOT)
        try:
            self._await_ready()
        except BaseException:
            self.close()
            raise
        self.start_seconds = time.perf_counter() - self.begun

    def __enter__(self) -> Service:
        return self

    def ask(self, message: bytes) -> bytes:
        """The body of one answer, on a connection of its own. BadAnswer for another status than 200."""
        with Driver(self.port, 1) as driver:
            return driver.ask(message)

    def get(self, path: str) -> bytes:
        return self.ask(f"GET {path} HTTP/1.1\r\nHost: {HOST}\r\n\r\n".encode())

    def pids(self) -> set[int]:
        return {process.pid for process in self.alive()}

    def owners(self) -> dict[int, set[int]]:
        """Processes that hold connections to the port: pid -> the ports at the clients' ends."""
        found = dict[int, set[int]]()
        for process in self.alive():
            with suppress(psutil.NoSuchProcess, psutil.AccessDenied):
                for link in process.net_connections("tcp4"):
                    if link.status == psutil.CONN_ESTABLISHED and link.laddr.port == self.port:
                        found.setdefault(process.pid, set()).add(link.raddr.port)
        return found

    def counters(self) -> Counted:
        """Every series of /metrics that may only rise."""
        return rising(self.get("/metrics").decode())

    def end(self, within: float) -> tuple[int | None, float]:
        """SIGTERM to the command alone, as an operator would; its exit code (None: it had to be killed) and seconds."""
        begun = time.perf_counter()
        self.root.terminate()
        with suppress(TimeoutError):
            while self.root.poll() is None:
                if time.perf_counter() - begun > within:
                    raise TimeoutError
                time.sleep(POLL)
        return self.root.poll(), time.perf_counter() - begun

    def _await_ready(self) -> None:
        while time.perf_counter() < self.begun + READY_WITHIN:
            if (code := self.ended()) is not None:
                raise ValueError(f"the server ended with exit code {code}: {self.last_words()}")
            with suppress(OSError, BadAnswer):
                self.get("/readyz")
                return
            time.sleep(POLL)
        raise ValueError(f"the server was not ready within {READY_WITHIN:.0f} s: {self.last_words()}")


@dataclass(frozen=True)
class Place:
    """What a check is given."""

    start: Callable[[int, Mapping[str, str]], Service]  # (workers, further variables) -> a service that is ready
    messages: Sequence[bytes]  # whole requests, in rotation
    scratch: Path  # an empty folder
    seconds: float | None = None  # of the load; None: as long as the check likes
    requests: int = 1_000_000  # of the soak
    cases: int = 20_000  # of the schema
    deadline: float = 1.0  # seconds that requests under overload give the service
    texts: int = 1  # a request

    def keyed(self) -> dict[str, str]:
        """Variables of a service that asks for the key which `plain` requests show."""
        return {"BANTAM_KEYS": str(keys_in(self.scratch))}

    def plain(self, *headers: str) -> list[str]:
        """The messages with further headers, a character a byte, as plans have them."""
        more = "".join(f"\r\n{header}" for header in (f"Authorization: Bearer {KEY}", *headers))
        return [message.decode("latin-1").replace("\r\n", f"{more}\r\n", 1) for message in self.messages]


def ours(
    artefact: Path, settings: Mapping[str, str], server: str = "uvicorn"
) -> Callable[[int, Mapping[str, str]], Service]:
    """How `artefact` is served, with BANTAM_* of `settings` and of nothing else."""

    def start(workers: int, variables: Mapping[str, str]) -> Service:
        known = environment.variables(Path(sys.executable).parent)
        known |= {"PYTHONPATH": str(ROOT), "BANTAM_THREADS": "1", **settings, **variables}
        return Service(lambda port: served(artefact, port, workers, server), known)

    return start


def rising(page: str) -> Counted:
    """Of Prometheus' text format: counters, and of histograms and summaries all that counts up."""
    found: Counted = {}
    for family in text_string_to_metric_families(page):
        if family.type not in ("counter", "histogram", "summary"):
            continue
        for sample in family.samples:
            if "quantile" not in sample.labels and not sample.name.endswith("_created"):
                found[sample.name, tuple(sorted(sample.labels.items()))] = float(sample.value)
    return found


def fallen(before: Counted, after: Counted) -> list[str]:
    """Series of `before` that are less or missing in `after`, in words."""
    found = []
    for key, value in before.items():
        if key not in after or after[key] < value:
            labels = ", ".join(f'{name}="{found}"' for name, found in key[1])
            found.append(f"{key[0]}{{{labels}}} went from {value:g} to {after.get(key, 'nothing')}")
    return found


def cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
