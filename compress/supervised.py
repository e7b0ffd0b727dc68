"""The task's own loss on gold labels: the only term of a teacher, one term among others of a student.

When it helps: always, as the baseline; and as the last stage of a student that learned from a teacher before.

When it does not help: texts without labels, of which it learns nothing.
"""

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from compress.technique import Step, Technique


def task_loss(logits_BC: Tensor, labels_B: Tensor) -> Tensor:
    """Cross-entropy of integer labels, -100 where there is none; squared error of floating ones (C = 1), or NaN."""
    if labels_B.is_floating_point():
        there = ~labels_B.isnan()
        if not there.any():
            return logits_BC.float().sum() * 0
        return F.mse_loss(logits_BC.float().squeeze(-1)[there], labels_B[there])
    if not (labels_B != -100).any():
        return logits_BC.float().sum() * 0  # nothing labelled: no signal, and not NaN
    return F.cross_entropy(logits_BC.float(), labels_B)


def cosine_loss(vectors_BD: Tensor, labels_B: Tensor) -> Tensor:
    """(cos(u, v) - score)^2, mean over pairs: texts side by side with the pair's score each, NaN where there is none.

    Reimers, Gurevych 2019, "Sentence-BERT", https://arxiv.org/abs/1908.10084, section 3, regression objective.
    """
    there = ~labels_B.isnan()
    if not there.any():
        return vectors_BD.float().sum() * 0
    u, v = vectors_BD.float()[there].unflatten(0, (-1, 2)).unbind(1)
    return F.mse_loss(F.cosine_similarity(u, v, dim=-1), labels_B[there][::2])


@dataclass
class Supervised(Technique):
    weight: float = 1.0

    def loss(self, step: Step) -> Tensor:
        of = cosine_loss if step.run.kind == "embedding" else task_loss
        return self.weight * of(step.student.logits, step.batch["labels"])
