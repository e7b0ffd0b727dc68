"""Good requests of every protocol, and what a byte-level fuzzer makes of them."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable
from typing import Any

from benchmarks.http import HOST

TEXT = "a film with some charm, and no plot – très bien"
LENGTH = re.compile(rb"(?i)content-length: *\d+")
NUMBER = re.compile(rb"\d+")
HUGE = (b"0", b"-1", b"4294967296", b"18446744073709551616", b"9" * 400, b"1e999", b"0x10", b"NaN", b"+5", b" 7", b"")
CONTROL = bytes(code for code in range(32) if code not in (10, 13)) + b"\x7f"
INVALID = (b"\xff", b"\xc0\xaf", b"\xed\xa0\x80", b"\xf5\x80\x80\x80", b"\xe2\x82", b"\\ud800", b"\\u0000", b"\xfe\xff")
SIZES = (
    b"0",
    b"-1",
    b"ffffffffffffffff",
    b"10000000000000000",
    b"zz",
    b"",
    b"1 ",
    b"1;" + b"x" * 300,
    b"0x5",
    b"5\x00",
)
LINES = (b"\n", b"\r", b"\r\n", b"\n\r", b"\r\r\n", b"\x00\r\n", b"\r\n ")

Change = Callable[[bytes, random.Random], bytes]


def corpus(name: str, text: str = TEXT) -> list[bytes]:
    """A request or more of each protocol to a model of that name; whether the model can answer them or not."""
    infer = {"inputs": [{"name": "text", "shape": [1], "datatype": "BYTES", "data": [text]}]}
    bodies: list[tuple[str, Any]] = [
        ("/predict", {"inputs": text, "truncate": True}),
        ("/predict", {"inputs": [[text], [text, text]], "raw_scores": True}),
        ("/embed", {"inputs": [text, text], "normalize": True}),
        ("/rerank", {"query": text, "texts": [text, text], "return_text": True}),
        ("/similarity", {"inputs": {"source_sentence": text, "sentences": [text]}}),
        ("/tokenize", {"inputs": text, "add_special_tokens": True}),
        ("/v1/embeddings", {"model": name, "input": text, "encoding_format": "base64"}),
        ("/classify", {"model": name, "input": [text]}),
        (f"/v2/models/{name}/infer", infer),
    ]
    posts = [post(path, json.dumps(body, ensure_ascii=False).encode()) for path, body in bodies]
    posts += [chunked(path, json.dumps(body).encode()) for path, body in bodies[:3]]
    paths: tuple[str, ...] = (
        "/",
        "/info",
        "/health",
        "/livez",
        "/readyz",
        "/metrics",
        "/openapi.json",
        "/v1/models",
        "/v2",
    )
    paths += ("/v2/health/live", f"/v2/models/{name}", f"/v2/models/{name}/ready")
    return posts + [b"GET %b HTTP/1.1\r\nHost: %b\r\n\r\n" % (path.encode(), HOST.encode()) for path in paths]


def post(path: str, body: bytes) -> bytes:
    head = f"POST {path} HTTP/1.1\r\nHost: {HOST}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}"
    return head.encode() + b"\r\n\r\n" + body


def chunked(path: str, body: bytes, size: int = 20) -> bytes:
    head = (
        f"POST {path} HTTP/1.1\r\nHost: {HOST}\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
    )
    parts = [body[at : at + size] for at in range(0, len(body), size)]
    return head.encode() + b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in parts) + b"0\r\n\r\n"


def mutated(good: list[bytes], chance: random.Random) -> tuple[str, bytes]:
    """A request that was good before one to three changes, and the changes' names."""
    whole, names = chance.choice(good), list[str]()
    for _ in range(chance.choice((1, 1, 2, 3))):
        name = chance.choice(list(CHANGES))
        names.append(name)
        whole = CHANGES[name](whole, chance)
    if chance.random() < 0.2:
        names.append("pipelined")
        whole = b"".join(chance.choice([whole, chance.choice(good)]) for _ in range(chance.randint(2, 20)))
    return " + ".join(names), whole[:4_000_000]


def measured(whole: bytes) -> bytes:
    """With the Content-Length that its body has, so that what was changed there gets past the server's parser."""
    head, end, body = whole.partition(b"\r\n\r\n")
    return LENGTH.sub(b"Content-Length: %d" % len(body), head, count=1) + end + body


def _in_body(change: Change) -> Change:
    """The change in the body alone, with its length told rightly."""

    def changed(whole: bytes, chance: random.Random) -> bytes:
        head, end, body = whole.partition(b"\r\n\r\n")
        return measured(head + end + change(body, chance)) if body else change(whole, chance)

    return changed


def _cut(whole: bytes, chance: random.Random) -> bytes:
    return whole[: _place(whole, chance)]


def _flip(whole: bytes, chance: random.Random) -> bytes:
    found = bytearray(whole)
    for _ in range(chance.randint(1, 8) if found else 0):
        found[chance.randrange(len(found))] ^= 1 << chance.randrange(8)
    return bytes(found)


def _insert(whole: bytes, chance: random.Random) -> bytes:
    at = _place(whole, chance)
    return whole[:at] + chance.randbytes(chance.randint(1, 64)) + whole[at:]


