"""A worker process: forked with the model in memory where that is safe, else started anew.

Threads do not survive a fork, nor do the locks they hold. A model that was loaded without leaving any thread, as ours
and onnxruntime's with one thread each, is shared by all workers as the parent has it. Others load it themselves.
"""

import gc
import json
import os
import signal
import subprocess
import sys
import traceback
from pathlib import Path
from typing import Any, Protocol

from serve.launch.spread import Spread
from serve.settings import Settings, to_environment


class Process(Protocol):
    pid: int

    def poll(self) -> int | None:
        """Its exit status, or minus the signal that ended it; None while it lives."""

    def send_signal(self, number: int) -> None: ...


class Forked:
    def __init__(self, pid: int) -> None:
        self.pid = pid
        self._status: int | None = None

    def poll(self) -> int | None:
        if self._status is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            self._status = os.waitstatus_to_exitcode(status) if pid else None
        return self._status

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)


class Starter:
    """Starts workers by their index."""

    def __init__(self, app: Any, settings: Settings, spread: Spread, metrics: Any) -> None:
        self.app = app if alone() else None
        self.settings, self.spread, self.metrics = settings, spread, metrics
        gc.collect()
        gc.freeze()  # a collection in a worker would write to pages that all share

    def start(self, index: int, *, close: tuple[Any, ...]) -> Process:
        """`close`: sockets of the parent that a worker must not hold open."""
        return self._anew(index) if self.app is None else self._forked(index, close)

    def _forked(self, index: int, close: tuple[Any, ...]) -> Process:
        sys.stdout.flush()
        sys.stderr.flush()
        if pid := os.fork():
            return Forked(pid)
        code = 1
        try:
            signal.set_wakeup_fd(-1)
            for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGCHLD):
                signal.signal(number, signal.SIG_DFL)
            for sock in (*close, *self.spread.ends):
                sock.close()
            code = self._work(index)
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)

    def _work(self, index: int) -> int:
        from serve.launch.work import work

        os.environ["BANTAM_WORKER"] = str(index)
        channel = self.spread.workers_ends[index]
        return work(self.app, self.settings, channel, self.spread.board, self.metrics if index == 0 else None)

    def _anew(self, index: int) -> Process:
        channel, board = self.spread.workers_ends[index].fileno(), self.spread.board.descriptor
        metrics = self.metrics.fileno() if self.metrics and index == 0 else None
        told = {"index": index, "channel": channel, "board": board, "metrics": metrics}
        environment = {**os.environ, **to_environment(self.settings), "BANTAM_WORKER": str(index)}
        environment["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parents[2]), *filter(None, sys.path)])
        return subprocess.Popen(
            [sys.executable, "-m", "serve.launch.work", json.dumps(told)],
            env=environment,
            pass_fds=[number for number in (channel, board, metrics) if number is not None],
        )


def alone() -> bool:
    """Whether this process has no other thread, of Python's or of a library's."""
    try:
        return len(os.listdir("/proc/self/task")) == 1
    except OSError:  # only Linux tells
        return False
