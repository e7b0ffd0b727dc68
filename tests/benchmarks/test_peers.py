"""Peers: the load against servers whose answers and delays are known, ratios by hand, and no process left behind."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from benchmarks import table
from benchmarks.http import BadAnswer, free_port
from benchmarks.peers import __main__ as command
from benchmarks.peers import catalogue, environment, report
from benchmarks.peers.catalogue import OWN, PEERS, SERVED, SERVERS, Server, message
from benchmarks.peers.load import Driver, answered
from benchmarks.peers.process import Processes

DELAY = 0.01

# Answers each POST after DELAY with the label "bad" for each text; refuses texts that say so; leaves a child that
# neither hears SIGTERM nor belongs to the group.
FAKE = f"""
import json, os, signal, subprocess, sys, time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

STUBBORN = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(300)"

class Handler(BaseHTTPRequestHandler):
    protocol_version, disable_nagle_algorithm = "HTTP/1.1", True
    def do_POST(self):
        texts = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["texts"]
        time.sleep({DELAY})
        body = json.dumps([{{"label": "bad", "score": 1.0}} for _ in texts]).encode()
        self.send_response(503 if "refuse" in texts else 200)
        if "in chunks" in texts:
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            for part in (body[:7], body[7:], b""):
                self.wfile.write(b"%x\\r\\n%s\\r\\n" % (len(part), part))
                self.wfile.flush()
        else:
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)
    def log_message(self, *_):
        pass

if len(sys.argv) > 2:
    subprocess.Popen([sys.executable, "-c", STUBBORN], start_new_session=True)
ThreadingHTTPServer.daemon_threads = True
ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""

FAKE_SERVER = Server(
    title="fake",
    package="bantam",
    command=lambda place: [sys.executable, "-c", FAKE, str(place.ports[0])],
    question=lambda texts: {"texts": list(texts)},
    labels=lambda answer: [entry["label"] for entry in answer],
)


@pytest.fixture
def fake(tmp_path: Path) -> Iterator[tuple[int, Processes]]:
    port = free_port()
    with Processes([sys.executable, "-c", FAKE, str(port), "with a child"], os.environ, tmp_path) as processes:
        for _ in range(400):
            try:
                Driver(port, 1).__exit__()
                break
            except OSError:
                time.sleep(0.05)
        yield port, processes


@pytest.mark.parametrize("clients", [1, 4])
def test_a_window_has_the_rate_that_delay_and_connections_allow(fake: tuple[int, Processes], clients: int) -> None:
    requests = [message(FAKE_SERVER, [str(number)]) for number in range(3)]
    with Driver(fake[0], clients) as driver:
        load = driver.drive(requests, 0.5)
    assert load.errors == 0 and load.wall >= 0.5
    assert min(load.samples) >= DELAY
    assert 1 <= len(load.samples) <= clients * (load.wall / DELAY + 1)
    # A closed loop always has every client waiting (Little's law).
    assert sum(load.samples) / load.wall == pytest.approx(clients, rel=0.25)
    assert 0 <= load.client <= load.wall


def test_errors_are_counted_and_are_no_samples(fake: tuple[int, Processes]) -> None:
    requests = [message(FAKE_SERVER, [text]) for text in ("fine", "refuse", "fine", "refuse")]
    with Driver(fake[0], 2) as driver:
        load = driver.drive(requests, 0.3)
        assert load.errors + len(load.samples) >= 4
        assert abs(load.errors - len(load.samples)) <= 2
        assert load.first_error is not None and load.first_error.startswith("503: ")
        with pytest.raises(BadAnswer, match="503"):
            driver.ask(requests[1])


def test_answers_in_chunks_are_the_same(fake: tuple[int, Processes]) -> None:
    with Driver(fake[0], 1) as driver:
        plain, chunked = (driver.ask(message(FAKE_SERVER, [text, text])) for text in ("x", "in chunks"))
    assert json.loads(plain) == json.loads(chunked) == [{"label": "bad", "score": 1.0}] * 2


def test_an_answer_is_read_once_all_of_it_is_there() -> None:
    whole = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4;x=y\r\nbody\r\n2\r\n\r\n\r\n0\r\n\r\n"
    assert [answered(bytearray(whole[:end])) for end in range(len(whole))] == [None] * len(whole)
    assert answered(bytearray(whole)) == (200, b"body\r\n")
    assert answered(bytearray(b"HTTP/1.1 404 Not Found\r\ncontent-length:2\r\n\r\nno")) == (404, b"no")
    for wrong in (b"HTTP/1.1 200 OK\r\n\r\n", b"SSH-2.0 hello\r\n\r\n"):
        with pytest.raises(BadAnswer):
            answered(bytearray(wrong))


