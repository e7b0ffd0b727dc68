"""CR-ILD: match the last layer alone, on mixed texts, with answers that must not depend on the mixing.

Ko, Park, Jeong, Hong, Ahn, Chang, Yun 2023, "Revisiting Intermediate Layer Distillation for Compressing Language
Models: An Overfitting Perspective", https://arxiv.org/abs/2302.01530, section 4.

The paper's first stage; its second is `distil/logits` with `soft_weight: 1` in a stage of its own, where the first may
learn from more texts than the second (`texts: corpus`). The paper raises the consistency weight after each epoch, we
after each update. Means run over real positions, each target's own; the released code averages over padding, and its
script trains another loss, without consistency. The un-mixed features are of the student as it trains, dropout and all,
as in that code. We leave out its variant that takes them from a moving average of the student's weights.

When it helps: small tasks, where a student that matches every layer learns the training texts by heart.

When it does not help: where the last layer alone explains the gain, so compare with `mixup: false`, `w_ic: 0`; an
update costs two forwards of the student and one of the teacher, which no cache answers.

Shapes: B batch, L tokens, H heads, D and E widths of student and teacher.
"""

from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from compress.anatomy import blocks, embeddings, part
from compress.distil.tinybert import attention_scores, hidden_loss
from compress.hooks import rewrite
from compress.technique import Batch, Run, Step, Technique
from compress.widths import widths

HIDDEN = -1e4  # the score of a padded key


class Features(NamedTuple):
    """Of the last layer."""

    scores: Tensor  # [B, H, L, L] of attention, before the softmax
    hidden: Tensor  # [B, L, E], of the teacher's width


def mixing() -> float:
    """lambda ~ Beta(1, 1), the greater of it and 1 - lambda: a text stays more than half itself."""
    share = torch.rand(()).item()
    return max(share, 1 - share)


def mix(x_BLD: Tensor, share: float) -> Tensor:
    """MixUp of a batch with itself in reverse order."""
    return share * x_BLD + (1 - share) * x_BLD.flip(0)


def union(mask_BL: Tensor) -> Tensor:
    """Where a text or the one it is mixed with has a token."""
    return torch.maximum(mask_BL, mask_BL.flip(0))


def attention_loss(student_BHLL: Tensor, target_BHLL: Tensor, mask_BL: Tensor) -> Tensor:
    """Cross-entropy of attention over real keys, mean over heads and real queries; at least the target's entropy."""
    padded = mask_BL[:, None, None] == 0
    student, target = (x.float().masked_fill(padded, HIDDEN) for x in (student_BHLL, target_BHLL))
    loss_BHL = -(target.softmax(-1) * student.log_softmax(-1)).sum(-1)
    return (loss_BHL.mean(1) * mask_BL).sum() / mask_BL.sum()


def ild_loss(student: Features, target: Features, mask_BL: Tensor) -> Tensor:
    """L_ILD: attention and hidden states of the last layer."""
    attention = attention_loss(student.scores, target.scores, mask_BL)
    return attention + hidden_loss(student.hidden, target.hidden, mask_BL)


def consistency_loss(mixed: Features, plain: Features, mask_BL: Tensor, share: float) -> Tensor:
    """L_CR: the mixed features lie between those of the two texts, as near to each as it has a share in the mixture."""
    reverse = Features(*(x.flip(0) for x in plain))
    return share * ild_loss(mixed, plain, mask_BL) + (1 - share) * ild_loss(mixed, reverse, mask_BL.flip(0))


@dataclass
class CRILD(Technique):
    w_ic: float = 0.1  # of consistency at the end; it rises from 0 in proportion to progress
    mixup: bool = True  # false: last-layer distillation alone, and consistency of two draws of dropout
    needs: ClassVar = ("teacher", "hidden_states")

    def prepare(self, run: Run) -> None:
        if not self.w_ic >= 0:
            raise ValueError(f"distil/cr-ild: w_ic must be 0 or more, got {self.w_ic}")
        if run.teacher is None:
            return  # the loop says so
        mine, theirs = (widths(model)[-1][0] for model in (run.model, run.teacher))
        if mine != theirs or not mine:
            raise ValueError(
                "distil/cr-ild compares attention head by head; the student's last layer has "
                f"{mine} heads, the teacher's {theirs}: choose a student of as many heads, and prune heads afterwards"
            )
        self.heads = mine
        narrow, wide = run.model.config.hidden_size, run.teacher.config.hidden_size
        self.project = run.own(nn.Linear(narrow, wide))  # W
        if narrow == wide:
            nn.init.eye_(self.project.weight)  # no random rotation to unlearn
            nn.init.zeros_(self.project.bias)
        for model in (run.model, run.teacher):
            run.tap(model, *self.names(model))

    def loss(self, step: Step) -> Tensor:
        run, mask_BL = step.run, step.batch["attention_mask"]
        share, seen_BL = (mixing(), union(mask_BL)) if self.mixup else (1.0, mask_BL)
        batch = {**step.batch, "attention_mask": seen_BL}
        mixed = self.features(run.model, self.forward(step, run.model, batch, share), self.project)
        with torch.no_grad():
            target = self.features(run.teacher, self.forward(step, run.teacher, batch, share))
        loss = ild_loss(mixed, target, seen_BL)
        if weight := self.w_ic * run.progress:
            with torch.no_grad():  # after the forward with gradients, whose masked weights are kept for this one
                plain = self.features(run.model, step.forward(run.model), self.project)
            loss = loss + weight * consistency_loss(mixed, plain, mask_BL, share)
        return loss

    def forward(self, step: Step, model: nn.Module, batch: Batch, share: float) -> Any:
        """Mixed behind the whole embedding: mixed word vectors would still be normalised, and have one position."""
        with rewrite(embeddings(model), lambda x_BLD: mix(x_BLD, share)):
            return step.forward(model, batch)

    def features(self, model: nn.Module, output: Any, project: nn.Module | None = None) -> Features:
        query, key = (output.taps[name] for name in self.names(model))
        hidden = output.hidden_states[-1]
        return Features(attention_scores(query, key, self.heads), project(hidden) if project else hidden)

    def names(self, model: nn.Module) -> tuple[str, str]:
        last = len(blocks(model)) - 1
        return part(model, last, "query"), part(model, last, "key")
