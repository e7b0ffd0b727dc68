"""The whole bench on tiny artefacts, and its ways to end early."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from rich.console import Console

from benchmarks import compare, run
from benchmarks.measure import Window
from benchmarks.remote import THREADS, Remote, environment
from benchmarks.targets import Spec
from serve.choice import CANDIDATES

KEYS = {
    "target": str,
    "runtime": str,
    "precision": str,
    "device": str,
    "threads": int,
    "batch": int,
    "texts_per_second": float,
    "latency_ms": dict,
    "cpu_seconds_per_text": float,
    "size_bytes": int,
    "peak_memory_bytes": int,
    "accuracy": dict,
    "agreement": dict,
}


def quiet() -> Console:
    return Console(file=io.StringIO())


def names(row: dict[str, Any]) -> tuple[str, str, str, int, int]:
    return row["target"], row["runtime"], row["precision"], row["batch"], row["clients"]


def measured(teacher: Path, student: Path, data: Path, out: Path, runtimes: tuple[str, ...]) -> dict[str, Any]:
    """A short run; what was returned is what was written, and nothing else was."""
    report = run.bench(
        [student],
        teacher=teacher,
        data=data,
        json_path=out / "r.json",
        html_path=out / "r.html",
        windows=2,
        seconds=0.05,
        runtimes=runtimes,
        console=quiet(),
    )
    assert json.loads((out / "r.json").read_text()) == report
    assert sorted(path.name for path in out.iterdir()) == ["r.html", "r.json"]
    assert str(teacher.parent) not in json.dumps(report)  # reports are committed: no places on this machine
    for row in report["rows"]:
        assert {name: type(row[name]) for name in KEYS} == KEYS
        assert row["latency_ms"]["p50"] <= row["latency_ms"]["p90"] <= row["latency_ms"]["p99"]
        assert all(row[name]["low"] <= row[name]["value"] <= row[name]["high"] for name in ("accuracy", "agreement"))
        assert row["samples"] >= 4 and row["cpu_seconds_per_text"] > 0
    return report


def test_bench_measures_sessions_and_the_service(teacher: Path, student: Path, data: Path, tmp_path: Path) -> None:
    report = measured(teacher, student, data, tmp_path, ("onnxruntime",))
    assert report["schema"] == 1 and report["machine"]["versions"]["onnxruntime"]
    rows = {names(row): row for row in report["rows"]}
    expected = [(who, "onnxruntime", how) for who in ("teacher", "small") for how in ("fp32", "int8")]
    told = {row["runtime"] for row in report["rows"] if row["transport"] == "http"}
    assert len(told) == 1 and told <= {f"auto: {name}" for name in CANDIDATES}
    expected.append(("small (HTTP)", *told, "int8"))
    assert set(rows) == {(*one, batch, 1) for one in expected for batch in (1, 32)} | {(*expected[-1], 1, 8)}
    served, direct = rows[(*expected[-1], 1, 1)], rows[(*expected[3], 1, 1)]
    assert served["accuracy"] == direct["accuracy"] and served["agreement"] == direct["agreement"]
    assert served["latency_ms"]["p50"] > direct["latency_ms"]["p50"]
    assert rows[(*expected[0], 1, 1)]["speedup"] == 1.0


@pytest.mark.slow
def test_bench_measures_torch_beside_the_rest(teacher: Path, student: Path, data: Path, tmp_path: Path) -> None:
    report = measured(teacher, student, data, tmp_path, ("torch", "onnxruntime"))
    rows = {names(row): row for row in report["rows"]}
    assert len(rows) == 15
    torch = rows[("teacher", "torch", "fp32", 1, 1)]
    assert torch["speedup"] == 1.0 and torch["agreement"]["value"] == 1.0
    assert ("teacher", "torch", "bf16", 32, 1) in rows
    session = rows[("teacher", "onnxruntime", "fp32", 1, 1)]
    assert session["agreement"]["value"] == 1.0 and session["accuracy"] == torch["accuracy"]
    assert session["peak_memory_bytes"] < torch["peak_memory_bytes"] / 2  # no torch in a session's process
    (served,) = (row for name, row in rows.items() if name[0] == "small (HTTP)" and name[3:] == (1, 1))
    assert served["peak_memory_bytes"] < torch["peak_memory_bytes"]


def test_speedup_is_taken_within_rounds_so_that_drift_cancels() -> None:
    def windows(*walls: float) -> list[Window]:
        return [Window([wall], wall, 0.5, 10, None) for wall in walls]

    found = compare.speedup(windows(1.0, 2.0, 8.0), windows(4.0, 8.0, 16.0))
    assert found == {"speedup": 4.0, "speedup_range": {"low": 2.0, "high": 4.0}, "cpu_speedup": 1.0}


def test_a_busy_machine_is_said_to_have_been_busy() -> None:
    row = {"threads": 1, "transport": "process", "device": "cpu"}
    assert compare.busy([{**row, "cores_used": 0.98}, {**row, "cores_used": 0.99}]) == []
    (note,) = compare.busy([{**row, "cores_used": 0.45}, {**row, "cores_used": 0.55}])
    assert "0.50 of a core" in note


def spec(artefact: Path, **more: Any) -> Spec:
    return Spec(**({"target": "one", "root": str(artefact), "runtime": "onnxruntime", "precision": "fp32",
                    "device": "cpu", "threads": 1, "model": "fp32"} | more))  # fmt: skip


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    path = tmp_path / "texts.json"
    path.write_text(json.dumps(["a film that is good", "bad"] * 10))
    return path


def test_a_worker_answers_as_the_session_does_and_is_gone_when_closed(
    student: Path, texts: Path, tmp_path: Path
) -> None:
    from serve.runtime import Session

    remote = Remote(spec(student), texts)
    pid = remote.process.pid
    try:
        remote.evaluate(tmp_path / "logits.npy", chunk=7)
        window = remote.window([0, 1, 2], batch=2, clients=1, seconds=0.01)
    finally:
        remote.close()
        remote.close()
    expected = Session(student, model="fp32").logits(["a film that is good", "bad"] * 10)
    np.testing.assert_allclose(np.load(tmp_path / "logits.npy"), expected, rtol=1e-5, atol=1e-6)
    assert window.texts % 3 == 0 and len(window.calls) % 2 == 0
    assert not psutil.pid_exists(pid)


def test_what_is_wrong_in_a_worker_is_raised_here(student: Path, texts: Path) -> None:
    with pytest.raises(ValueError, match="one onnxruntime int4: .*int4"):
        Remote(spec(student, precision="int4", model="int4"), texts)


def test_a_worker_that_dies_is_one_error_that_names_its_target(student: Path, texts: Path) -> None:
    remote = Remote(spec(student), texts)
    try:
        os.kill(remote.process.pid, signal.SIGKILL)
        with pytest.raises(RuntimeError, match="one onnxruntime fp32: the process ended by signal SIGKILL"):
            remote.peak_memory()
    finally:
        remote.close()


def test_threads_are_set_before_a_worker_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    assert {environment(2)[name] for name in THREADS} == {"2"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"threads": 0}, "threads must be at least 1"),
        ({"batches": (0,)}, "batch must be at least 1"),
        ({"batches": (1, 256)}, "has 70 rows, too few for batches of 256"),
        ({"seconds": 0.0}, "positive time"),
        ({"runtimes": ("jax",)}, "runtimes must be some of torch"),
        ({"device": "tpu"}, "device must be"),
        ({"limit": 0}, "limit must be at least 1"),
        ({"json_path": Path("/nowhere/r.json")}, "is not a folder"),
    ],
)
def test_bad_settings_are_refused_before_any_target_starts(
    teacher: Path, student: Path, data: Path, changes: dict[str, Any], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run, "Remote", None)
    with pytest.raises(ValueError, match=message):
        run.bench([student], **({"teacher": teacher, "data": data, "console": quiet()} | changes))


@pytest.mark.slow
def test_an_interrupt_ends_every_process_and_writes_nothing(
    teacher: Path, student: Path, data: Path, tmp_path: Path
) -> None:
    code = (
        "import signal, sys; from pathlib import Path; from benchmarks.run import bench\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # a background job inherits that it is ignored
        "teacher, student, data, out = map(Path, sys.argv[1:])\n"
        "bench([student], teacher=teacher, data=data, json_path=out,"
        " windows=1000, seconds=0.2, runtimes=['onnxruntime'])"
    )
    out = tmp_path / "r.json"
    arguments = [str(place) for place in (teacher, student, data, out)]
    process = subprocess.Popen([sys.executable, "-c", code, *arguments], env=environment(1), stderr=subprocess.PIPE)
    seen: set[psutil.Process] = set()
    deadline = time.monotonic() + 60
    while len(seen) < 5 and time.monotonic() < deadline:  # four sessions and a server's driver
        seen |= set(psutil.Process(process.pid).children(recursive=True))
        time.sleep(0.1)
    time.sleep(1)
    seen |= set(psutil.Process(process.pid).children(recursive=True))
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=20)
    assert b"KeyboardInterrupt" in said and process.returncode != 0
    assert len(seen) >= 5
    _, alive = psutil.wait_procs(list(seen), timeout=5)
    assert alive == []
    assert list(tmp_path.iterdir()) == []
