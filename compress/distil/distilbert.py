"""DistilBERT's triple loss: soft targets, the hard loss, and the direction of the last hidden states.

Sanh, Debut, Chaumond, Wolf 2019, "DistilBERT, a distilled version of BERT: smaller, faster, cheaper and
lighter", https://arxiv.org/abs/1910.01108, section 3; weights and temperature of the released example.

On a corpus, in a stage of `pretraining`, this is the paper's: the teacher is the model as the stage finds it, a
masked language model; `predict: all` has soft targets at every position and labels where word pieces were masked
(without it both are read at the masked ones alone, an option of the release); `corpus.smoothing: 0.7` masks as the
release does; `prune/layers` with `strategy: spread` leaves layers 0, 2, 4, 7, 9, 11 of twelve. Logits of all
positions take memory: 2,048 tokens of 30,522 word pieces are 250 MB, several times over, so split an update with
`accumulate`.

On a task, for a fine-tuned teacher, the task's labels stand where those of masked word pieces stand in pre-training,
and the student starts from the teacher's layers (`students/truncated`).

Unlike the release ours keeps token types and pooler, so that the folder stays an ordinary model of the teacher's
class.

When it helps: where the student is a part of its teacher, which the paper finds worth more than any term, and the
corpus is large; of the terms the soft targets matter most, then the cosine.

When it does not help: for narrower students the cosine has no meaning (`a_cos: 0`); with a few million tokens copied
layers and fine-tuning may do as well.
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
