"""The one table of what the service counts."""

from serve.telemetry.counters import Metric

# Requests by what they ask for; a path is never a label, else callers could make as many series as they like.
ROUTES = ("predict", "embed", "rerank", "similarity", "tokenize", "v1_embeddings", "classify", "v2_infer", "other")
STATUSES = tuple("200 400 401 403 404 405 408 411 413 415 422 424 429 431 500 503 other".split())
ERROR_TYPES = tuple("Validation Empty Unauthorized Timeout Backend Overloaded Unhealthy other".split())
REASONS = ("queue", "rate", "concurrency")

SECONDS = tuple(float(bound) for bound in "5e-5 1e-4 2e-4 5e-4 1e-3 2e-3 5e-3 .01 .02 .05 .1 .2 .5 1 2 5 10 30".split())
TEXTS = tuple(2**power for power in range(11))  # 1 to 1024; whole numbers, which compare quickest with such
TOKENS = tuple(2**power for power in range(3, 17))  # 8 to 65,536

_ROUTE = ("route", ROUTES)

COUNTED = (
    Metric(
        "bantam_requests_total",
        "counter",
        "Requests answered, by route and HTTP status",
        (_ROUTE, ("status", STATUSES)),
        sparse=True,
    ),
    Metric("bantam_errors_total", "counter", "Errors answered, by type", (("error_type", ERROR_TYPES),)),
    Metric(
        "bantam_shed_total",
        "counter",
        "Requests refused with 429: the queue is full, or a key asks too often or too much at once",
        (("reason", REASONS),),
    ),
    Metric("bantam_expired_total", "counter", "Requests dropped with 503, their deadline over before their turn"),
    Metric("bantam_cancelled_total", "counter", "Requests whose client left before the answer"),
    Metric("bantam_texts_total", "counter", "Texts answered"),
    Metric("bantam_tokens_total", "counter", "Tokens of the texts answered"),
    Metric("bantam_truncated_texts_total", "counter", "Texts cut to the model's length"),
    Metric(
        "bantam_padded_tokens_total",
        "counter",
        "Tokens that the model ran, with padding; waste is 1 - bantam_batch_tokens_sum / this",
    ),
    Metric("bantam_model_seconds_total", "counter", "Seconds that model threads were at work"),
    Metric(
        "bantam_request_seconds",
        "histogram",
        "From a request's first byte to its answer, by route",
        (_ROUTE,),
        SECONDS,
        sparse=True,
    ),
    Metric("bantam_queue_seconds", "histogram", "From admission to the start of a request's first run", (), SECONDS),
    Metric("bantam_inference_seconds", "histogram", "A request's time in the model", (), SECONDS),
    Metric("bantam_request_texts", "histogram", "Texts of a request", (), TEXTS),
    Metric("bantam_batch_texts", "histogram", "Texts of a run of the model", (), TEXTS),
    Metric("bantam_batch_tokens", "histogram", "Tokens of a run of the model, without padding", (), TOKENS),
    Metric("bantam_queued_tokens", "gauge", "Tokens in the queue"),
    Metric("bantam_waiting_requests", "gauge", "Requests in the queue"),
    Metric("bantam_requests_in_progress", "gauge", "Requests that came and are not answered"),
    Metric("process_cpu_seconds_total", "counter", "Processor time of all workers, of ended ones too"),
)

INFO = Metric("bantam_info", "gauge", "What is served; always 1")

# Known only when somebody asks.
ASKED = (
    Metric("process_start_time_seconds", "gauge", "When the service started, in Unix seconds"),
    Metric("process_resident_memory_bytes", "gauge", "Resident memory of all workers; shared pages count in each"),
    Metric("bantam_workers", "gauge", "Workers that run"),
)


def route_of(path: str) -> str:
    """The group that requests to `path` are counted in."""
    if path.startswith("/v2/models/") and path.endswith("/infer"):
        return "v2_infer"
    name = path[1:].replace("/", "_")
    return name if name in ROUTES and name != "v2_infer" else "other"
