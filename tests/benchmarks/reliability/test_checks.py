"""Each check against servers with a fault, which it must report, and against our own service."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from benchmarks.reliability.catalogue import CHECKS
from benchmarks.reliability.checks import overload, schema, sigkill, sigterm, soak, start
from benchmarks.reliability.judge import Found, failed
from benchmarks.reliability.load import Sent
from benchmarks.reliability.service import Place, fallen, rising

Places = Callable[..., Place]


def oks(found: Found) -> dict[str, bool | None]:
    return {row["what"]: row["ok"] for row in found["rows"]}


def sent(**columns: list[float]) -> Sent:
    """Requests that were sent when they were due."""
    due = np.array(columns["due"], dtype=np.float64)
    done = np.array(columns["done"], dtype=np.float64)
    status = np.array(columns["status"], dtype=np.int16)
    ports = np.array(columns.get("ports", [1] * len(due)), dtype=np.uint16)
    return Sent(due, due, done, status, ports, begun=0.0, ended=float(done.max()), cpu=0.0)


# --- the whole of a check, with processes


def test_requests_that_are_lost_at_the_end_are_seen(faulty: Places) -> None:
    found = sigterm.check(faulty("none", seconds=0.4))
    assert not found["passed"] and len(found["rows"]) == 16
    lost = [row for row in found["rows"] if row["what"].endswith("without an answer")]
    assert len(lost) == 4 and all(row["value"] > 0 for row in lost if "closed loop" in row["what"])
    assert oks(found)["1 worker: exit code"] and oks(found)["2 workers: exit code"]


@pytest.mark.slow
def test_our_own_service_loses_nothing_at_the_end(own: Places) -> None:
    found = sigterm.check(own(seconds=0.4))
    assert failed(found) == []
    owed = [row["value"] for row in found["rows"] if row["what"].endswith("sent before the port closed")]
    assert len(owed) == 4 and min(owed) > 10


def test_a_worker_that_nobody_replaces_and_counters_that_begin_anew_are_seen(
    faulty: Places, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sigkill, "PATIENCE", 0.6)
    found = sigkill.check(faulty("alone", seconds=0.4))
    assert not oks(found)["until its replacement answered"] and not oks(found)["counters that went back"]
    assert found["details"]["replacement"] is None and "requests_total" in found["details"]["counters_back"][0]


@pytest.mark.slow
def test_a_worker_that_is_replaced_with_its_counters_is_well(faulty: Places) -> None:
    found = sigkill.check(faulty("none", seconds=0.4))
    assert failed(found) == []
    assert found["details"]["replacement"] not in (None, found["details"]["killed"])


@pytest.mark.parametrize(
    ("fault", "wrong"),
    [
        ("late", ["twice of it: goodput, of the peak", "twice of it: p99 of the accepted"]),
        pytest.param("dropping", ["neither 200 nor 429 nor 503"], marks=pytest.mark.slow),
        pytest.param("failing", ["half of it, open loop: not answered with 200"], marks=pytest.mark.slow),
    ],
)
def test_load_that_is_shed_wrongly_is_seen(faulty: Places, fault: str, wrong: list[str]) -> None:
    found = overload.check(faulty(fault, seconds=1.5))
    assert [oks(found)[what] for what in wrong] == [False] * len(wrong)


@pytest.mark.slow
def test_load_that_is_shed_well_is_taken_for_that(faulty: Places) -> None:
    found = overload.check(faulty("none", seconds=1.5))
    assert oks(found)["neither 200 nor 429 nor 503"] and found["details"]["statuses"]["twice"]["429"] > 20


@pytest.mark.parametrize(
    ("fault", "wrong"),
    [
        ("traceback", "answers with a stack trace"),
        ("wrong", "good requests not answered as before"),
        ("none", "answers of 5xx"),  # the standard library's server answers 501 to other methods
    ],
)
def test_what_bytes_can_break_is_seen(faulty: Places, fault: str, wrong: str) -> None:
    found = CHECKS["bytes"](faulty(fault, seconds=1.0))
    assert oks(found)[wrong] is False and found["details"]["bad"]
    assert oks(found)["processes that are gone"]


@pytest.mark.slow
def test_bytes_do_not_break_our_own_service(own: Places) -> None:
    found = CHECKS["bytes"](own(seconds=1.0))
    assert failed(found) == []
    assert found["rows"][0]["value"] >= 64 and len(found["details"]["statuses"]) >= 4


def test_a_leak_is_seen(faulty: Places) -> None:
    found = soak.check(faulty("leaking", requests=400))
    assert oks(found)["surely gained after the warm-up"] is False and oks(found)["not answered with 200"]


@pytest.mark.slow
def test_failures_are_seen_and_a_flat_memory_is_no_leak(faulty: Places) -> None:
    found = soak.check(faulty("failing", requests=200))
    assert oks(found)["not answered with 200"] is False and found["details"]["statuses"]["500"] == 10
    assert oks(found)["surely gained after the warm-up"] is True


@pytest.mark.slow
def test_a_slow_start_is_seen(faulty: Places, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(start, "TIMES", 1)
    monkeypatch.setattr(start, "REQUESTS", 20)
    found = start.check(faulty("slow"))
    assert oks(found)["start to ready, median"] is False and found["details"]["warm_seconds"][0] > 3
    assert found["details"]["memory_bytes"][1] > found["details"]["memory_bytes"][0] > 1e6


@pytest.mark.slow
@pytest.mark.network
def test_violations_of_the_document_are_seen(faulty: Places) -> None:
    place = faulty("failing")
    found = schema.check(Place(place.start, place.messages, place.scratch, cases=150))
    wrong = oks(found)
    assert wrong["cases"] and not wrong["answers of 5xx, or none"] and not wrong["violations of the document"]
    assert found["details"]["shown"][0]["curl"].startswith("curl ")


# --- the rules alone, on made-up figures


def test_half_of_capacity_and_overload_are_judged_by_when_requests_were_due() -> None:
    phases = ((10.0, 1.0), (40.0, 1.0), (10.0, 1.0))
    due = [at / 10 for at in range(10)] + [1 + at / 40 for at in range(40)] + [2 + at / 10 for at in range(10)]
    done = [at + 0.01 for at in due]
    good = {"due": due, "done": done, "status": [200] * 10 + [200, 429] * 20 + [200] * 10}
    found = overload.judged(sent(**good), 20.0, phases, 0.1, 100.0)
    rows = {row["what"]: row["value"] for row in found["rows"]}
    assert rows["twice of it: goodput, of the peak"] == 1.0 and rows["until p99 is normal again"] == 0.0
    assert failed(found) == []
    late = {**good, "done": done[:10] + [at + 0.2 for at in due[10:50]] + done[50:]}
    judged = oks(overload.judged(sent(**late), 20.0, phases, 0.1, 100.0))
    assert judged["twice of it: p99 of the accepted"] is judged["twice of it: goodput, of the peak"] is False
    shed = {**good, "status": [200] * 10 + [200, 0] * 20 + [200] * 10}
    assert oks(overload.judged(sent(**shed), 20.0, phases, 0.1, 100.0))["neither 200 nor 429 nor 503"] is False
    slow = {**good, "done": [*done[:50], *(at + 0.09 for at in due[50:])]}
    assert oks(overload.judged(sent(**slow), 20.0, phases, 0.1, 100.0))["until p99 is normal again"] is False


def test_only_what_was_sent_before_the_port_closed_is_owed_an_answer() -> None:
    loads = {"loop": sent(due=[0.1, 0.2, 0.9, 1.1], done=[0.2, 0.3, 1.0, 1.2], status=[200, 503, 200, 0])}
    rows, statuses = sigterm.judged(loads, 1.0, 0, 0.5, "x")
    assert rows[0]["value"] == 3 and all(row["ok"] is not False for row in rows)
    assert statuses == {"x, loop": {"lost": 1, "200": 2, "503": 1}}
    for until, code, status in [(1.2, 0, 0), (1.0, -15, 0), (1.0, None, 0), (1.2, 0, 500), (0.0, 0, 0)]:
        loads["loop"].status[3] = status
        rows, _ = sigterm.judged(loads, until, code, 0.5, "x")
        assert any(row["ok"] is False for row in rows), (until, code, status)


def test_only_counters_must_rise() -> None:
    page = (
        '# TYPE a_total counter\na_total{x="1"} 5\na_total{x="2"} 7\n# TYPE g gauge\ng 3\n'
        '# TYPE h histogram\nh_bucket{le="1.0"} 2\nh_bucket{le="+Inf"} 4\nh_sum 2.5\nh_count 4\n'
    )
    before = rising(page)
    assert len(before) == 6 and fallen(before, before) == []
    after = rising(page.replace("} 7", "} 6").replace("h_sum 2.5\n", "").replace("g 3", "g 1"))
    told = fallen(before, after)
    assert told == ['a_total{x="2"} went from 7 to 6.0', "h_sum{} went from 2.5 to nothing"]


def test_events_of_schemathesis_become_counts_and_commands(tmp_path: Path) -> None:
    request = {"method": "POST", "uri": "http://h/p", "headers": {"A": ["b c"]}, "body": {"$base64": "eyJhIjogMX0="}}
    failure = {"status": "failure", "failure_info": {"failure": {"title": "Undocumented", "message": "got 418"}}}
    recorder = {
        "label": "POST /p",
        "interactions": {
            "1": {"request": request, "response": {"status_code": 200}},
            "2": {"request": request, "response": {"status_code": 418}},
            "3": {"request": {**request, "body": {"$base64": "/w=="}}, "response": None},
            "4": {"request": request, "response": {"status_code": 500}},
            "5": {"request": {**request, "headers": {"X-Request-Timeout-Ms": ["2"]}}, "response": {"status_code": 503}},
            "6": {
                "request": {**request, "headers": {"X-Request-Timeout-Ms": ["2000"]}},
                "response": {"status_code": 503},
            },
        },
        "checks": {"1": [{"status": "success"}], "2": [{"status": "success"}, failure]},
    }
    events = [{"EngineStarted": {}}, {"ScenarioFinished": {"recorder": {"label": "GET /"}}}]
    events += [{"ScenarioFinished": {"recorder": recorder}}, {"NonFatalError": {"what": "x"}}]
    tally = schema.Tally()
    tally.read(map(json.dumps, events))
    assert tally.cases == 6 and tally.statuses == {"200": 1, "418": 1, "500": 1, "503": 2, "no answer": 1}
    assert tally.failures == {"Undocumented": 1, "answered no answer": 1, "answered 500": 1, "answered 503": 1}
    assert tally.shown[0]["curl"] == "curl -i -X POST -H 'A: b c' --data-binary '{\"a\": 1}' http://h/p"
    assert tally.shown[1]["curl"].startswith("printf %s /w== | base64 -d | curl ")
    found = schema.judged(tally, 6, 1, None, "4")
    assert list(oks(found).values()) == [True, True, False, None, False, False, True]
    assert found["rows"][2]["value"] == 3 and found["rows"][3]["value"] == 1
    assert oks(schema.judged(schema.Tally(), 1, 1, None, "4"))["cases"] is False
