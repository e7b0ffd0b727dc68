"""OpenTelemetry traces, behind `bantam[otel]`: a span a request, with its phases under it.

Spans are made after the fact from times that the service takes anyway; nothing happens on a request's way. Where they
go and how many are kept say OpenTelemetry's own variables: OTEL_EXPORTER_OTLP_ENDPOINT, OTEL_TRACES_SAMPLER and
OTEL_TRACES_SAMPLER_ARG, OTEL_SERVICE_NAME, OTEL_SDK_DISABLED.
"""

import os
import time
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from serve.errors import InputError

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider

Phase = tuple[str, float, float]  # name, start and end in seconds of time.perf_counter


def open_traces(model: str, version: str) -> "Traces":
    """Traces that are sent by OTLP over HTTP from a thread of their own."""
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ModuleNotFoundError as error:
        raise InputError(
            f"traces need OpenTelemetry ({error.name} is missing); run: pip install 'bantam[otel]'"
        ) from None
    provider = TracerProvider(resource=Resource.create(_service(version)), shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    return Traces(provider, model, version)


class Traces:
    def __init__(self, provider: "TracerProvider", model: str, version: str) -> None:
        from opentelemetry import trace
        from opentelemetry.context import Context
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        self._api = trace
        self._provider = provider
        self._tracer = provider.get_tracer("bantam", version)
        self._propagator = TraceContextTextMapPropagator()
        self._nothing = Context()
        self._model = model

    def request(
        self,
        headers: Iterable[tuple[bytes, bytes]],
        *,
        method: str,
        route: str,
        status: int,
        started: float,
        ended: float,
        phases: Iterable[Phase] = (),
        facts: Mapping[str, str | int | float | bool] | None = None,
    ) -> None:
        """One answered request; `route` is a path of ours, not what a client wrote. Times as in Phase."""
        carrier = {
            name.decode("latin-1"): value.decode("latin-1")
            for name, value in headers
            if name in (b"traceparent", b"tracestate")
        }
        origin = time.time_ns() - time.perf_counter_ns()  # anew each time: clocks are set
        span = self._tracer.start_span(
            f"{method} {route}",
            self._propagator.extract(carrier, self._nothing),
            kind=self._api.SpanKind.SERVER,
            attributes={
                "http.request.method": method,
                "http.route": route,
                "http.response.status_code": status,
                "bantam.model": self._model,
                **(facts or {}),
            },
            start_time=origin + int(started * 1e9),
        )
        if span.is_recording():
            within = self._api.set_span_in_context(span)
            for name, start, end in phases:
                child = self._tracer.start_span(name, within, start_time=origin + int(start * 1e9))
                child.end(origin + int(end * 1e9))
            if status >= 500:
                span.set_status(self._api.StatusCode.ERROR)
        span.end(origin + int(ended * 1e9))

    def close(self) -> None:
        """Send what is left; may take seconds where the collector is away, so not from the event loop."""
        self._provider.shutdown()


def _service(version: str) -> dict[str, str]:
    """OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES come before these."""
    named = "OTEL_SERVICE_NAME" in os.environ or "service.name" in os.environ.get("OTEL_RESOURCE_ATTRIBUTES", "")
    return {"service.version": version} if named else {"service.name": "bantam", "service.version": version}
