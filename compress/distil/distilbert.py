"""DistilBERT's triple loss: soft targets, the hard loss, and the direction of the last hidden states.

Sanh, Debut, Chaumond, Wolf 2019, "DistilBERT, a distilled version of BERT: smaller, faster, cheaper and
lighter", https://arxiv.org/abs/1910.01108, section 3; weights and temperature of the released example.

This is the task form, for a fine-tuned teacher: the task's labels stand where masked-LM labels stand
in pre-training. The student should start from the teacher's layers (`students/truncated`), which the
paper finds worth more than any term; unlike the release it keeps token types and pooler, so that the
folder stays an ordinary model of the teacher's class.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor

from compress.distil.logits import soft_loss
from compress.supervised import task_loss
from compress.technique import Run, Step, Technique


def cosine_loss(student_BLD: Tensor, teacher_BLD: Tensor, mask_BL: Tensor) -> Tensor:
    """L_cos: 1 - cos of the angle between last hidden states, mean over real tokens."""
    distance_BL = 1 - F.cosine_similarity(student_BLD.float(), teacher_BLD.float(), dim=-1)
    return (distance_BL * mask_BL).sum() / mask_BL.sum()


@dataclass
class DistilBERT(Technique):
    a_ce: float = 5.0  # soft targets
    a_mlm: float = 2.0  # hard labels
    a_cos: float = 1.0  # hidden states; needs equal widths
    temperature: float = 2.0
    kinds: ClassVar = ("classification", "regression")
    needs: ClassVar = ("teacher", "hidden_states")

    def prepare(self, run: Run) -> None:
        narrow, wide = run.model.config.hidden_size, run.teacher.config.hidden_size
        if self.a_cos and narrow != wide:
            raise ValueError(
                "distil/distilbert compares hidden states of equal width; the student has "
                f"{narrow}, the teacher {wide}: set a_cos to 0"
            )

    def loss(self, step: Step) -> Tensor:
        s, t, labels = step.student, step.teacher, step.batch["labels"]
        loss = self.a_ce * soft_loss(s.logits, t.logits, self.temperature)
        loss = loss + self.a_mlm * task_loss(s.logits, labels)
        if self.a_cos:
            loss = loss + self.a_cos * cosine_loss(
                s.hidden_states[-1], t.hidden_states[-1], step.batch["attention_mask"]
            )
        return loss
