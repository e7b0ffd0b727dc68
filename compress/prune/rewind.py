"""Learning-rate curves that leave room to recover after each cut.

Prune Once for All: Zafrir et al. 2021, https://arxiv.org/abs/2111.05754, "learning rate rewinding"; the curve is
that of the released schedule. Cycles: Kurtic, Alistarh 2022, "GMP*", https://arxiv.org/abs/2210.06384.

When it helps: cuts at the peak of the learning rate, or several of them, each of which needs a rate to recover with.

When it does not help: one cut before training starts; the ordinary schedule recovers from that.
"""

import math
from dataclasses import dataclass
from typing import Literal

from compress.technique import Run, Technique


def saw_tooth(progress: float, *, warmup: float, begin: float, end: float, every: float) -> float:
    """Prune OFA's factor: warm-up, then near 1 with a small restart at each selection, then linear to 0."""
    left = 1 - (end - begin)
    if progress < warmup:
        return progress / warmup
    if progress < begin:
        return (left - progress) / (left - warmup)
    if progress < end:
        return (left - progress + every * math.floor((progress - begin) / every + 1e-9)) / (left - warmup)
    return (1 - progress) / (left - warmup)


def cycles(progress: float, *, first: float, every: float, low: float) -> float:
    """GMP*'s factor: linear from 1 to `low` over [0, first], and again over each further `every`."""
    if progress < first:
        return 1 - (1 - low) * progress / first
    return 1 - (1 - low) * (((progress - first) / every + 1e-9) % 1)


@dataclass
class Rewind(Technique):
    """Replaces the stage's schedule."""

    curve: Literal["saw-tooth", "cycles"] = "saw-tooth"
    warmup: float = 0.01  # saw-tooth
    begin: float = 0.0  # of the pruning window; for cycles the end of the first one
    end: float = 0.5
    every: float = 0.01  # between selections
    low: float = 0.1  # lowest factor of a cycle

    def prepare(self, run: Run) -> None:
        if self.every <= 0 or not 0 <= self.begin < self.end <= 1:
            raise ValueError(
                "prune/rewind: 0 <= begin < end <= 1 and every > 0 must hold, "
                f"got begin {self.begin}, end {self.end}, every {self.every}"
            )
        if self.curve == "saw-tooth":
            window = {"warmup": self.warmup, "begin": self.begin, "end": self.end, "every": self.every}
            run.schedule = lambda progress: saw_tooth(progress, **window)
        else:
            first = self.begin or self.every
            run.schedule = lambda progress: cycles(progress, first=first, every=self.every, low=self.low)
