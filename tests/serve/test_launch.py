"""`bantam serve` as processes: ports, signals, workers."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from serve.artefact import ArtefactError
from serve.errors import BackendError, InputError
from serve.launch import launch

ROOT = Path(__file__).parents[2]
RUN = "from sys import argv; from serve.launch import launch; launch(argv[1], '127.0.0.1', int(argv[2]), int(argv[3]))"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def ask(port: int, path: str, content: Any = None) -> Any:
    data = None if content is None else json.dumps(content).encode()
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", data, {"content-type": "application/json"})
    with urllib.request.urlopen(request, timeout=10) as answer:
        return answer.read()


@contextmanager
def server(root: Path, workers: int) -> Iterator[tuple[int, subprocess.Popen[bytes]]]:
    port = free_port()
    command = [sys.executable, "-c", RUN, str(root), str(port), str(workers)]
    process = subprocess.Popen(command, cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"}, start_new_session=True)
    try:
        until = time.monotonic() + 60
        while True:
            assert process.poll() is None, "the server ended"
            assert time.monotonic() < until, "the server did not get ready"
            try:
                ask(port, "/readyz")
                break
            except OSError:
                time.sleep(0.02)
        yield port, process
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def test_serves_until_it_is_told_to_stop(tiny: Any) -> None:
    with server(tiny.artefact.root, 1) as (port, process):
        answer = json.loads(ask(port, "/predict", {"inputs": "a great film"}))
        assert {entry["label"] for entry in answer} == {"NEG", "POS"}
        with pytest.raises(InputError, match=f"port {port} of 127.0.0.1 is in use"):
            launch(tiny.artefact, "127.0.0.1", port)
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) in (0, -signal.SIGTERM)


@pytest.mark.slow
def test_workers_share_the_port_and_their_counts(tiny: Any) -> None:
    with server(tiny.artefact.root, 2) as (port, process):
        for _ in range(12):
            ask(port, "/predict", {"inputs": "a great film"})
        for _ in range(4):
            assert b'bantam_requests_total{status="200"} 12.0' in ask(port, "/metrics")
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) in (0, -signal.SIGTERM)


def test_a_port_in_use_is_found_before_anything_is_loaded(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(InputError, match="is in use"):
            launch(tmp_path / "not even an artefact", "127.0.0.1", taken.getsockname()[1])


def test_a_port_taken_while_loading_is_found_too(tiny: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        taken.bind(("127.0.0.1", 0))
        monkeypatch.setattr("serve.app.create_app", lambda settings: taken.listen())
        with pytest.raises(InputError, match="is in use"):
            launch(tiny.artefact, "127.0.0.1", taken.getsockname()[1])


@pytest.mark.parametrize("workers", [1, 2])
def test_what_is_wrong_is_said_before_the_port_opens(copy: Path, workers: int, monkeypatch: pytest.MonkeyPatch) -> None:
    port = free_port()
    monkeypatch.setenv("BANTAM_DEVICE", "cuda")
    with pytest.raises(BackendError, match="cuda"):
        launch(copy, "127.0.0.1", port, workers)
    monkeypatch.delenv("BANTAM_DEVICE")
    (copy / "tokenizer.json").write_text("{}")
    with pytest.raises(ArtefactError, match="damaged"):
        launch(copy, "127.0.0.1", port, workers)
    with pytest.raises(ConnectionRefusedError), socket.create_connection(("127.0.0.1", port)):
        pass


def test_wrong_arguments(tiny: Any) -> None:
    with pytest.raises(InputError, match="port must be from 0 to 65535"):
        launch(tiny.artefact, port=70000)
    with pytest.raises(InputError, match="workers must be 1 or more"):
        launch(tiny.artefact, workers=0)
    with pytest.raises(InputError, match="cannot listen on|not an address"):
        launch(tiny.artefact, host="203.0.113.7", port=free_port())
