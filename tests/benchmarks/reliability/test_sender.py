"""The load: its rate and its clock against servers of known delay, and a name for all that can go wrong."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from benchmarks.http import HOST, free_port
from benchmarks.reliability.load import Load, Plan, send
from benchmarks.reliability.outcome import named
from benchmarks.reliability.sender import Sender

GOOD = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"
MESSAGE = "POST /predict HTTP/1.1\r\ncontent-length: 0\r\n\r\n"

Serve = Callable[[Callable[[socket.socket, int], None]], int]


@pytest.fixture
def serve() -> Iterator[Serve]:
    """`serve(answer)` gives a port; `answer(wire, number)` is called for each request of a connection."""
    stop, threads = threading.Event(), list[threading.Thread]()

    def begin(answer: Callable[[socket.socket, int], None]) -> int:
        listening = socket.create_server((HOST, 0), backlog=256)
        listening.settimeout(0.05)

        def talk(wire: socket.socket) -> None:
            with wire, contextlib.suppress(OSError):
                number = 0
                while wire.recv(65536):
                    answer(wire, number)
                    number += 1

        def accept() -> None:
            with listening:
                while not stop.is_set():
                    with contextlib.suppress(TimeoutError):
                        threads.append(threading.Thread(target=talk, args=(listening.accept()[0],), daemon=True))
                        threads[-1].start()

        door = threading.Thread(target=accept)
        threads.append(door)
        door.start()
        return int(listening.getsockname()[1])

    yield begin
    stop.set()
    for thread in threads:
        thread.join(5)


def test_open_loop_latencies_count_from_when_a_request_was_due(serve: Serve, tmp_path: Path) -> None:
    stalled = time.perf_counter() + 1e9

    def answer(wire: socket.socket, number: int) -> None:
        time.sleep(max(0.01, stalled - time.perf_counter() if time.perf_counter() > begun else 0.0))
        wire.sendall(GOOD)

    begun = float("inf")
    port = serve(answer)
    with Load(port, Plan([MESSAGE], phases=((100.0, 2.0),), seed=1), tmp_path) as load:
        begun, stalled = load.begun + 0.8, load.begun + 1.3  # nobody is answered in between
        sent = load.wait()
    assert abs(len(sent) - 200) < 5 * np.sqrt(200) and sent.statuses() == {"200": len(sent)}
    calm = sent.part(sent.begun, sent.begun + 0.75)
    assert np.percentile(calm.seconds, 50) == pytest.approx(0.01, abs=0.01)
    # A closed loop would have waited; here all who came meanwhile took until the stall was over.
    during = sent.part(sent.begun + 0.85, sent.begun + 1.25)
    assert len(during) > 15
    late = sent.begun + 1.3 - during.due
    assert np.all(during.seconds > late - 0.06) and np.percentile(during.seconds - late, 50) < 0.06


def test_a_sender_that_is_late_itself_counts_that(serve: Serve) -> None:
    sender = Sender(serve(lambda wire, number: wire.sendall(GOOD)), [MESSAGE.encode()])
    sender.open_loop(np.array([-0.5, -0.2, 0.05]))
    found = sender.result()
    assert np.diff(found["due"]) == pytest.approx([0.3, 0.25]) and (found["status"] == 200).all()
    assert (found["done"] - found["due"] > [0.5, 0.2, 0.0]).all()
    for line in sender.lines.values():
        line.wire.close()
    sender.epoll.close()


def test_a_closed_loop_always_has_every_client_waiting(serve: Serve, tmp_path: Path) -> None:
    def answer(wire: socket.socket, number: int) -> None:
        time.sleep(0.01)
        wire.sendall(GOOD)

    sent = send(serve(answer), Plan([MESSAGE], clients=4, seconds=0.6), tmp_path)
    took = sent.done - sent.due
    assert took.min() >= 0.01 and len(set(sent.ports)) == 4
    assert took.sum() / (sent.ended - sent.begun) == pytest.approx(4, rel=0.25)  # Little's law
    assert sent.rate() == pytest.approx(len(sent) / (sent.ended - sent.begun)) and 0 < sent.client() < 1e5
    sent = send(serve(answer), Plan([MESSAGE], clients=3, count=10), tmp_path)
    assert len(sent) == 10 and sent.good.all()


def test_whatever_goes_wrong_has_its_name(serve: Serve, tmp_path: Path) -> None:
    def answer(wire: socket.socket, number: int) -> None:
        if number == 0:
            wire.sendall(GOOD)
        elif number == 1:
            wire.sendall(b"HTTP/1.1 429 Too Many Requests\r\ncontent-length: 0\r\n\r\n")
        elif number == 2:
            wire.sendall(b"SSH-2.0 hello\r\n\r\n")

    port = serve(answer)
    sent = send(port, Plan([MESSAGE], count=3), tmp_path)
    assert [named(status) for status in sent.status.tolist()] == ["200", "429", "not HTTP"]

    def hang_up(wire: socket.socket, number: int) -> None:
        wire.sendall(GOOD[:-1])
        wire.close()

    sent = send(serve(hang_up), Plan([MESSAGE], count=2), tmp_path)
    assert sent.statuses() == {"lost": 2} and not np.isnan(sent.sent).any()
    sent = send(free_port(), Plan([MESSAGE], clients=3, leave=True), tmp_path)
    assert sent.statuses() == {"refused": 3} and np.isnan(sent.sent).all()
    sent = send(free_port(), Plan([MESSAGE], clients=1, seconds=0.3), tmp_path)
    assert 2 <= len(sent) <= 16 and set(sent.statuses()) == {"refused"}  # it comes again, with a rest


def test_a_server_that_closes_after_its_answer_has_lost_nothing(serve: Serve, tmp_path: Path) -> None:
    def answer(wire: socket.socket, number: int) -> None:
        wire.sendall(GOOD.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
        wire.close()

    sent = send(serve(answer), Plan([MESSAGE], clients=2, count=20), tmp_path)
    assert sent.statuses() == {"200": 20} and len(set(sent.ports.tolist())) == 20


def test_a_load_that_is_stopped_keeps_what_it_had(serve: Serve, tmp_path: Path) -> None:
    port = serve(lambda wire, number: wire.sendall(GOOD) if number < 3 else None)
    with Load(port, Plan([MESSAGE], clients=2), tmp_path) as load:
        time.sleep(0.3)
        assert load.running()
        sent = load.stop()
    assert sent.statuses() == {"no answer": 2, "200": 6}
    with Load(port, Plan([MESSAGE], clients=2), tmp_path) as load:
        pass
    assert not load.running()
