"""The HTTP service, spoken to in raw ASGI: what it answers, and that no input breaks it."""

import asyncio
import gc
import json
import threading
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from serve.app import App, create_app
from serve.runtime import Session
from serve.settings import Settings

JSON = {"content-type": "application/json"}
Answer = tuple[int, dict[str, str], bytes]


async def call(
    app: App, method: str, path: str, chunks: list[bytes] | None = None, headers: dict[str, str] | None = None
) -> Answer:
    chunks = chunks or [b""]
    scope = {
        "type": "http",
        "method": method,
        "path": path,
        "headers": [(key.encode(), value.encode()) for key, value in (headers or {}).items()],
    }
    waiting = [
        {"type": "http.request", "body": chunk, "more_body": at + 1 < len(chunks)} for at, chunk in enumerate(chunks)
    ]
    sent: list[Any] = []

    async def receive() -> Any:
        if not waiting:
            await asyncio.Event().wait()  # the client stays for its answer
        return waiting.pop(0)

    async def send(message: Any) -> None:
        sent.append(message)

    await app(scope, receive, send)
    assert [message["type"] for message in sent] == ["http.response.start", "http.response.body"]
    got = {key.decode(): value.decode() for key, value in sent[0]["headers"]}
    return sent[0]["status"], got, sent[1]["body"]


def ask(app: App, content: Any, **headers: str) -> Answer:
    body = content if isinstance(content, bytes) else json.dumps(content).encode()
    return asyncio.run(call(app, "POST", "/predict", [body], {**JSON, **headers}))


def get(app: App, path: str) -> Answer:
    return asyncio.run(call(app, "GET", path))


def refused(answer: Answer, status: int, word: str, *, error_type: str = "Validation") -> None:
    got, headers, body = answer
    content = json.loads(body)
    assert (got, content["error_type"], set(content)) == (status, error_type, {"error", "error_type"}), content
    assert word in content["error"], content
    assert headers["content-type"] == "application/json"
    assert "\n" not in content["error"]


def warm(tiny: Any, **limits: Any) -> App:
    app = create_app(Settings(artefact=str(tiny.artefact.root), **limits))
    app.warm_up()
    return app


@pytest.fixture(scope="module", autouse=True)
def collector() -> Iterator[None]:
    """A warm app changes the garbage collector of its process; other tests shall not feel it."""
    thresholds = gc.get_threshold()
    yield
    gc.unfreeze()
    gc.set_threshold(*thresholds)


@pytest.fixture(scope="module")
def app(tiny: Any) -> App:
    return warm(tiny, max_body=2000, max_texts=5)


@pytest.fixture(scope="module")
def pair_app(pairs: Any) -> App:
    return warm(pairs)


def expected(tiny: Any, texts: list[Any]) -> list[list[tuple[str, float]]]:
    logits = tiny.torch_logits(texts).astype(np.float64)
    scores = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    labels = tiny.manifest.task.labels
    return [sorted(zip(labels, row, strict=True), key=lambda pair: -pair[1]) for row in scores]


def check(body: bytes, wanted: list[list[tuple[str, float]]]) -> None:
    got = json.loads(body)
    assert len(got) == len(wanted)
    for answer, rows in zip(got, wanted, strict=True):
        assert [entry["label"] for entry in answer] == [label for label, _ in rows]
        assert [entry["score"] for entry in answer] == pytest.approx([score for _, score in rows], abs=2e-4)
        assert all(set(entry) == {"label", "score"} for entry in answer)


@pytest.mark.parametrize("inputs", ["a great film", ["a great film"]])
def test_one_text_gets_one_list(app: App, tiny: Any, inputs: Any) -> None:
    status, headers, body = ask(app, {"inputs": inputs})
    assert status == 200
    assert headers["content-type"] == "application/json"
    assert float(headers["x-total-time"]) >= float(headers["x-inference-time"]) > 0
    assert "x-truncated" not in headers
    check(json.dumps([json.loads(body)]).encode(), expected(tiny, ["a great film"]))


def test_a_batch_gets_a_list_of_lists_in_order(app: App, tiny: Any) -> None:
    texts = ["a", "bad bad bad bad", "the film was very good but dull", "b", "great"]
    assert len({tuple(row) for row in tiny.torch_logits(texts).round(3).tolist()}) == 5
    status, _, body = ask(app, {"inputs": [[text] for text in texts]})
    assert status == 200
    check(body, expected(tiny, texts))
    _, _, body = ask(app, {"inputs": [["a"]]})
    check(body, expected(tiny, ["a"]))