def _delete(whole: bytes, chance: random.Random) -> bytes:
    at = _place(whole, chance)
    return whole[:at] + whole[at + chance.randint(1, 40) :]


def _repeat(whole: bytes, chance: random.Random) -> bytes:
    at = _place(whole, chance)
    part = whole[at : at + chance.randint(1, 60)]
    return whole[:at] + part * chance.choice((2, 50, 2000)) + whole[at:]


def _number(whole: bytes, chance: random.Random) -> bytes:
    found = list(NUMBER.finditer(whole))
    if not found:
        return _insert(whole, chance)
    one = chance.choice(found)
    return whole[: one.start()] + chance.choice(HUGE) + whole[one.end() :]


def _length(whole: bytes, chance: random.Random) -> bytes:
    """Content-Length huge, wrong, twice, or beside chunks."""
    line = b"Content-Length: " + chance.choice((*HUGE, b"5", b"100000000"))
    head, end, body = whole.partition(b"\r\n\r\n")
    if chance.random() < 0.5 and LENGTH.search(head):
        return LENGTH.sub(line, head, count=1) + end + body
    return head + b"\r\n" + line + end + body


def _chunks(whole: bytes, chance: random.Random) -> bytes:
    """Chunks of bad sizes, or trailers, or none of the end."""
    head, _, body = whole.partition(b"\r\n\r\n")
    head = LENGTH.sub(b"Transfer-Encoding: chunked", head)
    parts = [body[at : at + 16] for at in range(0, min(len(body), 400), 16)] or [b"{}"]
    sizes = [chance.choice(SIZES) if chance.random() < 0.3 else b"%x" % len(part) for part in parts]
    made = b"".join(size + chance.choice(LINES[2:4]) + part + b"\r\n" for size, part in zip(sizes, parts, strict=True))
    return head + b"\r\n\r\n" + made + chance.choice((b"0\r\n\r\n", b"0\r\nX: y\r\n\r\n", b"0\r\n", b""))


def _text(whole: bytes, chance: random.Random) -> bytes:
    at = _place(whole, chance)
    return whole[:at] + chance.choice(INVALID) * chance.randint(1, 4) + whole[at:]


def _control(whole: bytes, chance: random.Random) -> bytes:
    at = _place(whole, chance)
    return whole[:at] + bytes(chance.choices(CONTROL, k=chance.randint(1, 4))) + whole[at:]


def _line_ends(whole: bytes, chance: random.Random) -> bytes:
    return whole.replace(b"\r\n", chance.choice(LINES), chance.choice((1, 2, -1)))


def _head(whole: bytes, chance: random.Random) -> bytes:
    """Many headers, one long one, a long path, or another method or version."""
    line, end, rest = whole.partition(b"\r\n")
    words = line.split(b" ")
    kind = chance.randrange(5)
    if kind == 0:
        rest = b"".join(b"X-%d: y\r\n" % at for at in range(chance.choice((50, 2000)))) + rest
    elif kind == 1:
        rest = b"X: " + b"y" * chance.choice((1000, 70_000)) + b"\r\n" + rest
    elif kind == 2 and len(words) > 1:
        words[1] += chance.choice(
            (b"/../" * 50, b"?" + b"a" * 9000, b"%00", b"%ff%zz", b"//", b"\xff", b"#x", b"/%2e%2e/")
        )
    elif kind == 3:
        words[0] = chance.choice((b"PUT", b"DELETE", b"OPTIONS", b"TRACE", b"CONNECT", b"PRI", b"", b"G" * 9000))
    else:
        words[-1] = chance.choice((b"HTTP/1.0", b"HTTP/2.0", b"HTTP/9.9", b"HTTP/1.1.1", b"", b"http/1.1", b"SIP/2.0"))
    return b" ".join(words) + end + rest


def _nested(whole: bytes, chance: random.Random) -> bytes:
    """A body of very many brackets."""
    head, end, _ = whole.partition(b"\r\n\r\n")
    depth = chance.choice((10, 500, 100_000))
    opened, closed = chance.choice(((b"[", b"]"), (b'{"inputs":', b"}")))
    body = b'{"inputs":' + opened * depth + b'"x"' + closed * chance.choice((depth, 0)) + b"}"
    return measured(head + end + body)


def _place(whole: bytes, chance: random.Random) -> int:
    return chance.randrange(len(whole) + 1)


CHANGES: dict[str, Change] = {
    "cut": _cut,
    "bits flipped": _flip,
    "bytes inserted": _insert,
    "bytes deleted": _delete,
    "repeated": _repeat,
    "number changed": _number,
    "length changed": _length,
    "bad chunks": _chunks,
    "invalid UTF-8": _text,
    "control characters": _control,
    "line ends": _line_ends,
    "odd head": _head,
    "nested deep": _nested,
    "bits flipped in the body": _in_body(_flip),
    "bytes inserted in the body": _in_body(_insert),
    "invalid UTF-8 in the body": _in_body(_text),
    "number changed in the body": _in_body(_number),
    "repeated in the body": _in_body(_repeat),
    "cut in the body": _in_body(_cut),
}
