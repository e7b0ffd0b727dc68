"""TinyBERT: match embeddings, hidden states and raw attention scores layer by layer, then the prediction.

Jiao, Yin, Shang, Jiang, Chen, Li, Wang, Liu 2020, "TinyBERT: Distilling BERT for Natural Language
Understanding", https://arxiv.org/abs/1909.10351, section 3.1 (eq. 7-10) and 3.2.

Its general distillation is a stage of `pretraining` with `stage: intermediate` (on a corpus, from an encoder that is
not fine-tuned; `prune/layers` makes the student). Its task stages are two stages of a recipe, `stage: intermediate`
and then `stage: prediction`, with `texts: augmented` for its data augmentation (`compress.data.augment`).

Means run over real tokens and real query-key pairs, so padding never changes the loss (the release
averages over padding, and leaves the teacher's dropout on). Eq. 10 is summed over classes here; the
release takes their mean, a factor C.

When it helps: a student of other width or depth than the teacher, with much text, which its paper counts for as much as
the loss.

When it does not help: a student that keeps the teacher's own layers, on the task's texts alone; give distil/logits the
same texts and updates before a claim.
"""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch.nn.functional as F
from torch import Tensor, nn

from compress.anatomy import blocks, part
from compress.supervised import task_loss
from compress.technique import Run, Step, Technique
from compress.widths import widths


def attention_scores(query_BLD: Tensor, key_BLD: Tensor, heads: int) -> Tensor:
    """Q K^T / sqrt(D / H) before the softmax, [B, H, L, L]: eq. 7 compares these, not probabilities."""
    B, L, D = query_BLD.shape
    query_BHLd, key_BHLd = (x.float().view(B, L, heads, D // heads).transpose(1, 2) for x in (query_BLD, key_BLD))
    return query_BHLd @ key_BHLd.transpose(-1, -2) / (D // heads) ** 0.5


def attention_loss(student_BHLL: Tensor, teacher_BHLL: Tensor, mask_BL: Tensor) -> Tensor:
    """Eq. 7: mean squared error over heads and real query-key pairs."""
    pairs_BLL = mask_BL[:, :, None] * mask_BL[:, None, :]
    error_BLL = (student_BHLL - teacher_BHLL).pow(2).mean(1)
    return (error_BLL * pairs_BLL).sum() / pairs_BLL.sum()


def hidden_loss(student_BLD: Tensor, teacher_BLE: Tensor, mask_BL: Tensor) -> Tensor:
    """Eq. 8 and 9 after the projection W_h: mean squared error over real tokens and width."""
    error_BL = (student_BLD.float() - teacher_BLE.float()).pow(2).mean(-1)
    return (error_BL * mask_BL).sum() / mask_BL.sum()


def prediction_loss(student_BC: Tensor, teacher_BC: Tensor, temperature: float) -> Tensor:
    """Eq. 10: soft cross-entropy at temperature t, summed over classes, mean over examples."""
    target_BC = F.softmax(teacher_BC.float() / temperature, -1)
    return -(target_BC * F.log_softmax(student_BC.float() / temperature, -1)).sum(-1).mean()


def uniform_map(student_layers: int, teacher_layers: int) -> list[tuple[int, int]]:
    """g(m) = m N / M, counted from 1 (section 3.1); rounded where M does not divide N."""
    return [(m, round(m * teacher_layers / student_layers)) for m in range(1, student_layers + 1)]


def listed(values: set[int]) -> str:
    return " or ".join(str(value) for value in sorted(values))


@dataclass
class TinyBERT(Technique):
    stage: Literal["intermediate", "prediction"] = "intermediate"
    temperature: float = 1.0  # of the prediction stage
    layers: tuple[tuple[int, int], ...] | None = None  # (student, teacher), counted from 1; None: uniform
    attention: bool = True  # eq. 7; without it a student may have other heads than the teacher
    needs: ClassVar = ("teacher",)

    def __post_init__(self) -> None:
        if self.stage == "prediction":
            self.kinds = ("classification", "regression")

    def prepare(self, run: Run) -> None:
        if self.stage == "prediction":
            return
        self.needs = ("teacher", "hidden_states")
        self.check(run)
        student, teacher = run.model.config, run.teacher.config
        self.map = self.layers or uniform_map(len(blocks(run.model)), len(blocks(run.teacher)))
        self.project = run.own(nn.Linear(student.hidden_size, teacher.hidden_size))  # W_h, one for all layers
        if student.hidden_size == teacher.hidden_size:
            nn.init.eye_(self.project.weight)  # equal widths start at the identity: no random rotation to unlearn
            nn.init.zeros_(self.project.bias)
        if not self.attention:
            return
        self.names = [
            [(part(run.model, m - 1, p), part(run.teacher, n - 1, p)) for p in ("query", "key")] for m, n in self.map
        ]
        for names in self.names:
            for mine, theirs in names:
                run.tap(run.model, mine)
                run.tap(run.teacher, theirs)

    def check(self, run: Run) -> None:
        deep = (len(blocks(run.model)), len(blocks(run.teacher)))
        student, teacher = (
            {m.config.num_attention_heads, *(heads for heads, _ in widths(m))} for m in (run.model, run.teacher)
        )
        if self.attention and (student != teacher or len(teacher) > 1):
            raise ValueError(
                "distil/tinybert compares attention head by head; the student has "
                f"{listed(student)} heads, the teacher {listed(teacher)}: set attention to false"
            )
        for pair in self.layers or ():
            if not all(1 <= layer <= depth for layer, depth in zip(pair, deep, strict=True)):
                raise ValueError(f"distil/tinybert maps layers 1-{deep[0]} to 1-{deep[1]}, got {pair}")

    def loss(self, step: Step) -> Tensor:
        s, t = step.student, step.teacher
        if self.stage == "prediction":
            if step.run.kind == "regression":
                return task_loss(s.logits, step.batch["labels"])  # gold labels, as in the paper
            return prediction_loss(s.logits, t.logits, self.temperature)
        mask_BL, heads = step.batch["attention_mask"], step.run.model.config.num_attention_heads
        loss = hidden_loss(self.project(s.hidden_states[0]), t.hidden_states[0], mask_BL)
        for at, (m, n) in enumerate(self.map):
            loss = loss + hidden_loss(self.project(s.hidden_states[m]), t.hidden_states[n], mask_BL)
            if not self.attention:
                continue
            (q, q_t), (k, k_t) = self.names[at]
            student_BHLL = attention_scores(s.taps[q], s.taps[k], heads)
            loss = loss + attention_loss(student_BHLL, attention_scores(t.taps[q_t], t.taps[k_t], heads), mask_BL)
        return loss
