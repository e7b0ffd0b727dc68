"""Spans as OpenTelemetry's own exporters receive them."""

import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread

import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from serve.errors import InputError
from serve.telemetry.traces import Traces, open_traces

PARENT = b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"  # the example of W3C's text
UNSAMPLED = PARENT[:-1] + b"0"


@pytest.fixture
def spans() -> InMemorySpanExporter:
    return InMemorySpanExporter()


@pytest.fixture
def traces(spans: InMemorySpanExporter) -> Iterator[Traces]:
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(spans))
    found = Traces(provider, "tiny", "1.0")
    yield found
    found.close()


def tell(traces: Traces, headers: list[tuple[bytes, bytes]], status: int = 200) -> int:
    """A request of 100 ms; when it started, in Unix ns."""
    now = time.perf_counter()
    traces.request(
        headers,
        method="POST",
        route="/predict",
        status=status,
        started=now - 0.1,
        ended=now,
        phases=[
            ("tokenise", now - 0.09, now - 0.08),
            ("queue", now - 0.08, now - 0.06),
            ("inference", now - 0.06, now),
        ],
        facts={"bantam.texts": 2, "bantam.tokens": 31},
    )
    return time.time_ns() - 100_000_000


def milliseconds(span: ReadableSpan) -> float:
    assert span.start_time is not None and span.end_time is not None
    return (span.end_time - span.start_time) / 1e6


def test_a_request_is_a_span_with_its_phases_under_it(traces: Traces, spans: InMemorySpanExporter) -> None:
    started = tell(traces, [])
    *phases, request = spans.get_finished_spans()
    assert [(span.name, round(milliseconds(span))) for span in phases] == [
        ("tokenise", 10),
        ("queue", 20),
        ("inference", 60),
    ]
    assert request.context is not None and request.start_time is not None
    assert {span.parent.span_id for span in phases if span.parent} == {request.context.span_id}
    assert (request.name, request.kind, request.parent) == ("POST /predict", SpanKind.SERVER, None)
    assert round(milliseconds(request)) == 100
    assert abs(request.start_time - started) < 50_000_000
    assert dict(request.attributes or {}) == {
        "http.request.method": "POST",
        "http.route": "/predict",
        "http.response.status_code": 200,
        "bantam.model": "tiny",
        "bantam.texts": 2,
        "bantam.tokens": 31,
    }


def test_it_continues_its_callers_trace(traces: Traces, spans: InMemorySpanExporter) -> None:
    tell(traces, [(b"authorization", b"Bearer secret"), (b"traceparent", PARENT), (b"tracestate", b"a=b")])
    request = spans.get_finished_spans()[-1]
    assert request.context is not None and request.parent is not None
    assert f"{request.context.trace_id:032x}" == "0af7651916cd43dd8448eb211c80319c"
    assert f"{request.parent.span_id:016x}" == "b7ad6b7169203331"
    assert request.context.trace_state.get("a") == "b"
    assert "secret" not in request.to_json()


@pytest.mark.parametrize("header", [b"", b"nonsense", b"\xff\xfe", b"00-" + b"0" * 32 + b"-" + b"0" * 16 + b"-01"])
def test_a_broken_parent_starts_a_new_trace(header: bytes, traces: Traces, spans: InMemorySpanExporter) -> None:
    tell(traces, [(b"traceparent", header)])
    assert spans.get_finished_spans()[-1].parent is None


def test_what_the_caller_does_not_sample_is_not_made(traces: Traces, spans: InMemorySpanExporter) -> None:
    tell(traces, [(b"traceparent", UNSAMPLED)])
    assert spans.get_finished_spans() == ()


def test_the_standard_variables_say_how_many_are_kept(
    spans: InMemorySpanExporter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "parentbased_traceidratio")
    monkeypatch.setenv("OTEL_TRACES_SAMPLER_ARG", "0.25")
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(spans))
    traces = Traces(provider, "tiny", "1.0")
    for _ in range(400):
        tell(traces, [])
    assert 4 * 60 < len(spans.get_finished_spans()) < 4 * 140


def test_our_faults_are_errors_and_callers_are_not(traces: Traces, spans: InMemorySpanExporter) -> None:
    for status in (200, 422, 429, 500, 503):
        tell(traces, [], status)
    found = [span.status.status_code for span in spans.get_finished_spans() if span.kind == SpanKind.SERVER]
    assert found == [StatusCode.UNSET] * 3 + [StatusCode.ERROR] * 2


class Collector(BaseHTTPRequestHandler):
    got: list[tuple[str, bytes]]

    def do_POST(self) -> None:
        self.got.append((self.path, self.rfile.read(int(self.headers["content-length"]))))
        self.send_response(200)
        self.end_headers()

    def log_message(self, *arguments: object) -> None:
        pass


def test_spans_reach_a_collector(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("opentelemetry.exporter.otlp.proto.http.trace_exporter")
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

    Collector.got = []
    with HTTPServer(("127.0.0.1", 0), Collector) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_COMPRESSION", "none")
        traces = open_traces("tiny", "1.0")
        tell(traces, [])
        traces.close()
        server.shutdown()
    ((path, body),) = Collector.got
    (resource,) = ExportTraceServiceRequest.FromString(body).resource_spans
    assert path == "/v1/traces"
    assert [span.name for span in resource.scope_spans[0].spans] == ["tokenise", "queue", "inference", "POST /predict"]
    assert {each.key: each.value.string_value for each in resource.resource.attributes}["service.name"] == "bantam"


def test_a_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "opentelemetry.exporter.otlp.proto.http.trace_exporter", None)
    with pytest.raises(InputError, match=r"pip install 'bantam\[otel\]'"):
        open_traces("tiny", "1.0")
