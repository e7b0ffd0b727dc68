"""DisCo (DistilCSE): find the teacher's vector of one's own text among those of many others.

Gao, Wu, Wang, Wang, Zang, Wang, Hu 2021, "DisCo: Effective Knowledge Distillation For Contrastive Learning of
Sentence Embeddings", https://arxiv.org/abs/2112.05638, section 3.2; version 2 calls it DistilCSE. Details follow its
code, caskcsg/sentemb.

The first of the paper's two steps: InfoNCE of the student's projected vectors over the teacher's of this batch and of
a queue, in one direction, without labels. The second, supervised contrastive fine-tuning, is left out: it needs
triples of a text, one that follows from it and one that contradicts it, and tasks here hold pairs with a score;
`supervised` in a stage of its own stands there. The teacher is in evaluation mode (the released loop leaves its
dropout on), and at equal widths the projection begins as the identity, since it is dropped at the end and cosines are
then the bare student's. Each process has a queue of its own.

When it helps: many texts without labels, for a student too small to take over the teacher's vectors number by number.

When it does not help: few distinct texts, which meet their own vectors of the epoch before in the queue and are
pushed away from them, so keep the queue below a tenth of the texts; and short runs, in which the scale hardly moves:
begin with a sharper one (`s: 3`).

Shapes: B texts, D numbers of the student's vector, E of the teacher's, K keys in the queue.
"""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from compress.technique import Run, Step, Technique

MOST = 100.0  # of the scale, which nothing else bounds


def contrastive_loss(student_BE: Tensor, keys_KE: Tensor, scale: Tensor | float) -> Tensor:
    """L_CKD: cross-entropy of scaled cosines; text i shall find key i. Keys are 1 long and get no gradient."""
    with torch.autocast(student_BE.device.type, enabled=False):
        scores_BK = scale * F.normalize(student_BE.float(), dim=-1) @ keys_KE.detach().T
    return F.cross_entropy(scores_BK, torch.arange(len(scores_BK), device=scores_BK.device))


class Memory(nn.Module):
    """Projection M, scale s, and the teacher's latest vectors, the newest first."""

    queue: Tensor  # [K, E], 1 long
    filled: Tensor  # how many of its rows

    def __init__(self, mine: int, theirs: int, size: int, s: float) -> None:
        super().__init__()
        self.project = nn.Linear(mine, theirs)
        if mine == theirs:
            nn.init.eye_(self.project.weight)  # no random rotation to unlearn
            nn.init.zeros_(self.project.bias)
        self.s = nn.Parameter(torch.tensor(s))
        self.register_buffer("queue", torch.zeros(size, theirs))
        self.register_buffer("filled", torch.tensor(0))

    @property
    def scale(self) -> Tensor:
        return self.s.exp().clamp(max=MOST)

    def keys(self, teacher_BE: Tensor) -> Tensor:
        """These vectors [B, E], then those of the queue."""
        return torch.cat([F.normalize(teacher_BE.float(), dim=-1), self.queue[: int(self.filled)]])

    @torch.no_grad()
    def remember(self, keys_KE: Tensor) -> None:
        kept = keys_KE[: len(self.queue)]
        self.queue[: len(kept)] = kept
        self.filled.fill_(len(kept))


@dataclass
class DisCo(Technique):
    queue: int = 65_536  # K, past vectors of the teacher; 0: those of the batch alone
    s: float = 1.0  # logarithm of the scale of cosines at the start; it is trained
    mse: float = 0.0  # weight of the squared distance of the vectors themselves, mean over numbers
    weight: float = 1.0  # of the whole term among others
    kinds: ClassVar = ("embedding",)
    needs: ClassVar = ("teacher",)

    def prepare(self, run: Run) -> None:
        if self.queue < 0 or not self.s <= math.log(MOST):
            raise ValueError(
                f"distil/disco: queue must be 0 or more and s at most {math.log(MOST):.3f}, the logarithm of the "
                f"largest scale, {MOST:g}; got queue {self.queue} and s {self.s}"
            )
        if run.teacher is None:
            return  # the loop says so
        mine, theirs = run.model.embedding.size, run.teacher.embedding.size
        self.memory = run.own(Memory(mine, theirs, self.queue, self.s))

    def loss(self, step: Step) -> Tensor:
        teacher_BE = step.teacher.logits
        student_BE = self.memory.project(step.student.logits)
        keys_KE = self.memory.keys(teacher_BE)
        loss = contrastive_loss(student_BE, keys_KE, self.memory.scale)
        self.memory.remember(keys_KE)
        if self.mse:
            loss = loss + self.mse * F.mse_loss(student_BE.float(), teacher_BE.float())
        return self.weight * loss
