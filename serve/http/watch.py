"""One timer a worker that looks at all connections in turn, in place of a timer for each request."""

import asyncio
from collections.abc import Callable
from typing import Any

from serve.settings import Settings


class Watch:
    """Looks at the connections of one event loop every so often; `now` is its time in seconds, as of the last look."""

    def __init__(self, loop: asyncio.AbstractEventLoop, connections: set[Any], settings: Settings) -> None:
        self.now = loop.time()
        self.ending = False
        self.looked: Callable[[], None] = lambda: None
        self.lost: Callable[[], None] = lambda: None
        self._loop, self._connections = loop, connections
        self.every = max(0.02, min(settings.read_timeout, settings.write_timeout, settings.keep_alive, 4.0) / 4)
        self._timer = loop.call_later(self.every, self._look_again)

    def look(self) -> None:
        self.now = self._loop.time()
        for connection in tuple(self._connections):
            connection.check()
        self.looked()

    def end(self) -> None:
        """From here on each answer is its connection's last, and idle connections are soon closed."""
        self.ending, self.now = True, self._loop.time()
        for connection in tuple(self._connections):
            connection.end()

    def close(self) -> None:
        self._timer.cancel()

    def _look_again(self) -> None:
        self._timer = self._loop.call_later(self.every, self._look_again)
        self.look()
