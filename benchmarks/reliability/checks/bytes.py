"""Requests that are wrong by a few bytes, over bare sockets: whatever comes, the next good one is answered rightly."""

from __future__ import annotations

import json
import random
import re
import selectors
import socket
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from benchmarks.http import HOST, BadAnswer
from benchmarks.reliability.corpus import corpus, mutated
from benchmarks.reliability.judge import Found, found, row
from benchmarks.reliability.service import Place, Service

SECONDS = 300.0
BURST = 64  # connections at once
PATIENCE = 0.25  # seconds for the answers to a burst: what is left half said never gets any
PIECES = 0.3  # share of requests that come in two parts
CLOSED_AT_ONCE = 0.1  # share of connections whose client leaves after it has sent
SHOWN = 20  # bad answers that the report keeps
GREW = 64e6  # bytes that the server may hold in the end beyond what it held at first
STATUS = re.compile(rb"HTTP/1\.[01] (\d{3}) ")
LEAKS = (b"Traceback (most recent call last)", b'File "/', b'.py", line ')


@dataclass
class Talk:
    """One connection of a burst."""

    how: str  # what was changed
    sent: bytes
    wire: socket.socket
    received: bytearray = field(default_factory=bytearray)
    closed: bool = False


@dataclass
class Tally:
    requests: int = 0
    size: int = 0  # bytes
    statuses: Counter[str] = field(default_factory=Counter)
    changes: Counter[str] = field(default_factory=Counter)
    closed: int = 0  # connections that the server closed
    silent: int = 0  # connections that were closed without an answer
    leaks: int = 0
    wrong: int = 0  # good requests, after a burst, that were not answered as before
    bad: list[dict[str, str]] = field(default_factory=list)

    def add(self, talk: Talk) -> None:
        self.requests += 1
        self.size += len(talk.sent)
        self.changes.update(talk.how.split(" + "))
        statuses = [status.decode() for status in STATUS.findall(talk.received)]
        self.statuses.update(statuses)
        self.closed += talk.closed
        self.silent += talk.closed and not statuses
        leaked = any(word in talk.received for word in LEAKS)
        self.leaks += leaked
        if leaked or any(status >= "500" for status in statuses):
            self.tell(talk.how, talk.sent, bytes(talk.received))

    def tell(self, how: str, sent: bytes, received: bytes) -> None:
        if len(self.bad) < SHOWN:
            self.bad.append({"change": how, "sent": repr(sent[:600]), "received": repr(received[:600])})

    def failures(self) -> int:
        return sum(count for status, count in self.statuses.items() if status >= "500")


def check(place: Place) -> Found:
    chance, tally = random.Random(0), Tally()
    with place.start(1, {}) as service:
        good = corpus(_name(service))
        expected = json.loads(service.ask(place.messages[0]))
        _burst(service.port, good, chance)  # what the first requests of a kind allocate is no leak
        pids, memory = service.pids(), service.memory()
        until = time.perf_counter() + (place.seconds or SECONDS)
        while time.perf_counter() < until:
            for talk in _burst(service.port, good, chance):
                tally.add(talk)
            _ask_again(service, place.messages[0], expected, tally)
            if service.ended() is not None:
                break
        after = (service.pids(), service.memory())
    return judged(tally, pids, memory, *after)


def judged(tally: Tally, pids: set[int], memory: int, pids_after: set[int], memory_after: int) -> Found:
    rows = [
        row("requests", tally.requests, least=1),
        row("answers", sum(tally.statuses.values()), least=1),
        row("answers of 5xx", tally.failures(), most=0),
        row("answers with a stack trace", tally.leaks, most=0),
        row("good requests not answered as before", tally.wrong, most=0),
        row("connections closed by the server", tally.closed),
        row("connections closed without an answer", tally.silent),
        row("processes that are gone", len(pids - pids_after), most=0),
        row("memory, before and after", f"{memory / 1e6:.1f} and {memory_after / 1e6:.1f} MB"),
        row("memory gained", (memory_after - memory) / 1e6, "MB", most=GREW / 1e6),
    ]
    counts = {"statuses": dict(sorted(tally.statuses.items())), "changes": dict(tally.changes.most_common())}
    return found(rows, bytes_sent=tally.size, bad=tally.bad, **counts)


def _burst(port: int, good: list[bytes], chance: random.Random) -> list[Talk]:
    """BURST connections with a request each, and what came back in time."""
    talks = [talk for _ in range(BURST) if (talk := _begin(port, good, chance))]
    with selectors.DefaultSelector() as selector:
        for talk in talks:
            selector.register(talk.wire, selectors.EVENT_READ, talk)
        until = time.perf_counter() + PATIENCE
        while selector.get_map() and (left := until - time.perf_counter()) > 0:
            for key, _ in selector.select(left):
                talk = key.data
                try:
                    part = talk.wire.recv(1 << 18)
                except OSError:
                    part = b""
                talk.received += part
                if not part:
                    talk.closed = True
                    selector.unregister(talk.wire)
        for talk in talks:
            talk.wire.close()
    return talks


def _begin(port: int, good: list[bytes], chance: random.Random) -> Talk | None:
    """None where the server cut the connection off before it was made."""
    how, whole = mutated(good, chance)
    try:
        wire = socket.create_connection((HOST, port), timeout=5)
    except OSError:
        return None
    with suppress(OSError):
        wire.settimeout(0.5)  # a server need not read on of what it has refused
        if chance.random() < PIECES:
            at = chance.randrange(len(whole) + 1)
            wire.sendall(whole[:at])
            wire.sendall(whole[at:])
        else:
            wire.sendall(whole)
        if chance.random() < CLOSED_AT_ONCE:
            wire.shutdown(socket.SHUT_WR)
    wire.setblocking(False)
    return Talk(how, whole, wire)


def _ask_again(service: Service, message: bytes, expected: Any, tally: Tally) -> None:
    try:
        answer: Any = json.loads(service.ask(message))
    except (OSError, BadAnswer, ValueError) as error:
        answer = str(error)
    if not same(answer, expected):
        tally.wrong += 1
        tally.tell("a good request", message, repr(answer).encode())


def same(one: Any, other: Any) -> bool:
    """The same JSON, numbers within rounding."""
    if isinstance(one, float) and isinstance(other, (int, float)):
        return bool(np.isclose(one, other, atol=1e-4))
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    return bool(one == other)


def _name(service: Service) -> str:
    """The model's, as paths of the Open Inference Protocol have it."""
    try:
        return str(json.loads(service.get("/info")).get("model_id") or "model")
    except (OSError, BadAnswer, ValueError, AttributeError):
        return "model"
