"""A request as it came over a connection, whole or not yet."""

from functools import lru_cache
from typing import Any
from urllib.parse import unquote

import httptools

Pairs = list[tuple[bytes, bytes]]  # of headers; names in lower case
SHORT = 256  # bytes of a target that is remembered


class Head:
    """What its first lines say. Requests with the same bytes there share one, so that nobody changes it."""

    __slots__ = ("headers", "length", "method", "named", "note", "path", "query", "raw_path", "version")

    def __init__(self, target: bytes, headers: Pairs, method: bytes, version: str) -> None:
        """ValueError for a target without a path."""
        found = _remembered(target) if len(target) <= SHORT else _parts(target)
        self.path, self.raw_path, self.query = found
        self.method, self.version = method.decode("ascii"), version
        self.headers, self.named = headers, dict(headers)
        self.length = 0  # bytes of the body, where it is known
        self.note: Any = None  # what the app found out about such requests


class Request:
    __slots__ = ("answered", "begun", "body", "head", "keep_alive", "started", "whole")

    def __init__(self, head: Head, *, keep_alive: bool, body: bytes = b"", whole: bool = False) -> None:
        self.head = head
        self.body = body  # what has come of it and was not taken yet
        self.whole = whole  # all of it has come
        self.keep_alive = keep_alive  # the connection, after its answer
        self.begun = self.started = self.answered = False  # `started`: the first byte of its answer is on its way


def _parts(target: bytes) -> tuple[str, bytes, bytes]:
    parsed = httptools.parse_url(target)
    if parsed.path is None:
        raise ValueError("a target without a path")
    path = parsed.path.decode("ascii")
    return unquote(path) if "%" in path else path, parsed.path, parsed.query or b""


_remembered = lru_cache(512)(_parts)
