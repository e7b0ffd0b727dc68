"""A worker: the app behind our own protocol on one event loop, until it is told to stop."""

import asyncio
import logging
import signal
import socket
from collections.abc import Callable
from typing import Any

import uvicorn
from uvicorn.server import ServerState

from serve.http.connection import limited
from serve.http.watch import Watch
from serve.launch.door import Door
from serve.launch.metrics_page import open_page
from serve.settings import Settings

GRACE = 30.0  # seconds that requests in flight have to end once it is told to stop

log = logging.getLogger("bantam.serve")


class Worker:
    def __init__(self, app: Any, settings: Settings, door: Door, metrics: socket.socket | None = None) -> None:
        self.app, self.settings, self.door, self.metrics = app, settings, door, metrics
        self.looked: Callable[[], None] = lambda: None  # called every so often while all is well
        self.lost: Callable[[], None] = lambda: None  # called for each connection that is closed

    def run(self, stops: tuple[signal.Signals, ...]) -> bool:
        """Serve until one of those signals comes, however often; running requests are answered. False: no start."""
        with asyncio.Runner(loop_factory=_loop_factory()) as runner:
            return runner.run(self._serve(stops))

    async def _serve(self, stops: tuple[signal.Signals, ...]) -> bool:
        loop, stop = asyncio.get_running_loop(), asyncio.Event()
        for number in stops:
            loop.add_signal_handler(number, stop.set)
        protocol = limited(self.settings, direct=getattr(self.app, "direct", None))
        config = uvicorn.Config(self.app, http=protocol, **options())
        config.load()
        lifespan = config.lifespan_class(config)
        await lifespan.startup()
        if lifespan.should_exit:
            return False
        state = ServerState()
        state.default_headers = config.encoded_headers
        watch = protocol.watch = Watch(loop, state.connections, self.settings)
        watch.looked, watch.lost = self.looked, self.lost
        page = await open_page(self.metrics, self.app) if self.metrics else None
        await self.door.open(lambda: protocol(config, state, lifespan.state, loop), stop.set)
        await stop.wait()
        await self.door.close()
        await _finish(watch, state)
        await lifespan.shutdown()
        if page:
            page.close()
        watch.close()
        return True


def options() -> dict[str, Any]:
    """uvicorn's, beyond what `Worker` does by itself."""
    return {
        "access_log": False,
        "log_config": None,  # see serve.telemetry.logs
        "log_level": "error",  # what it warns of is logged here too
        "lifespan": "on",
        "ws": "none",
        "proxy_headers": False,  # nothing here asks who called
        "server_header": False,
        "date_header": False,
    }


async def _finish(watch: Watch, state: ServerState) -> None:
    """Every request that has come is answered, and what idle connections still send for a moment."""
    loop = asyncio.get_running_loop()
    until = loop.time() + GRACE
    watch.end()
    while state.connections and loop.time() < until:
        await asyncio.sleep(0.02)
        watch.look()
    if state.connections:
        log.warning("%d connections were not done after %g s and are cut off", len(state.connections), GRACE)
    for task in tuple(state.tasks):
        task.cancel()
    for connection in tuple(state.connections):
        connection.transport.abort()
    if state.tasks:
        await asyncio.wait(tuple(state.tasks), timeout=1)


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop]:
    try:
        import uvloop
    except ImportError:  # not for every system
        return asyncio.new_event_loop
    return uvloop.new_event_loop
