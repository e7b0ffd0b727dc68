"""The bytes of an answer's head."""

from collections.abc import Iterable
from http import HTTPStatus

import orjson

WORDS = {400: "Validation", 408: "Timeout", 431: "Validation", 503: "Overloaded"}  # `error_type`


def _line(status: int) -> bytes:
    try:
        phrase = HTTPStatus(status).phrase
    except ValueError:
        phrase = ""
    return f"HTTP/1.1 {status} {phrase}\r\n".encode()


STATUS = {status: _line(status) for status in range(100, 600)}


def lines(pairs: Iterable[tuple[bytes, bytes]]) -> bytes:
    return b"".join([part for name, value in pairs for part in (name, b": ", value, b"\r\n")])


def pairs(head: bytes) -> list[tuple[bytes, bytes]]:
    """Of lines what ASGI takes."""
    found = []
    for line in head.split(b"\r\n")[:-1]:
        name, _, value = line.partition(b": ")
        found.append((name, value))
    return found


def refusal(status: int, why: str) -> bytes:
    """The whole answer to what was not read: before anybody knows which protocol is spoken."""
    body = orjson.dumps({"error": why, "error_type": WORDS[status]})
    head = b"%bcontent-type: application/json\r\ncontent-length: %d\r\nconnection: close\r\n\r\n"
    return head % (STATUS[status], len(body)) + body