def test_no_process_is_left_even_of_those_that_ignore_the_end(fake: tuple[int, Processes]) -> None:
    processes = fake[1]
    for _ in range(200):
        if len(found := processes.alive()) == 2:
            break
        time.sleep(0.05)
    assert len(found) == 2 and processes.threads() >= 2
    assert processes.memory() > 1e6
    with Driver(fake[0], 1) as driver:
        before = processes.cpu()
        driver.drive([message(FAKE_SERVER, ["x"] * 2000)], 0.5)
    assert 0 < processes.cpu() - before < 5
    processes.close()
    assert not any(psutil.pid_exists(process.pid) and process.is_running() for process in found)
    processes.close()


def made(rows: list[tuple[str, int, float, int]]) -> dict[str, Any]:
    """A report of windows (server, round, texts/s, errors), one load each."""
    window = {"latency_ms": {"p50": 2.0, "p90": 3.0, "p99": 4.0}, "cpu_us_per_text": 1500.0}
    turns = [
        {
            "server": name,
            "round": number,
            "agree": 64,
            "processes": 2,
            "threads": 9,
            "memory_bytes": 150_000_000,
            "loads": {load: {**window, "texts_per_second": rate, "errors": errors} for load in ("8", "list of 32")},
        }
        for name, number, rate, errors in rows
    ]
    return {
        "schema": report.SCHEMA,
        "kind": report.KIND,
        "created": "2026-01-01T00:00:00+00:00",
        "machine": {
            "cpu": "Test CPU",
            "usable_cores": 2,
            "flags": [],
            "load_before": [0.5],
            "versions": {},
            "commit": None,
        },
        "artefact": {"name": "small", "precision": "int8", "method": "static"},
        "data": {"name": "x.csv", "texts": 64},
        "settings": {"connections": [8], "seconds": 3.0, "list": 32, "rounds": 2},
        "servers": {name: {"version": "1.2", "workers": 2} for name, *_ in rows},
        "left_out": {"ray": "it cannot be installed"},
        "rows": turns,
    }


def test_ratios_are_to_the_best_peer_of_the_same_round() -> None:
    own = "ours-auto-2"
    found = made(
        [
            ("fastapi", 0, 100.0, 0), ("litserve", 0, 200.0, 0), (own, 0, 300.0, 0),
            ("fastapi", 1, 400.0, 0), ("litserve", 1, 900.0, 1), (own, 1, 1000.0, 0),
        ]
    )  # fmt: skip
    assert report.best_peers(found, "8") == {0: 200.0, 1: 400.0}  # neither ours nor one with errors
    assert report.ratios(found, own, "8") == [1.5, 2.5]
    assert report.ratios(found, "fastapi", "list of 32") == [0.5, 1.0]


def test_the_table_says_ratios_errors_and_who_is_left_out(tmp_path: Path) -> None:
    rows = [("fastapi", 0, 200.0, 0), ("litserve", 0, 100.0, 3), ("ours-auto-2", 0, 300.0, 0)]
    (tmp_path / "peers.json").write_text(json.dumps(made(rows)))
    text = table.rendered(tmp_path / "peers.json")
    lines = [line for line in text.splitlines() if line.startswith("|")]
    assert len(lines) == 5 and len({line.count("|") for line in lines}) == 1
    assert "FastAPI, thread pool 1.2 |" in lines[2] and "200 (1.00x [1.00, 1.00])" in lines[2]
    assert "3 errors" in lines[3]
    assert "300 (1.50x [1.50, 1.50]) | 2 / 4 | 1,500" in lines[4] and "| 150 | 64 of 64 |" in lines[4]
    assert "Ray Serve is left out: it cannot be installed." in text


@pytest.fixture
def two(monkeypatch: pytest.MonkeyPatch) -> None:
    """A peer that is our own service, and one that says "bad" to everything."""
    for name, server in {"twin": OWN["ours-onnxruntime-1"], "liar": FAKE_SERVER}.items():
        monkeypatch.setitem(PEERS, name, server)
        monkeypatch.setitem(SERVED, name, server)


