"""The service as a target: a real server on loopback, driven in a closed loop over kept-alive connections.

The client is one thread of plain sockets, because a comfortable HTTP library costs more than the
model it would be measuring and shares the machine with it.
"""

from __future__ import annotations

import json
import os
import selectors
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import psutil  # type: ignore[import-untyped]
from numpy.typing import NDArray

from benchmarks import measure
from serve.artefact import Artefact
from serve.encode import Text

HOST = "127.0.0.1"
KEPT = "BANTAM_CACHE"  # of our variables: it says where things lie, not how we serve
READY_WITHIN = 120.0  # seconds
ANSWER_WITHIN = 120.0  # seconds
LIST = 32  # texts a request while collecting answers
START = "import sys; from serve.launch import launch; launch(sys.argv[1], sys.argv[2], int(sys.argv[3]), 1)"


class Service:
    """One server process with one worker."""

    def __init__(self, artefact: Artefact, *, threads: int) -> None:
        self.labels = artefact.manifest.task.labels
        self.port = free_port()
        self.log = tempfile.TemporaryFile()  # noqa: SIM115  closed by close()
        inherited = {name: value for name, value in os.environ.items() if name == KEPT or name[:7] != "BANTAM_"}
        environment = {**inherited, "BANTAM_THREADS": str(threads)}
        command = [sys.executable, "-c", START, str(artefact.root), HOST, str(self.port)]
        self.process = subprocess.Popen(
            command, env=environment, stdin=subprocess.DEVNULL, stdout=self.log, stderr=self.log
        )
        try:
            self._await_ready()
            self.runtime: str = self._ask(b"GET /info HTTP/1.1\r\nHost: %b\r\n\r\n" % HOST.encode())["runtime"]
        except BaseException:
            self.close()
            raise

    def logits(self, texts: Sequence[Text]) -> NDArray[Any]:
        rows: list[list[float]] = []
        place = {label: index for index, label in enumerate(self.labels)}
        for first in range(0, len(texts), LIST):
            part = texts[first : first + LIST]
            for scores in self._ask(request([*part], listed=True)):
                row = [0.0] * len(place)
                for entry in scores:
                    row[place[entry["label"]]] = entry["score"]
                rows.append(row)
        return np.array(rows, dtype=np.float32)

    def window(self, texts: Sequence[Text], *, batch: int, clients: int, seconds: float) -> measure.Window:
        requests = [request(texts[first : first + batch]) for first in range(0, len(texts), batch)]
        with Loop(self.port, clients) as loop:
            loop.run(requests[: max(clients, 1)], 0.0)
            cpu = self._cpu()
            samples, wall = loop.run(requests, seconds)
            cpu = self._cpu() - cpu
        passes = len(samples) // len(requests)
        return measure.Window(samples, wall, cpu, passes * len(texts), None)

    def peak_memory(self) -> int | None:
        peaks = [measure.peak_memory(process.pid) for process in self._tree()]
        return None if None in peaks else sum(peak for peak in peaks if peak)

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(10)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        self.log.close()

    def _ask(self, message: bytes) -> Any:
        with Loop(self.port, 1) as loop:
            return json.loads(loop.once(message))

    def _await_ready(self) -> None:
        deadline = time.monotonic() + READY_WITHIN
        message = f"GET /readyz HTTP/1.1\r\nHost: {HOST}\r\n\r\n".encode()
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                raise ValueError(f"the server ended with exit code {self.process.returncode}: {self._last_words()}")
            try:
                with Loop(self.port, 1) as loop:
                    loop.once(message)
                    return
            except (OSError, BadAnswer):
                time.sleep(0.05)
        raise ValueError(f"the server was not ready within {READY_WITHIN:.0f} s: {self._last_words()}")

    def _last_words(self) -> str:
        self.log.seek(0)
        lines = self.log.read().decode(errors="replace").strip().splitlines()
        return " | ".join(lines[-3:]) or "it wrote nothing"

    def _tree(self) -> list[psutil.Process]:
        root = psutil.Process(self.process.pid)
        return [root, *root.children(recursive=True)]

    def _cpu(self) -> float:
        times = [process.cpu_times() for process in self._tree()]
        return float(sum(time.user + time.system for time in times))


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


