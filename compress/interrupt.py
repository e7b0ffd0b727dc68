"""Ctrl-C and SIGTERM end a run between two updates, after its checkpoint is written."""

import signal
import threading
from types import FrameType
from typing import Self

from accelerate import Accelerator


class Interrupts:
    """Within the block the first signal only sets `came`; a second one acts at once.

    With several processes, signals keep their usual effect: they would stop at different updates.
    """

    def __init__(self, accelerator: Accelerator) -> None:
        self.came = False
        self.active = accelerator.num_processes == 1 and threading.current_thread() is threading.main_thread()
        self.before: dict[int, object] = {}

    def __enter__(self) -> Self:
        for number in (signal.SIGINT, signal.SIGTERM) if self.active else ():
            self.before[number] = signal.signal(number, self.note)
        return self

    def note(self, number: int, frame: FrameType | None) -> None:
        if self.came:
            raise KeyboardInterrupt
        self.came = True

    def leave(self, message: str) -> None:
        """End the run here if a signal came."""
        if self.came:
            raise KeyboardInterrupt(message)

    def __exit__(self, *_: object) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)
