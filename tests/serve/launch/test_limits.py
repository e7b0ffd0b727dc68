"""What a client may do to a worker, over raw sockets: be slow, send too much, send nonsense, or not read."""

import json
import socket
import time
from collections.abc import Iterator

import pytest

from tests.serve.launch.servers import answer, ask, closed, connect, request, stub, wait, who

LIMITS = {
    "BANTAM_READ_TIMEOUT": "0.6",
    "BANTAM_WRITE_TIMEOUT": "0.6",
    "BANTAM_KEEP_ALIVE": "1.5",
    "BANTAM_MAX_CONNECTIONS": "20",
}


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    with stub(**LIMITS) as (port, _):
        yield port


@pytest.fixture(autouse=True)
def _others_are_answered(port: int) -> Iterator[None]:
    """Before, and after whatever a test did to the worker."""
    yield
    with connect(port) as other:
        assert who(other)["size"] == 0


def refused(client: socket.socket, status: int, error_type: str) -> None:
    got, headers, body = answer(client)
    assert (got, headers["connection"]) == (status, "close")
    assert json.loads(body)["error_type"] == error_type
    assert closed(client)


def trickle(client: socket.socket, text: bytes) -> None:
    """A byte every 50 ms until the other side has something to say."""
    client.settimeout(0.05)
    for byte in text:
        client.sendall(bytes([byte]))
        try:
            client.recv(1, socket.MSG_PEEK)
            break
        except TimeoutError:
            continue
    client.settimeout(30)


def test_a_head_that_drips_is_408(port: int) -> None:
    with connect(port) as client:
        start = time.monotonic()
        trickle(client, b"GET /who HTTP/1.1\r\nx: " + b"y" * 400)
        refused(client, 408, "Timeout")
        assert 0.6 <= time.monotonic() - start < 10


def test_a_body_that_stops_half_way_is_408(port: int) -> None:
    with connect(port) as client:
        client.sendall(request("/who", b"x" * 1000)[:-500])
        refused(client, 408, "Timeout")


def test_time_is_counted_anew_for_the_body_and_for_each_request(port: int) -> None:
    whole = request("/who", b"x" * 10)
    with connect(port) as client:
        for _ in range(2):
            for part in (whole[:20], whole[20:-5], whole[-5:]):
                time.sleep(0.3)
                client.sendall(part)
            assert json.loads(answer(client)[2])["size"] == 10


def test_a_slow_answer_is_waited_for_and_a_request_behind_it(port: int) -> None:
    with connect(port) as client:
        second = request("/who", b"x" * 10)
        client.sendall(request("/sleep/1.5") + second[:-5])
        assert answer(client)[0] == 200
        client.sendall(second[-5:])
        assert json.loads(answer(client)[2])["size"] == 10


@pytest.mark.parametrize("split", [False, True])
@pytest.mark.parametrize(("size", "status"), [(30_000, 200), (33_000, 431), (100_000, 431)])
def test_a_head_over_its_limit_is_431(port: int, size: int, status: int, split: bool) -> None:
    head = request("/who", b"", "x: " + "y" * size)
    with connect(port) as client:
        for part in (head[:1000], head[1000:]) if split else (head,):
            client.sendall(part)
            time.sleep(0.05 if split else 0)
        if status == 200:
            assert answer(client)[0] == 200
        else:
            refused(client, 431, "Validation")


def test_a_head_without_an_end_is_431(port: int) -> None:
    with connect(port) as client:
        client.sendall(b"GET /who HTTP/1.1\r\nx: " + b"y" * 40_000)
        refused(client, 431, "Validation")


def test_bodies_count_towards_no_head(port: int) -> None:
    with connect(port) as client:
        client.sendall(b"".join(request("/who", b"x" * 60_000) for _ in range(20)))
        assert [json.loads(answer(client)[2])["size"] for _ in range(20)] == [60_000] * 20


def test_a_silent_connection_is_closed(port: int) -> None:
    with connect(port) as fresh, connect(port) as used:
        who(used)
        start = time.monotonic()
        assert closed(fresh) and closed(used)
        assert 1 <= time.monotonic() - start < 10


def test_pipelined_requests_are_answered_in_turn(port: int) -> None:
    with connect(port) as client:
        client.sendall(request("/sleep/0.2") + b"".join(request("/who", b"x" * size) for size in range(1, 101)))
        assert [json.loads(answer(client)[2])["size"] for _ in range(101)] == list(range(101))


def test_a_pipelined_flood_is_cut_off(port: int) -> None:
    with connect(port) as client, connect(port) as other:
        try:
            for _ in range(20):
                client.sendall(request("/sleep/5") * 200)
                assert who(other)["size"] == 0
        except ConnectionError:
            pass
        assert closed(client)


def test_who_does_not_read_is_cut_off(port: int) -> None:
    with connect(port) as client:
        client.sendall(request("/large/20000000"))
        time.sleep(1.5)
        with pytest.raises(ConnectionError):
            answer(client)


def test_garbage_is_400_and_never_comes_before_an_answer_that_is_due(port: int) -> None:
    with connect(port) as client:
        client.sendall(bytes(range(128, 256)) + b"\r\n\r\n")
        refused(client, 400, "Validation")
    with connect(port) as client:
        client.sendall(request("/sleep/0.3") + b"\x00\x01 nonsense\r\n\r\n")
        assert answer(client)[0] == 200
        assert closed(client)


def test_half_a_chunk_of_garbage_in_a_body_is_400(port: int) -> None:
    with connect(port) as client:
        client.sendall(b"POST /who HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\nZZZ\r\n")
        refused(client, 400, "Validation")


def test_a_half_closed_connection_is_let_go(port: int) -> None:
    """A client that closes looks the same, and its work is to be dropped."""
    with connect(port) as client:
        client.sendall(request("/sleep/20"))
        client.shutdown(socket.SHUT_WR)
        start = time.monotonic()
        assert closed(client)
        assert time.monotonic() - start < 10


def test_one_connection_too_many_is_503_and_far_too_many_are_not_taken(port: int) -> None:
    clients = [connect(port) for _ in range(20)]
    for client in clients:
        who(client)
    with connect(port) as more:
        more.sendall(request("/who"))
        refused(more, 503, "Overloaded")
    flood = [connect(port) for _ in range(40)]
    assert ask(clients[0], "/who")[0] == 200
    gone = 0
    for client in flood[25:]:
        client.sendall(request("/who"))
        try:
            assert answer(client)[0] == 503
        except ConnectionError:
            gone += 1
    assert gone >= 10
    for client in (*clients, *flood):
        client.close()

    def room() -> bool:
        with connect(port) as client:
            return ask(client, "/who")[0] == 200

    wait(room)
