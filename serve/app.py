"""The ASGI app: a model, loaded and warmed, with all that watches over it.

Plain ASGI and no framework: Starlette's routing and request objects cost more than all of `serve.exchange`.
"""

import asyncio
import gc
import logging
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import datetime
from pathlib import Path

from serve.access.cors import Origins
from serve.access.keys import Keys, Limits
from serve.access.rates import Rates
from serve.answering import Answering
from serve.artefact import Artefact
from serve.body import Arriving, Receive, Scope, Send
from serve.direct import Direct
from serve.exchange import exchange
from serve.http.connection import Connection
from serve.http.head import lines
from serve.info import version_here
from serve.outcome import NOWHERE
from serve.pages import pages
from serve.protocols.paths import routes
from serve.question import Context, Route
from serve.runtime import Session
from serve.settings import Settings, from_environment
from serve.telemetry import logs
from serve.telemetry.catalogue import route_of
from serve.telemetry.metrics import Metrics
from serve.telemetry.traces import Traces, open_traces

log = logging.getLogger("bantam.serve")


def create_app(settings: Settings) -> "App":
    """An app with its artefact verified and loaded; its lifespan starts and warms it."""
    app = App(settings)
    app.open(settings.artefact)
    return app


def create_app_from_environment() -> "App":
    """What servers of other makes call in their worker processes."""
    settings = from_environment(os.environ)
    logs.set_up(settings.log_format)
    return create_app(settings)


class App:
    """`open` loads, and leaves no thread behind, so that a process may fork after it; `start` and `warm_up` are for the
    process that answers.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.started = self.ready = self.failed = False
        self.arriving = Arriving(limit=settings.max_arriving, seconds=settings.read_timeout)
        self._routes: dict[str, Route] = {}

    def open(self, artefact: Artefact | Path | str) -> None:
        """Load the model; raises what is wrong with the artefact or the settings."""
        settings = self.settings
        self.identity = object()  # of what is loaded: for who notes something about it and does not keep it alive
        self.origins = Origins(settings.origins)
        limits = Limits(settings.rate, settings.burst, settings.concurrent)
        self.keys = Keys(settings.keys, defaults=limits) if settings.keys else None
        self.session = session = Session(
            artefact,
            model=settings.model,
            runtime=settings.runtime,
            device=settings.device,
            threads=settings.threads,
            callers=settings.parallel,
        )
        self._costs = session.costs()
        self.context = context(session, settings)
        found = {**pages(self), **routes(self.context)}
        self._routes = {
            path: replace(route, name=route_of(path), head=lines([(b"content-type", route.kind), *route.headers]))
            for path, route in found.items()
        }
        self._above = sorted((path for path in found if path.endswith("/") and path != "/"), key=len, reverse=True)

    def start(self) -> None:
        """What threads and shared files the answering process needs."""
        settings, manifest = self.settings, self.session.artefact.manifest
        shared, workers = settings.shared, settings.workers
        self.requests = logs.RequestLog(access=settings.access_log)
        self.metrics = Metrics(
            model=manifest.name,
            runtime=self.session.runtime,
            version=version_here(),
            path=shared / "counters" if shared else None,
            workers=workers,
        )
        self.rates = Rates(path=shared / "rates" if shared else None, workers=workers)
        self.traces: Traces | None = open_traces(manifest.name, version_here()) if settings.traces else None
        self.answering = Answering(self.session, self._costs, settings, self.metrics)
        self.started = True

    def warm_up(self) -> None:
        """Run the model once at its usual shapes, settle the garbage collector, and be ready."""
        if not self.started:
            self.start()
        try:
            self.session.warm_up()
        except Exception:
            self.failed = True  # /livez says so, and whoever started the process restarts it
            log.exception("the warm-up failed")
            return
        # What lives now lives for good. Left in, it would be walked by collections that stall one request in a hundred.
        gc.collect()
        gc.freeze()
        gc.set_threshold(50_000, 50, 100)
        self.ready = True

    def close(self) -> None:
        """Answer what was admitted, then let go of threads and files. Waits for that."""
        self.answering.close()
        self.requests.flush()
        self.metrics.close()
        self.rates.close()
        if self.traces is not None:
            self.traces.close()

    def route(self, path: str) -> Route:
        """What answers a path: its own route, or that of all below a path above it."""
        found = self._routes.get(path)
        if found is not None:
            return found
        return next((self._routes[above] for above in self._above if path.startswith(above)), NOWHERE)

    def knows(self, path: str) -> bool:
        """Whether it answers that path with more than an error."""
        return self.started and self.route(path) is not NOWHERE

    def direct(self, connection: Connection) -> Direct:
        """What answers the requests of one of our own connections without ASGI."""
        return Direct(self, connection)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await exchange(self, scope, receive, send)
        elif scope["type"] == "lifespan":
            await self._lifespan(receive, send)
        else:
            await send({"type": "websocket.close", "code": 1003})

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        await receive()
        self.start()
        loop = asyncio.get_running_loop()
        with ThreadPoolExecutor(1) as pool:
            warming = loop.run_in_executor(pool, self.warm_up)
            if self.settings.workers > 1:  # it takes no caller whom a worker that is ready would answer
                await warming
            await send({"type": "lifespan.startup.complete"})
            await receive()
        await loop.run_in_executor(None, self.close)
        await send({"type": "lifespan.shutdown.complete"})


def context(session: Session, settings: Settings) -> Context:
    """What protocols know of the model."""
    manifest = session.artefact.manifest
    return Context(
        name=manifest.name,
        task=manifest.task,
        encoder=session.pieces,
        max_length=manifest.encoder.max_length,
        max_texts=settings.max_texts,
        created=int(datetime.fromisoformat(manifest.created).timestamp()),
    )
