"""Several workers: how connections are spread, and what happens when one of them ends."""

import os
import signal
import sys
import time
from collections import Counter
from contextlib import ExitStack

import pytest

from tests.serve.launch.servers import STUB, answer, ask, connect, free_port, request, started, stub, wait, who


@pytest.mark.parametrize(("workers", "connections"), [(2, 8), (3, 32)])
def test_connections_are_spread_evenly(workers: int, connections: int) -> None:
    with stub(workers) as (port, _), ExitStack() as stack:
        clients = [stack.enter_context(connect(port)) for _ in range(connections)]
        workers_of = [who(client)["worker"] for client in clients]
        assert even(workers_of, workers)
        # Those that close make room, and the next ones go where it is.
        for client, worker in zip(clients, workers_of, strict=True):
            if worker == "0":
                client.close()
        time.sleep(0.3)
        stayed = [worker for worker in workers_of if worker != "0"]
        more = [stack.enter_context(connect(port)) for _ in range(workers_of.count("0"))]
        assert even(stayed + [who(client)["worker"] for client in more], workers)


def even(workers_of: list[str], workers: int) -> bool:
    counts = Counter(workers_of).values()
    return len(counts) == workers and max(counts) - min(counts) <= (1 if len(workers_of) % workers else 0)


@pytest.mark.parametrize("environment", [{}, {"STUB_THREAD": "1"}], ids=["forked", "anew"])
def test_a_killed_worker_is_replaced_and_others_do_not_notice(environment: dict[str, str]) -> None:
    with stub(2, **environment) as (port, process), ExitStack() as stack:
        clients = [stack.enter_context(connect(port)) for _ in range(2)]
        first, second = (who(client) for client in clients)
        assert {first["worker"], second["worker"]} == {"0", "1"}
        assert first["parent"] == second["parent"] == process.pid
        clients[1].sendall(request("/sleep/1"))
        start = time.monotonic()
        os.kill(first["pid"], signal.SIGKILL)
        with connect(port) as client:
            assert ask(client, "/who")[0] == 200
        assert time.monotonic() - start < 2
        assert answer(clients[1])[0] == 200

        def replaced() -> bool:
            with connect(port) as client, connect(port) as other:
                found = {got["worker"]: got["pid"] for got in (who(client), who(other))}
                return found.get(first["worker"], first["pid"]) != first["pid"]

        wait(replaced)


def test_callers_wait_while_all_workers_are_being_replaced() -> None:
    with stub(2) as (port, _), connect(port) as one, connect(port) as two:
        for client in (one, two):
            os.kill(who(client)["pid"], signal.SIGKILL)
        start = time.monotonic()
        with connect(port) as client:
            assert ask(client, "/who")[0] == 200
        assert time.monotonic() - start < 5


def test_what_a_dead_worker_had_not_taken_goes_to_others() -> None:
    with stub(2) as (port, _), connect(port) as one:
        pid = who(one)["pid"]
        os.kill(pid, signal.SIGSTOP)  # it takes nothing from now on
        clients = [connect(port) for _ in range(6)]
        for client in clients:
            client.sendall(request("/who"))
        time.sleep(0.3)
        os.kill(pid, signal.SIGKILL)
        assert [answer(client)[0] for client in clients] == [200] * 6
        for client in clients:
            client.close()


def test_workers_that_never_get_ready_are_given_up() -> None:
    port = free_port()
    command = [sys.executable, str(STUB), str(port), "2", "uvicorn"]
    with started(command, port, STUB_FAILS="1") as process:
        assert process.wait(30) == 1
        assert process.stderr
        said = process.stderr.read().decode()
        assert "a worker ended 5 times before it was ready, at last with 7" in said
    with pytest.raises(ConnectionRefusedError):
        connect(port)


@pytest.mark.parametrize("environment", [{}, {"STUB_THREAD": "1"}], ids=["forked", "anew"])
def test_workers_end_with_their_parent(environment: dict[str, str]) -> None:
    with stub(2, **environment) as (port, process), connect(port) as one, connect(port) as two:
        pids = [who(client)["pid"] for client in (one, two)]
        process.kill()
        process.wait()
        wait(lambda: not any(alive(pid) for pid in pids))


@pytest.mark.parametrize("workers", [1, 2])
def test_metrics_have_a_port_of_their_own_if_asked(workers: int) -> None:
    metrics = free_port()
    with stub(workers, BANTAM_METRICS_PORT=str(metrics)) as (port, _):
        with connect(metrics) as client:
            status, headers, body = ask(client, "/metrics")
            assert (status, headers["content-type"]) == (200, "text/plain; version=0.0.4; charset=utf-8")
            assert body == (b"worker 0\n" if workers == 2 else b"worker -\n")
        for path, sent, status in [("/", b"", 404), ("/metrics", b"x", 405)]:
            with connect(metrics) as client:
                assert ask(client, path, sent)[0] == status
        if workers == 2:  # the worker in the same seat goes on with it
            with connect(port) as one, connect(port) as two:
                os.kill(next(got["pid"] for got in (who(one), who(two)) if got["worker"] == "0"), signal.SIGKILL)
            with connect(metrics) as client:
                assert ask(client, "/metrics")[2] == b"worker 0\n"


def alive(pid: int) -> bool:
    """A zombie, which nobody here can wait for, is not."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False
