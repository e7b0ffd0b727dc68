"""The fuzzer's requests: each change changes whatever it is given, and the lengths of bodies are told rightly."""

from __future__ import annotations

import random

from benchmarks.peers.load import unchunked
from benchmarks.reliability.checks.bytes import same
from benchmarks.reliability.corpus import CHANGES, chunked, corpus, measured, mutated, post


def test_the_corpus_has_every_protocol() -> None:
    lines = [whole.split(b" HTTP/1.1")[0].decode() for whole in corpus("m")]
    for path in ("/predict", "/embed", "/rerank", "/similarity", "/tokenize", "/v1/embeddings", "/classify"):
        assert f"POST {path}" in lines
    assert {"POST /v2/models/m/infer", "GET /v2/health/live", "GET /info", "GET /metrics"} <= set(lines)
    for whole in corpus("m"):
        head, _, body = whole.partition(b"\r\n\r\n")
        if b"Content-Length" in head:
            assert int(head.rpartition(b"Content-Length: ")[2]) == len(body)


def test_chunks_are_the_body() -> None:
    whole = chunked("/p", b"x" * 50)
    assert unchunked(bytearray(whole), whole.index(b"\r\n\r\n") + 4) == b"x" * 50


def test_each_change_changes_and_takes_whatever_comes() -> None:
    good = post("/predict", b'{"inputs": "a film of 90 minutes"}')
    for name, change in CHANGES.items():
        changed = sum(change(good, random.Random(seed)) != good for seed in range(40))
        assert changed >= 20, name
        for odd in (b"", b"\r\n\r\n", b"x", b"\xff" * 100):
            for seed in range(10):
                assert isinstance(change(odd, random.Random(seed)), bytes), name


def test_changed_bodies_have_their_own_length() -> None:
    seen = 0
    for name in [name for name in CHANGES if name.endswith("in the body")]:
        for seed in range(20):
            head, _, body = CHANGES[name](post("/p", b'{"inputs": "90"}'), random.Random(seed)).partition(b"\r\n\r\n")
            assert int(head.rpartition(b"Content-Length: ")[2]) == len(body)
            seen += 1
    assert seen == 120
    assert measured(b"POST / HTTP/1.1\r\ncontent-length: 9\r\n\r\nabc").endswith(b"Content-Length: 3\r\n\r\nabc")


def test_every_change_comes_and_a_seed_gives_the_same_again() -> None:
    def some(seed: int) -> list[tuple[str, bytes]]:
        chance = random.Random(seed)
        return [mutated(corpus("m"), chance) for _ in range(400)]

    first = some(1)
    assert first == some(1)
    assert {one for how, _ in first for one in how.split(" + ")} == {*CHANGES, "pipelined"}


def test_answers_are_the_same_within_rounding() -> None:
    assert same([{"a": 0.12345678, "b": None}], [{"a": 0.12345679, "b": None}])
    for other in ([{"a": 0.2, "b": None}], [{"a": 0.12345678}], [], {"a": 1}, "x"):
        assert not same([{"a": 0.12345678, "b": None}], other)
