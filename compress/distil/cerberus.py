"""Distil each of several teachers into a head of its own, all heads at once on one shared body.

Matsubara, Soldaini, Lind, Moschitti 2022, "Ensemble Transformer for Efficient and Accurate Ranking Tasks: an
Application to Question Answering Systems", https://arxiv.org/abs/2201.05767. The student is students/cerberus; teacher
i teaches head i throughout.

Each head's loss is that of distil/logits, with temperature and weight of gold labels of ours, and their mean over the
heads, so that the number of heads does not change the size of the gradient. A student without heads has one.

When it helps: teachers of different architectures, whose different answers survive in the heads; the mean of heads is
then at least as likely as its heads on average, on every text (Jensen).

When it does not help: heads begin equal, and equal teachers leave only dropout to tell them apart. Compare with
distil/ensemble, which teaches the mean to one head at less cost.

Shapes: K heads and teachers, B texts, C classes.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from compress.distil.logits import soft_loss
from compress.students.cerberus import heads_of
from compress.supervised import task_loss
from compress.technique import Run, Step, Technique


def heads_loss(heads_KBC: Tensor, teachers_KBC: Tensor, labels_B: Tensor, temperature: float, hard: float) -> Tensor:
    """(1/K) sum_i [ (1 - a) T^2 KL(softmax(t_i/T) || softmax(z_i/T)) + a CE(y, softmax(z_i)) ], a = `hard`."""
    terms = []
    for head_BC, teacher_BC in zip(heads_KBC, teachers_KBC, strict=True):
        term = (1 - hard) * soft_loss(head_BC, teacher_BC, temperature)
        terms.append(term + hard * task_loss(head_BC, labels_B) if hard else term)
    return torch.stack(terms).mean()


@dataclass
class CerberusDistillation(Technique):
    temperature: float = 2.0  # tau, 1 to 4; ours
    hard_weight: float = 0.5  # a, of gold labels, 0 to 1; ours
    weight: float = 1.0  # of the whole term among others
    kinds: ClassVar = ("classification", "regression")
    needs: ClassVar = ("teachers",)

    def prepare(self, run: Run) -> None:
        heads, teachers = heads_of(run.model), 1 + run.others
        if heads != teachers:
            raise ValueError(
                f"distil/cerberus has one teacher for each head, and {heads} heads meet {teachers} teachers: name as "
                "many under teachers, the first one being teacher, or change student.heads"
            )

    def loss(self, step: Step) -> Tensor:
        teachers_KBC = torch.stack([teacher.logits for teacher in step.teachers])
        heads_KBC = getattr(step.student, "heads", step.student.logits[None])
        labels_B = step.batch["labels"]
        return self.weight * heads_loss(heads_KBC, teachers_KBC, labels_B, self.temperature, self.hard_weight)