def test_a_run_measures_who_agrees_and_goes_on_where_it_stopped(
    two: None,
    student: Path,
    data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    target = tmp_path / "peers.json"
    order = [str(student), "--data", str(data), "--json", str(target), "--peers", "twin", "liar"]
    order += ["--connections", "2", "--seconds", "0.2", "--rounds", "2"]
    take, taken = command.take, list[str]()

    def stop_at_third(server: Server, *others: Any) -> Any:
        taken.append(server.title)
        if len(taken) == 3:
            raise KeyboardInterrupt
        return take(server, *others)

    monkeypatch.setattr(command, "take", stop_at_third)
    assert command.main(order) == 130
    kept = json.loads(target.read_text())
    assert [(row["server"], row["round"]) for row in kept["rows"]] == [("twin", 0)]
    assert re.search(r"of 70 of its labels are ours; 99% must be", kept["left_out"]["liar"])
    monkeypatch.setattr(command, "take", take)
    assert command.main([*order, "--resume"]) == 0
    found = json.loads(target.read_text())
    assert [row["round"] for row in found["rows"]] == [0, 1] and found["rows"][0] == kept["rows"][0]
    for row in found["rows"]:
        assert row["agree"] == 70 and row["processes"] == 1 and row["memory_bytes"] > 1e7
        assert set(row["loads"]) == {"2", "list of 32"} and not any(one["errors"] for one in row["loads"].values())
    assert command.main([*order, "--resume", "--seconds", "0.3"]) == 2
    assert "measured with another settings" in capsys.readouterr().err


def test_wrong_input_is_one_error(
    student: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    order = [str(student), "--data", str(data), "--json", str(tmp_path / "x.json")]
    for more, words in [
        (["--peers", "nginx"], "peers must be among"),
        (["--texts", "31"], "texts at least 32"),
        (["--connections", "0"], "above 0"),
    ]:
        assert command.main([*order, *more]) == 2
        assert words in capsys.readouterr().err
    assert not (tmp_path / "x.json").exists()


def test_each_peer_has_a_script_and_pinned_requirements() -> None:
    peers = [server for server in PEERS.values() if server.requirements]
    assert len(peers) == 6
    for server in peers:
        lines = (SERVERS / str(server.requirements)).read_text().splitlines()
        pins = [line for line in lines if not line.startswith("#")]
        assert len(pins) > 20
        for pin in pins:
            assert re.fullmatch(r"[a-z0-9._-]+==[0-9][\w.]*( ; .+)?", pin), pin
        names = [pin.partition("==")[0] for pin in pins]
        assert {"onnxruntime", "tokenizers", server.package} <= set(names)
    assert len(list(SERVERS.glob("with_*.py"))) == 5  # Infinity has a command line of its own


def test_a_peer_that_cannot_be_installed_is_an_error_without_addresses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BANTAM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("UV_OFFLINE", "1")
    monkeypatch.setenv("UV_CACHE_DIR", str(tmp_path / "uv"))
    (tmp_path / "none.txt").write_text("none @ file:///nowhere/at/all/none-1.0-py3-none-any.whl\n")
    with pytest.raises(ValueError, match="cannot be installed") as caught:
        environment.prepare("none", tmp_path / "none.txt")
    assert "://" not in str(caught.value) and str(tmp_path) not in str(caught.value)


@pytest.mark.slow
@pytest.mark.network
def test_fastapi_installs_and_answers_as_we_do(student: Path, data: Path, tmp_path: Path) -> None:
    order = [str(student), "--data", str(data), "--json", str(tmp_path / "x.json"), "--peers", "fastapi", "ours"]
    assert command.main([*order, "--seconds", "0.2", "--rounds", "1", "--connections", "1"]) == 0
    found = json.loads((tmp_path / "x.json").read_text())
    assert {row["server"] for row in found["rows"]} >= {"fastapi", "ours-onnxruntime-1"} and not found["left_out"]
    assert found["servers"]["fastapi"]["packages"]["onnxruntime"] == environment.machine.version("onnxruntime")


def test_a_terminated_run_ends_its_server(student: Path, data: Path, tmp_path: Path) -> None:
    order = [
        str(student),
        "--data",
        str(data),
        "--json",
        str(tmp_path / "x.json"),
        "--peers",
        "ours",
        "--seconds",
        "60",
    ]
    root = Path(catalogue.__file__).parents[2]
    run = subprocess.Popen([sys.executable, "-m", "benchmarks.peers", *order], cwd=root, stderr=subprocess.DEVNULL)
    watched = psutil.Process(run.pid)
    children: list[psutil.Process] = []
    try:
        for _ in range(600):
            children = [child for child in watched.children(recursive=True) if "serve.launch" in _command(child)]
            if children:
                break
            time.sleep(0.05)
        run.send_signal(signal.SIGTERM)
        assert run.wait(30) == 143
    finally:
        run.kill()
        run.wait()
    assert len(children) == 1 and not children[0].is_running()


def _command(process: psutil.Process) -> str:
    """Empty where it has ended meanwhile."""
    try:
        return " ".join(process.cmdline())
    except psutil.NoSuchProcess:  # ZombieProcess is one, too
        return ""
