"""What a person reads while a study runs, and what is written down of each run that ends."""

import re
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from compress.study import folder
from compress.study.children import GIB, Child
from compress.study.plan import Job, Study
from serve.machine import describe

console = Console(stderr=True)
BEAT = 60.0  # seconds between two lines about what is running
LONGEST = 240  # characters of a run's error; its log has them all
Changed = Callable[[dict[str, Any]], None]


class Watch:
    def __init__(self, study: Study, planned: Sequence[Job], out: Path, changed: Changed, *, at_once: int) -> None:
        self.study, self.planned, self.out, self.changed, self.at_once = study, planned, out, changed, at_once
        digests = {job.digest for job in planned}
        self.total, self.done = len(digests), sum(folder.is_finished(out, digest) for digest in digests)
        self.machine = describe()
        self.lasted: list[float] = []
        self.shown = time.monotonic()
        self.content: dict[str, Any] = {}  # of study.json

    def tell(self) -> None:
        self.content = folder.write_study(self.study, self.planned, self.out, self.machine)
        self.changed(self.content)

    def started(self, child: Child) -> None:
        say(f"begin {child.job.name} ({child.job.digest})")

    def ended(self, child: Child) -> None:
        digest, seconds = child.job.digest, round(child.seconds, 1)
        error = None if child.code == 0 or child.asked_to_end else last_words(child)
        folder.record(self.out, digest, {"seconds": seconds, "peak_bytes": child.peak, "code": child.code}, error=error)
        if child.code == 0:
            folder.settle(self.out, digest, keep=self.study.artefacts)
            self.done += 1
            self.lasted.append(seconds)
        self.tell()
        row = next(run for run in self.content["runs"] if run["digest"] == digest)
        how = result(row) if child.code == 0 else f"failed: {error}" if error else "stopped"
        took = f"{seconds:.0f} s, {child.peak / GIB:.1f} GiB"
        say(f"[{self.done}/{self.total}] {child.job.name}: {how}; {took}{self.left()}")

    def left(self) -> str:
        if not self.lasted or self.done == self.total:
            return ""
        seconds = statistics.fmean(self.lasted) * (self.total - self.done) / self.at_once
        return f"; about {seconds / 3600:.1f} h left" if seconds > 5400 else f"; about {seconds / 60:.0f} min left"

    def beat(self, running: Sequence[Child]) -> None:
        if time.monotonic() - self.shown > BEAT:
            self.shown = time.monotonic()
            for child in running:
                say(f"  {child.job.name}: {last_line(child.log)}")


def result(row: dict[str, Any]) -> str:
    """The run's measures on its last reported split."""
    split, values = list(row["metrics"].items())[-1]
    shown = {name: value["value"] for name, value in values.items() if isinstance(value, dict)}
    wanted = [name for name in ("teacher", "torch", "int8") if name in shown]
    return f"{split} {row['metric']} " + ", ".join(f"{name} {shown[name]:.4f}" for name in wanted)


def last_line(log: Path) -> str:
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - 2000))
        lines = [line.strip() for line in re.split(r"[\r\n]", file.read().decode(errors="replace")) if line.strip()]
    return lines[-1] if lines else ""


def last_words(child: Child) -> str:
    """Why a run failed, as it said itself."""
    if child.code is not None and child.code < 0:
        return f"ended by signal {-child.code}" + ", perhaps because memory ran out" * (child.code == -9)
    words = last_line(child.log).removeprefix("error: ") or f"ended with code {child.code}"
    return words if len(words) <= LONGEST else f"{words[:LONGEST]} ..."


def say(message: str) -> None:
    console.print(message, highlight=False, markup=False, soft_wrap=True)
