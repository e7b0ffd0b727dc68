"""The ASGI app: routes, limits and errors around one Session.

Plain ASGI and no framework: Starlette's routing and request objects cost more than all of this file.
"""

import asyncio
import gc
import logging
import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import orjson

from serve import tei
from serve.artefact import Artefact
from serve.body import Gone, Receive, Scope, Send, read_body
from serve.encode import check_inputs
from serve.errors import BadMethod, BantamError, NotFound, NotReady, Overloaded
from serve.info import info
from serve.metrics import CONTENT_TYPE, Metrics
from serve.runtime import Predictions, Session
from serve.settings import Settings, from_environment

Headers = list[tuple[bytes, bytes]]

JSON: tuple[bytes, bytes] = (b"content-type", b"application/json")
log = logging.getLogger("bantam.serve")


def create_app(settings: Settings) -> "App":
    """An app with its artefact verified and loaded; ready after the warm-up that its lifespan starts."""
    app = App(settings)
    app.open(settings.artefact)
    return app


def create_app_from_environment() -> "App":
    """What uvicorn's worker processes call."""
    return create_app(from_environment(os.environ))


class App:
    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.ready = False
        self.failed = False
        self.metrics = Metrics()
        self._session: Session | None = None
        self._waiting = 0
        # One thread: a worker's model runs on one core, and the event loop stays free to read and to refuse.
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="model")
        self._pages: dict[str, tuple[str, Callable[[], tuple[int, bytes, bytes]]]] = {
            "/info": ("GET", self._info),
            "/health": ("GET", self._health),
            "/readyz": ("GET", self._health),
            "/livez": ("GET", self._alive),
            "/metrics": ("GET", lambda: (200, CONTENT_TYPE.encode(), self.metrics.text())),
        }

    def open(self, artefact: Artefact | str) -> None:
        """Load the model; raises what is wrong with the artefact or the settings."""
        self._session = Session(
            artefact,
            model=self.settings.model,
            runtime=self.settings.runtime,
            device=self.settings.device,
            threads=self.settings.threads,
        )

    def warm_up(self) -> None:
        """Run the model once at its usual shapes, settle the garbage collector, and be ready."""
        try:
            self._opened().warm_up()
        except Exception:
            self.failed = True  # /livez says so, and whoever started the process restarts it
            log.exception("the warm-up failed")
            return
        # What lives now lives for good. Left in, it would be walked by collections that stall one request in a hundred.
        gc.collect()
        gc.freeze()
        gc.set_threshold(50_000, 50, 100)
        self.ready = True

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._lifespan(receive, send)
        elif scope["type"] == "http":
            await self._http(scope, receive, send)
        else:
            await send({"type": "websocket.close", "code": 1003})

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        await receive()
        warming = asyncio.get_running_loop().run_in_executor(self._pool, self.warm_up)
        if self.settings.workers > 1:  # it takes no caller whom a worker that is ready would answer
            await warming
        await send({"type": "lifespan.startup.complete"})
        await receive()
        self._pool.shutdown(wait=True)
        await send({"type": "lifespan.shutdown.complete"})

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        started = time.perf_counter()
        path = scope["path"].removeprefix(scope.get("root_path", "")) or "/"
        try:
            if path == "/predict":
                _check_method(scope, "POST", path)
                status, headers, body = await self._predict(scope, receive, started)
            elif path in self._pages:
                method, page = self._pages[path]
                _check_method(scope, method, path)
                status, kind, body = page()
                headers = [(b"content-type", kind)]
            else:
                raise NotFound(f"there is no {path}; try POST /predict or GET /info")
        except Gone:
            return
        except BantamError as error:
            status, headers, body = self._error(error, str(error), path)
        except Exception as error:
            log.exception("unexpected error in %s", path)
            status, headers, body = self._error(error, "internal error; the log has the details", path)
        headers.append((b"content-length", str(len(body)).encode()))
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else body})

    async def _predict(self, scope: Scope, receive: Receive, started: float) -> tuple[int, Headers, bytes]:
        session = self._opened()
        if not self.ready:
            raise NotReady("the model is warming up; try again in a moment")
        question = tei.read(
            await read_body(scope, receive, limit=self.settings.max_body), max_texts=self.settings.max_texts
        )
        check_inputs(question.texts, session.artefact.manifest.task.inputs)
        predictions, seconds = await self._run(session, question)
        answer = tei.write(predictions, session.labels, single=question.single)
        total = time.perf_counter() - started
        truncated = sum(predictions.truncated)
        self.metrics.success(
            texts=len(question.texts),
            truncated=truncated,
            tokens=predictions.tokens,
            inference=seconds,
            total=total,
        )
        headers = [
            JSON,
            (b"x-compute-tokens", b"%d" % predictions.tokens),
            (b"x-inference-time", b"%.3f" % (seconds * 1e3)),  # ms
            (b"x-total-time", b"%.3f" % (total * 1e3)),
        ]
        if truncated:
            headers.append((b"x-truncated", b"true"))
        return 200, headers, answer

    async def _run(self, session: Session, question: tei.Question) -> tuple[Predictions, float]:
        if self._waiting >= self.settings.max_waiting:
            raise Overloaded("model is overloaded; try again later")

        def work() -> tuple[Predictions, float]:
            start = time.perf_counter()
            got = session.predict(question.texts, truncate=question.truncate, raw_scores=question.raw_scores)
            return got, time.perf_counter() - start

        self._waiting += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._pool, work)
        finally:
            self._waiting -= 1

    def _opened(self) -> Session:
        assert self._session is not None, "open() comes first"
        return self._session

    def _error(self, error: Exception, text: str, path: str) -> tuple[int, Headers, bytes]:
        status = error.status if isinstance(error, BantamError) else 500
        error_type = error.error_type if isinstance(error, BantamError) else "Backend"
        if path == "/predict":
            self.metrics.failure(status=status, error_type=error_type)
        headers = [JSON]
        if isinstance(error, BadMethod):
            headers.append((b"allow", b"POST" if path == "/predict" else b"GET, HEAD"))
        if isinstance(error, (NotReady, Overloaded)):
            headers.append((b"retry-after", b"1"))
        return status, headers, orjson.dumps({"error": text, "error_type": error_type})

    def _info(self) -> tuple[int, bytes, bytes]:
        return 200, JSON[1], orjson.dumps(info(self._opened(), self.settings))

    def _health(self) -> tuple[int, bytes, bytes]:
        if not self.ready:
            raise NotReady("the warm-up failed" if self.failed else "the model is warming up")
        return 200, b"text/plain", b""

    def _alive(self) -> tuple[int, bytes, bytes]:
        if self.failed:
            raise NotReady("the warm-up failed")
        return 200, b"text/plain", b""


def _check_method(scope: Scope, wanted: str, path: str) -> None:
    if scope["method"] != wanted and not (wanted == "GET" and scope["method"] == "HEAD"):
        raise BadMethod(f"{path} takes {wanted}, not {scope['method']}")
