"""The app on granian, an HTTP server in Rust with its own processes and its own limits on a slow client."""

import os
from typing import Any

from serve.errors import BackendError
from serve.launch.address import BACKLOG
from serve.launch.process import alone
from serve.launch.server import GRACE
from serve.settings import Settings, from_environment

_opened: Any = None  # the app, where a forked process may use the parent's


def serve(settings: Settings, host: str, port: int) -> None:
    """Serve until SIGTERM or SIGINT. BackendError where granian is not installed."""
    try:
        from granian.constants import HTTPModes, Interfaces
        from granian.http import HTTP1Settings
        from granian.log import LogLevels
        from granian.server import Server
    except ModuleNotFoundError as error:
        raise BackendError("server 'granian' is not installed; run: pip install 'bantam[granian]'") from error
    _open(settings)
    Server(
        f"{__name__}:create_app",
        address=host,
        port=port,
        interface=Interfaces.ASGI,
        factory=True,
        workers=settings.workers,
        http=HTTPModes.http1,
        http1_settings=HTTP1Settings(
            header_read_timeout=round(settings.read_timeout * 1000),
            max_buffer_size=max(8192, settings.max_head),  # the least that it takes
        ),
        websockets=False,
        backlog=BACKLOG,
        backpressure=settings.max_connections,
        respawn_failed_workers=True,
        respawn_interval=0.1,
        workers_kill_timeout=round(GRACE),
        log_level=LogLevels.warning,
    ).serve()


def create_app() -> Any:
    """What granian's worker processes call."""
    from serve.app import create_app

    return _opened or create_app(from_environment(os.environ))


def _open(settings: Settings) -> None:
    """Say what is wrong once, here; and keep the app for the workers if forks may share it."""
    import multiprocessing

    from serve.app import create_app

    global _opened
    app = create_app(settings)
    if alone():
        _opened = app
    else:
        multiprocessing.set_start_method("spawn", force=True)
