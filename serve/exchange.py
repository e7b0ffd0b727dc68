"""One request's way: from its path over its key, its body and its protocol to the model, and back as an answer.

Its steps are functions that wait for nothing. `exchange` puts them together for ASGI, where a body comes as messages;
`serve.direct` for our own connections, where nearly all is there at once.
"""

import time
from collections.abc import Callable
from functools import wraps
from typing import TYPE_CHECKING, Any, TypeVar, TypeVarTuple

from serve.access import keys
from serve.batching import Ticket
from serve.body import Gone, Receive, Scope, Send, check_head, read_body
from serve.errors import BadField, BadMethod, BantamError, NotFound, NotReady
from serve.http.head import lines, pairs
from serve.http.request import Head
from serve.outcome import NOWHERE, Exchange, count, fail, refuse
from serve.question import Answer, Question, Route
from serve.together import Turn

if TYPE_CHECKING:
    from serve.app import App

Result = TypeVar("Result")
Given = TypeVarTuple("Given")

TIMEOUT = b"x-request-timeout-ms"
LONG = 65_536  # bytes of a body that is not read on the event loop: some protocols cut tokens while they read


async def exchange(app: "App", scope: Scope, receive: Receive, send: Send) -> None:
    """Answer one request, whatever it is."""
    path = scope["path"].removeprefix(scope.get("root_path", "")) or "/"
    headers = scope["headers"]
    app.metrics.in_progress.add(1)
    this = Exchange(scope["method"], path, app.route(path), time.perf_counter(), headers, dict(headers))
    if admitted(app, this) and not await finished(app, this, receive):
        return
    head = pairs(closed(app, this))
    await send({"type": "http.response.start", "status": this.status, "headers": head})
    await send({"type": "http.response.body", "body": b"" if this.method == "HEAD" else this.body})


async def finished(app: "App", this: Exchange, receive: Receive) -> bool:
    """Read on and answer what was admitted; False where its client has left."""
    try:
        await _finish(app, this, receive)
    except Gone:
        app.metrics.cancelled()
        left(app, this)
        return False
    except BantamError as error:
        refuse(app, this, error)
    except Exception as error:
        fail(app, this, error)
    except BaseException:
        left(app, this)
        raise
    return True


async def _finish(app: "App", this: Exchange, receive: Receive) -> None:
    body = b""
    if this.route.method == "POST":
        body = await read_body(receive, app.arriving, limit=app.settings.max_body)
    if len(body) > LONG:
        asked = await app.answering.aside(len(body), lambda: _read(app, this, body))
    else:
        asked = _read(app, this, body)
    if asked is not None:
        answer = app.answering.at_once(asked, this.deadline)
        _write(this, asked, answer or await app.answering.ask(asked, this.deadline, receive))


# --- the steps, in their order


def opened(app: "App", head: Head, route: Route) -> Exchange:
    """A request has come, and is to be `closed` or `left`."""
    app.metrics.in_progress.add(1)
    return Exchange(head.method, head.path, route, time.perf_counter(), head.headers, head.named)


class Standing:
    """What requests with one head have in common: they get as far as their body. It holds while the keys are these."""

    __slots__ = ("app", "key", "keys", "route", "wait")

    def __init__(self, app: "App", this: Exchange) -> None:
        assert this.deadline is not None, "of a POST"
        self.app, self.route, self.key = app.identity, this.route, this.key
        self.keys = None if app.keys is None else app.keys.current()
        self.wait = this.deadline - this.started  # seconds


def known(app: "App", head: Head) -> Standing | None:
    """What a request with this head was found to be, if it still is that."""
    note: Standing | None = head.note
    if note is None or note.app is not app.identity:
        return None
    if note.keys is not None and (app.keys is None or note.keys is not app.keys.current()):
        return None
    return note


def settled(
    step: Callable[["App", Exchange, *Given], Result],
) -> Callable[["App", Exchange, *Given], Result | None]:
    """A step that turns whatever is wrong into the request's answer, and gives None then."""

    @wraps(step)
    def safe(app: "App", this: Exchange, *given: *Given) -> Result | None:
        try:
            return step(app, this, *given)
        except BantamError as error:
            refuse(app, this, error)
        except Exception as error:
            fail(app, this, error)
        return None

    return safe


