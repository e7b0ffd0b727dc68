"""Memory of float64 slots that several worker processes share: each writes its own region, all read all of them.

    file     header | region 0 | region 1 | ...         each from a page's start
    header   format, fingerprint, regions, slots, regions ever used, Unix time and clock of its making
    region   process id, start of that process | slots

Nobody locks to count, because no slot has two writers, and an aligned float64 is stored and read whole. A worker
started in a dead one's stead takes its region over, so that sums of what was counted never go back. What a killed
worker had counted is in the file already. A process must open its regions itself, after any fork.
"""

import fcntl
import hashlib
import mmap
import os
import shutil
import tempfile
import time
from array import array
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from serve.errors import InputError

FORMAT = 1.0
FORMAT_AT, FINGERPRINT_AT, COUNT_AT, SLOTS_AT, USED_AT, CREATED_AT, CLOCK_AT = range(7)
OWNER, BORN, OWNED = 0, 1, 2  # slots before a region's own


class Regions:
    """`path` None: one region in this process alone. `claim` False: read what others count, count nothing."""

    def __init__(
        self, path: Path | None, *, slots: int, fingerprint: str = "", workers: int = 1, claim: bool = True
    ) -> None:
        self.taken_over = False  # it was another's, who is gone
        self._own_at: int | None = 0 if claim else None
        if path is None:
            self.created, self.clock, self._used = time.time(), time.monotonic(), 1
            self._views = [_blank(slots)]
            self._owners = [_blank(OWNED)]
            self._own(0)
        else:
            # Twice as many as workers: while the service reloads, old ones end as new ones start.
            self._open(path, slots, _number(f"{fingerprint} {slots}"), 2 * workers + 2, claim)
        self.own = _blank(slots) if self._own_at is None else self._views[self._own_at]

    def _open(self, path: Path, slots: int, fingerprint: float, count: int, claim: bool) -> None:
        page = mmap.ALLOCATIONGRANULARITY
        size = -(-(OWNED + slots) * 8 // page) * page  # of a region
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        except OSError as error:
            raise InputError(f"cannot share counters in {path}: {error.strerror}") from None
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)  # only while a worker starts
            if os.fstat(descriptor).st_size == 0:
                _allocate(descriptor, page + count * size)
            if os.fstat(descriptor).st_size % page:
                raise InputError(f"{path} is not a file of counters; start with an empty folder")
            mapped = _floats(mmap.mmap(descriptor, 0))
            header = mapped[: page // 8]
            if header[FORMAT_AT] == 0:
                header[FINGERPRINT_AT], header[COUNT_AT], header[SLOTS_AT] = fingerprint, count, slots
                header[CREATED_AT], header[CLOCK_AT], header[FORMAT_AT] = time.time(), time.monotonic(), FORMAT
            if (header[FORMAT_AT], header[FINGERPRINT_AT], header[SLOTS_AT]) != (FORMAT, fingerprint, slots):
                raise InputError(f"{path} counts other things than this version does; start with an empty folder")
            starts = [(page + at * size) // 8 for at in range(int(header[COUNT_AT]))]
            self._header = header
            self._owners = [mapped[start : start + OWNED] for start in starts]
            self._views = [mapped[start + OWNED : start + OWNED + slots] for start in starts]
            self.created, self.clock = header[CREATED_AT], header[CLOCK_AT]
            if claim:
                self._claim(path)
            self._used = 0  # the header knows
        finally:
            fcntl.flock(descriptor, fcntl.LOCK_UN)  # to close is not enough: the mapping keeps a duplicate open
            os.close(descriptor)

    def _claim(self, path: Path) -> None:
        for at in range(len(self._owners)):
            if not self.alive(at):
                break
        else:
            raise InputError(f"all {len(self._owners)} regions of {path} belong to running workers; start fewer")
        self._own_at = at
        self.taken_over = at < self._header[USED_AT]
        self._own(at)
        self._header[USED_AT] = max(self._header[USED_AT], at + 1)

    def _own(self, at: int) -> None:
        self._owners[at][BORN] = _born(os.getpid())
        self._owners[at][OWNER] = os.getpid()

    @property
    def used(self) -> int:
        """How many regions somebody counts or has counted in."""
        return self._used or int(self._header[USED_AT])

    def views(self) -> "list[memoryview[float]]":
        return self._views[: self.used]

    def others(self) -> "list[tuple[int, memoryview[float]]]":
        """The regions of other workers, dead or alive."""
        return [(at, self._views[at]) for at in range(self.used) if at != self._own_at]

    def process(self, at: int) -> int:
        """The process that counts in this region; 0: none."""
        return int(self._owners[at][OWNER]) if self.alive(at) else 0

    def alive(self, at: int) -> bool:
        pid, born = int(self._owners[at][OWNER]), self._owners[at][BORN]
        return pid > 0 and _born(pid) == born

    def close(self) -> None:
        """Leave the region to the next worker; what was counted stays."""
        if self._own_at is not None:
            self._owners[self._own_at][OWNER] = 0.0


@contextmanager
def shared_folder() -> Iterator[Path]:
    """A private folder for the files of several workers, in memory where the system has such a place."""
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    folder = tempfile.mkdtemp(prefix="bantam-", dir=memory)
    try:
        yield Path(folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _blank(slots: int) -> "memoryview[float]":
    return memoryview(array("d", bytes(8 * slots)))


def _floats(mapped: mmap.mmap) -> "memoryview[float]":
    return memoryview(mapped).cast("d")


def _number(text: str) -> float:
    """A fingerprint that a float64 holds exactly."""
    return float(int.from_bytes(hashlib.sha256(text.encode()).digest()[:6], "big"))


def _allocate(descriptor: int, size: int) -> None:
    """Room for good: a full disk is told here, and not by a SIGBUS at the first count."""
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(descriptor, 0, size)
    else:
        os.ftruncate(descriptor, size)


def _born(pid: int) -> float:
    """When a process started, in the system's ticks; -1: it has ended. Tells it from a later one of the same id."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()  # a process's name may hold blanks
    except OSError:
        return _runs(pid)
    return -1.0 if fields[0] in (b"Z", b"X") else float(fields[19])


def _runs(pid: int) -> float:
    """The same where there is no /proc: 0 while a process of this id runs."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return -1.0
    except PermissionError:
        pass
    return 0.0