def test_a_flat_list_of_two_is_one_pair(pair_app: App, pairs: Any) -> None:
    status, _, body = ask(pair_app, {"inputs": ["the film was good", "it was great"]})
    assert status == 200
    check(json.dumps([json.loads(body)]).encode(), expected(pairs, [("the film was good", "it was great")]))
    status, _, body = ask(pair_app, {"inputs": [["a", "b"], ["bad", ""], ["", "dull"]]})
    assert status == 200
    check(body, expected(pairs, [("a", "b"), ("bad", ""), ("", "dull")]))


def test_raw_scores_are_logits(app: App, tiny: Any) -> None:
    _, _, body = ask(app, {"inputs": "bad", "raw_scores": True})
    got = {entry["label"]: entry["score"] for entry in json.loads(body)}
    assert [got["NEG"], got["POS"]] == pytest.approx(tiny.torch_logits(["bad"])[0].tolist(), abs=2e-4)


def test_truncation_is_asked_for_and_told(app: App, tiny: Any) -> None:
    long = "good film " * 30
    refused(ask(app, {"inputs": long}), 422, "at most 24 tokens")
    refused(ask(app, {"inputs": [["a"], [long]], "truncate": False}), 422, "text 1 has more")
    status, headers, body = ask(app, {"inputs": [["a"], [long]], "truncate": True})
    assert (status, headers["x-truncated"]) == (200, "true")
    check(body, expected(tiny, ["a", long]))


def test_regression_gives_its_value(regression: Any) -> None:
    _, _, body = ask(warm(regression), {"inputs": "a great film"})
    (answer,) = json.loads(body)
    assert answer["label"] == "score"
    assert answer["score"] == pytest.approx(float(regression.torch_logits(["a great film"])[0, 0]), abs=2e-4)


@pytest.mark.parametrize("extra", [{}, {"truncate": None}, {"truncation_direction": "right"}, {"normalize": True}])
def test_what_other_clients_send_along_is_fine(app: App, extra: dict[str, Any]) -> None:
    assert ask(app, {"inputs": "good", **extra})[0] == 200


BAD = [
    (b"", 400, "not JSON"),
    (b"{", 400, "not JSON"),
    (b'{"inputs": "\\ud800"}', 400, "not JSON"),
    (b'{"inputs": "\xff"}', 400, "not JSON"),
    (b'{"inputs": NaN}', 400, "not JSON"),
    (b"[" * 1900, 400, "not JSON"),
    ([], 422, "must be an object"),
    ("text", 422, "must be an object"),
    ({}, 422, '"inputs" is missing'),
    ({"input": "a"}, 422, '"inputs" is missing'),
    ({"inputs": None}, 422, "got null"),
    ({"inputs": 7}, 422, "got a number"),
    ({"inputs": {"text": "a"}}, 422, "got an object"),
    ({"inputs": ["a", 1]}, 422, "must hold strings, got a number"),
    ({"inputs": ["a", "b", "c"]}, 422, "got 3 items"),
    ({"inputs": [["a"], "b"]}, 422, '"inputs"[1] must be one string or a pair'),
    ({"inputs": [["a"], []]}, 422, "got 0 items"),
    ({"inputs": [["a", "b", "c"]]}, 422, "got 3 items"),
    ({"inputs": [[None]]}, 422, "got null"),
    ({"inputs": [[["a"]]]}, 422, "must hold strings, got a list"),
    ({"inputs": ["a", "b"]}, 422, "text 0 is a pair, but this model takes single texts"),
    ({"inputs": [["a"], ["a", "b"]]}, 422, "text 1 is a pair"),
    ({"inputs": "a", "truncate": "yes"}, 422, '"truncate" must be true or false, got a string'),
    ({"inputs": "a", "raw_scores": 1}, 422, '"raw_scores" must be true or false, got a number'),
    ({"inputs": "a", "truncation_direction": "left"}, 422, "truncation_direction"),
    ({"inputs": [["a"]] * 6}, 413, "batch size 6 > maximum allowed batch size 5"),
    (b'{"inputs": "' + b"a" * 2000 + b'"}', 413, "over 2000 bytes"),
]


