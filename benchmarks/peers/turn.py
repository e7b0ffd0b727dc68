"""One server's turn: start it, hold its answers against ours, load it, end it."""

from __future__ import annotations

import json
import os
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.http import BadAnswer, free_port
from benchmarks.measure import percentiles
from benchmarks.peers import environment
from benchmarks.peers.catalogue import SERVERS, Place, Server, message
from benchmarks.peers.load import Driver, Load
from benchmarks.peers.process import Processes

READY_WITHIN = 120.0  # seconds
LIST = 32  # texts of the one list
WARM = 0.2  # of a window, before its clock starts

Turn = dict[str, Any]


@dataclass(frozen=True)
class Task:
    """What every server is asked, and what we answer."""

    artefact: Path
    bundle: Path
    group: int
    texts: list[str]
    labels: list[str]
    connections: tuple[int, ...]
    seconds: float


def take(server: Server, task: Task, programs: Path) -> Turn:
    """Answers held against ours, then a window of each load. ValueError for a server that cannot be measured."""
    with tempfile.TemporaryDirectory(prefix="bantam-peer-") as scratch:
        ports = (free_port(), free_port(), free_port())
        place = Place(task.artefact, task.bundle, Path(scratch), programs, ports, server.workers, task.group)
        known = {**variables(server, place), "PEER_PORT": str(ports[0])}
        begun, neighbours = time.perf_counter(), os.getloadavg()[0]
        with Processes(server.command(place), known, task.bundle) as processes:
            try:
                await_answer(server, processes, ports[0], task.texts[0])
                started = time.perf_counter() - begun
                agree = agreement(server, ports[0], task)
                if agree < server.agree * len(task.texts):
                    raise ValueError(f"{agree} of {len(task.texts)} of its labels are ours; {server.agree:.0%} must be")
                loads = {name: _window(server, processes, ports[0], task, name) for name in names(task)}
            except (BadAnswer, OSError) as error:
                raise ValueError(f"it failed while it was measured: {error}; {processes.last_words()}") from error
            return {
                "load_before": neighbours,
                "start_seconds": started,
                "agree": agree,
                "processes": len(processes.alive()),
                "threads": processes.threads(),
                "memory_bytes": processes.memory(),
                "loads": loads,
            }


def names(task: Task) -> list[str]:
    return [*map(str, task.connections), f"list of {LIST}"]


def variables(server: Server, place: Place) -> dict[str, str]:
    told = {"PEER_MODEL": str(place.bundle), "PEER_WORKERS": str(place.workers), **dict(server.variables)}
    source = SERVERS if server.requirements else SERVERS.parent.parent.parent
    return {**environment.variables(place.programs), **told, "PYTHONPATH": str(source)}


def await_answer(server: Server, processes: Processes, port: int, text: str) -> None:
    """Until it has answered a text: what it says of its own health comes before that, with some."""
    deadline = time.monotonic() + READY_WITHIN
    while time.monotonic() < deadline:
        if processes.ended() is not None:
            raise ValueError(f"it ended with exit code {processes.ended()}: {processes.last_words()}")
        with suppress(OSError, BadAnswer, KeyError, TypeError, json.JSONDecodeError), Driver(port, 1) as driver:
            if server.labels(json.loads(driver.ask(message(server, [text])))):
                return
        time.sleep(0.1)
    raise ValueError(f"it was not ready within {READY_WITHIN:.0f} s: {processes.last_words()}")


def agreement(server: Server, port: int, task: Task) -> int:
    """How many texts get the label that we give, one text a request."""
    with Driver(port, 1) as driver:
        found = [server.labels(json.loads(driver.ask(message(server, [text])))) for text in task.texts]
        listed = server.labels(json.loads(driver.ask(message(server, task.texts[:LIST]))))
    if [len(one) for one in found] != [1] * len(task.texts) or len(listed) != len(task.texts[:LIST]):
        raise ValueError("it does not answer every text")
    return sum(one == [ours] for one, ours in zip(found, task.labels, strict=True))


def _window(server: Server, processes: Processes, port: int, task: Task, name: str) -> dict[str, Any]:
    listed = name not in map(str, task.connections)
    size, connections = (LIST, 1) if listed else (1, int(name))
    whole = len(task.texts) // size * size
    requests = [message(server, task.texts[at : at + size]) for at in range(0, whole, size)]
    with Driver(port, connections) as driver:
        driver.drive(requests, WARM * task.seconds)
        before = processes.cpu()
        load = driver.drive(requests, task.seconds)
        cpu = processes.cpu() - before
    return told(load, cpu, size)


def told(load: Load, cpu: float, size: int) -> dict[str, Any]:
    """A window's row. Rates and processor time count texts, latencies whole requests."""
    if not load.samples:
        raise ValueError(f"none of its {load.errors} requests was answered: {load.first_error}")
    texts = len(load.samples) * size
    return {
        "texts_per_second": texts / load.wall,
        "latency_ms": percentiles(load.samples),
        "cpu_us_per_text": cpu / texts * 1e6,
        "cores_used": cpu / load.wall,
        "client_us_per_text": load.client / texts * 1e6,
        "requests": len(load.samples),
        "errors": load.errors,
        "first_error": load.first_error,
    }
