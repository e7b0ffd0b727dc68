"""Our own app on our own connections: what can be answered at once is answered in the event loop's callback.

No task, no scope, no messages. A request that needs the model has a place in its queue, or in the next call of a model
that takes microseconds; only bodies that are large, or come in pieces, get a task, in which ASGI's way is taken from
there on.
"""

from typing import TYPE_CHECKING

from serve import exchange
from serve.answering import INLINE
from serve.batching import Ticket
from serve.http.asgi import Receiver, keep
from serve.http.head import STATUS
from serve.http.request import Request
from serve.outcome import Exchange
from serve.question import Question
from serve.together import Turn

if TYPE_CHECKING:
    from serve.app import App
    from serve.http.connection import Connection


class Direct:
    """The requests of one connection; of these one at a time is under way."""

    def __init__(self, app: "App", connection: "Connection") -> None:
        self._app, self._connection = app, connection
        self._this: Exchange | None = None  # under way
        self._request: Request | None = None  # that it answers
        self._asked: Question | None = None  # that is in the model's queue
        self._ticket: Ticket | Turn | None = None
        self._receive: Receiver | None = None  # of the task that answers it

    def begin(self, request: Request) -> None:
        app, head = self._app, request.head
        standing = exchange.known(app, head)
        if standing is not None:
            this = self._this = exchange.opened(app, head, standing.route)
            admitted = exchange.admitted_again(app, this, standing)
        else:
            this = self._this = exchange.opened(app, head, app.route(head.path))
            admitted = exchange.admitted(app, this)
            if admitted and this.route.method == "POST":
                head.note = exchange.Standing(app, this)
        if not admitted:
            self._end(this, request)
        elif this.route.method != "POST":
            self._answer(this, request, b"")
        else:
            self.more(request)

    def more(self, request: Request) -> None:
        if self._receive is not None:
            self._receive.wake()
        elif self._ticket is None and self._this is not None:
            if request.whole and len(request.body) <= INLINE:
                self._answer(self._this, request, request.body)
            elif request.body or not _short(request):
                self._receive = Receiver(self._connection, request)
                keep(self._connection, self._finish(self._this, request, self._receive))

    def gone(self) -> None:
        this, self._this = self._this, None
        if self._receive is not None:
            self._receive.wake()
        elif this is not None:
            if self._ticket is not None:
                self._app.answering.cancel(self._ticket)
            self._ticket = None
            self._app.metrics.cancelled()
            exchange.left(self._app, this)

    def _answer(self, this: Exchange, request: Request, body: bytes) -> None:
        self._request = request
        queued = exchange.queued(self._app, this, body, self._told)
        if queued is None:
            self._end(this, request)
        else:
            self._asked, self._ticket = queued

    def _told(self, ticket: Ticket | Turn) -> None:
        this, asked, request = self._this, self._asked, self._request
        if ticket is not self._ticket or this is None or asked is None or request is None:
            return  # the client has left
        self._ticket = self._asked = self._request = None
        exchange.collected(self._app, this, asked, ticket)
        self._end(this, request)
        self._connection.advance()

    def _end(self, this: Exchange, request: Request) -> None:
        self._this = None
        head = STATUS[this.status] + exchange.closed(self._app, this)
        self._connection.answer(request, head, b"" if this.method == "HEAD" else this.body)

    async def _finish(self, this: Exchange, request: Request, receive: Receiver) -> None:
        answered = await exchange.finished(self._app, this, receive)
        if answered:
            await self._connection.drained()
        self._receive = None
        if self._connection.lost:
            if answered:
                exchange.closed(self._app, this)
        elif answered:
            self._end(this, request)
            self._connection.advance()


def _short(request: Request) -> bool:
    """Little of a body will come: many clients send it behind the head, in a packet of its own."""
    named = request.head.named
    if b"expect" in named or b"transfer-encoding" in named:
        return False
    claimed = named.get(b"content-length", b"")[:9]
    return claimed.isdigit() and int(claimed) <= INLINE
