"""An HTTP/1.1 connection, with limits on what a client may send, leave unfinished or leave unread.

A request that is late is answered 408, a head over its limit 431, one connection too many 503, and who does not read
its answer is cut off.
"""

import asyncio
import logging
import socket
import struct
from collections.abc import Callable
from typing import Any, ClassVar, Protocol

from serve.http.asgi import ASGI
from serve.http.head import refusal
from serve.http.reader import READING, SILENT, Reader
from serve.http.request import Request
from serve.http.watch import Watch
from serve.settings import Settings

PIPELINED = 256  # requests that wait behind one on the same connection
TURN = 16  # of these that are answered before other connections have theirs
HELD = 65_536  # bytes of bodies that nobody has taken: then no more are read
LINGER = 0.5  # seconds that an idle connection has, once the server ends, for a request that is on its way

log = logging.getLogger("bantam.serve")


class Handler(Protocol):
    """Answers the requests of one connection, one after the other."""

    def begin(self, request: Request) -> None:
        """Its head is there, and every request before it is answered."""

    def more(self, request: Request) -> None:
        """More of its body may have come."""

    def gone(self) -> None:
        """The client has left, or was cut off."""


class Either:
    """Requests for some paths to one handler, for others to another."""

    def __init__(self, mine: Callable[[str], bool], ours: Handler, others: Handler) -> None:
        self._mine, self._ours, self._others = mine, ours, others
        self._now = others  # whose request is under way

    def begin(self, request: Request) -> None:
        self._now = self._ours if self._mine(request.head.path) else self._others
        self._now.begin(request)

    def more(self, request: Request) -> None:
        self._now.more(request)

    def gone(self) -> None:
        self._now.gone()


