"""Train the student on the mean of several teachers' softened class distributions, and on gold labels if asked.

Hinton, Vinyals, Dean 2015, "Distilling the Knowledge in a Neural Network", https://arxiv.org/abs/1503.02531, section 1:
an ensemble is distilled into one model. Probabilities are averaged, as the paper's ensembles do it, and not logits,
since teachers are calibrated differently. With one teacher this is distil/logits. Regression takes the mean output.

When it helps: teachers that err on different texts; their mean is then better than the best of them, and the student
learns from one target.

When it does not help: with teachers of one architecture that differ by seed alone, or where one is far better than the
others: compare with distil/logits from the best one.

Shapes: K teachers, B texts, C classes.
"""

from dataclasses import dataclass
from math import log
from typing import ClassVar

import torch
from torch import Tensor

from compress.distil.logits import soft_loss
from compress.supervised import task_loss
from compress.technique import Step, Technique


def averaged(logits_KBC: Tensor, temperature: float = 1.0) -> Tensor:
    """Logits [B, C] whose softmax at `temperature` is the mean of all K: T log (1/K) sum_k softmax(z_k / T).

    At temperature 1 they are log-probabilities. One column is regression: the mean.
    """
    logits_KBC = logits_KBC.float()
    if logits_KBC.shape[-1] == 1:
        return logits_KBC.mean(0)
    logs_KBC = torch.log_softmax(logits_KBC / temperature, -1)
    return temperature * (logs_KBC.logsumexp(0) - log(len(logits_KBC)))


@dataclass
class EnsembleDistillation(Technique):
    temperature: float = 2.0  # 1 to 8; does not touch the hard term
    soft_weight: float = 0.5  # 0 to 1; the rest goes to gold labels, 1 where texts have none
    weight: float = 1.0  # of the whole term among others
    kinds: ClassVar = ("classification", "regression")
    needs: ClassVar = ("teachers",)

    def loss(self, step: Step) -> Tensor:
        teachers_KBC = torch.stack([teacher.logits for teacher in step.teachers])
        mean_BC = averaged(teachers_KBC, self.temperature)
        loss = self.soft_weight * soft_loss(step.student.logits, mean_BC, self.temperature)
        if self.soft_weight < 1:
            loss = loss + (1 - self.soft_weight) * task_loss(step.student.logits, step.batch["labels"])
        return self.weight * loss
