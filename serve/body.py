"""Reading a request's body within its limit."""

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from serve.errors import BadType, TooLarge

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]


class Gone(Exception):
    """The client hung up; there is nobody to answer."""


async def read_body(scope: Scope, receive: Receive, *, limit: int) -> bytes:
    """The body, refused as soon as it is over `limit` bytes, whatever its headers claim."""
    headers = dict(scope["headers"])
    kind = headers.get(b"content-type", b"").split(b";")[0].strip().lower()
    if kind != b"application/json" and not (kind.startswith(b"application/") and kind.endswith(b"+json")):
        raise BadType(f"expected content-type: application/json, got {kind.decode('latin-1') or 'none'!r}")
    if headers.get(b"content-encoding", b"identity").lower() != b"identity":
        raise BadType("compressed bodies are not read; send it without content-encoding")
    claimed = headers.get(b"content-length", b"0")[:18]
    size = int(claimed) if claimed.isdigit() else 0
    body = bytearray()
    more = True
    while more:
        if max(size, len(body)) > limit:
            raise TooLarge(f"the body is over {limit} bytes")
        message = await receive()
        if message["type"] == "http.disconnect":
            raise Gone
        body += message.get("body", b"")
        more = message.get("more_body", False) or len(body) > limit
    return bytes(body)
