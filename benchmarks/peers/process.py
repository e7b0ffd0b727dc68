"""A server's processes: started in a group of their own, watched, and all ended."""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType

import psutil

ENDED_WITHIN = 10.0  # seconds after SIGTERM


class Processes:
    """A command and whatever it starts. `with` ends them all, also those that left the group."""

    def __init__(self, command: Sequence[str], variables: Mapping[str, str], folder: Path) -> None:
        self.log = tempfile.TemporaryFile()  # noqa: SIM115  closed by close()
        self.root = subprocess.Popen(
            list(command),
            env=dict(variables),
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=self.log,
            stderr=self.log,
            start_new_session=True,  # so that Ctrl-C reaches this process alone, which then ends the server
        )
        self.seen: dict[int, psutil.Process] = {}

    def __enter__(self) -> Processes:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def alive(self) -> list[psutil.Process]:
        """The command and its descendants, among them such as were handed to another parent since last seen."""
        with suppress(psutil.NoSuchProcess):
            root = psutil.Process(self.root.pid)
            self.seen |= {process.pid: process for process in (root, *root.children(recursive=True))}
        for process in list(self.seen.values()):
            with suppress(psutil.NoSuchProcess):
                self.seen |= {child.pid: child for child in process.children(recursive=True)}
        self.seen = {pid: process for pid, process in self.seen.items() if _runs(process)}
        return list(self.seen.values())

    def ended(self) -> int | None:
        """The command's exit code, None while it runs."""
        return self.root.poll()

    def cpu(self) -> float:
        """Seconds of processor time of those that live, user and system."""
        total = 0.0
        for process in self.alive():
            with suppress(psutil.NoSuchProcess):
                times = process.cpu_times()
                total += times.user + times.system
        return total

    def memory(self) -> int:
        """Bytes of memory, what is shared divided among those that share it (PSS)."""
        total = 0
        for process in self.alive():
            with suppress(psutil.NoSuchProcess):
                total += process.memory_full_info().pss
        return total

    def threads(self) -> int:
        total = 0
        for process in self.alive():
            with suppress(psutil.NoSuchProcess):
                total += process.num_threads()
        return total

    def last_words(self, lines: int = 3) -> str:
        self.log.seek(0)
        said = self.log.read().decode(errors="replace").strip().splitlines()
        return " | ".join(said[-lines:]) or "it wrote nothing"

    def close(self) -> None:
        """End all of them; safe to call twice."""
        left = self.alive()
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.root.pid, signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            self.root.wait(ENDED_WITHIN)
        for process in {*left, *self.alive()}:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.root.pid, signal.SIGKILL)
        self.root.wait()
        psutil.wait_procs(left, timeout=ENDED_WITHIN)
        self.log.close()


def _runs(process: psutil.Process) -> bool:
    with suppress(psutil.NoSuchProcess):
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    return False