@pytest.mark.parametrize(("content", "status", "word"), BAD)
def test_bad_input_is_told_why(app: App, content: Any, status: int, word: str) -> None:
    refused(ask(app, content), status, word)


@pytest.mark.parametrize("inputs", ["", "  \n", [], [""], [["a"], [""]]])
def test_no_text_is_an_error(app: App, inputs: Any) -> None:
    refused(ask(app, {"inputs": inputs}), 400, "cannot be empty", error_type="Empty")


def test_a_single_text_for_a_model_of_pairs_is_an_error(pair_app: App) -> None:
    refused(ask(pair_app, {"inputs": "a"}), 422, "this model takes pairs")
    refused(ask(pair_app, {"inputs": ["", ""]}), 400, "cannot be empty", error_type="Empty")


def test_the_body_limit_holds_while_streaming(app: App) -> None:
    """Whatever content-length says, and before the whole body has come."""
    chunks = [b'{"inputs": "'] + [b"a" * 500] * 1000
    for claimed in ("10", "banana", "9" * 5000):
        answer = asyncio.run(call(app, "POST", "/predict", chunks, {**JSON, "content-length": claimed}))
        refused(answer, 413, "over 2000 bytes")
    whole = b'{"inputs": "good"}'
    split = [whole[at : at + 1] for at in range(len(whole))]
    assert asyncio.run(call(app, "POST", "/predict", split, JSON))[0] == 200


@pytest.mark.parametrize("kind", ["text/plain", "", "application/x-www-form-urlencoded", "application/jsonx"])
def test_other_content_types_are_refused(app: App, kind: str) -> None:
    refused(ask(app, {"inputs": "a"}, **{"content-type": kind}), 415, "application/json")


def test_content_type_may_have_parameters(app: App) -> None:
    assert ask(app, {"inputs": "a"}, **{"content-type": "Application/JSON; charset=utf-8"})[0] == 200
    refused(ask(app, {"inputs": "a"}, **{"content-encoding": "gzip"}), 415, "compressed")


@pytest.mark.parametrize(
    ("method", "path", "status", "allow"),
    [
        ("GET", "/predict", 405, "POST"),
        ("PUT", "/predict", 405, "POST"),
        ("POST", "/info", 405, "GET, HEAD"),
        ("GET", "/nothing", 404, None),
        ("POST", "/predict/", 404, None),
    ],
)
def test_wrong_methods_and_paths(app: App, method: str, path: str, status: int, allow: str | None) -> None:
    answer = asyncio.run(call(app, method, path))
    refused(answer, status, path)
    assert answer[1].get("allow") == allow


def test_a_client_that_hangs_up_gets_nothing(app: App) -> None:
    async def gone() -> Any:
        return {"type": "http.disconnect"}

    async def send(_: Any) -> None:
        pytest.fail("nobody listens")

    scope = {"type": "http", "method": "POST", "path": "/predict", "headers": [(b"content-type", b"application/json")]}
    asyncio.run(app(scope, gone, send))


