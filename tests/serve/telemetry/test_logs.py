"""Log lines: one an event, readable by machines, without secrets, and few in a flood."""

import io
import json
import logging
from collections.abc import Iterator
from datetime import datetime
from typing import Any

import pytest

from serve.telemetry import logs as module
from serve.telemetry.logs import BURST, KINDS, Format, RequestLog, set_up


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    root, handlers = logging.root.level, logging.root.handlers[:]
    yield
    logging.root.handlers[:] = handlers
    logging.root.setLevel(root)
    logging.getLogger("bantam").setLevel(logging.NOTSET)


@pytest.fixture
def stream() -> io.StringIO:
    found = io.StringIO()
    set_up("json", found)
    return found


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    found = Clock()
    monkeypatch.setattr(module.time, "monotonic", found)
    return found


def lines(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def fail(log: RequestLog, path: str = "/predict", method: str = "POST", status: int = 422) -> None:
    log.failed(method, path, status, "Validation", size=12, seconds=0.0015, key="web")


def test_a_failed_request_is_one_line_of_facts(stream: io.StringIO) -> None:
    fail(RequestLog(), "/predict?key=secret&text=private")
    (line,) = lines(stream)
    assert datetime.fromisoformat(line.pop("time")).utcoffset() is not None
    assert line == {
        "level": "warning",
        "logger": "bantam.requests",
        "message": "request failed",
        "error_type": "Validation",
        "method": "POST",
        "path": "/predict",
        "status": 422,
        "key": "web",
        "bytes": 12,
        "ms": 1.5,
    }


def test_good_requests_are_logged_by_the_access_log(stream: io.StringIO) -> None:
    RequestLog(access=True).answered("GET", "/info", 200, size=0, seconds=0.25)
    (line,) = lines(stream)
    assert (line["message"], line["status"], line["ms"], "key" in line) == ("request answered", 200, 250.0, False)


ODD = 'a"b\nlevel=error\r\x1b[31m\x00\x7f\x9b\u2028\u202e\ud800é'


@pytest.mark.parametrize("form", ["json", "text"])
def test_no_character_breaks_a_line_or_reaches_the_terminal(form: Format) -> None:
    stream = io.StringIO()
    set_up(form, stream)
    fail(RequestLog(), ODD, method=ODD)
    logging.getLogger("bantam.serve").error("message %s", ODD)
    written = stream.getvalue()
    assert written.endswith("\n")
    first, second = written[:-1].split("\n")
    assert (first + second).replace("é", "e").isprintable()
    (first + second).encode()  # no half of a surrogate pair
    if form == "json":
        assert json.loads(first)["path"] == ODD
        assert json.loads(second)["message"] == f"message {ODD}"


def test_text_lines_are_for_eyes() -> None:
    stream = io.StringIO()
    set_up("text", stream)
    fail(RequestLog())
    time, rest = stream.getvalue().split(" ", 1)
    assert datetime.fromisoformat(time)
    assert rest == (
        "warning request failed error_type=Validation method=POST path=/predict status=422 key=web bytes=12 ms=1.5\n"
    )


def test_long_paths_are_cut(stream: io.StringIO) -> None:
    fail(RequestLog(), "/" + "x" * 100_000)
    assert len(lines(stream)[0]["path"]) == 200


def test_a_flood_is_ten_lines_and_a_count(stream: io.StringIO, clock: Clock) -> None:
    log = RequestLog()
    for at in range(5_000):
        fail(log, f"/nothing/{at}")  # other paths make it no other kind
    assert len(lines(stream)) == BURST
    fail(log, status=413)
    assert len(lines(stream)) == BURST + 1  # another kind is not held back
    clock.now += 11
    fail(log, status=413)
    *_, told, last = lines(stream)
    assert (told["message"], told["more"], told["kind"]) == ("4990 more like this", 4990, "422 Validation POST web")
    assert last["status"] == 413


def test_a_flood_that_goes_on_is_told_of_each_period(stream: io.StringIO, clock: Clock) -> None:
    log = RequestLog()
    for _ in range(1_000):
        clock.now += 0.1
        fail(log)
    written = lines(stream)
    told = sum(line.get("more", 0) for line in written)
    single = sum("more" not in line for line in written)
    assert single < 120
    log.flush()
    assert single + sum(line.get("more", 0) for line in lines(stream)) == 1_000 >= single + told


def test_endless_kinds_are_one_kind_at_last(stream: io.StringIO, clock: Clock) -> None:
    log = RequestLog()
    for at in range(5_000):
        fail(log, method=f"M{at}")
    assert len(lines(stream)) == KINDS + BURST
    log.flush()
    assert sum(line.get("more", 0) for line in lines(stream)) == 5_000 - KINDS - BURST


def test_an_error_of_ours_is_told_without_its_message(stream: io.StringIO) -> None:
    try:
        {}["a private text"]  # type: ignore[index]
    except KeyError as error:
        RequestLog().unexpected("POST", "/predict", error)
    (line,) = lines(stream)
    assert (line["level"], line["exception"]) == ("error", "KeyError")
    assert "test_an_error_of_ours" in line["where"][0]
    assert "private" not in json.dumps(line)


def test_other_loggers_write_the_same_lines(stream: io.StringIO) -> None:
    logging.getLogger("uvicorn.error").warning("bound %s", 1)
    logging.getLogger("uvicorn.error").info("unsaid")
    try:
        raise ValueError("why")
    except ValueError:
        logging.getLogger("bantam.serve").exception("the warm-up failed")
    first, second = lines(stream)
    assert (first["logger"], first["message"]) == ("uvicorn.error", "bound 1")
    assert second["traceback"].endswith("ValueError: why")
