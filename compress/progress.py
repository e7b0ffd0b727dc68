"""What a person sees while a run trains: loss terms, learning rate, examples a second, time left.

On a terminal a live bar; elsewhere a line every half minute. All of it on standard error.
"""

import logging
import time
from typing import TYPE_CHECKING, Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

if TYPE_CHECKING:
    from compress.technique import Run

console = Console(stderr=True)
EVERY = 30.0  # seconds between two lines where there is no terminal
REFRESH = 0.5  # seconds between two readings of the loss: reading it waits for the device


def say(message: str) -> None:
    """A line for the person at the terminal, from the first process only."""
    if logging.getLogger("compress").isEnabledFor(logging.INFO):
        console.print(message, highlight=False, markup=False, soft_wrap=True)


class Progress:
    def __init__(self, title: str, run: "Run", batch_size: int) -> None:
        self.run, self.batch_size, self.title = run, batch_size, title
        self.live = console.is_terminal and run.accelerator.is_main_process
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[state]}"),
            TimeRemainingColumn(),
        )
        self.bar = Bar(*columns, console=console, disable=not self.live)
        self.task = self.bar.add_task(title, total=run.steps, completed=run.step, state="")
        self.start = self.shown = time.monotonic()
        self.first = run.step

    def __enter__(self) -> Self:
        self.bar.start()
        return self

    def state(self) -> str:
        seconds = max(time.monotonic() - self.start, 1e-9)
        terms = " ".join(f"{name} {value.item():.4f}" for name, value in self.run.terms.items())
        rate = (self.run.step - self.first) * self.batch_size / seconds
        return f"{terms} lr {self.run.optimizer.param_groups[0]['lr']:.2e} {rate:.0f} examples/s"

    def advance(self) -> None:
        now = time.monotonic()
        if now - self.shown < (REFRESH if self.live else EVERY):
            return
        self.shown = now
        state = self.state()
        self.bar.update(self.task, completed=self.run.step, state=state)
        if not self.live and self.run.accelerator.is_main_process:
            left = (now - self.start) / max(self.run.step - self.first, 1) * (self.run.steps - self.run.step)
            say(f"{self.title} {self.run.step}/{self.run.steps} {state}, {left:.0f} s left")

    def evaluated(self, row: dict[str, float]) -> None:
        if self.run.accelerator.is_main_process:
            say(f"{self.title} {row['step']}/{self.run.steps}: selection score {row['score']:.4f}, {self.state()}")

    def __exit__(self, *_: object) -> None:
        self.bar.update(self.task, completed=self.run.step)
        self.bar.stop()
