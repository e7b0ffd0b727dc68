"""Stochastic weight averaging: keep the learning rate high and deliver the mean of the weights on the way.

Lu, Kobyzev, Rezagholizadeh, Rashid, Ghodsi, Langlais 2022, "Improving Generalization of Pre-trained Language Models
via Stochastic Weight Averaging", https://arxiv.org/abs/2212.05956, section 3, after Izmailov, Podoprikhin, Garipov,
Vetrov, Wilson 2018, https://arxiv.org/abs/1803.05407, algorithm 1. As there for language models, the rate is constant
and not cyclical, and points are taken by updates and not by epochs, of which fine-tuning has few.

Ours: without `every`, 100 points evenly over the second phase; and no point is taken before other techniques have
settled what they prune, or the mean would have weights that no iterate had. The mean is of raw weights, under the
masks and fake quantisation that stand on them. It is put in place after the last update: that is the model which the
last evaluation sees and which is kept, whatever `keep` says. Activation ranges of fake quantisation stay those of the
iterates. No model here has batch normalisation, whose statistics would have to be measured anew.

When it helps: with small data and a rate that is still high at the end, where iterates circle a minimum that none of
them hits; it costs a second copy of the weights and an addition a point.

When it does not help: against a linear decay to 0 with a rate of its own, which takes out the same noise; a win over
the last iterate of a constant rate alone says only that something must do so.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from compress.progress import say
from compress.technique import Run, Technique

POINTS = 100  # where `every` is not given


def next_mean(mean: Tensor, weight: Tensor, count: int) -> Tensor:
    """Algorithm 1: (mean n + weight) / (n + 1), as a small step from the mean of the `count` points before."""
    return mean + (weight - mean) / (count + 1)


def held(progress: float, *, warmup: float, begin: float, second: float) -> float:
    """Learning-rate factor: linear warm-up, then 1, and `second` from `begin` on. Nothing decays."""
    if progress >= begin:
        return second
    return progress / warmup if progress < warmup else 1.0


def points(step: int, steps: int, begin: float, every: int | None) -> int:
    """How many points have been taken after so many updates."""
    if every is not None:
        return max(0, step - math.ceil(begin * steps - 1e-9)) // every
    return max(0, int(POINTS * (step / steps - begin) / (1 - begin) + 1e-9))


class Average(nn.Module):
    """The mean so far, in fp32: the steps of a mean over many points are lost in half precision."""

    count: Tensor
    rates: Tensor  # learning rates at the first and the last point, which should be the same

    def __init__(self, weights: Sequence[Tensor]) -> None:
        super().__init__()
        self.register_buffer("count", torch.tensor(0))
        self.register_buffer("rates", torch.zeros(2, dtype=torch.float64))
        for at, weight in enumerate(weights):
            self.register_buffer(f"mean_{at}", torch.zeros_like(weight, dtype=torch.float32))

    def add(self, weights: Sequence[Tensor], rate: float) -> None:
        for at, weight in enumerate(weights):
            mean = self.get_buffer(f"mean_{at}")
            mean.copy_(next_mean(mean, weight.float(), int(self.count)))
        self.rates[0 if self.count == 0 else 1 :] = rate
        self.count += 1


@dataclass
class SWA(Technique):
    """Replaces the stage's schedule."""

    start: float = 0.5  # share of the run before the first point, 0.25-0.9; ours
    every: int | None = None  # updates between two points, 1-100; None: 100 points over the rest of the run
    lr_b: float = 1.0  # rate of the second phase, as a share of the peak, 0.5-1
    warmup: float = 0.1  # share of the run

    def prepare(self, run: Run) -> None:
        if not (
            0 <= self.warmup < 1 and 0 <= self.start < 1 and self.lr_b >= 0 and (self.every is None or self.every > 0)
        ):
            raise ValueError(
                "regularise/swa: start and warmup in [0, 1), every of 1 or more and lr_b of 0 or more must hold, got "
                f"start {self.start}, warmup {self.warmup}, every {self.every}, lr_b {self.lr_b}"
            )
        self.begin: float | None = None
        self.weights = [weight for weight in run.model.parameters() if weight.requires_grad]
        self.average = run.own(Average(self.weights))
        run.schedule = lambda p: held(p, warmup=self.warmup, begin=self.begun(run), second=self.lr_b)

    def begun(self, run: Run) -> float:
        """Progress from which points are taken. First asked for when all techniques have prepared."""
        if self.begin is None:
            self.begin = max(self.start, self.warmup, run.settled)
            if self.begin >= 1:
                raise ValueError(
                    "regularise/swa has nothing to average: other techniques of this stage prune until its end; "
                    "let them end earlier"
                )
            run.settled = 1.0  # the mean is whole at the end, and only there
        return self.begin

    def before_update(self, run: Run) -> None:
        if not points(run.steps, run.steps, self.begun(run), self.every):
            raise ValueError(
                f"regularise/swa takes no point in this run: from {self.begun(run):.0%} of its {run.steps} updates on "
                f"there must be {self.every} or more; lower every, or train for longer"
            )

    @torch.no_grad()
    def after_update(self, run: Run) -> None:
        before, now = (points(step, run.steps, self.begun(run), self.every) for step in (run.step - 1, run.step))
        if now > before:
            self.average.add(self.weights, run.optimizer.param_groups[0]["lr"])
        if run.step == run.steps:
            for at, weight in enumerate(self.weights):
                weight.copy_(self.average.get_buffer(f"mean_{at}"))
            first, last = self.average.rates.tolist()
            say(f"regularise/swa: the mean of {int(self.average.count)} points, at rates {first:.2e} to {last:.2e}")

    def finish(self, run: Run) -> None:
        self.begun(run)  # a rehearsal hears of a run that has nothing to average
