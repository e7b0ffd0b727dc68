"""Requests out of bytes, however these are cut into packets, and whether or not their heads came before."""

import asyncio

import pytest

from serve.http import reader
from serve.http.reader import READING, Reader
from serve.http.watch import Watch
from serve.settings import Settings

Found = list[tuple[str, str, list[tuple[bytes, bytes]], bytes, bool]]


def post(body: bytes, *headers: str, path: str = "/predict") -> bytes:
    lines = [f"POST {path} HTTP/1.1", "Host: x", *headers, f"Content-Length: {len(body)}", "", ""]
    return "\r\n".join(lines).encode() + body


ONE, SAME, OTHER = post(b"abcd"), post(b"efgh"), post(b"abcdef")
GET = b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n"
ROOM = len(post(b"x" * 50)) - 50 - 4 - 2  # a body that is as long as its head without the last two bytes
ALIKE = post(b"x" * ROOM)
CHUNKED = b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"
STREAMS = {
    "the same head": [ONE, SAME, ONE],
    "two at once": [ONE, ONE + SAME, SAME],
    "one and a half": [ONE, ONE + SAME[:30], SAME[30:], ONE],
    "head, then body": [ONE, ONE[:-4], ONE[-4:], SAME],
    "a body that looks like a head": [ONE, post(GET), GET, post(GET)],
    "no body": [GET, GET, GET + GET, GET],
    "another length": [ONE, OTHER, ONE, OTHER],
    "chunks": [CHUNKED, CHUNKED, ONE, CHUNKED],
    "a stray line": [ONE, b"\r\n" + SAME, b"\r\n", ONE],
    "a packet that ends in the middle of a head's end": [ALIKE, ALIKE[: ROOM + 3], ALIKE[ROOM + 3 :], ALIKE],
    "an escaped path": [post(b"a", path="/%70?q=%2f"), post(b"b", path="/%70?q=%2f")],
    "a length that is written otherwise": [ONE.replace(b": 4", b": 04"), SAME.replace(b": 4", b": 04")],
    "closing": [ONE, post(b"a", "connection: close")],
}


def read(packets: list[bytes]) -> Found:
    """What a new connection makes of them."""

    async def scenario() -> Found:
        watch = Watch(asyncio.get_running_loop(), set(), Settings())
        found = Reader(watch, 32_768)
        for packet in packets:
            assert found.feed(packet) == 0
        watch.close()
        assert found.phase != READING and all(request.whole for request in found.line)
        assert found.held == sum(len(request.body) for request in found.line)
        return [(r.head.method, r.head.path, r.head.headers, r.body, r.keep_alive) for r in found.line]

    return asyncio.run(scenario())


@pytest.mark.parametrize("name", STREAMS)
def test_packets_do_not_matter_and_a_head_may_have_come_before(name: str) -> None:
    packets = STREAMS[name]
    reader._known.clear()
    single = read([bytes([byte]) for byte in b"".join(packets)])
    assert len(single) >= 2 and not reader._known
    assert read(packets) == single
    assert read(packets) == single  # now all of its heads are known
    assert read([b"".join(packets)]) == single


def test_only_so_many_heads_are_kept_and_none_that_is_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reader, "KNOWN", 4)
    reader._known.clear()
    read([post(b"a", f"x: {number}") for number in range(30)])
    assert 0 < len(reader._known) <= 4
    reader._known.clear()
    read([post(b"a", "x: " + "y" * reader.LONGEST)])
    assert not reader._known


@pytest.mark.parametrize("wrong", [b"\x00\x01\r\n\r\n", b"GET * HTTP/9\r\n\r\n", b"GET  HTTP/1.1\r\n\r\n"])
def test_what_is_not_http_is_400(wrong: bytes) -> None:
    async def scenario() -> int:
        watch = Watch(asyncio.get_running_loop(), set(), Settings())
        watch.close()
        found = Reader(watch, 300)
        assert found.feed(ONE) == 0
        return found.feed(wrong)

    assert asyncio.run(scenario()) == 400