class Connection(asyncio.Protocol):
    """Made as uvicorn makes what it takes for `http=`."""

    settings: ClassVar[Settings]
    made: ClassVar[Callable[["Connection", Any, dict[str, Any]], Handler]]
    watch: ClassVar[Watch | None] = None
    transport: asyncio.Transport

    def __init__(
        self, config: Any, server_state: Any, app_state: dict[str, Any], _loop: asyncio.AbstractEventLoop | None = None
    ) -> None:
        self.loop = _loop or asyncio.get_event_loop()
        self.state, self.connections = server_state, server_state.connections
        if self.watch is None:
            type(self).watch = Watch(self.loop, self.connections, self.settings)
        assert self.watch is not None
        self._watch = self.watch
        self.reader = Reader(self._watch, self.settings.max_head)
        self.handler = type(self).made(self, config, app_state)
        self.lost = False
        self._turn, self._advancing, self._later = 0, False, False
        self._deaf = self._read_paused = self._write_paused = self._too_many = False
        self._room: asyncio.Future[None] | None = None  # to write more
        self._stuck: float | None = None  # since when the client does not read

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.connections.add(self)
        self.transport = transport  # type: ignore[assignment]
        if len(self.connections) > 2 * self.settings.max_connections:
            self.transport.abort()
        elif len(self.connections) > self.settings.max_connections:
            self._too_many = True  # said once it has asked: an answer that crosses the question may be lost

    def connection_lost(self, exc: Exception | None) -> None:
        self.connections.discard(self)
        self.lost = True
        self.resume_writing()
        self.handler.gone()
        self.reader.line.clear()
        self._watch.lost()

    def data_received(self, data: bytes) -> None:
        if self._too_many:
            self._refuse(503, f"more than {self.settings.max_connections} connections are open; try again later")
            return
        status = self.reader.feed(data)
        if len(self.reader.line) > PIPELINED + 1:
            self._cut_off(f"sent more than {PIPELINED} requests ahead of their answers")
            return
        self._turn = 0
        self.advance()
        if status == 431:
            self._refuse(431, f"the head of the request is over {self.settings.max_head} bytes")
        elif status:
            self._refuse(400, "this is not HTTP/1.1")

    def pause_writing(self) -> None:
        self._write_paused, self._room = True, self.loop.create_future()

    def resume_writing(self) -> None:
        self._write_paused = False
        if self._room is not None and not self._room.done():
            self._room.set_result(None)
        self.advance()

    # --- the handler's calls

    def advance(self) -> None:
        """Answer what can be answered now, in turn. Who answers later calls it then."""
        if self._advancing:
            return
        line, self._advancing = self.reader.line, True
        try:
            while line and not (self._write_paused or self.transport.is_closing()):
                request = line[0]
                if request.begun:
                    if not request.answered:
                        self.handler.more(request)
                elif self._turn < TURN:
                    self._turn, request.begun = self._turn + 1, True
                    self.handler.begin(request)
                else:
                    self._go_on_later()
                    break
                if not (request.answered and request.whole):
                    break
                line.popleft()
        finally:
            self._advancing = False
        self.pace()

    def take(self, request: Request) -> bytes:
        """What has come of its body."""
        body = self.reader.take(request)
        self.pace()
        return body

    def pace(self) -> None:
        """Read on only while what was read is taken."""
        pause = self._deaf or self.reader.held > HELD
        if pause == self._read_paused or self.lost:
            return
        self._read_paused = pause
        if pause:
            self.transport.pause_reading()
        else:
            self.transport.resume_reading()

    async def drained(self) -> None:
        """Wait until the client has read enough of what was written."""
        if self._write_paused and self._room is not None:
            await asyncio.shield(self._room)

    def answer(self, request: Request, head: bytes, body: bytes) -> None:
        """All of an answer; `head` is without its last line."""
        self.transport.write(b"".join((head, b"\r\n" if request.keep_alive else b"connection: close\r\n\r\n", body)))
        self.answered(request)

    def answered(self, request: Request) -> None:
        """All of its answer is written."""
        self.reader.answered(request)
        self.state.total_requests += 1
        if not request.keep_alive:
            self.transport.close()

    # --- limits

    def end(self) -> None:
        reader = self.reader
        if reader.phase == SILENT:
            reader.since = self._watch.now
        elif reader.line:
            reader.line[-1].keep_alive = False

    def shutdown(self) -> None:
        """uvicorn's own server calls it for each connection when it ends."""
        if not self._watch.ending:
            self._watch.end()

    def check(self) -> None:
        """Close or cut off a connection whose client is late."""
        settings, reader, now = self.settings, self.reader, self._watch.now
        if self.transport.is_closing() or self._write_paused:
            self._stuck = self._stuck or now
            if now - self._stuck > settings.write_timeout:
                self._cut_off(f"did not read its answer in {settings.write_timeout:g} s")
            return
        self._stuck = None
        waited = now - reader.since - self._watch.every  # `now` may have been that old when it was noted
        if reader.phase == SILENT:
            if waited > (LINGER if self._watch.ending else settings.keep_alive):
                self.transport.close()
        elif reader.phase == READING and waited > settings.read_timeout and not self._busy():
            self._refuse(408, f"the request was not complete after {settings.read_timeout:g} s")

    def _busy(self) -> bool:
        """An earlier request is still to be answered, or it is the app that does not read."""
        return self._read_paused or self.reader.busy()

    def _refuse(self, status: int, why: str) -> None:
        if self.transport.is_closing():
            return
        line = self.reader.line
        if self._busy():  # its answer comes first: this one in its place would be taken for it
            line[-1].keep_alive, self._deaf = False, True
            self.pace()
            return
        log.warning("%d: %s", status, why)
        # One that is answered already, or half, gets no second answer.
        if not line or not line[-1].started or self.reader.in_head:
            self.transport.write(refusal(status, why))
        self.transport.close()

    def _cut_off(self, why: str) -> None:
        """Without the wait for what it has not read, which the system would keep for minutes."""
        log.warning("cut off a client that %s", why)
        self.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.transport.abort()

    def _go_on_later(self) -> None:
        if not self._later:
            self._later = True
            self.loop.call_soon(self._go_on)

    def _go_on(self) -> None:
        self._turn, self._later = 0, False
        self.advance()


def limited(
    settings: Settings,
    *,
    direct: Callable[[Connection], Handler] | None = None,
    mine: Callable[[str], bool] | None = None,
) -> type[Connection]:
    """The class for uvicorn's `http=`. It belongs to one event loop. `direct` answers in the app's stead, all paths or
    those that are `mine`.
    """

    def made(connection: Connection, config: Any, state: dict[str, Any]) -> Handler:
        if direct is None:
            return ASGI(connection, config, state)
        if mine is None:
            return direct(connection)
        return Either(mine, direct(connection), ASGI(connection, config, state))

    return type("LimitedConnection", (Connection,), {"settings": settings, "made": staticmethod(made)})
