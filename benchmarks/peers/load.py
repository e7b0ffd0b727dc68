"""The load: a closed loop over kept-alive connections for a time, errors counted and not raised."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.http import ANSWER_WITHIN, BadAnswer, Connection, Loop

LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
CHUNKED = re.compile(rb"\r\ntransfer-encoding: *chunked", re.IGNORECASE)


@dataclass(frozen=True)
class Load:
    """What a window gave. Only requests that were answered with 200 count as samples."""

    samples: list[float]  # seconds of each request
    wall: float  # seconds from the first request to the last answer
    errors: int
    client: float  # seconds of processor time of this client
    first_error: str | None = None


class Driver(Loop):
    """`clients` connections, each sending its next request as soon as its last was answered."""

    def __enter__(self) -> Driver:
        return self

    def ask(self, message: bytes) -> bytes:
        """The body of one answer; BadAnswer for another status than 200."""
        connection = self.connections[0]
        self._send(connection, message)
        while (found := answered(connection.received)) is None:
            connection.received += self._receive(connection)
        status, body = found
        if status != 200:
            raise BadAnswer(f"{status}: {body[:300].decode(errors='replace')}")
        return body

    def drive(self, requests: Sequence[bytes], seconds: float, *, first: int = 0) -> Load:
        """Requests in rotation from the one at `first` until `seconds` have gone by, then what is under way."""
        samples, errors, told = list[float](), 0, None
        busy = time.process_time()
        start = now = time.perf_counter()
        issued = under_way = 0
        idle = list(self.connections)
        while True:
            while idle and now - start < seconds:
                self._send(idle.pop(), requests[(first + issued) % len(requests)])
                issued, under_way = issued + 1, under_way + 1
            if not under_way:
                return Load(samples, now - start, errors, time.process_time() - busy, told)
            ready = self.selector.select(ANSWER_WITHIN)
            if not ready:
                raise BadAnswer(f"no answer within {ANSWER_WITHIN:.0f} s")
            for key, _ in ready:
                connection: Connection = key.data
                connection.received += self._receive(connection)
                if (found := answered(connection.received)) is None:
                    continue
                now = time.perf_counter()
                under_way -= 1
                idle.append(connection)
                if found[0] == 200:
                    samples.append(now - connection.sent)
                else:
                    errors += 1
                    told = told or f"{found[0]}: {found[1][:200].decode(errors='replace')}"


def answered(received: bytearray) -> tuple[int, bytes] | None:
    """Status and body once all of it is there. BadAnswer for what is not HTTP with a known end."""
    end = received.find(b"\r\n\r\n")
    if end < 0:
        return None
    head = bytes(received[:end])
    status = head[9:12]
    if not head.startswith(b"HTTP/1.") or not status.isdigit():
        raise BadAnswer(f"not HTTP: {head[:100]!r}")
    if length := LENGTH.search(head):
        whole = end + 4 + int(length[1])
        return (int(status), bytes(received[end + 4 : whole])) if len(received) >= whole else None
    if CHUNKED.search(head):
        body = unchunked(received, end + 4)
        return None if body is None else (int(status), body)
    raise BadAnswer("the server sent neither Content-Length nor chunks")


def unchunked(received: bytearray, at: int) -> bytes | None:
    """The body of chunks that start at `at`; None until the last of them is there."""
    body = bytearray()
    while (line := received.find(b"\r\n", at)) >= 0:
        size = int(bytes(received[at:line]).partition(b";")[0], 16)
        if len(received) < line + 2 + size + 2:
            return None
        if not size:
            return bytes(body)
        body += received[line + 2 : line + 2 + size]
        at = line + 2 + size + 2
    return None
