"""uvicorn's HTTP connection, with limits on what a client may send, leave unfinished or leave unread.

uvicorn 0.54 itself waits for ever for the rest of a request, takes a head of any size, and sets a timer for each
request. Here one timer a worker looks at all connections in turn: a request that is late is answered 408, a head over
its limit 431, one connection too many 503, and who does not read its answer is cut off.
"""

import asyncio
import logging
import socket
import struct
from collections.abc import Callable
from http import HTTPStatus
from typing import Any, ClassVar

import orjson
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from serve.cycle import Cycle
from serve.settings import Settings

PIPELINED = 256  # requests that wait behind one on the same connection
LINGER = 0.5  # seconds that an idle connection has, once the server ends, for a request that is on its way
SILENT, READING, ANSWERING = range(3)
WORDS = {400: "Validation", 408: "Timeout", 431: "Validation", 503: "Overloaded"}  # `error_type`

log = logging.getLogger("bantam.serve")


class Watch:
    """Looks at the connections of one event loop every so often; `now` is its time in seconds, as of the last look."""

    def __init__(self, loop: asyncio.AbstractEventLoop, connections: set[Any], settings: Settings) -> None:
        self.now = loop.time()
        self.ending = False
        self.looked: Callable[[], None] = lambda: None
        self.lost: Callable[[], None] = lambda: None
        self._loop, self._connections = loop, connections
        self.every = max(0.02, min(settings.read_timeout, settings.write_timeout, settings.keep_alive, 4.0) / 4)
        self._timer = loop.call_later(self.every, self._look_again)

    def look(self) -> None:
        self.now = self._loop.time()
        for connection in tuple(self._connections):
            connection.check()
        self.looked()

    def end(self) -> None:
        """From here on each answer is its connection's last, and idle connections are closed after LINGER."""
        self.ending, self.now = True, self._loop.time()
        for connection in tuple(self._connections):
            connection.end()

    def close(self) -> None:
        self._timer.cancel()

    def _look_again(self) -> None:
        self._timer = self._loop.call_later(self.every, self._look_again)
        self.look()


class Connection(HttpToolsProtocol):
    settings: ClassVar[Settings]
    ours: ClassVar[bool]  # whether the app is ours alone, see `Cycle`
    watch: ClassVar[Watch | None] = None

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        if self.watch is None:
            type(self).watch = Watch(self.loop, self.connections, self.settings)
        assert self.watch is not None
        self._watch = self.watch
        self._phase = SILENT  # of the request that came last
        self._since = self._watch.now
        self._stuck: float | None = None  # since when the client does not read
        self._in_head = True
        self._head = 0  # bytes of the head so far; of one that began behind another request, from its second packet on
        self._refusal = 0  # status

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if len(self.connections) > 2 * self.settings.max_connections:
            transport.abort()
        elif len(self.connections) > self.settings.max_connections:
            self._refusal = 503  # said once it has asked: an answer that crosses the question may be lost

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._watch.lost()

    def data_received(self, data: bytes) -> None:
        if self._refusal == 503:
            self._refuse(503, f"more than {self.settings.max_connections} connections are open; try again later")
            return
        if self._in_head:
            self._head += len(data)
        super().data_received(data)
        if self._in_head and self._head > self.settings.max_head:
            self._refuse(431, f"the head of the request is over {self.settings.max_head} bytes")

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._phase, self._since = READING, self._watch.now

    def on_headers_complete(self) -> None:
        if self._head > self.settings.max_head and self._head_size() > self.settings.max_head:
            self._refusal = 431
            raise ValueError("uvicorn stops reading at any error and calls send_400_response")
        self._in_head, self._since = False, self._watch.now
        super().on_headers_complete()
        if self.ours and self.cycle is not None:
            self.cycle.__class__ = Cycle  # uvicorn names its own class where it makes one
        if self._watch.ending and self.cycle is not None:
            self.cycle.keep_alive = False
        if len(self.pipeline) > PIPELINED:
            self._cut_off(f"sent more than {PIPELINED} requests ahead of their answers")

    def on_message_complete(self) -> None:
        self._in_head, self._head = True, 0
        answered = self.cycle is None or self.cycle.response_complete  # before it was read whole
        self._phase, self._since = SILENT if answered else ANSWERING, self._watch.now
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """As uvicorn's own, without its timer for each request."""
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            return
        self._since = self._watch.now
        self.flow.resume_reading()
        if self.pipeline:
            self._start_asgi_task(*self.pipeline.pop())
        elif self._phase == ANSWERING:
            self._phase = SILENT

    def send_400_response(self, msg: str) -> None:
        if self._refusal == 431:
            self._refuse(431, f"the head of the request is over {self.settings.max_head} bytes")
        else:
            self._refuse(400, "this is not HTTP/1.1")

    def end(self) -> None:
        if self._phase == SILENT:
            self._since = self._watch.now
        elif self.cycle is not None:
            self.cycle.keep_alive = False

    def shutdown(self) -> None:
        """uvicorn's own server calls it for each connection when it ends."""
        if not self._watch.ending:
            self._watch.end()

    def check(self) -> None:
        """Close or cut off a connection whose client is late."""
        settings, now = self.settings, self._watch.now
        if self.transport.is_closing() or self.flow.write_paused:
            self._stuck = self._stuck or now
            if now - self._stuck > settings.write_timeout:
                self._cut_off(f"did not read its answer in {settings.write_timeout:g} s")
            return
        self._stuck = None
        waited = now - self._since - self._watch.every  # `now` may have been that old when it was noted
        if self._phase == SILENT:
            if waited > (LINGER if self._watch.ending else settings.keep_alive):
                self.transport.close()
        elif self._phase == READING and waited > settings.read_timeout and not self._busy():
            self._refuse(408, f"the request was not complete after {settings.read_timeout:g} s")

    def _busy(self) -> bool:
        """An earlier request is still to be answered, or it is the app that does not read."""
        if self.pipeline or self.flow.read_paused:
            return True
        return self.cycle is not None and not (self.cycle.response_complete or self.cycle.more_body)

    def _refuse(self, status: int, why: str) -> None:
        if self.transport.is_closing():
            return
        if self._busy():  # its answer comes first: this one in its place would be taken for it
            self.cycle.keep_alive = False
            self.flow.pause_reading()
            return
        log.warning("%d: %s", status, why)
        # One that is answered already, or half, gets no second answer.
        if self.cycle is None or not self.cycle.response_started or self._in_head:
            body = orjson.dumps({"error": why, "error_type": WORDS[status]})
            head = f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\ncontent-type: application/json\r\n"
            self.transport.write(f"{head}content-length: {len(body)}\r\nconnection: close\r\n\r\n".encode() + body)
        self.transport.close()

    def _cut_off(self, why: str) -> None:
        """Without the wait for what it has not read, which the system would keep for minutes."""
        log.warning("cut off a client that %s", why)
        self.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.transport.abort()

    def _head_size(self) -> int:
        return len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers)


def limited(settings: Settings, *, ours: bool = False) -> type[Connection]:
    """The class for uvicorn's `http=`. It belongs to one event loop. `ours`: no other app than ours answers there."""
    return type("LimitedConnection", (Connection,), {"settings": settings, "ours": ours})