def test_unexpected_errors_keep_their_details_to_the_log(
    tiny: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    app = warm(tiny)

    def broken(*_: Any, **__: Any) -> None:
        raise RuntimeError("a review that was sent")

    monkeypatch.setattr(Session, "finished", broken)
    answer = ask(app, {"inputs": "a"})
    refused(answer, 500, "internal error", error_type="Backend")
    (record,) = [one for one in caplog.records if one.getMessage() == "unexpected error"]
    fields = record.__dict__["fields"]
    assert (fields["exception"], fields["path"]) == ("RuntimeError", "/predict")
    assert fields["where"][-1].endswith("broken")
    assert "a review" not in caplog.text + str(fields) + answer[2].decode()


def test_scores_that_are_no_numbers_are_an_error(tiny: Any) -> None:
    app = warm(tiny)
    app.session._engine = lambda feeds: np.full((len(feeds["input_ids"]), 2), np.nan, np.float32)  # type: ignore
    refused(ask(app, {"inputs": "a"}), 424, "not finite", error_type="Backend")


def test_ready_only_after_the_warm_up(tiny: Any) -> None:
    app = create_app(Settings(artefact=str(tiny.artefact.root)))
    app.start()
    for path in ("/health", "/readyz"):
        refused(get(app, path), 503, "warming up", error_type="Unhealthy")
    refused(ask(app, {"inputs": "a"}), 503, "warming up", error_type="Unhealthy")
    assert get(app, "/livez")[0] == 200
    gc.unfreeze()
    gc.set_threshold(700, 10, 10)
    app.warm_up()
    assert gc.get_freeze_count() > 1000
    assert gc.get_threshold()[0] > 700
    for path in ("/health", "/readyz", "/livez"):
        assert get(app, path)[0] == 200


def test_a_warm_up_that_fails_is_not_alive(tiny: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    app = create_app(Settings(artefact=str(tiny.artefact.root)))
    monkeypatch.setattr(Session, "warm_up", lambda self: 1 / 0)
    app.warm_up()
    for path in ("/livez", "/readyz"):
        refused(get(app, path), 503, "warm-up failed", error_type="Unhealthy")


def test_the_lifespan_warms_up_and_ends(tiny: Any) -> None:
    async def scenario() -> list[str]:
        app = create_app(Settings(artefact=str(tiny.artefact.root)))
        messages: asyncio.Queue[Any] = asyncio.Queue()
        sent: list[str] = []

        async def send(message: Any) -> None:
            sent.append(message["type"])

        running = asyncio.create_task(app({"type": "lifespan"}, messages.get, send))
        await messages.put({"type": "lifespan.startup"})
        until = time.monotonic() + 20
        while not app.started:
            await asyncio.sleep(0.01)
        while (await call(app, "GET", "/readyz"))[0] != 200 and time.monotonic() < until:
            await asyncio.sleep(0.01)
        assert (await call(app, "POST", "/predict", [b'{"inputs": "good"}'], JSON))[0] == 200
        await messages.put({"type": "lifespan.shutdown"})
        await running
        return sent

    assert asyncio.run(scenario()) == ["lifespan.startup.complete", "lifespan.shutdown.complete"]


@pytest.mark.parametrize("workers", [1, 2])
def test_one_of_several_workers_takes_callers_only_when_it_is_ready(
    workers: int, tiny: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A single one answers /livez meanwhile; of several, those that are ready answer."""
    release = threading.Event()
    monkeypatch.setattr(Session, "warm_up", lambda self: release.wait(20))

    async def scenario() -> bool:
        app = create_app(Settings(artefact=str(tiny.artefact.root), workers=workers))
        messages: asyncio.Queue[Any] = asyncio.Queue()
        started = asyncio.Event()

        async def send(message: Any) -> None:
            if message["type"] == "lifespan.startup.complete":
                started.set()

        running = asyncio.create_task(app({"type": "lifespan"}, messages.get, send))
        await messages.put({"type": "lifespan.startup"})
        await asyncio.sleep(0.1)
        early = started.is_set()
        release.set()
        await asyncio.wait_for(started.wait(), 20)
        await messages.put({"type": "lifespan.shutdown"})
        await running
        return early

    assert asyncio.run(scenario()) == (workers == 1)


def test_the_event_loop_answers_while_the_model_runs_and_too_many_are_refused(
    tiny: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    release = threading.Event()
    run = Session.run

    def slow(self: Session, encoded: Any) -> Any:
        assert release.wait(20)
        return run(self, encoded)

    monkeypatch.setattr(Session, "run", slow)
    app = warm(tiny, max_queued_tokens=8)  # room for two texts beside the one that runs
    body = [b'{"inputs": "good"}']

    async def scenario() -> list[int]:
        running = []
        for _ in range(3):
            running.append(asyncio.create_task(call(app, "POST", "/predict", body, JSON)))
            await asyncio.sleep(0.05)
        assert (await call(app, "GET", "/livez"))[0] == 200
        answer = await call(app, "POST", "/predict", body, JSON)
        refused(answer, 429, "overloaded", error_type="Overloaded")
        assert answer[1]["retry-after"] == "1"
        release.set()
        return [status for status, _, _ in await asyncio.gather(*running)]

    assert asyncio.run(scenario()) == [200, 200, 200]


def test_info_describes_the_model(app: App, tiny: Any) -> None:
    content = json.loads(get(app, "/info")[2])
    assert content["model_id"] == "Tiny Model"
    assert content["model_sha"] == tiny.artefact.manifest.files["onnx/model.onnx"].sha256
    assert content["model_type"]["classifier"] == {
        "id2label": {"0": "NEG", "1": "POS"},
        "label2id": {"NEG": 0, "POS": 1},
    }
    assert (content["max_input_length"], content["max_client_batch_size"]) == (24, 5)
    assert (content["runtime"] in ("onnxruntime", "openvino"), content["task"]["columns"]) == (True, ["sentence"])
    assert "not int8" in content["declined"]["bantam"] and content["rates"].keys() <= {"onnxruntime", "openvino"}


def test_metrics_count(tiny: Any) -> None:
    app = warm(tiny)
    ask(app, {"inputs": [["good"], ["bad " * 40]], "truncate": True})
    ask(app, {"inputs": "good"})
    ask(app, {})
    status, headers, body = get(app, "/metrics")
    assert status == 200
    assert headers["content-type"].startswith("text/plain; version=0.0.4")
    lines = [line.rsplit(" ", 1) for line in body.decode().splitlines() if line[0] != "#"]
    page = {name.replace('model="Tiny Model"', "").replace("{}", "").replace("{,", "{"): float(n) for name, n in lines}
    tokens = sum(tiny.lengths(["good", "bad " * 40, "good"]))
    wanted = {
        'bantam_requests_total{route="predict",status="200"}': 2,
        'bantam_requests_total{route="predict",status="422"}': 1,
        'bantam_errors_total{error_type="Validation"}': 1,
        "bantam_texts_total": 3,
        "bantam_tokens_total": tokens,
        "bantam_truncated_texts_total": 1,
        "bantam_request_texts_count": 2,
        "bantam_request_texts_sum": 3,
        'bantam_request_seconds_count{route="predict"}': 3,
        "bantam_inference_seconds_count": 2,
        "bantam_batch_tokens_sum": tokens,
        "bantam_queued_tokens": 0,
        "bantam_requests_in_progress": 1,  # this one
    }
    assert {name: page.get(name) for name in wanted} == wanted


def test_a_head_request_has_no_body(app: App) -> None:
    status, headers, body = asyncio.run(call(app, "HEAD", "/info"))
    assert (status, body) == (200, b"")
    assert int(headers["content-length"]) > 100


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=30),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=12,
)
texts = st.lists(st.lists(st.text(max_size=40), min_size=1, max_size=2), min_size=1, max_size=6)
bodies = st.one_of(
    st.binary(max_size=200),
    values.map(lambda value: json.dumps(value).encode()),
    st.fixed_dictionaries(
        {"inputs": texts | st.text() | values}, optional={"truncate": values | st.booleans(), "raw_scores": values}
    ).map(lambda value: json.dumps(value).encode()),
)


@settings(
    max_examples=300, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(body=bodies)
def test_no_body_breaks_the_service(app: App, body: bytes) -> None:
    status, _, answer = ask(app, body)
    content = json.loads(answer)
    if status == 200:
        assert isinstance(content, list)
    else:
        assert status in (400, 413, 422), content
        assert set(content) == {"error", "error_type"}


async def stalled(app: App, part: bytes) -> Answer:
    """A request whose body never ends."""
    sent: list[Any] = []
    parts = [{"type": "http.request", "body": part, "more_body": True}]

    async def receive() -> Any:
        if not parts:
            await asyncio.Event().wait()
        return parts.pop()

    async def send(message: Any) -> None:
        sent.append(message)

    headers = [(b"content-type", b"application/json")]
    await app({"type": "http", "method": "POST", "path": "/predict", "headers": headers}, receive, send)
    return sent[0]["status"], {key.decode(): value.decode() for key, value in sent[0]["headers"]}, sent[1]["body"]


def test_a_body_that_stops_half_way_is_given_up(tiny: Any) -> None:
    app = warm(tiny, read_timeout=0.05)
    refused(asyncio.run(stalled(app, b'{"inputs')), 408, "within 0.05 s", error_type="Timeout")
    assert app.arriving.held == 0


def test_bodies_that_arrive_together_are_bounded(tiny: Any) -> None:
    app = warm(tiny, max_arriving=100, read_timeout=0.5)

    async def scenario() -> list[int]:
        answers = await asyncio.gather(*(stalled(app, b"x" * 40) for _ in range(3)))
        return sorted(status for status, _, _ in answers)

    assert asyncio.run(scenario()) == [408, 408, 429]
    assert app.arriving.held == 0


def test_a_deadline_that_has_passed_is_told_and_nothing_is_run(tiny: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    release, ran = threading.Event(), []
    run = Session.run

    def slow(self: Session, encoded: Any) -> Any:
        assert release.wait(20)
        ran.append(len(encoded))
        return run(self, encoded)

    monkeypatch.setattr(Session, "run", slow)
    app = warm(tiny)
    body = [b'{"inputs": "good"}']

    async def scenario() -> list[Answer]:
        first = asyncio.create_task(call(app, "POST", "/predict", body, JSON))
        await asyncio.sleep(0.05)
        second = asyncio.create_task(call(app, "POST", "/predict", body, {**JSON, "x-request-timeout-ms": "1"}))
        await asyncio.sleep(0.05)
        release.set()
        return list(await asyncio.gather(first, second))

    first, second = asyncio.run(scenario())
    assert (first[0], ran) == (200, [1])
    refused(second, 503, "deadline", error_type="Timeout")
    refused(ask(app, {"inputs": "good"}, **{"x-request-timeout-ms": "soon"}), 422, "whole number of milliseconds")


def test_whoever_leaves_the_queue_is_never_run(tiny: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    release, ran = threading.Event(), []
    run = Session.run

    def slow(self: Session, encoded: Any) -> Any:
        assert release.wait(20)
        ran.append(len(encoded))
        return run(self, encoded)

    monkeypatch.setattr(Session, "run", slow)
    app = warm(tiny)

    async def leaves() -> None:
        messages = [{"type": "http.disconnect"}, {"type": "http.request", "body": b'{"inputs": "good"}'}]

        async def receive() -> Any:
            return messages.pop()

        async def send(_: Any) -> None:
            pytest.fail("nobody listens")

        headers = [(b"content-type", b"application/json")]
        await app({"type": "http", "method": "POST", "path": "/predict", "headers": headers}, receive, send)

    async def scenario() -> None:
        first = asyncio.create_task(call(app, "POST", "/predict", [b'{"inputs": "good"}'], JSON))
        await asyncio.sleep(0.05)
        await leaves()
        release.set()
        await first

    asyncio.run(scenario())
    app.close()
    assert ran == [1]


def test_keys_are_asked_for_everywhere_but_at_the_health_pages(tiny: Any, tmp_path: Any) -> None:
    key = "k" * 20
    (tmp_path / "keys").write_text(f"one:{key} concurrent=4 rate=1000/s burst=2\n")
    (tmp_path / "keys").chmod(0o600)
    app = warm(tiny, keys=tmp_path / "keys")
    assert get(app, "/readyz")[0] == get(app, "/livez")[0] == 200
    for answer in (get(app, "/info"), get(app, "/nothing"), ask(app, {"inputs": "a"}), get(app, "/metrics")):
        refused(answer, 401, "API key", error_type="Unauthorized")
        assert answer[1]["www-authenticate"] == "Bearer"
    assert ask(app, {"inputs": "good"}, authorization=f"Bearer {key}")[0] == 200
    assert ask(app, {"inputs": "good"}, **{"x-api-key": key})[0] == 200


def test_a_key_that_asks_too_often_is_told_when_to_come_again(tiny: Any, tmp_path: Any) -> None:
    key = "k" * 20
    (tmp_path / "keys").write_text(f"one:{key} rate=0.1/s burst=1\n")
    (tmp_path / "keys").chmod(0o600)
    app = warm(tiny, keys=tmp_path / "keys")
    assert ask(app, {"inputs": "good"}, **{"x-api-key": key})[0] == 200
    answer = ask(app, {"inputs": "good"}, **{"x-api-key": key})
    refused(answer, 429, "times a second", error_type="Overloaded")
    assert 5 <= int(answer[1]["retry-after"]) <= 10


def test_browsers_may_ask_from_named_origins_only(tiny: Any) -> None:
    asked = {"origin": "https://a.example", "access-control-request-method": "POST"}
    closed, opened = warm(tiny), warm(tiny, origins=("https://a.example",))
    assert asyncio.run(call(closed, "OPTIONS", "/predict", headers=asked))[0] == 405
    status, headers, body = asyncio.run(call(opened, "OPTIONS", "/predict", headers=asked))
    assert (status, headers["access-control-allow-origin"], body) == (204, "https://a.example", b"")
    got = ask(opened, {"inputs": "good"}, origin="https://a.example")
    assert got[1]["access-control-allow-origin"] == "https://a.example"
    assert "access-control-allow-origin" not in ask(opened, {}, origin="https://b.example")[1]
    assert "access-control-allow-origin" not in ask(closed, {"inputs": "good"}, origin="https://a.example")[1]
