"""Train the student on the teacher's softened class distribution, and on gold labels if asked.

Hinton, Vinyals, Dean 2015, "Distilling the Knowledge in a Neural Network",
https://arxiv.org/abs/1503.02531, section 2. Regression takes the squared distance of the outputs.

When it does not help: with two classes the teacher's distribution is one number a text, so gains over
gold labels are small; compare with hard pseudo-labels before a claim.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor

from compress.supervised import task_loss
from compress.technique import Step, Technique


def soft_loss(student_BC: Tensor, teacher_BC: Tensor, temperature: float) -> Tensor:
    """T^2 KL(p_T || p_S) at temperature T: summed over classes, mean over examples.

    T^2 keeps the size of the gradient, (T / B) (softmax(z_S / T) - softmax(z_T / T)), from falling
    with T. One column is regression: mean squared distance.
    """
    if student_BC.shape[-1] == 1:
        return F.mse_loss(student_BC.float(), teacher_BC.float())
    student = F.log_softmax(student_BC.float() / temperature, -1)
    teacher = F.log_softmax(teacher_BC.float() / temperature, -1)
    return temperature**2 * F.kl_div(student, teacher, log_target=True, reduction="batchmean")


@dataclass
class LogitDistillation(Technique):
    temperature: float = 2.0  # 1 to 8; does not touch the hard term
    soft_weight: float = 0.5  # 0 to 1; the rest goes to gold labels, 1 where texts have none
    weight: float = 1.0  # of the whole term among others
    kinds: ClassVar = ("classification", "regression")
    needs: ClassVar = ("teacher",)

    def loss(self, step: Step) -> Tensor:
        loss = self.soft_weight * soft_loss(step.student.logits, step.teacher.logits, self.temperature)
        if self.soft_weight < 1:
            loss = loss + (1 - self.soft_weight) * task_loss(step.student.logits, step.batch["labels"])
        return self.weight * loss
