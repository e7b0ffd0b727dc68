"""`bantam serve` as processes: ports, signals, workers."""

import json
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from serve.artefact import ArtefactError
from serve.errors import BackendError, InputError
from serve.launch import launch
from serve.telemetry.metrics import SOON
from tests.serve.launch.servers import RUN, ask, connect, free_port, started


def load(port: int, path: str, content: Any = None) -> Any:
    with connect(port) as client:
        status, _, body = ask(client, path, b"" if content is None else json.dumps(content).encode())
        assert status == 200
        return body


@contextmanager
def server(root: Path, workers: int) -> Iterator[tuple[int, subprocess.Popen[bytes]]]:
    port = free_port()
    with started([sys.executable, "-c", RUN, str(root), str(port), str(workers)], port) as process:
        yield port, process


def test_serves_until_it_is_told_to_stop(tiny: Any) -> None:
    with server(tiny.artefact.root, 1) as (port, process):
        answer = json.loads(load(port, "/predict", {"inputs": "a great film"}))
        assert {entry["label"] for entry in answer} == {"NEG", "POS"}
        with pytest.raises(InputError, match=f"port {port} of 127.0.0.1 is in use"):
            launch(tiny.artefact, "127.0.0.1", port)
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0


@pytest.mark.slow
def test_workers_share_the_port_and_their_counts(tiny: Any) -> None:
    with server(tiny.artefact.root, 2) as (port, process):
        for _ in range(12):
            load(port, "/predict", {"inputs": "a great film"})
        counted = re.compile(r'^bantam_requests_total\{.*route="predict".*status="200"\} 12(\.0)?$', re.MULTILINE)
        until = time.monotonic() + 5
        while not counted.search(load(port, "/metrics").decode()) and time.monotonic() < until:
            time.sleep(SOON)  # what the other worker has not written yet
        for _ in range(4):
            assert counted.search(load(port, "/metrics").decode())
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0


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
    with pytest.raises(InputError, match="server must be one of uvicorn, granian, bentoml, got 'apache'"):
        launch(tiny.artefact, server="apache")
    with pytest.raises(InputError, match="metrics_port needs server uvicorn"):
        launch(tiny.artefact, server="bentoml", metrics_port=9000)
    with pytest.raises(InputError, match="cannot listen on|not an address"):
        launch(tiny.artefact, host="203.0.113.7", port=free_port())
