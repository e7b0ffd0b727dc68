"""The load, in a process of its own: `python -m benchmarks.reliability.sender PLAN.json RESULT.npz`.

One thread over epoll and bare sockets, so that it costs less than what it asks. Open loop: requests are due at the
times of a Poisson process, whatever became of those before, and their latencies count from when they were due. Closed
loop: each connection sends its next request as soon as its last was answered.
"""

from __future__ import annotations

import errno
import json
import resource
import select
import signal
import socket
import sys
import time
from array import array
from collections import deque
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.http import HOST, BadAnswer
from benchmarks.peers.load import answered
from benchmarks.reliability.figures import arrivals
from benchmarks.reliability.outcome import BROKEN, LATE, LOST, REFUSED, UNSENT

MOST = 4000  # connections at once; requests that find none wait here, and that counts as their latency
AGAIN = 0.02  # seconds before a closed-loop client whose connection was refused tries again
ANSWER_WITHIN = 20.0  # seconds after the last request was due
SAY_EVERY = 10.0  # seconds
NOTHING = -1
DOWN = select.EPOLLIN | select.EPOLLHUP | select.EPOLLERR


class Line:
    """A connection, with at most one request under way."""

    __slots__ = ("port", "received", "request", "rest", "wire")

    def __init__(self, wire: socket.socket) -> None:
        self.wire = wire
        self.port = 0  # of this end, once it is connected
        self.request = NOTHING
        self.rest = b""  # of the message, not sent yet
        self.received = bytearray()


