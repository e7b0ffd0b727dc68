"""Ctrl-C and SIGTERM end a run between two updates, after its checkpoint is written."""

import signal
import threading
import time
from types import FrameType
from typing import Self

import torch
from accelerate import Accelerator

ECHO = 5.0  # seconds in which a launcher passes on to its processes the signal that the terminal sent them already


class Interrupts:
    """Within the block the first signal only has `agreed` say so; a second one acts at once.

    Of several processes one signalled is enough, and all of them end at the same update.
    """

    def __init__(self, accelerator: Accelerator) -> None:
        self.several = accelerator.num_processes > 1
        self.device = accelerator.device
        self.first: float | None = None  # when the first signal came
        self.before: dict[int, object] = {}

    def __enter__(self) -> Self:
        main = threading.current_thread() is threading.main_thread()
        for number in (signal.SIGINT, signal.SIGTERM) if main else ():
            self.before[number] = signal.signal(number, self.note)
        return self

    def note(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if self.first is not None and not (self.several and now - self.first < ECHO):
            raise KeyboardInterrupt
        self.first = self.first or now

    def agreed(self) -> bool:
        """Whether a signal came to any process; all processes must ask, and hear the same."""
        came = self.first is not None
        if not self.several:
            return came
        any_came = torch.tensor([came], dtype=torch.uint8, device=self.device)
        torch.distributed.all_reduce(any_came, op=torch.distributed.ReduceOp.MAX)
        return bool(any_came)

    def __exit__(self, *_: object) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)
