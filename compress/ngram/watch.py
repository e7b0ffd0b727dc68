"""What a person sees while texts are gone through: a live bar on a terminal, elsewhere a line every half minute."""

import time
from typing import Self

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from compress.progress import EVERY, console, say


class Watch:
    """Counts up to `total` of `what`, or without end where that is None; silent unless `shown`."""

    def __init__(self, title: str, total: int | None, what: str, *, shown: bool) -> None:
        self.title, self.total, self.what, self.shown = title, total, what, shown
        self.done, self.start = 0, time.monotonic()
        self.last = self.start
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        self.bar = Progress(*columns, console=console, disable=not (shown and console.is_terminal))
        self.task = self.bar.add_task(title, total=total)

    def __enter__(self) -> Self:
        self.bar.start()
        return self

    def advance(self, by: int = 1) -> None:
        self.done += by
        self.bar.update(self.task, completed=self.done)
        now = time.monotonic()
        if self.shown and not console.is_terminal and now - self.last >= EVERY:
            self.last = now
            rate = self.done / (now - self.start)
            left = f", {(self.total - self.done) / rate:.0f} s left" if self.total else ""
            of = f"/{self.total:,}" if self.total else ""
            say(f"{self.title} {self.done:,}{of} {self.what}, {rate:,.0f}/s{left}")

    def __exit__(self, *_: object) -> None:
        self.bar.stop()
