"""Servers as real processes, and clients that speak bytes."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[3]
STUB = Path(__file__).parent / "stub.py"
RUN = "from sys import argv; from serve.launch import launch; launch(argv[1], '127.0.0.1', int(argv[2]), int(argv[3]))"
Process = subprocess.Popen[bytes]
PATIENCE = 60.0  # seconds; machines are busy


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def started(command: Sequence[str], port: int, **environment: str) -> Iterator[Process]:
    """A server that answers on `port`; killed with its workers at the end, if it is still there."""
    path = os.pathsep.join(filter(None, [str(ROOT), str(STUB.parent), os.environ.get("PYTHONPATH")]))
    environ = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": path, **environment}
    process = subprocess.Popen(command, cwd=ROOT, env=environ, start_new_session=True, stderr=subprocess.PIPE)
    try:
        wait(lambda: process.poll() is not None or ready(port))
        yield process
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        assert process.stderr
        process.stderr.close()


@contextmanager
def stub(
    workers: int = 1, server: str = "uvicorn", **environment: str
) -> Iterator[tuple[int, subprocess.Popen[bytes]]]:
    port = free_port()
    with started([sys.executable, str(STUB), str(port), str(workers), server], port, **environment) as process:
        assert process.poll() is None, process.stderr and process.stderr.read()
        yield port, process


def wait(until: Callable[[], Any], seconds: float = PATIENCE) -> float:
    """Seconds until it was true."""
    start = time.monotonic()
    while not until():
        assert time.monotonic() - start < seconds, "it takes too long"
        time.sleep(0.01)
    return time.monotonic() - start


def ready(port: int) -> bool:
    try:
        with connect(port) as client:
            return ask(client, "/readyz")[0] == 200
    except OSError:
        return False


def connect(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), timeout=PATIENCE)


def request(path: str, body: bytes = b"", *headers: str) -> bytes:
    method = "POST" if body else "GET"
    about = ["host: x", "content-type: application/json", f"content-length: {len(body)}"]
    lines = [f"{method} {path} HTTP/1.1", *about, *headers]
    return "\r\n".join([*lines, "", ""]).encode() + body


def ask(client: socket.socket, path: str, body: bytes = b"") -> tuple[int, dict[str, str], bytes]:
    client.sendall(request(path, body))
    return answer(client)


def answer(client: socket.socket) -> tuple[int, dict[str, str], bytes]:
    """Status, headers and body of the next answer; ConnectionError where the other side closes first."""
    while b"\r\n\r\n" not in (got := client.recv(65536, socket.MSG_PEEK)):
        if not got:
            raise ConnectionResetError("closed before the answer was whole")
        time.sleep(0.001)
    first, *lines = _exactly(client, got.index(b"\r\n\r\n") + 4).decode().strip().split("\r\n")
    headers = dict(line.lower().split(": ", 1) for line in lines)
    body = _exactly(client, int(headers["content-length"]))
    return int(first.split()[1]), headers, body


def who(client: socket.socket) -> dict[str, Any]:
    status, _, body = ask(client, "/who")
    assert status == 200
    found: dict[str, Any] = json.loads(body)
    return found


def closed(client: socket.socket) -> bool:
    """Whether the other side has closed, waiting for it."""
    try:
        while client.recv(65536):
            pass
    except ConnectionError:
        pass
    return True


def _exactly(client: socket.socket, size: int) -> bytes:
    """No byte more: what follows is the next answer."""
    got = b""
    while len(got) < size:
        part = client.recv(size - len(got))
        if not part:
            raise ConnectionResetError("closed before the answer was whole")
        got += part
    return got
