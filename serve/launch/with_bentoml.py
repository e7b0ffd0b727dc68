"""The Bento's service, on BentoML's own server and processes, without a Bento being built."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from types import FrameType

from serve.errors import BackendError, BantamError
from serve.settings import Settings, to_environment


def serve(settings: Settings, host: str, port: int) -> None:
    """Serve until SIGTERM or SIGINT. BackendError where BentoML is not installed."""
    from importlib.util import find_spec

    if find_spec("bentoml") is None:
        raise BackendError("server 'bentoml' is not installed; run: pip install bantam")
    from serve.artefact import load

    load(settings.artefact)  # what is wrong with it is said once, here
    root = Path(__file__).parents[2]
    environment = {**os.environ, **to_environment(settings)}
    environment["PYTHONPATH"] = os.pathsep.join([str(root), *filter(None, sys.path)])
    command = [sys.executable, "-m", "bentoml", "serve", "serve.service:Student", "--host", host, "--port", str(port)]
    process = subprocess.Popen([*command, "--working-dir", str(root)], env=environment, start_new_session=True)

    def stop(number: int, frame: FrameType | None) -> None:
        process.send_signal(signal.SIGTERM)

    before = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGINT)}
    stopped = process.wait() in (0, -signal.SIGTERM)
    for number, handler in before.items():
        signal.signal(number, handler)
    if not stopped:
        raise BantamError(f"bentoml serve ended with {process.returncode}; see above")
