"""Reading a request's body within its limits."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from typing import Any

from serve.errors import BadType, Overloaded, TooLarge, TooSlow

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]


class Gone(Exception):
    """The client hung up; there is nobody to answer."""


class Arriving:
    """Bodies of a worker that come in several parts: bytes of them that are held at once, and their time."""

    def __init__(self, *, limit: int, seconds: float) -> None:
        self.limit, self.seconds, self.held = limit, seconds, 0


def check_head(headers: Mapping[bytes, bytes], *, limit: int, typed: bool = True) -> None:
    """Refuse a body by what its headers say of it: more than `limit` bytes, or not JSON where it is `typed`."""
    kind = headers.get(b"content-type", b"")
    if typed and kind != b"application/json":
        kind = kind.split(b";")[0].strip().lower()
        if not (kind == b"application/json" or (kind.startswith(b"application/") and kind.endswith(b"+json"))):
            raise BadType(f"expected content-type: application/json, got {kind.decode('latin-1') or 'none'!r}")
    if headers.get(b"content-encoding", b"identity").lower() != b"identity":
        raise BadType("compressed bodies are not read; send it without content-encoding")
    claimed = headers.get(b"content-length", b"0")[:18]
    if claimed.isdigit() and int(claimed) > limit:
        raise TooLarge(f"the body is over {limit} bytes")


async def read_body(receive: Receive, arriving: Arriving, *, limit: int) -> bytes:
    """The body, refused as soon as it is over `limit` bytes, whatever its headers claim."""
    body, more = await _part(receive)
    if len(body) > limit:
        raise TooLarge(f"the body is over {limit} bytes")
    return body if not more else await _rest(body, receive, arriving, limit)


async def _rest(first: bytes, receive: Receive, arriving: Arriving, limit: int) -> bytes:
    """A body whose first part is there. Only here is there a timer: nearly all bodies come at once."""
    body, more, held = bytearray(first), True, 0
    try:
        async with asyncio.timeout(arriving.seconds):
            while more:
                arriving.held, held = arriving.held + len(body) - held, len(body)
                if arriving.held > arriving.limit:
                    raise Overloaded("too many large bodies arrive at once; try again in a moment")
                part, more = await _part(receive)
                body += part
                if len(body) > limit:
                    raise TooLarge(f"the body is over {limit} bytes")
    except TimeoutError:
        raise TooSlow(f"the body did not come within {arriving.seconds:g} s") from None
    finally:
        arriving.held -= held
    return bytes(body)


async def _part(receive: Receive) -> tuple[bytes, bool]:
    message = await receive()
    if message["type"] == "http.disconnect":
        raise Gone
    return message.get("body", b""), message.get("more_body", False)
