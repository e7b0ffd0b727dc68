"""Continuation-KD: regress on teacher logits that grow from small to whole, forgive small errors, turn to gold labels.

Jafari, Kobyzev, Rezagholizadeh, Poupart, Ghodsi 2022, "Continuation KD: Improved Knowledge Distillation through the
Lens of Continuation Optimization", https://arxiv.org/abs/2212.05998, section 3. Its special case without margin and
without labels in the first phase is Jafari, Rezagholizadeh, Sharma, Ghodsi 2021, "Annealing Knowledge Distillation",
https://arxiv.org/abs/2104.07163: `margin: 0`, `slope: 0`, `max_temperature: 7`, `alone` and `growth` 14/18.

The paper does not give its margin; ours is a share of the mean squared norm of the teacher's logits. Squares are summed
over classes and the hinge is taken text by text: the paper leaves both open. Its listing, taken by the letter, lets the
temperature fall below 1; ours ends there. Annealing begins its second phase with the best weights of the first, ours
with the last.

When it helps: a student much smaller than its teacher and a run of many epochs, the temperatures among them; the paper
takes 30 epochs of small tasks.

When it does not help: a few epochs, in which half the run goes to answers that are wrong on purpose; texts without
labels, of which the last part of the run learns nothing. It is the only loss on answers of its stage: it brings
the gold labels itself, so leave `supervised` and distil/logits out.

Shapes: B batch, C classes.
"""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from compress.anatomy import has_blocks
from compress.supervised import task_loss
from compress.technique import Run, Step, Technique


def teacher_scale(progress: float, max_temperature: int) -> float:
    """phi = 1 - (T - 1) / Tmax for T that falls from Tmax to 1 in Tmax equal stages: 1 / Tmax, 2 / Tmax, ... 1."""
    stage = math.floor(progress * max_temperature + 1e-9)  # 0.29 x 100 is 28.999...
    return min(stage + 1, max_temperature) / max_temperature


def label_weight(progress: float, slope: float, alone: float) -> float:
    """psi: grows with `slope` until `alone` of the run, then the labels stand alone."""
    return slope * progress if progress < alone else 1.0


def hinge(student_BC: Tensor, teacher_BC: Tensor, scale: float, margin: float) -> Tensor:
    """max(0, |z_S - phi z_T|^2 - m phi): squares summed over classes, mean over examples."""
    error_B = (student_BC.float() - scale * teacher_BC.float()).pow(2).sum(-1)
    return (error_B - margin * scale).clamp(min=0).mean()


@dataclass
class Continuation(Technique):
    max_temperature: int = 10  # Tmax, 1 to 20; no more than the run has epochs
    margin: float = 0.1  # m, in mean squared norms of the teacher's logits; 0 to 1
    slope: float = 0.75  # of psi over the whole run: i / 40 in epoch i of 30
    alone: float = 2 / 3  # share of the run from which psi is 1
    growth: float = 1.0  # share of the run in which phi reaches 1
    examples: int = 256  # training texts that the mean squared norm is taken of
    kinds: ClassVar = ("classification", "regression")
    needs: ClassVar = ("teacher",)

    def prepare(self, run: Run) -> None:
        for name, holds, what in (
            ("max_temperature", self.max_temperature >= 1, "1 or more"),
            ("margin", self.margin >= 0, "0 or more"),
            ("alone", 0 <= self.alone <= 1, "0 to 1"),
            ("growth", 0 < self.growth <= 1, "above 0 and up to 1"),
            ("slope", 0 <= self.slope * self.alone <= 1, f"such that slope x alone ({self.alone:.3g}) is 0 to 1"),
        ):
            if not holds:
                raise ValueError(f"distil/continuation: {name} must be {what}, got {getattr(self, name)}")
        # What a student without blocks reads, its teacher cannot: its logits come from the cache, and so does the norm.
        self.norm = self.mean_squared_norm(run) if self.margin and has_blocks(run.model) else None

    @torch.no_grad()
    def mean_squared_norm(self, run: Run) -> float:
        """Of the teacher's logits on the same texts in each run and after each stop; 0 in a rehearsal."""
        total = torch.zeros(2, device=run.accelerator.device)
        with run.autocast():
            for batch in run.sample(self.examples):
                logits_BC = Step(run, batch).teacher.logits.float()
                total += torch.stack([logits_BC.pow(2).sum(), torch.tensor(float(len(logits_BC))).to(total)])
        squares, count = run.accelerator.reduce(total, "sum").tolist()
        return squares / max(count, 1)

    def loss(self, step: Step) -> Tensor:
        student, now = step.student.logits, step.run.progress
        psi = label_weight(now, self.slope, self.alone)
        loss = psi * task_loss(student, step.batch["labels"])
        if psi < 1:
            phi = teacher_scale(now / self.growth, self.max_temperature)
            loss = loss + (1 - psi) * hinge(student, step.teacher.logits, phi, self.allowance(step.run))
        return loss

    def allowance(self, run: Run) -> float:
        """m, as a squared distance of logits."""
        if self.margin and self.norm is None:
            self.norm = float(run.teacher_logits.float().pow(2).sum(-1).mean())
        return self.margin * (self.norm or 0.0)
