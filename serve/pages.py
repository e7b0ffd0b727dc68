"""Paths that say how the service is, and of what it is made; and the page on which a person asks the model."""

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import orjson

from serve.errors import NotReady
from serve.info import info
from serve.openapi import document
from serve.protocols import tei
from serve.question import Context, Headers, Route
from serve.telemetry.exposition import CONTENT_TYPE

if TYPE_CHECKING:
    from serve.app import App

PLAIN = b"text/plain; charset=utf-8"
FOLDER = Path(__file__).parent / "page"
FILES = {
    "/": ("index.html", b"text/html; charset=utf-8"),
    "/page/style.css": ("style.css", b"text/css; charset=utf-8"),
    "/page/script.js": ("script.js", b"text/javascript; charset=utf-8"),
}
# The page runs its own script and no other, speaks to this service alone, and stands in nobody's frame.
GUARD = (
    (
        b"content-security-policy",
        b"default-src 'none'; script-src 'self'; style-src 'self'; img-src data:; connect-src 'self'; base-uri 'none'; "
        b"form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'",
    ),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cache-control", b"no-cache"),  # a newer service, a newer page
)


def pages(app: "App") -> dict[str, Route]:
    """What GET answers, save for what belongs to a protocol."""

    def described(body: bytes, context: Context, headers: Headers) -> bytes:
        return orjson.dumps(info(app.session, app.answering, app.settings))

    def counted(body: bytes, context: Context, headers: Headers) -> bytes:
        return app.metrics.text()

    def alive(body: bytes, context: Context, headers: Headers) -> bytes:
        if app.failed:
            raise NotReady("the warm-up failed")
        return b""

    @cache
    def documented(context: Context) -> bytes:
        return orjson.dumps(document(context, keyed=app.keys is not None))

    ready = Route("GET", lambda *_: b"", tei.failure, kind=PLAIN)
    found = dict.fromkeys(("/health", "/readyz", "/healthz"), ready)
    found["/livez"] = Route("GET", alive, tei.failure, warm=False, kind=PLAIN)
    found["/info"] = Route("GET", described, tei.failure, warm=False)
    if app.settings.metrics_port is None:
        found["/metrics"] = Route("GET", counted, tei.failure, warm=False, kind=CONTENT_TYPE.encode())
    found["/openapi.json"] = Route("GET", lambda _, context, __: documented(context), tei.failure, warm=False)
    return found | {path: _file(name, kind) for path, (name, kind) in FILES.items()}


def _file(name: str, kind: bytes) -> Route:
    body = (FOLDER / name).read_bytes()
    return Route("GET", lambda *_: body, tei.failure, warm=False, kind=kind, headers=GUARD)
