"""MiniLMv2: the student's last layer relates the tokens of a text to one another as one layer of the teacher does.

Wang, Bao, Huang, Dong, Wei 2021, "MiniLMv2: Multi-Head Self-Attention Relation Distillation for Compressing Pretrained
Transformers", https://arxiv.org/abs/2012.15828, section 3.

Queries, keys and values are cut anew into relation heads, as many in both networks, so neither widths, nor depths, nor
heads need agree, and nothing is added to the student. The paper distils a pre-trained teacher on its pre-training
text and fine-tunes the student afterwards, and so does a pre-training stage here; on a task, with a teacher that was
fine-tuned, it is a variant. Either way it is a stage of its own, before one with a loss on the answers: what follows
the last layer's queries, keys and values (its output projection, its FFN, pooler and head) gets no gradient from it.

When it helps: a student narrower than the teacher or drawn at random, and text enough to learn from.

When it does not help: a student that keeps layers of the teacher begins with most of what it could learn here, and
a few thousand texts of one task add little.

Shapes: B batch, L tokens, D width of the student, E of the teacher, H relation heads.
"""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from compress.anatomy import blocks, part
from compress.technique import Run, Step, Technique
from compress.widths import widths


def log_relations(x_BLD: Tensor, heads: int, mask_BL: Tensor) -> Tensor:
    """Eq. 5: log softmax of X X^T / sqrt(D / H) over real tokens, [B, H, L, L], for X cut into H relation heads."""
    x_BHLd = x_BLD.float().unflatten(-1, (heads, -1)).transpose(1, 2)
    scores_BHLL = x_BHLd @ x_BHLd.transpose(-1, -2) / math.sqrt(x_BHLd.shape[-1])
    padding_B11L = mask_BL[:, None, None, :] == 0
    return F.log_softmax(scores_BHLL.masked_fill(padding_B11L, torch.finfo(scores_BHLL.dtype).min), -1)


def relation_loss(student_BLD: Tensor, teacher_BLE: Tensor, mask_BL: Tensor, heads: int) -> Tensor:
    """Eq. 4: KL(teacher || student), mean over relation heads and a text's real tokens, then over texts."""
    student_BHLL, teacher_BHLL = (log_relations(x, heads, mask_BL) for x in (student_BLD, teacher_BLE))
    divergence_BHL = F.kl_div(student_BHLL, teacher_BHLL, log_target=True, reduction="none").sum(-1)
    return ((divergence_BHL.mean(1) * mask_BL).sum(1) / mask_BL.sum(1)).mean()


@dataclass
class MiniLM(Technique):
    relation_heads: int = 48  # A_r; divides both widths, 12 to 64
    layer: int | None = None  # of the teacher, counted from 1; None: the last. Of 24 the paper takes 21 or 19
    alphas: tuple[float, float, float] = (1 / 3, 1 / 3, 1 / 3)  # of queries, keys, values
    needs: ClassVar = ("teacher",)

    def prepare(self, run: Run) -> None:
        mine, theirs = len(blocks(run.model)), len(blocks(run.teacher))
        layer = theirs if self.layer is None else self.layer
        if not 1 <= layer <= theirs:
            raise ValueError(f"distil/minilm-v2: layer must be one of the teacher's 1-{theirs}, got {layer}")
        self.check(run.model, mine, "student")
        self.check(run.teacher, layer, "teacher")
        self.names = [
            (part(run.model, mine - 1, name), part(run.teacher, layer - 1, name)) for name in ("query", "key", "value")
        ]
        for student, teacher in self.names:
            run.tap(run.model, student)
            run.tap(run.teacher, teacher)

    def check(self, model: nn.Module, layer: int, who: str) -> None:
        if not widths(model)[layer - 1][0]:
            raise ValueError(f"distil/minilm-v2 reads attention, and layer {layer} of the {who} has no heads left")
        width = model.get_submodule(part(model, layer - 1, "query")).out_features
        if self.relation_heads < 1 or width % self.relation_heads:
            raise ValueError(
                f"distil/minilm-v2: relation_heads must divide the width of queries in both networks; the {who} has "
                f"{width}, got {self.relation_heads}"
            )

    def loss(self, step: Step) -> Tensor:
        mine, theirs, mask_BL = step.student.taps, step.teacher.taps, step.batch["attention_mask"]
        terms = [
            alpha * relation_loss(mine[student], theirs[teacher], mask_BL, self.relation_heads)
            for alpha, (student, teacher) in zip(self.alphas, self.names, strict=True)
        ]
        return torch.stack(terms).sum()
