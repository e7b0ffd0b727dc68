"""Runs as processes of their own, several at once while memory lasts; a signal has them save and end."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any, Protocol, Self

import psutil

from compress.study.folder import LOG, STAGES, place
from compress.study.plan import Job

PROGRAM = (sys.executable, "-m", "bantam")
LOOK = 0.2  # seconds between two looks at the children
PATIENCE = 60.0  # seconds that a run has to save when the study itself breaks off
GIB = 2**30
GUESS = 2 * GIB  # what a run takes, before one has shown it


@dataclass
class Child:
    job: Job
    process: subprocess.Popen[bytes]
    log: Path
    start: float = field(default_factory=time.monotonic)
    code: int | None = None
    peak: int = 0  # bytes resident at most; never below our own, which a child begins as
    asked_to_end: bool = False

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.start

    def ended(self) -> bool:
        """Whether it is over; asks the kernel itself, since Popen forgets what the process used."""
        if self.code is None:
            found, status, usage = os.wait4(self.process.pid, os.WNOHANG)
            if found:
                self.code = self.process.returncode = os.waitstatus_to_exitcode(status)
                self.peak = usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)
        return self.code is not None

    def resident(self) -> int:
        try:
            return int(psutil.Process(self.process.pid).memory_info().rss)
        except psutil.Error:
            return 0


def start(job: Job, folder: Path, *, threads: int, lock: int) -> Child:
    """`bantam compress` on the run's recipe, in a session of its own: Ctrl-C in the terminal is ours to pass on.

    The child inherits `lock`, so that the study's folder stays taken while a child lives, whatever becomes of us.
    """
    command = [*PROGRAM, "compress", str(folder / "recipe.yaml"), "--out", str(folder / "student"), "--resume"]
    command += ["--share", str(folder.parents[1] / STAGES)]
    log = folder / LOG
    environment = {"OMP_NUM_THREADS": str(threads)} | os.environ | {"PYTHONUNBUFFERED": "1"}
    with log.open("ab") as file:
        file.write(f"--- {job.name}, {threads} thread(s)\n".encode())
        file.flush()
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=file,
            env=environment,
            start_new_session=True,
            pass_fds=(lock,),
        )
    return Child(job, process, log)


class Signals:
    """Within the block, counts Ctrl-C and SIGTERM instead of obeying them."""

    def __init__(self) -> None:
        self.came = 0
        self.before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        main = threading.current_thread() is threading.main_thread()
        for number in (signal.SIGINT, signal.SIGTERM) if main else ():
            self.before[number] = signal.signal(number, self.note)
        return self

    def note(self, number: int, frame: FrameType | None) -> None:
        self.came += 1

    def __exit__(self, *_: object) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)


@dataclass(frozen=True)
class Limits:
    jobs: int  # runs at once
    threads: int  # of each run
    spare: int  # bytes of memory to leave free

    def has_room(self, running: Sequence[Child], usual: int) -> bool:
        """Whether one more fits: all are taken to grow to `usual` bytes. One alone always may try."""
        if not running:
            return True
        growth = sum(max(0, usual - child.resident()) for child in running)
        return int(psutil.virtual_memory().available) - growth - usual >= self.spare


class Watcher(Protocol):
    """Who is told what happens; compress.study.watch has the real one."""

    def started(self, child: Child) -> None: ...
    def ended(self, child: Child) -> None: ...
    def beat(self, running: Sequence[Child]) -> None: ...  # now and then


def execute(waiting: Sequence[Job], out: Path, limits: Limits, watcher: Watcher, *, lock: int) -> bool:
    """Run all of `waiting` in the study's folder `out`; False when a signal stopped it.

    On the first signal children are asked to save and end, on the second they are ended at once.
    """
    queue, running, cached = list(waiting), list[Child](), frozenset[str]()
    usual, told = GUESS, 0
    with Signals() as signals:
        try:
            while running or (queue and not signals.came):
                if queue and len(running) < limits.jobs and not signals.came and limits.has_room(running, usual):
                    job = following(queue, running, cached)
                    queue.remove(job)
                    running.append(start(job, place(out, job.digest), threads=limits.threads, lock=lock))
                    watcher.started(running[-1])
                for child in [child for child in running if child.ended()]:
                    running.remove(child)
                    cached |= child.job.shares
                    usual = max(usual, child.peak)
                    watcher.ended(child)
                if signals.came > told:
                    told = signals.came
                    stop(running, signal.SIGTERM if told == 1 else signal.SIGKILL)
                watcher.beat(running)
                time.sleep(LOOK)
        finally:  # some are left only where we failed ourselves
            abandon(running)
    return not signals.came


def following(queue: Sequence[Job], running: Sequence[Child], cached: frozenset[str]) -> Job:
    """The next run, preferably one that need not wait while another makes what both take from the cache."""
    busy = frozenset[str]().union(*(child.job.shares for child in running)) - cached
    return next((job for job in queue if not job.shares & busy), queue[0])


def abandon(children: Sequence[Child]) -> None:
    """Have the children save and end; those that do not within PATIENCE are ended."""
    stop(children, signal.SIGTERM)
    until = time.monotonic() + PATIENCE
    while time.monotonic() < until and not all(child.ended() for child in children):
        time.sleep(LOOK)
    stop(children, signal.SIGKILL)
    while not all(child.ended() for child in children):
        time.sleep(LOOK)


def stop(children: Sequence[Child], number: int) -> None:
    for child in children:
        if child.code is None:
            child.asked_to_end = True
            os.killpg(child.process.pid, number)  # its helpers too
