"""Train the student on the teacher's softened class distribution, and on gold labels if asked.

Hinton, Vinyals, Dean 2015, "Distilling the Knowledge in a Neural Network",
https://arxiv.org/abs/1503.02531, section 2. Regression takes the squared distance of the outputs.

`targets` are what the student learns of the teacher instead of its distribution, each with a claim of its own:

    hard          its most likely class: what is left without "dark knowledge" (pseudo-labels, Lee 2013)
    logits        the logits, by their squared distance (Kim et al. 2021, https://arxiv.org/abs/2105.08919, section 3)
    standardised  the distribution of logits shifted and scaled to mean 0 and deviation 1, text by text, so that the
                  student need not reach their size (Sun et al. 2024, https://arxiv.org/abs/2403.01427, section 4)

When it helps: more than two classes, texts without labels, a run longer than fine-tuning needs.

When it does not help: with two classes the teacher's distribution is one number a text, so gains over
gold labels are small; compare with hard pseudo-labels before a claim. Standardised, two logits are always +1 and -1.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch.nn.functional as F
from torch import Tensor

from compress.supervised import task_loss
from compress.technique import Run, Step, Technique


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


def hard_loss(student_BC: Tensor, teacher_BC: Tensor, temperature: float) -> Tensor:
    """Cross-entropy on the teacher's most likely class, mean over examples; no temperature."""
    return F.cross_entropy(student_BC.float(), teacher_BC.argmax(-1))


def distance(student_BC: Tensor, teacher_BC: Tensor, temperature: float) -> Tensor:
    """|z_S - z_T|^2, summed over classes, mean over examples; no temperature."""
    return (student_BC.float() - teacher_BC.float()).pow(2).sum(-1).mean()


def standardised_loss(student_BC: Tensor, teacher_BC: Tensor, temperature: float) -> Tensor:
    """`soft_loss` of (z - mean) / deviation, both over the classes of each example."""
    student_BC, teacher_BC = (F.layer_norm(z.float(), z.shape[-1:]) for z in (student_BC, teacher_BC))
    return soft_loss(student_BC, teacher_BC, temperature)


Targets = Literal["soft", "hard", "logits", "standardised"]
LOSSES: dict[Targets, Callable[[Tensor, Tensor, float], Tensor]] = {
    "soft": soft_loss,
    "hard": hard_loss,
    "logits": distance,
    "standardised": standardised_loss,
}


@dataclass
class LogitDistillation(Technique):
    targets: Targets = "soft"
    temperature: float = 2.0  # 1 to 8; does not touch the hard term
    soft_weight: float = 0.5  # 0 to 1; the rest goes to gold labels, 1 where texts have none
    weight: float = 1.0  # of the whole term among others
    kinds: ClassVar = ("classification", "regression")
    needs: ClassVar = ("teacher",)

    def __post_init__(self) -> None:
        if self.targets in ("hard", "standardised"):
            self.kinds = ("classification",)

    def prepare(self, run: Run) -> None:
        if self.targets == "standardised" and run.model.num_labels < 3:
            raise ValueError(
                "distil/logits: standardised logits of two classes are always +1 and -1; take targets soft or logits"
            )

    def loss(self, step: Step) -> Tensor:
        loss = self.soft_weight * LOSSES[self.targets](step.student.logits, step.teacher.logits, self.temperature)
        if self.soft_weight < 1:
            loss = loss + (1 - self.soft_weight) * task_loss(step.student.logits, step.batch["labels"])
        return self.weight * loss
