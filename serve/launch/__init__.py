"""`bantam serve`: the app on uvicorn, granian or BentoML, in one process or several."""

import os
import signal
import socket
from contextlib import ExitStack
from pathlib import Path

from serve.artefact import Artefact
from serve.errors import BantamError, InputError
from serve.launch.address import allow_connections, announce, bind, listen
from serve.settings import Settings, from_environment, to_environment
from serve.telemetry import logs
from serve.telemetry.regions import shared_folder

SERVERS = ("uvicorn", "granian", "bentoml")


def launch(
    artefact: Artefact | Path | str,
    host: str = "127.0.0.1",
    port: int = 3000,
    workers: int = 1,
    *,
    server: str = "uvicorn",
    metrics_port: int | None = None,
) -> None:
    """Serve until SIGTERM or SIGINT; running requests are answered first.

    Runtime, device, threads and limits come from BANTAM_* in the environment, as `metrics_port` does where it is None.
    A port in use, a damaged artefact or a runtime that cannot run it is a ValueError before anything answers.
    """
    root = artefact.root if isinstance(artefact, Artefact) else Path(artefact)
    environ = {name: value for name, value in os.environ.items() if name not in ("BANTAM_ARTEFACT", "BANTAM_WORKERS")}
    settings = from_environment(environ).model_copy(update={"artefact": str(root.resolve()), "workers": workers})
    if workers < 1:
        raise InputError(f"workers must be 1 or more, got {workers}")
    settings = settings.model_copy(update={"metrics_port": metrics_port or settings.metrics_port})
    logs.set_up(settings.log_format)
    if settings.metrics_port and server != "uvicorn":
        raise InputError(f"metrics_port needs server uvicorn, got {server!r}; elsewhere /metrics is with the rest")
    if server not in SERVERS:
        raise InputError(f"server must be one of {', '.join(SERVERS)}, got {server!r}")
    allow_connections(settings)
    with ExitStack() as stack:
        bound = stack.enter_context(bind(host, port))
        if workers > 1 or server != "uvicorn":
            settings = settings.model_copy(update={"shared": stack.enter_context(shared_folder())})
        if server != "uvicorn":
            _serve_elsewhere(settings, bound, server)
            return
        metrics = stack.enter_context(bind(host, settings.metrics_port)) if settings.metrics_port else None
        if workers == 1:
            _serve_here(settings, bound, metrics)
        else:
            _serve_in_processes(settings, bound, metrics)


def _serve_here(settings: Settings, bound: socket.socket, metrics: socket.socket | None) -> None:
    from serve.app import create_app
    from serve.launch.door import Port
    from serve.launch.server import Worker

    app = create_app(settings)
    _open(settings, bound, metrics)
    started = Worker(app, settings, Port(bound), metrics).run((signal.SIGTERM, signal.SIGINT))
    if not started or app.failed:
        raise BantamError("the warm-up failed; the log above says why")


def _serve_in_processes(settings: Settings, bound: socket.socket, metrics: socket.socket | None) -> None:
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # its threads, which nothing here uses, forbid a fork
    from serve.app import create_app
    from serve.launch.process import Starter
    from serve.launch.spread import Spread
    from serve.launch.supervisor import Supervisor

    app = create_app(settings)  # what is wrong is said once here, not by each worker again and again
    spread = Spread(settings.workers)
    starter = Starter(app, settings, spread, metrics)
    del app  # where it may not be shared, nobody needs it any more
    Supervisor(starter, spread, bound, lambda: _open(settings, bound, metrics)).run()


def _serve_elsewhere(settings: Settings, bound: socket.socket, server: str) -> None:
    from serve.launch import with_bentoml, with_granian

    host, port = bound.getsockname()[:2]
    listen(bound)  # to find out whether it can; these servers bind by themselves
    bound.close()
    os.environ.update(to_environment(settings))
    announce(settings, host, port)
    {"granian": with_granian, "bentoml": with_bentoml}[server].serve(settings, host, port)


def _open(settings: Settings, bound: socket.socket, metrics: socket.socket | None) -> None:
    host, port = bound.getsockname()[:2]
    listen(bound)
    if metrics:
        listen(metrics)
    announce(settings, host, port)
