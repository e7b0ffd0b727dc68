"""What the service counts, in Prometheus' text format."""

import os

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector  # type: ignore[no-untyped-call, unused-ignore]

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
SECONDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10)
TEXTS = (1, 2, 4, 8, 16, 32, 64, 128, 256)


class Metrics:
    """Counters of one app. With PROMETHEUS_MULTIPROC_DIR set, `text` sums over all worker processes."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._requests = Counter(
            "bantam_requests", "Requests to /predict by HTTP status", ["status"], registry=self._registry
        )
        self._errors = Counter("bantam_errors", "Errors answered, by type", ["error_type"], registry=self._registry)
        self._truncated = Counter("bantam_truncated_texts", "Texts cut to the maximum length", registry=self._registry)
        self._tokens = Counter("bantam_tokens", "Word pieces answered", registry=self._registry)
        self._texts = Counter("bantam_texts", "Texts answered", registry=self._registry)
        self._size = Histogram("bantam_batch_size", "Texts a request", buckets=TEXTS, registry=self._registry)
        self._total = Histogram(
            "bantam_request_seconds", "From the first byte to the answer", buckets=SECONDS, registry=self._registry
        )
        self._inference = Histogram(
            "bantam_inference_seconds", "Encoding and model", buckets=SECONDS, registry=self._registry
        )
        self._succeeded = self._requests.labels("200")

    def success(self, *, texts: int, truncated: int, tokens: int, inference: float, total: float) -> None:
        self._succeeded.inc()
        self._texts.inc(texts)
        self._tokens.inc(tokens)
        if truncated:
            self._truncated.inc(truncated)
        self._size.observe(texts)
        self._inference.observe(inference)
        self._total.observe(total)

    def failure(self, *, status: int, error_type: str) -> None:
        self._requests.labels(str(status)).inc()
        self._errors.labels(error_type).inc()

    def text(self) -> bytes:
        """The page for GET /metrics."""
        if "PROMETHEUS_MULTIPROC_DIR" not in os.environ:
            return generate_latest(self._registry)
        together = CollectorRegistry()
        MultiProcessCollector(together)  # type: ignore[no-untyped-call]
        return generate_latest(together)
