"""ASGI 3 for the requests of a connection: a task for each, which receives and sends messages."""

import asyncio
import logging
from typing import TYPE_CHECKING, Any

from serve.http.head import STATUS, lines
from serve.http.request import Head, Pairs, Request

if TYPE_CHECKING:
    from serve.http.connection import Connection

FAILED: Pairs = [(b"content-type", b"text/plain; charset=utf-8"), (b"content-length", b"21"), (b"connection", b"close")]

log = logging.getLogger("bantam.serve")


class Receiver:
    """The body of a request in ASGI's messages, as it comes; and that its client has left."""

    def __init__(self, connection: "Connection", request: Request) -> None:
        self._connection, self._request = connection, request
        self._told = False  # that it is whole
        self._news = asyncio.Event()
        self._expects = any(
            name == b"expect" and value.lower() == b"100-continue" for name, value in request.head.headers
        )
        self.wake()

    def wake(self) -> None:
        request = self._request
        if request.body or (request.whole and not self._told) or request.answered or self._connection.lost:
            self._news.set()

    async def __call__(self) -> dict[str, Any]:
        connection, request = self._connection, self._request
        if self._expects and not (request.started or connection.transport.is_closing()):
            connection.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        self._expects = False
        if not (connection.lost or request.answered):
            await self._news.wait()
            self._news.clear()
        if connection.lost or request.answered:
            return {"type": "http.disconnect"}
        self._told = request.whole
        return {"type": "http.request", "body": connection.take(request), "more_body": not request.whole}


class ASGI:
    """Any app's requests on one connection."""

    def __init__(self, connection: "Connection", config: Any, state: dict[str, Any]) -> None:
        if not config.loaded:
            config.load()
        self._connection, self._config, self._state = connection, config, state
        self._receive: Receiver | None = None

    def begin(self, request: Request) -> None:
        self._receive = Receiver(self._connection, request)
        keep(self._connection, self._run(Cycle(self._connection, request, self._receive)))

    def more(self, request: Request) -> None:
        if self._receive is not None:
            self._receive.wake()

    def gone(self) -> None:
        if self._receive is not None:
            self._receive.wake()

    async def _run(self, cycle: "Cycle") -> None:
        try:
            await self._config.loaded_app(self._scope(cycle.request.head), cycle.receive, cycle.send)
        except Exception:
            log.exception("the app failed")
        await cycle.close()

    def _scope(self, head: Head) -> dict[str, Any]:
        root, transport = self._config.root_path, self._connection.transport
        return {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": head.version,
            "server": _known(transport.get_extra_info("sockname")),
            "client": _known(transport.get_extra_info("peername")),
            "scheme": "https" if transport.get_extra_info("sslcontext") else "http",
            "method": head.method,
            "root_path": root,
            "path": root + head.path,
            "raw_path": root.encode("ascii") + head.raw_path,
            "query_string": head.query,
            "headers": list(head.headers),
            "state": self._state.copy(),
        }


class Cycle:
    """An answer on its way out: in one piece of known length, or in chunks."""

    def __init__(self, connection: "Connection", request: Request, receive: Receiver) -> None:
        self.request, self.receive = request, receive
        self._connection = connection
        self._head = b""  # that is not written yet
        self._chunked, self._left = False, 0  # bytes that its content-length still promises

    async def send(self, message: dict[str, Any]) -> None:
        await self._connection.drained()
        if self._connection.lost or self.request.answered:
            return
        if message["type"] == "http.response.start":
            self._begin(message["status"], list(message.get("headers", ())))
        else:
            self._go_on(message.get("body", b""), last=not message.get("more_body", False))

    def _begin(self, status: int, headers: Pairs) -> None:
        request, named = self.request, {name.lower(): value for name, value in headers}
        request.started = True
        if b"close" in named.get(b"connection", b"").lower():
            request.keep_alive = False
        elif not request.keep_alive:
            headers.append((b"connection", b"close"))
        self._left = int(named.get(b"content-length", b"0"))
        bare = request.head.method == "HEAD" or status in (204, 304)
        self._chunked = b"content-length" not in named and not bare
        if self._chunked and b"transfer-encoding" not in named:
            headers.append((b"transfer-encoding", b"chunked"))
        self._head = STATUS[status] + lines(headers) + b"\r\n"

    def _go_on(self, body: bytes, *, last: bool) -> None:
        if self.request.head.method == "HEAD":
            body, self._left = b"", 0
        elif self._chunked:
            body = (b"%x\r\n%b\r\n" % (len(body), body) if body else b"") + (b"0\r\n\r\n" if last else b"")
        else:
            self._left -= len(body)
            if self._left < 0 or (last and self._left):
                raise ValueError("the answer has another length than it says")
        self._connection.transport.write(self._head + body)
        self._head = b""
        if last:
            self._connection.answered(self.request)
            self.receive.wake()
            self._connection.advance()

    async def close(self) -> None:
        """The app is done: who has no answer gets one, who has half of one is cut off."""
        connection, request = self._connection, self.request
        if connection.lost or request.answered:
            return
        if request.started:
            connection.transport.close()
            return
        await self.send({"type": "http.response.start", "status": 500, "headers": list(FAILED)})
        await self.send({"type": "http.response.body", "body": b"Internal Server Error"})


def keep(connection: "Connection", work: Any) -> None:
    """A task of its own, which the server's end waits for."""
    task = connection.loop.create_task(work)
    connection.state.tasks.add(task)
    task.add_done_callback(connection.state.tasks.discard)


def _known(address: Any) -> tuple[str, int] | None:
    return (str(address[0]), int(address[1])) if isinstance(address, tuple) else None
