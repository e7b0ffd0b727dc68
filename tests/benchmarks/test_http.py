"""The load generator against a server whose answers and delays are known."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import pytest

from benchmarks import http
from serve.artefact import load

DELAY = 0.01


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    seen: ClassVar[list[object]] = []
    connections: ClassVar[set[tuple[str, int]]] = set()

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.seen.append(body["inputs"])
        self.connections.add(self.client_address)
        time.sleep(DELAY)
        self.answer(429 if body["inputs"] == "too many" else 200, b'{"error": "overloaded"}')

    def answer(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[:5])
        self.wfile.flush()
        self.wfile.write(body[5:])  # an answer may come in parts

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def port() -> Iterator[int]:
    Handler.seen, Handler.connections = [], set()
    server = ThreadingHTTPServer((http.HOST, 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server.server_address[1]
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.parametrize("clients", [1, 4])
def test_a_closed_loop_keeps_connections_and_has_the_rate_it_must_have(port: int, clients: int) -> None:
    requests = [http.request([str(number)]) for number in range(8)]
    with http.Loop(port, clients) as loop:
        samples, wall = loop.run(requests, 0.2)
    assert len(samples) % 8 == 0
    assert len(Handler.seen) == len(samples)
    assert {str(seen) for seen in Handler.seen} == {str(number) for number in range(8)}
    assert len(Handler.connections) == clients
    assert wall >= 0.2
    # A busy machine answers late but never early; and a closed loop always has every client waiting (Little's law).
    assert DELAY <= sorted(samples)[len(samples) // 2] < 10 * DELAY
    assert len(samples) / wall <= clients / DELAY
    assert sum(samples) / wall == pytest.approx(clients, rel=0.25)


def test_a_refusal_ends_the_run_with_the_servers_words(port: int) -> None:
    with http.Loop(port, 1) as loop, pytest.raises(http.BadAnswer, match="429.*overloaded"):
        loop.run([http.request(["too many"])], 0.1)


def test_requests_are_what_text_embeddings_inference_reads() -> None:
    def inputs(message: bytes) -> object:
        head, body = message.split(b"\r\n\r\n")
        assert f"Content-Length: {len(body)}".encode() in head
        return json.loads(body)["inputs"]

    assert inputs(http.request(["é"])) == "é"
    assert inputs(http.request(["a", "b"])) == [["a"], ["b"]]
    assert inputs(http.request(["a"], listed=True)) == [["a"]]
    assert inputs(http.request([("a", "b")])) == [["a", "b"]]


def test_answers_are_read_to_their_end() -> None:
    whole = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nbody"
    assert [http.answer(bytearray(whole[:end])) for end in (5, 30, len(whole) - 1)] == [None] * 3
    assert http.answer(bytearray(whole)) == b"body"
    with pytest.raises(http.BadAnswer, match="Content-Length"):
        http.answer(bytearray(b"HTTP/1.1 200 OK\r\n\r\n"))


def test_a_server_that_cannot_start_is_one_error_with_its_words(student: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "START", "raise SystemExit('no room at the inn')")
    with pytest.raises(ValueError, match="exit code 1: no room at the inn"):
        http.Service(load(student), threads=1)


STAND_IN = """
import json, os, sys
from http.server import BaseHTTPRequestHandler, HTTPServer

class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        told = {name: value for name, value in os.environ.items() if name.startswith("BANTAM_")}
        body = json.dumps({"runtime": "of a stand-in", **told} if self.path == "/info" else {}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

HTTPServer((sys.argv[2], int(sys.argv[3])), Handler).serve_forever()
"""


def test_a_service_tells_which_runtime_answers_and_keeps_to_this_cache(
    student: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http, "START", STAND_IN)
    monkeypatch.setenv("BANTAM_RUNTIME", "onnxruntime")  # a choice of this shell, not of the service
    service = http.Service(load(student), threads=3)
    try:
        assert service.runtime == "of a stand-in"
        info = service._ask(b"GET /info HTTP/1.1\r\nHost: x\r\n\r\n")
    finally:
        service.close()
    told = {name: value for name, value in info.items() if name.startswith("BANTAM_")}
    assert told == {"BANTAM_CACHE": os.environ["BANTAM_CACHE"], "BANTAM_THREADS": "3"}
