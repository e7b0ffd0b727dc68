"""`bantam serve`: the app on uvicorn, in one process or several."""

import errno
import os
import socket
import sys
import tempfile
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

from serve.artefact import Artefact
from serve.errors import BantamError, InputError
from serve.settings import Settings, from_environment, to_environment

GRACE = 30  # seconds that running requests have to end after SIGTERM


def launch(artefact: Artefact | Path | str, host: str = "127.0.0.1", port: int = 3000, workers: int = 1) -> None:
    """Serve until SIGTERM or SIGINT; running requests are answered first.

    Runtime, device, threads and limits come from BANTAM_* in the environment. A port in use, a damaged artefact or
    a runtime that cannot run it is a ValueError before anything answers.
    """
    root = artefact.root if isinstance(artefact, Artefact) else Path(artefact)
    environ = {name: value for name, value in os.environ.items() if name not in ("BANTAM_ARTEFACT", "BANTAM_WORKERS")}
    settings = from_environment(environ).model_copy(update={"artefact": str(root.resolve()), "workers": workers})
    if workers < 1:
        raise InputError(f"workers must be 1 or more, got {workers}")
    with closing(_bind(host, port)) as bound:
        if workers == 1:
            _serve_here(settings, bound)
        else:
            _serve_in_processes(settings, bound)


def _bind(host: str, port: int) -> socket.socket:
    """A socket that holds the port but does not listen yet: until the model is loaded callers are refused."""
    if not 0 <= port <= 65535:
        raise InputError(f"port must be from 0 to 65535, got {port}")
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except socket.gaierror as error:
        raise InputError(f"host {host!r} is not an address of this machine: {error.strerror}") from None
    bound = socket.socket(family, kind, protocol)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
        bound.set_inheritable(True)
    except OSError as error:
        bound.close()
        raise _refusal(host, port, error) from None
    return bound


def _serve_here(settings: Settings, bound: socket.socket) -> None:
    import uvicorn

    from serve.app import create_app

    app = create_app(settings)
    _listen(bound, settings)
    with suppress(KeyboardInterrupt):
        uvicorn.Server(uvicorn.Config(app, **_options())).run(sockets=[bound])
    if app.failed:
        raise BantamError("the warm-up failed; the log above says why")


def _serve_in_processes(settings: Settings, bound: socket.socket) -> None:
    import uvicorn
    from uvicorn.supervisors import Multiprocess

    from serve.app import create_app

    create_app(settings)  # what is wrong is said once here, not by each worker again and again
    with tempfile.TemporaryDirectory(prefix="bantam-metrics-") as metrics:
        os.environ.update({**to_environment(settings), "PROMETHEUS_MULTIPROC_DIR": metrics})
        app = "serve.app:create_app_from_environment"
        _listen(bound, settings)
        Multiprocess(uvicorn.Config(app, factory=True, workers=settings.workers, **_options()), sockets=[bound]).run()


def _options() -> dict[str, Any]:
    return {
        "access_log": False,
        "log_level": "warning",
        "lifespan": "on",
        "timeout_graceful_shutdown": GRACE,
        "server_header": False,
        "date_header": False,
    }


def _listen(bound: socket.socket, settings: Settings) -> None:
    """Take callers from here on; of two servers that bound the port at once the second finds out here."""
    host, port = bound.getsockname()[:2]
    try:
        bound.listen(2048)
    except OSError as error:
        raise _refusal(host, port, error) from None
    shown = f"[{host}]" if ":" in host else host
    many = f" with {settings.workers} workers" if settings.workers > 1 else ""
    print(f"serving {Path(settings.artefact).name} on http://{shown}:{port}{many}", file=sys.stderr, flush=True)


def _refusal(host: str, port: int, error: OSError) -> InputError:
    if error.errno == errno.EADDRINUSE:
        return InputError(f"port {port} of {host} is in use; stop what listens there or take another")
    return InputError(f"cannot listen on {host}:{port}: {error.strerror}")