@settled
def admitted(app: "App", this: Exchange) -> bool:
    """Whether it is to be read on; otherwise it has its answer."""
    method, route = this.method, this.route
    if method == "OPTIONS" and (found := app.origins.preflight(this.headers)) is not None:
        this.status, this.head = 204, lines(found)
        return False
    if app.keys is not None and this.path not in keys.OPEN_PATHS:
        this.key = app.keys.check(this.headers)
        this.lease = app.rates.admit(this.key)
    if route is NOWHERE:
        raise NotFound(f"there is no {this.path}; GET /openapi.json lists the paths that there are")
    if route.method not in (method, "*") and (route.method, method) != ("GET", "HEAD"):
        raise BadMethod(f"{this.path} takes {route.method}, not {method}")
    _check_ready(app, route)
    if route.method == "POST":
        this.deadline = _deadline(this, app.settings.deadline)
        if route.asks:
            app.answering.check_room(this.deadline)
        check_head(this.named, limit=app.settings.max_body, typed=not route.untyped)
    return True


@settled
def admitted_again(app: "App", this: Exchange, standing: Standing) -> bool:
    """`admitted` of a head that was."""
    if standing.key is not None:
        this.key = standing.key
        this.lease = app.rates.admit(standing.key)
    _check_ready(app, this.route)
    this.deadline = this.started + standing.wait
    if this.route.asks:
        app.answering.check_room(this.deadline)
    return True


@settled
def queued(
    app: "App", this: Exchange, body: bytes, told: Callable[[Any], None]
) -> tuple[Question, Ticket | Turn] | None:
    """What a body that is whole and short asks of the model, and its place in the queue; None where it has its answer.
    `told` is called on the event loop once it ends, unless it is cancelled.
    """
    asked = _read(app, this, body)
    return None if asked is None else (asked, app.answering.queued(asked, this.deadline, told))


@settled
def collected(app: "App", this: Exchange, asked: Question, ticket: Ticket | Turn) -> None:
    """Write what the model gave."""
    _write(this, asked, app.answering.collected(asked, ticket))


def closed(app: "App", this: Exchange) -> bytes:
    """Count what is about to be sent; the lines of its head."""
    _let_go(app, this)
    count(app, this, time.perf_counter())
    return b"%bcontent-length: %d\r\n" % (this.head, len(this.body))


def left(app: "App", this: Exchange) -> None:
    """Nobody waits for the answer."""
    _let_go(app, this)


# --- and their parts


def _check_ready(app: "App", route: Route) -> None:
    if route.warm and not app.ready:
        raise NotReady("the warm-up failed" if app.failed else "the model is warming up; try again in a moment")


def _let_go(app: "App", this: Exchange) -> None:
    app.metrics.in_progress.add(-1)
    if this.lease is not None:
        app.rates.release(this.lease)


def _read(app: "App", this: Exchange, body: bytes) -> Question | None:
    """What a body asks of the model; None where it has its answer."""
    route = this.route
    this.size, this.read, this.head = len(body), time.perf_counter(), route.head
    asked = route.read(body, app.context, this.named)
    if isinstance(asked, Question):
        return asked
    this.body = asked
    return None


def _write(this: Exchange, asked: Question, answer: Answer) -> None:
    this.answer = answer
    written = asked.write(answer)
    if isinstance(written, tuple):
        this.body, this.head = written[0], lines(written[1])  # of another type than the route's
    else:
        this.body = written


def _deadline(this: Exchange, limit: float) -> float:
    """Until when a request may wait for its turn: its own wish, within the service's limit."""
    asked = this.named.get(TIMEOUT)
    if asked is None:
        return this.started + limit
    if not (asked.isdigit() and len(asked) <= 9 and int(asked)):
        raise BadField(TIMEOUT.decode(), f"{TIMEOUT.decode()} must be a whole number of milliseconds from 1")
    return this.started + min(int(asked) / 1e3, limit)