def request(texts: Sequence[Text], *, listed: bool = False) -> bytes:
    """A whole POST /predict. One plain text goes alone; lists and pairs go as lists of lists."""
    rows = [[text] if isinstance(text, str) else list(text) for text in texts]
    inputs = rows[0][0] if len(rows) == 1 and len(rows[0]) == 1 and not listed else rows
    body = json.dumps({"inputs": inputs, "truncate": True, "raw_scores": True}).encode()
    head = f"POST /predict HTTP/1.1\r\nHost: {HOST}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}"
    return head.encode() + b"\r\n\r\n" + body


class BadAnswer(Exception):
    """Not a 200, or not HTTP as the server speaks it."""


@dataclass
class Connection:
    wire: socket.socket
    sent: float = 0.0
    received: bytearray = field(default_factory=bytearray)


class Loop:
    """`clients` connections, each sending its next request as soon as its last was answered."""

    def __init__(self, port: int, clients: int) -> None:
        self.selector = selectors.DefaultSelector()
        self.connections: list[Connection] = []
        for _ in range(clients):
            try:
                wire = socket.create_connection((HOST, port), timeout=ANSWER_WITHIN)
            except OSError:
                self.__exit__()
                raise
            wire.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connection = Connection(wire)
            self.connections.append(connection)
            self.selector.register(wire, selectors.EVENT_READ, connection)

    def __enter__(self) -> Loop:
        return self

    def __exit__(self, *_: object) -> None:
        for connection in self.connections:
            connection.wire.close()
        self.selector.close()

    def once(self, message: bytes) -> bytes:
        """The body of one answer."""
        connection = self.connections[0]
        self._send(connection, message)
        while True:
            connection.received += self._receive(connection)
            if (body := answer(connection.received)) is not None:
                return body

    def run(self, requests: Sequence[bytes], seconds: float) -> tuple[list[float], float]:
        """Seconds of every request and of the whole; whole passes over `requests` until `seconds` have gone by."""
        samples: list[float] = []
        start = now = time.perf_counter()
        issued = 0
        idle = list(self.connections)
        while True:
            while idle and (issued % len(requests) or now - start < seconds or not issued):
                self._send(idle.pop(), requests[issued % len(requests)])
                issued += 1
            if len(samples) == issued:
                return samples, now - start
            ready = self.selector.select(ANSWER_WITHIN)
            if not ready:
                raise BadAnswer(f"no answer within {ANSWER_WITHIN:.0f} s")
            for key, _ in ready:
                connection: Connection = key.data
                connection.received += self._receive(connection)
                if answer(connection.received) is not None:
                    now = time.perf_counter()
                    samples.append(now - connection.sent)
                    idle.append(connection)

    def _send(self, connection: Connection, message: bytes) -> None:
        connection.received = bytearray()
        connection.sent = time.perf_counter()
        connection.wire.sendall(message)

    def _receive(self, connection: Connection) -> bytes:
        part = connection.wire.recv(1 << 18)
        if not part:
            raise BadAnswer("the server closed the connection")
        return part


def answer(received: bytearray) -> bytes | None:
    """The body once all of it is there. Raises BadAnswer with the server's words for any status but 200."""
    end = received.find(b"\r\n\r\n")
    if end < 0:
        return None
    head = bytes(received[:end]).lower().split(b"\r\n")
    lengths = [line.partition(b":")[2] for line in head if line.startswith(b"content-length:")]
    if not lengths:
        raise BadAnswer("the server sent no Content-Length")
    if len(received) < end + 4 + int(lengths[0]):
        return None
    body = bytes(received[end + 4 :])
    if head[0].split(b" ")[1:2] != [b"200"]:
        raise BadAnswer(f"{head[0].decode(errors='replace')}: {body[:500].decode(errors='replace')}")
    return body
