"""Counters of several processes: nothing lost, nothing counted twice, nothing goes back."""

import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Iterator
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest

from serve.errors import InputError
from serve.telemetry.counters import Counters, Metric
from serve.telemetry.regions import BORN, Regions, shared_folder

METRICS = (
    Metric("requests", "counter", "of a kind", (("kind", ("a", "b")),)),
    Metric("waiting", "gauge", "now"),
    Metric("seconds", "histogram", "taken", (), (0.1, 1.0)),
)
PROCESSES, ROUNDS = 3, 20_000
spawn = multiprocessing.get_context("spawn")  # as servers start their workers


def opened(path: Path | None, **options: bool) -> Counters:
    return Counters(METRICS, path=path, workers=PROCESSES, **options)


def count(path: Path, rounds: int) -> None:
    counters = opened(path)
    b, waiting, seconds = counters.counter("requests", "b"), counters.gauge("waiting"), counters.histogram("seconds")
    for _ in range(rounds):
        waiting.set(5)
        b.inc()
        seconds.observe(0.5)
    signal.pause()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "counters"


@pytest.fixture
def processes() -> Iterator[list[BaseProcess]]:
    started: list[BaseProcess] = []
    yield started
    for process in started:
        process.kill()
        process.join()


def test_sums_are_exact_over_workers_of_whom_one_is_killed_and_replaced(
    path: Path, processes: list[BaseProcess]
) -> None:
    reader = opened(path, claim=False)
    for _ in range(PROCESSES):
        processes.append(spawn.Process(target=count, args=(path, ROUNDS), daemon=True))
        processes[-1].start()
    wait_for(reader, PROCESSES * ROUNDS)
    assert reader.sums()["waiting"].tolist() == [[5.0 * PROCESSES]]

    os.kill(processes[0].pid or 0, signal.SIGKILL)
    wait_for_gauge(reader, 5.0 * (PROCESSES - 1))  # while it is not even buried
    assert reader.sums()["requests"].tolist() == [[0.0], [PROCESSES * ROUNDS]]
    processes[0].join()
    used = reader.regions.used

    processes.append(spawn.Process(target=count, args=(path, ROUNDS), daemon=True))
    processes[-1].start()
    wait_for(reader, (PROCESSES + 1) * ROUNDS)
    assert reader.regions.used == used == PROCESSES  # it has the dead one's place
    assert reader.sums()["seconds"].tolist() == [[0.0, 4.0 * ROUNDS, 0.0, 2.0 * ROUNDS]]
    assert reader.sums()["waiting"].tolist() == [[5.0 * PROCESSES]]


def wait_for(reader: Counters, total: float) -> None:
    """Until all is counted; on the way sums only grow."""
    before = 0.0
    for _ in range(20_000):
        now = reader.sums()
        found = now["requests"].sum()
        assert before <= found <= total
        before = found
        if now["seconds"][0, :3].sum() == total:
            return
        threading.Event().wait(0.001)
    raise AssertionError(f"{before} of {total}")


def wait_for_gauge(reader: Counters, value: float) -> None:
    for _ in range(5_000):
        if reader.sums()["waiting"].tolist() == [[value]]:
            return
        threading.Event().wait(0.001)
    raise AssertionError(reader.sums()["waiting"])


def test_a_worker_takes_over_counts_but_not_gauges(path: Path) -> None:
    first = opened(path)
    first.counter("requests", "a").inc(3)
    first.gauge("waiting").set(7)
    first.regions._owners[0][BORN] = 1.0  # as if its process had been killed, and another had its id
    second = opened(path)
    assert second.regions.taken_over
    assert second.sums()["requests"].tolist() == [[3.0], [0.0]]
    assert second.sums()["waiting"].tolist() == [[0.0]]


def test_threads_lose_no_count(path: Path) -> None:
    """CPython switches threads between statements only: `slot += 1` is whole, even without a lock."""
    counters = opened(path)
    a, seconds = counters.counter("requests", "a"), counters.histogram("seconds")

    def work() -> None:
        for _ in range(20_000):
            a.inc()
            seconds.observe(2.0)

    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(before)
    assert counters.sums()["requests"][0, 0] == 80_000
    assert counters.sums()["seconds"].tolist() == [[0.0, 0.0, 80_000.0, 160_000.0]]


def test_a_bucket_holds_its_upper_bound() -> None:
    counters = opened(None)
    for value in (0.05, 0.1, 0.10001, 1.0, 1.5):
        counters.histogram("seconds").observe(value)
    assert counters.sums()["seconds"][0].tolist() == [2.0, 2.0, 1.0, pytest.approx(2.75001)]


def test_a_single_worker_leaves_no_file(tmp_path: Path) -> None:
    counters = opened(None)
    counters.counter("requests", "b").inc()
    assert counters.sums()["requests"].tolist() == [[0.0], [1.0]]
    assert list(tmp_path.iterdir()) == []


def test_a_file_of_other_counters_is_refused(path: Path) -> None:
    opened(path)
    with pytest.raises(InputError, match="counts other things"):
        Counters(METRICS[:2], path=path)
    path.write_bytes(b"hello")
    with pytest.raises(InputError, match="is not a file of counters"):
        opened(path)


def test_a_worker_too_many_is_refused(path: Path) -> None:
    workers = [Regions(path, slots=1) for _ in range(4)]  # 2 for each of one, and 2
    with pytest.raises(InputError, match="all 4 regions"):
        Regions(path, slots=1)
    workers[2].close()
    assert Regions(path, slots=1).taken_over


def test_the_shared_folder_is_private_and_goes() -> None:
    with shared_folder() as folder:
        assert folder.stat().st_mode & 0o777 == 0o700
        assert opened(folder / "counters").regions.used == 1
        assert (folder / "counters").stat().st_mode & 0o777 == 0o600
    assert not folder.exists()
