"""Lower the learning rate where the training loss has stopped to fall.

Chen, Shao, Wang, Shang, Chen, Ji, Wu 2022, "Bootstrap Generalization Ability from Loss Landscape Perspective",
https://arxiv.org/abs/2209.08473, section 3.4; tests and defaults of its code, huanranchen/NICO-2022.

The relative test is signed and the absolute one is not, as there: a loss that rises by much keeps its rate. Below the
floor the rate is 0, which is how a run of a set length stops. The code's absolute floor of 5e-5 lies above the rates
that AdamW takes, so the relative one alone is left. The mean loss of an epoch is over all terms of the objective, as
they were just before each update, and over all processes.

When it helps: where nobody knows how long training should take, since the decay waits for the loss.

When it does not help: in a fine-tuning of a few epochs, which has a few looks at the loss; a linear decay goes to 0
in any case. The absolute test depends on the scale of the loss: raise `abs_tol` with terms that are summed.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from compress.technique import Run, Technique


def has_stopped(before: float, now: float, *, rel_tol: float, abs_tol: float) -> bool:
    """(L_{t-1} - L_t) / L_t < rel_tol and |L_{t-1} - L_t| < abs_tol, for losses above 0."""
    return before - now < rel_tol * now and abs(before - now) < abs_tol


def lowered(rate: float, decay: float, floor: float) -> float:
    """The rate after one decay, as a share of the peak: 0 once it is below the floor."""
    return rate * decay if rate * decay >= floor else 0.0


class Memory(nn.Module):
    rate: Tensor  # as a share of the peak
    before: Tensor  # mean loss of the last epoch; NaN in the first
    total: Tensor  # of this epoch so far, on this process
    count: Tensor

    def __init__(self) -> None:
        super().__init__()
        for name, value in {"rate": 1.0, "before": torch.nan, "total": 0.0, "count": 0.0}.items():
            self.register_buffer(name, torch.tensor(value))


@dataclass
class ALRS(Technique):
    """Replaces the stage's schedule."""

    epochs: int = 3  # of the run: once in each the loss is looked at
    decay: float = 0.9  # 0.8-0.97
    rel_tol: float = 0.02
    abs_tol: float = 0.02
    floor: float = 1e-4  # share of the peak below which training stops
    warmup: float = 0.1  # share of the run, in which nothing decays

    def prepare(self, run: Run) -> None:
        if not (self.epochs >= 1 and 0 < self.decay < 1 and self.floor >= 0 and 0 <= self.warmup < 1):
            raise ValueError(
                "regularise/alrs: epochs of 1 or more, decay in (0, 1), floor of 0 or more and warmup in [0, 1) must "
                f"hold, got epochs {self.epochs}, decay {self.decay}, floor {self.floor}, warmup {self.warmup}"
            )
        self.memory = run.own(Memory())
        run.schedule = lambda p: p / self.warmup if p < self.warmup else float(self.memory.rate)

    @torch.no_grad()
    def after_update(self, run: Run) -> None:
        if run.batches:  # this process had a share of the update
            self.memory.total += sum(run.terms.values())
            self.memory.count += 1
        if run.step * self.epochs // run.steps > (run.step - 1) * self.epochs // run.steps:
            self.look(run)

    def look(self, run: Run) -> None:
        """An epoch has ended."""
        memory = self.memory
        total, count = run.accelerator.reduce(torch.stack([memory.total, memory.count]), "sum").tolist()
        before, now = float(memory.before), total / count
        if run.progress >= self.warmup and has_stopped(before, now, rel_tol=self.rel_tol, abs_tol=self.abs_tol):
            memory.rate.fill_(lowered(float(memory.rate), self.decay, self.floor))
        memory.before.fill_(now)
        memory.total.zero_()
        memory.count.zero_()
