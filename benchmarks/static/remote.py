"""The near end of a worker: one process for one order, with one thread, ended for good whatever happens."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.remote import QUIET, THREADS
from benchmarks.static.peers import Peer

WORKER = Path(__file__).with_name("worker.py")
ROOT = Path(__file__).parents[2]  # where our own packages lie
LAST = 5  # lines of a peer's last words

Order = dict[str, Any]


def obey(peer: Peer, python: Path, order: Order, heard: Callable[[Order], None]) -> Order:
    """The answer to an order; `heard` is called with each line that comes before it.

    ValueError naming the peer where it fails, with what it said.
    """
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(
            [str(python), *([] if peer.ours else ["-I"]), str(WORKER), str(peer.file)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            env=_environment(peer),
            start_new_session=True,  # so that Ctrl-C reaches this process alone, which then ends the whole group
            text=True,
        )
        try:
            return _answer(peer, process, order, heard, log)
        finally:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    with contextlib.suppress(OSError):
                        pipe.close()
            process.wait()


def _answer(
    peer: Peer, process: subprocess.Popen[str], order: Order, heard: Callable[[Order], None], log: Any
) -> Order:
    assert process.stdin is not None and process.stdout is not None
    with contextlib.suppress(BrokenPipeError):  # then it says why on its standard error
        process.stdin.write(json.dumps(order) + "\n")
        process.stdin.flush()
    for line in process.stdout:
        answer: Order = json.loads(line)
        if "ok" not in answer:
            heard(answer)
        elif answer.pop("ok"):
            return answer
        else:
            raise ValueError(f"the peer {peer.name!r} failed to {order['do']}: {answer['error']}")
    code = process.wait()
    ended = f"by signal {signal.Signals(-code).name} (out of memory?)" if code < 0 else f"with exit code {code}"
    log.seek(0)
    said = "\n".join(log.read().decode(errors="replace").strip().splitlines()[-LAST:])
    raise ValueError(f"the peer {peer.name!r} ended {ended} when told to {order['do']}: {said}")


def _environment(peer: Peer) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    found = {"PYTHONPATH": str(ROOT)} if peer.ours else {}
    return {**kept, **QUIET, **dict.fromkeys(THREADS, "1"), **found}
