"""A small server with faults that can be asked for: `python bad_server.py PORT FAULT WORKERS`.

It answers as a service with one model that takes MODEL seconds a request. With the fault "none" it is right, save for
SIGTERM, at which it drops what it has taken; other faults:

    failing    every 20th answer is a 500
    traceback  answers to bad requests are a stack trace
    leaking    keeps 20 KB of each request
    late       takes every request, however long it must wait
    dropping   sheds load by closing connections
    slow       takes 3 seconds to start
    alone      a worker that is killed is not replaced, and counters begin anew
    wrong      after a bad request its answers are others
"""

import json
import mmap
import os
import signal
import socket
import struct
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

MODEL = 0.004
QUEUE = 20  # requests that may wait
PORT, FAULT, WORKERS = int(sys.argv[1]), sys.argv[2], int(sys.argv[3])
RESPONSES = {str(status): {"description": "x"} for status in (200, 400, 405, 422)}
DOCUMENT = {
    "openapi": "3.1.0",
    "info": {"title": "bad server", "version": "1"},
    "paths": {
        "/predict": {
            "post": {
                "requestBody": {
                    "required": True,
                    "content": {
                        "application/json": {
                            "schema": {
                                "type": "object",
                                "required": ["inputs"],
                                "properties": {"inputs": {"type": "string"}},
                            }
                        }
                    },
                },
                "responses": RESPONSES,
            }
        }
    },
}

model, counting = threading.Lock(), threading.Lock()
shared = mmap.mmap(-1, 8)  # requests of all workers
waiting = 0
kept = []
poisoned = False


class Handler(BaseHTTPRequestHandler):
    protocol_version, disable_nagle_algorithm = "HTTP/1.1", True
    timeout = 5

    def do_GET(self) -> None:
        if self.path == "/metrics":
            count = struct.unpack("q", shared[:8])[0]
            self.say(200, f"# TYPE requests_total counter\nrequests_total {count}\n".encode())
        elif self.path == "/openapi.json":
            self.say(200, json.dumps(DOCUMENT).encode())
        else:
            self.say(200 if self.path == "/readyz" else 404, b"{}")

    def do_POST(self) -> None:
        global waiting, poisoned
        size = self.headers.get("Content-Length", "0")
        body = self.rfile.read(min(int(size), 1_000_000) if size.isascii() and size.isdigit() else 0)
        try:
            text = json.loads(body)["inputs"]
            assert isinstance(text, str)
        except Exception:
            poisoned = FAULT == "wrong"
            self.say(422, b'Traceback (most recent call last):\n  File "/x.py"' if FAULT == "traceback" else b"{}")
            return
        with counting:
            full = waiting >= QUEUE and FAULT != "late"
            waiting += not full
        if full:
            if FAULT == "dropping":
                self.close_connection = True
                return
            self.say(429, b"{}")
            return
        with model:
            time.sleep(MODEL)
        with counting:
            waiting -= 1
            number = count()
        if FAULT == "leaking":
            kept.append(os.urandom(20_000))
        score = 0.5 if poisoned else 0.9
        self.say(500 if FAULT == "failing" and number % 20 == 0 else 200, json.dumps([{"score": score}]).encode())

    def say(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


def count() -> int:
    number = struct.unpack("q", shared[:8])[0] + 1
    shared[:8] = struct.pack("q", number)
    return number


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 512

    def handle_error(self, *_: object) -> None:
        pass


def work(listening: socket.socket) -> None:
    server = Server(("127.0.0.1", 0), Handler, bind_and_activate=False)
    server.socket.close()
    server.socket = listening
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()

    def end(*_: object) -> None:
        os._exit(0)

    signal.signal(signal.SIGTERM, end)
    while True:
        time.sleep(0.01)


def supervise(listening: socket.socket) -> None:
    pids = {start(listening) for _ in range(WORKERS)}

    def end(*_: object) -> None:
        for pid in pids:
            os.kill(pid, signal.SIGTERM)
        while pids:
            pids.discard(os.wait()[0])
        os._exit(0)

    signal.signal(signal.SIGTERM, end)
    while pids:
        pids.discard(os.wait()[0])
        if FAULT == "alone":
            shared[:8] = struct.pack("q", 0)
        else:
            pids.add(start(listening))


def start(listening: socket.socket) -> int:
    if pid := os.fork():
        return pid
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    work(listening)
    return 0


if FAULT == "slow":
    time.sleep(3)
port = socket.create_server(("127.0.0.1", PORT), backlog=512)
if WORKERS == 1:
    work(port)
else:
    supervise(port)
