"""GET /metrics on a port of its own: one page, a connection for each request."""

import asyncio
import socket
from typing import Any

LONGEST = 8192  # bytes of a request
PATIENCE = 5.0  # seconds for a request, and for its answer to be read
TYPE = b"text/plain; version=0.0.4; charset=utf-8"


async def open_page(listening: socket.socket, app: Any) -> asyncio.Server:
    """Serve `app.metrics.text()` there until the result is closed."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(PATIENCE):
                head = await reader.readuntil(b"\r\n\r\n")
                writer.write(_page(head.split(b"\r\n", 1)[0].split(b" "), app))
                await writer.drain()
        except (asyncio.IncompleteReadError, asyncio.LimitOverrunError, TimeoutError, ConnectionError):
            pass  # whoever asks so gets no answer
        finally:
            writer.close()

    return await asyncio.start_server(answer, sock=listening.dup(), limit=LONGEST)


def _page(line: list[bytes], app: Any) -> bytes:
    method, path = [*line, b"", b""][:2]
    if path.split(b"?")[0] != b"/metrics":
        return _response(b"404 Not Found", b"there is only /metrics\n", b"text/plain")
    if method not in (b"GET", b"HEAD"):
        return _response(b"405 Method Not Allowed", b"/metrics takes GET\n", b"text/plain\r\nallow: GET, HEAD")
    return _response(b"200 OK", app.metrics.text(), TYPE, bare=method == b"HEAD")


def _response(status: bytes, body: bytes, kind: bytes, *, bare: bool = False) -> bytes:
    head = b"HTTP/1.1 %b\r\ncontent-type: %b\r\ncontent-length: %d\r\nconnection: close\r\n\r\n"
    return head % (status, kind, len(body)) + (b"" if bare else body)
