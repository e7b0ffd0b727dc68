"""The end: who was accepted is answered, whatever signal comes how often."""

import signal
import socket
import threading
import time

import pytest

from tests.serve.launch.servers import answer, ask, closed, connect, request, stub, who


class Load(threading.Thread):
    """Asks on one connection after the other, each kept until the server closes it."""

    def __init__(self, port: int, pause: float) -> None:
        super().__init__()
        self.port, self.pause = port, pause
        self.answered, self.lost, self.refused = 0, list[str](), False

    def run(self) -> None:
        while not self.refused:
            try:
                client = connect(self.port)
            except ConnectionError:
                self.refused = True
                return
            with client:
                try:
                    while True:
                        headers = ask(client, f"/sleep/{self.pause}", b"x" * 100)[1]
                        self.answered += 1
                        if headers.get("connection") == "close":
                            break
                except (OSError, KeyError) as error:
                    self.lost.append(repr(error))


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("signals", [[signal.SIGTERM], [signal.SIGTERM] * 2, [signal.SIGINT] * 2])
def test_no_accepted_request_is_lost(workers: int, signals: list[signal.Signals]) -> None:
    with stub(workers) as (port, process):
        threads = [Load(port, pause) for pause in (0, 0, 0.001, 0.01, 0.05, 0.3)]
        for thread in threads:
            thread.start()
        time.sleep(0.7)
        for number in signals:
            process.send_signal(number)
            time.sleep(0.05)
        assert process.wait(30) == 0
        for thread in threads:
            thread.join(30)
        assert [thread.lost for thread in threads] == [[]] * 6
        assert all(thread.answered > 1 for thread in threads)


@pytest.mark.parametrize("workers", [1, 2])
def test_requests_in_flight_are_answered_and_idle_connections_closed(workers: int) -> None:
    with stub(workers) as (port, process), connect(port) as busy, connect(port) as idle, connect(port) as late:
        who(idle), who(late)
        busy.sendall(request("/sleep/1"))
        time.sleep(0.2)
        process.send_signal(signal.SIGTERM)
        time.sleep(0.2)
        assert ask(late, "/who")[1]["connection"] == "close"
        assert closed(late)
        with pytest.raises(ConnectionRefusedError):
            connect(port)
        assert closed(idle)
        assert answer(busy)[1]["connection"] == "close"
        assert closed(busy)
        assert process.wait(30) == 0


def test_callers_in_the_ports_queue_are_answered_too() -> None:
    """They are connected as far as they know, even if no process had its turn yet."""
    with stub(1) as (port, process):
        process.send_signal(signal.SIGSTOP)
        clients = [connect(port) for _ in range(8)]
        for client in clients:
            client.sendall(request("/who"))
        process.send_signal(signal.SIGTERM)
        process.send_signal(signal.SIGCONT)
        assert [answer(client)[0] for client in clients] == [200] * 8
        for client in clients:
            client.close()
        assert process.wait(30) == 0


def test_a_slow_client_does_not_hold_up_the_end() -> None:
    with stub(1, BANTAM_READ_TIMEOUT="0.5") as (port, process), connect(port) as client:
        client.sendall(b"GET /who HT")
        time.sleep(0.1)
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 0
        client.settimeout(5)
        assert client.recv(100).startswith(b"HTTP/1.1 408")
        client.shutdown(socket.SHUT_RDWR)
