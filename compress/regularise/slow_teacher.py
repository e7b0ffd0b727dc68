"""A teacher that follows its student slowly: after each update it moves a thousandth of the way.

Chen, Shao, Wang, Shang, Chen, Ji, Wu 2022, "Bootstrap Generalization Ability from Loss Landscape Perspective",
https://arxiv.org/abs/2209.08473, section 3.3, as in its code (huanranchen/NICO-2022); the average is that of Tarvainen,
Valpola 2017, "Mean teachers are better role models", https://arxiv.org/abs/1703.01780, eq. 2.

The code moves the teacher in every fiftieth epoch only; fine-tuning has fewer, so here it always moves. The teacher
learns the weights that the student answers with, masks and fake quantisation included. The term that learns from it is
another technique's, say distil/logits; the stage's teacher itself stays as it was, the run has a copy.

When it helps: in self-distillation of a stage with `teacher: start`, whose teacher is the student as it was: it then
also learns what the student learns.

When it does not help: in runs shorter than 1 / (1 - ema) updates, where the teacher hardly moves.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from compress.technique import Run, Technique


def follow(teacher: Tensor, student: Tensor, ema: float) -> Tensor:
    """Eq. 2: ema x teacher + (1 - ema) x student."""
    return torch.lerp(teacher, student, 1 - ema)


def value(model: nn.Module, name: str) -> Tensor | None:
    """The weight of that dotted name as the model uses it, through all maps on it; None where there is none."""
    path, _, leaf = name.rpartition(".")
    try:
        return getattr(model.get_submodule(path), leaf)
    except AttributeError:
        return None


@dataclass
class SlowTeacher(Technique):
    ema: float = 0.999  # 0.99-0.9999
    needs: ClassVar = ("teacher",)
    moves_teacher: ClassVar = True

    def prepare(self, run: Run) -> None:
        if not 0 <= self.ema <= 1:
            raise ValueError(f"regularise/slow-teacher: ema must be in [0, 1], got {self.ema}")
        if run.teacher is None:
            return  # the loop says so
        for name, weight in run.teacher.named_parameters():
            mine = value(run.model, name)
            if mine is None or mine.shape != weight.shape:
                raise ValueError(
                    f"regularise/slow-teacher: teacher and student must have the same weights; {name} has shape "
                    f"{list(weight.shape)} in the teacher and {'none' if mine is None else list(mine.shape)} in the "
                    "student: give the stage `teacher: start`, and cut layers in another one"
                )
        run.own(run.teacher.requires_grad_(False))  # so that it rides in checkpoints; nothing trains it

    @torch.no_grad()
    def after_update(self, run: Run) -> None:
        for name, weight in run.teacher.named_parameters():
            weight.copy_(follow(weight, value(run.model, name), self.ema))
