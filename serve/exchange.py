"""One request's way: from its path over its key, its body and its protocol to the model, and back as an answer."""

import math
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from serve.access import keys
from serve.body import Gone, Receive, Scope, Send, read_body
from serve.errors import BadField, BadKey, BadMethod, BantamError, NotFound, NotReady, Overloaded
from serve.protocols import tei
from serve.question import Answer, Question, Route
from serve.telemetry.traces import Phase

if TYPE_CHECKING:
    from serve.app import App

Headers = list[tuple[bytes, bytes]]

ALLOWED = {"GET": b"GET, HEAD", "POST": b"POST"}
TIMEOUT = b"x-request-timeout-ms"
LONG = 65_536  # bytes of a body that is not read on the event loop: some protocols cut tokens while they read
NOWHERE = Route("*", lambda *_: b"", tei.failure, warm=False)  # of a path that is none


@dataclass(slots=True)
class Exchange:
    """What is known of a request and of its answer."""

    scope: Scope
    path: str
    route: Route
    started: float
    headers: dict[bytes, bytes]
    key: str = ""  # the name of its API key
    lease: int | None = None  # what `Rates.release` takes
    size: int = 0  # bytes of its body
    read: float = 0.0  # when its body had come
    status: int = 200
    told: Headers = field(default_factory=list)
    body: bytes = b""
    answer: Answer | None = None


async def exchange(app: "App", scope: Scope, receive: Receive, send: Send) -> None:
    """Answer one request, whatever it is."""
    path = scope["path"].removeprefix(scope.get("root_path", "")) or "/"
    this = Exchange(scope, path, app.route(path), time.perf_counter(), dict(scope["headers"]))
    app.metrics.in_progress.add(1)
    try:
        await _answer(app, this, receive)
    except Gone:
        app.metrics.cancelled()
        return
    except BantamError as error:
        _refuse(app, this, error)
    except Exception as error:
        app.requests.unexpected(scope["method"], path, error)
        _refuse(app, this, BantamError("internal error; the log has the details"))
    finally:
        app.metrics.in_progress.add(-1)
        if this.lease is not None:
            app.rates.release(this.lease)
    _count(app, this, time.perf_counter())
    this.told.append((b"content-length", b"%d" % len(this.body)))
    await send({"type": "http.response.start", "status": this.status, "headers": this.told})
    await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else this.body})


async def _answer(app: "App", this: Exchange, receive: Receive) -> None:
    method, route = this.scope["method"], this.route
    if method == "OPTIONS" and (found := app.origins.preflight(this.scope["headers"])) is not None:
        this.status, this.told = 204, found
        return
    if app.keys is not None and this.path not in keys.OPEN_PATHS:
        key = app.keys.check(this.scope["headers"])
        this.key = key.name
        this.lease = app.rates.admit(key)
    if route is NOWHERE:
        raise NotFound(f"there is no {this.path}; GET /openapi.json lists the paths that there are")
    if route.method not in (method, "*") and (route.method, method) != ("GET", "HEAD"):
        raise BadMethod(f"{this.path} takes {route.method}, not {method}")
    if route.warm and not app.ready:
        raise NotReady("the warm-up failed" if app.failed else "the model is warming up; try again in a moment")
    body, deadline = b"", None
    if route.method == "POST":
        deadline = _deadline(this, app.settings.deadline)
        limit = app.settings.max_body
        body = await read_body(this.headers, receive, app.arriving, limit=limit, typed=not route.untyped)
        this.size, this.read = len(body), time.perf_counter()
    this.told = [(b"content-type", route.kind), *route.headers]
    if len(body) > LONG:
        asked = await app.answering.aside(len(body), lambda: route.read(body, app.context, this.headers))
    else:
        asked = route.read(body, app.context, this.headers)
    if not isinstance(asked, Question):
        this.body = asked
        return
    this.answer = app.answering.at_once(asked, deadline) or await app.answering.ask(asked, deadline, receive)
    written = asked.write(this.answer)
    if isinstance(written, tuple):
        this.body, this.told = written  # of another type than the route's
    else:
        this.body = written


def _deadline(this: Exchange, limit: float) -> float:
    """Until when a request may wait for its turn: its own wish, within the service's limit."""
    asked = this.headers.get(TIMEOUT)
    if asked is None:
        return this.started + limit
    if not (asked.isdigit() and len(asked) <= 9 and int(asked)):
        raise BadField(TIMEOUT.decode(), f"{TIMEOUT.decode()} must be a whole number of milliseconds from 1")
    return this.started + min(int(asked) / 1e3, limit)


def _refuse(app: "App", this: Exchange, error: BantamError) -> None:
    this.answer = None
    this.status, this.body = this.route.failure(error)
    this.told = [(b"content-type", b"application/json")]
    if isinstance(error, BadMethod):
        this.told.append((b"allow", ALLOWED[this.route.method]))
    elif isinstance(error, BadKey):
        this.told.append((b"www-authenticate", b"Bearer"))
    elif isinstance(error, NotReady | Overloaded):
        seconds = error.retry_after if isinstance(error, Overloaded) else 1.0
        this.told.append((b"retry-after", b"%d" % max(1, math.ceil(seconds))))
    app.metrics.failed(error)
    seconds = time.perf_counter() - this.started
    method, status, kind = this.scope["method"], this.status, error.error_type
    app.requests.failed(method, this.path, status, kind, size=this.size, seconds=seconds, key=this.key)


def _count(app: "App", this: Exchange, ended: float) -> None:
    """Metrics, headers and logs of what is about to be sent."""
    seconds, answer = ended - this.started, this.answer
    app.metrics.answered(this.route.name, this.status, seconds)
    if answer is not None:
        cut = answer.truncated.count(True)
        tokens, texts = answer.tokens, len(answer.lengths)
        app.metrics.computed(
            texts=texts, tokens=tokens, truncated=cut, queued=answer.queued, inference=answer.inference
        )
        this.told += (
            (b"x-total-time", b"%.3f" % (seconds * 1e3)),  # ms, as all of these
            (b"x-tokenization-time", b"%.3f" % (answer.tokenised * 1e3)),
            (b"x-queue-time", b"%.3f" % (answer.queued * 1e3)),
            (b"x-inference-time", b"%.3f" % (answer.inference * 1e3)),
            (b"x-compute-tokens", b"%d" % tokens),
        )
        if cut:
            this.told.append((b"x-truncated", b"true"))
    if app.settings.origins:
        this.told += app.origins.answer(this.scope["headers"])
    if app.requests.access and this.status < 400:
        method, size = this.scope["method"], this.size
        app.requests.answered(method, this.path, this.status, size=size, seconds=seconds, key=this.key)
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
        this.scope["headers"],
        method=this.scope["method"],
        route=this.path if this.route is not NOWHERE else "none",
        status=this.status,
        started=this.started,
        ended=ended,
        phases=phases,
        facts=facts,
    )