class Sender:
    def __init__(self, port: int, messages: list[bytes]) -> None:
        self.port, self.messages = port, messages
        self.epoll = select.epoll()
        self.lines: dict[int, Line] = {}
        self.idle: dict[Line, None] = {}  # as a stack, so that those that are not needed time out
        self.due, self.sent, self.done = array("d"), array("d"), array("d")
        self.status, self.ports = array("h"), array("H")
        self.under_way = self.refused = 0
        self.stopping = False

    def open_loop(self, times: NDArray[np.float64]) -> None:
        """Send a request at each of `times`, in seconds from now."""
        start, at = time.perf_counter(), 0
        due = (times + start).tolist()
        end = (due[-1] if due else start) + ANSWER_WITHIN
        waiting = deque[int]()
        while not self.stopping and (at < len(due) or self.under_way or waiting):
            now = time.perf_counter()
            if now > end:
                return
            while at < len(due) and due[at] <= now:
                waiting.append(self._add(due[at]))
                at += 1
            while waiting and (self.idle or len(self.lines) < MOST):
                self._issue(waiting.popleft())
            self._wait((due[at] if at < len(due) else end) - time.perf_counter())

    def closed_loop(self, clients: int, *, seconds: float, count: float, leave: bool) -> None:
        """Until `seconds` are over or `count` requests were sent. `leave`: a refused client does not come again."""
        start = said = now = time.perf_counter()
        refused, resting = 0, deque[float]()  # until when clients rest
        while not self.stopping and now < start + seconds + ANSWER_WITHIN:
            while resting and resting[0] <= now:
                resting.popleft()
            going = now < start + seconds and len(self.due) < count
            while going and self.under_way + len(resting) < clients and self.refused == refused:
                self._issue(self._add(time.perf_counter()))
                going = len(self.due) < count
            if self.refused > refused:
                refused += 1
                clients -= leave
                resting.extend([] if leave else [now + AGAIN])
                continue
            if not self.under_way and not (resting and going):
                return
            self._wait(0.01 if resting else 0.5)
            now = time.perf_counter()
            if now - said > SAY_EVERY:
                said = now
                print(f"  {len(self.due):,} requests in {now - start:.0f} s", file=sys.stderr, flush=True)

    def result(self) -> dict[str, NDArray[Any]]:
        """An entry a request, in the order in which they were due. Ends those that are under way."""
        for line in self.lines.values():
            if line.request != NOTHING:
                self._end(line, UNSENT if line.rest else LATE)
        columns = {name: getattr(self, name) for name in ("due", "sent", "done", "status", "ports")}
        return {name: np.array(values, dtype=values.typecode) for name, values in columns.items()}

    def _add(self, due: float) -> int:
        self.due.append(due)
        self.sent.append(float("nan"))
        self.done.append(float("nan"))
        self.status.append(UNSENT)
        self.ports.append(0)
        return len(self.due) - 1

    def _issue(self, request: int) -> None:
        line = self.idle.popitem()[0] if self.idle else self._connect()
        self.under_way += 1
        if line is None:
            self.refused += 1
            self._close(request, REFUSED)
            return
        line.request, line.rest = request, self.messages[request % len(self.messages)]
        line.received = bytearray()
        if line.port:  # else _go_on sends once it is connected
            self._send(line)

    def _connect(self) -> Line | None:
        wire = socket.socket()
        wire.setblocking(False)
        wire.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        found = wire.connect_ex((HOST, self.port))
        if found not in (0, errno.EINPROGRESS):
            wire.close()
            return None
        line = Line(wire)
        if not found:
            line.port = wire.getsockname()[1]
        self.lines[wire.fileno()] = line
        self.epoll.register(wire.fileno(), select.EPOLLIN | (select.EPOLLOUT if found else 0))
        return line

    def _send(self, line: Line) -> None:
        try:
            count = line.wire.send(line.rest)
        except BlockingIOError:
            count = 0
        except OSError:
            self._drop(line, UNSENT)
            return
        if count < len(line.rest):
            line.rest = line.rest[count:]
            self.epoll.modify(line.wire.fileno(), select.EPOLLIN | select.EPOLLOUT)
            return
        line.rest = b""
        self.sent[line.request] = time.perf_counter()
        self.ports[line.request] = line.port

    def _wait(self, seconds: float) -> None:
        events = self.epoll.poll(0)
        if not events and seconds > 0:
            select.select([self.epoll], [], [], seconds)  # epoll's own wait is rounded up to whole milliseconds
            events = self.epoll.poll(0)
        for number, event in events:
            line = self.lines[number]  # a pass closes none but its own
            if event & select.EPOLLOUT and not self._go_on(line):
                continue
            if event & DOWN:
                self._read(line)

    def _go_on(self, line: Line) -> bool:
        """It is connected, or there is room to send again. False: it is gone."""
        if not line.port:
            if line.wire.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
                self.refused += 1
                self._drop(line, REFUSED)
                return False
            line.port = line.wire.getsockname()[1]
        self.epoll.modify(line.wire.fileno(), select.EPOLLIN)
        if line.rest:
            self._send(line)
        return line.wire.fileno() >= 0

    def _read(self, line: Line) -> None:
        try:
            part = line.wire.recv(1 << 18)
        except BlockingIOError:
            return
        except OSError:
            part = b""
        if not part or line.request == NOTHING:  # what comes unasked is the last word to a silent connection
            self._drop(line, UNSENT if line.rest else LOST)
            return
        line.received += part
        try:
            found = answered(line.received)
        except (BadAnswer, ValueError):
            self._drop(line, BROKEN)
            return
        if found is None:
            return
        head = bytes(line.received[: line.received.find(b"\r\n\r\n")])
        if line.rest or b"connection: close" in head.lower():
            self._drop(line, found[0])
        else:
            self._end(line, found[0])
            self.idle[line] = None

    def _drop(self, line: Line, status: int) -> None:
        """The connection is over, and so is its request, if it has one."""
        if line.request != NOTHING:
            self._end(line, status)
        self.idle.pop(line, None)
        del self.lines[line.wire.fileno()]
        self.epoll.unregister(line.wire.fileno())
        line.wire.close()

    def _end(self, line: Line, status: int) -> None:
        self._close(line.request, status)
        line.request = NOTHING

    def _close(self, request: int, status: int) -> None:
        self.under_way -= 1
        self.done[request] = time.perf_counter()
        self.status[request] = status


def main(arguments: list[str]) -> int:
    plan: dict[str, Any] = json.loads(Path(arguments[0]).read_text(encoding="utf-8"))
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < MOST + 100:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    sender = Sender(plan["port"], [message.encode("latin-1") for message in plan["messages"]])
    signal.signal(signal.SIGTERM, lambda *_: setattr(sender, "stopping", True))
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # from a terminal it comes to all: the parent says when to stop
    begun = time.perf_counter()
    print(json.dumps({"begun": begun}), flush=True)
    busy = time.process_time()
    if plan["phases"]:
        sender.open_loop(arrivals(plan["phases"], plan["seed"]))
    else:
        sender.closed_loop(
            plan["clients"], seconds=plan["seconds"], count=plan["count"] or float("inf"), leave=plan["leave"]
        )
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # it is stopping
    facts = {"begun": begun, "ended": time.perf_counter(), "cpu": time.process_time() - busy}
    columns: dict[str, Any] = {**sender.result(), **facts}
    np.savez(arguments[1], **columns)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
