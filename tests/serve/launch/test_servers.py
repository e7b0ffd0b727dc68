"""The same app behind each server, as the command line starts it: a real artefact, asked and stopped."""

import json
import signal
import socket
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from serve.errors import BackendError
from serve.launch import launch
from tests.serve.launch.servers import answer, closed, connect, free_port, request, started

COMMAND = [sys.executable, "-m", "bantam", "serve"]
without_granian = pytest.mark.skipif(find_spec("granian") is None, reason="an extra")


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("server", ["uvicorn", pytest.param("granian", marks=without_granian), "bentoml"])
def test_each_server_answers_alike_and_ends_with_0(tiny: Any, server: str, workers: int, tmp_path: Path) -> None:
    port = free_port()
    options = ["--port", str(port), "--workers", str(workers), "--server", server]
    # BentoML keeps files there, and its processes must find the limits too.
    environment = {"BENTOML_HOME": str(tmp_path), "BANTAM_MAX_BODY": "1000", "BANTAM_READ_TIMEOUT": "1"}
    with started([*COMMAND, str(tiny.artefact.root), *options], port, **environment) as process:
        with connect(port) as client:
            client.sendall(request("/predict", b'{"inputs": "a great film"}'))
            status, headers, body = answer(client)
            assert (status, headers["content-type"]) == (200, "application/json")
            assert {entry["label"] for entry in json.loads(body)} == {"NEG", "POS"}
        with connect(port) as client:
            client.sendall(request("/predict", json.dumps({"inputs": "film " * 1000}).encode()))
            assert answer(client)[0] == 413
        with connect(port) as client:
            client.sendall(b"GET /info HTT")
            assert closed(client)
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0


@pytest.mark.skipif(find_spec("granian") is not None, reason="it is installed")
def test_granian_missing_is_one_clear_error(tiny: Any) -> None:
    with pytest.raises(BackendError, match=r"server 'granian' is not installed; run: pip install 'bantam\[granian\]'"):
        launch(tiny.artefact, port=free_port(), server="granian")


@pytest.mark.parametrize("server", ["granian", "bentoml"])
def test_a_port_in_use_is_found_for_each_server(tiny: Any, server: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(ValueError, match="is in use"):
        launch(tiny.artefact, port=taken.getsockname()[1], server=server)
