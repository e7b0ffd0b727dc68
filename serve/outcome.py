"""A request with what becomes of it: its refusal, the lines of its answer's head, and what is counted and logged."""

import math
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING

from serve.access.keys import Key
from serve.errors import BadKey, BadMethod, BantamError, NotReady, Overloaded
from serve.http.head import lines
from serve.protocols import tei
from serve.question import Answer, Route
from serve.telemetry.traces import Phase

if TYPE_CHECKING:
    from serve.app import App

Pairs = list[tuple[bytes, bytes]]

ALLOWED = {"GET": b"GET, HEAD", "POST": b"POST"}
NOWHERE = Route("*", lambda *_: b"", tei.failure, warm=False)  # of a path that is none
JSON = b"content-type: application/json\r\n"
TIMES = (  # ms
    b"x-total-time: %.3f\r\nx-tokenization-time: %.3f\r\nx-queue-time: %.3f\r\nx-inference-time: %.3f\r\n"
    b"x-compute-tokens: %d\r\n"
)


class Exchange:
    """What is known of a request and of its answer."""

    deadline: float | None = None
    key: Key | None = None
    lease: int | None = None  # what `Rates.release` takes
    size = 0  # bytes of its body
    read = 0.0  # when its body had come
    status = 200
    head = b""  # lines of its answer's head
    body = b""
    answer: Answer | None = None

    def __init__(
        self, method: str, path: str, route: Route, started: float, headers: Pairs, named: Mapping[bytes, bytes]
    ) -> None:
        self.method, self.path, self.route, self.started = method, path, route, started
        self.headers, self.named = headers, named

    @property
    def name(self) -> str:
        """Of its API key."""
        return "" if self.key is None else self.key.name


def fail(app: "App", this: Exchange, error: Exception) -> None:
    app.requests.unexpected(this.method, this.path, error)
    refuse(app, this, BantamError("internal error; the log has the details"))


def refuse(app: "App", this: Exchange, error: BantamError) -> None:
    this.answer, this.head = None, JSON
    this.status, this.body = this.route.failure(error)
    if isinstance(error, BadMethod):
        this.head += b"allow: %b\r\n" % ALLOWED[this.route.method]
    elif isinstance(error, BadKey):
        this.head += b"www-authenticate: Bearer\r\n"
    elif isinstance(error, NotReady | Overloaded):
        seconds = error.retry_after if isinstance(error, Overloaded) else 1.0
        this.head += b"retry-after: %d\r\n" % max(1, math.ceil(seconds))
    app.metrics.failed(error)
    seconds = time.perf_counter() - this.started
    status, kind = this.status, error.error_type
    app.requests.failed(this.method, this.path, status, kind, size=this.size, seconds=seconds, key=this.name)


def count(app: "App", this: Exchange, ended: float) -> None:
    """Metrics, headers and logs."""
    seconds, answer = ended - this.started, this.answer
    app.metrics.answered(this.route.name, this.status, seconds)
    if answer is not None:
        cut = answer.truncated.count(True)
        tokens, texts = answer.tokens, len(answer.lengths)
        queued, inference = answer.queued, answer.inference
        app.metrics.computed(texts=texts, tokens=tokens, truncated=cut, queued=queued, inference=inference)
        this.head += TIMES % (seconds * 1e3, answer.tokenised * 1e3, queued * 1e3, inference * 1e3, tokens)
        if cut:
            this.head += b"x-truncated: true\r\n"
    if app.settings.origins:
        this.head += lines(app.origins.answer(this.headers))
    if app.requests.access and this.status < 400:
        app.requests.answered(this.method, this.path, this.status, size=this.size, seconds=seconds, key=this.name)
    if app.traces is not None:
        _trace(app, this, ended)


def _trace(app: "App", this: Exchange, ended: float) -> None:
    assert app.traces is not None, "asked for"
    phases: list[Phase] = []
    facts = dict[str, int]()
    if this.answer is not None:
        one = this.read + this.answer.tokenised
        two = one + this.answer.queued
        phases = [("tokenise", this.read, one), ("queue", one, two), ("inference", two, two + this.answer.inference)]
        facts = {"bantam.texts": len(this.answer.lengths), "bantam.tokens": this.answer.tokens}
    app.traces.request(
        this.headers,
        method=this.method,
        route=this.path if this.route is not NOWHERE else "none",
        status=this.status,
        started=this.started,
        ended=ended,
        phases=phases,
        facts=facts,
    )
