"""Interchange interventions: swap spans of hidden vectors between texts in both networks; the answers must then agree.

Wu, Geiger, Rozner, Kreiss, Lu, Icard, Potts, Goodman 2022, "Causal Distillation for Language Models",
https://arxiv.org/abs/2112.02505, section 3 (DIITO). Of its five terms these are the two that intervene; the ordinary
ones are another technique's.

Vectors of a source text replace those of a base text in the output of aligned layers, in the teacher and in the student
each with its own, and the student learns the teacher's answer to the base text so changed. A source is another text
of the same batch, drawn anew each time (the release: one permutation of the corpus), so the states that the other terms
compute anyway are those of all sources, and each network runs once more instead of twice. Its states are read and
written at the same module; the release writes a layer's input over its output. A text that is alone in its batch is its
own source.

When it helps: pre-training on little text, where the paper's evidence lies, with an answer at many positions.

When it does not help: one answer a text that is read from the first token, which only feels a swap in the last layer
when the span begins there. An update costs twice the passes: compare with twice the updates of logit distillation, and
with `alignment: tokens`, the same swaps made in the input, which is data augmentation and needs no causal reading.

Shapes: B batch, L tokens, D width of either network, C classes or word pieces, M positions that are asked.
"""

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from compress.anatomy import blocks, encoder_path
from compress.distil.distilbert import cosine_loss
from compress.distil.logits import soft_loss
from compress.hooks import rewrite
from compress.technique import Run, Step, Technique

Alignment = list[tuple[int, list[int]]]  # a layer of the student, those of the teacher that change with it; from 0


@dataclass(frozen=True)
class Swap:
    """Which vectors of a batch are replaced, and by which."""

    source: Tensor  # [B]: the text that each text takes from
    span: Tensor  # [B, L], bool: what is replaced
    place: Tensor  # [B, L]: where in the source its replacement stands


def draw(mask_BL: Tensor, share: float) -> Swap:
    """A random cycle through the batch; of each pair of texts a span of `share` of the shorter one, at least 1 token.

    It begins anywhere in the base and anywhere in the source, special tokens among it and padding never.
    """
    B, L = mask_BL.shape
    order, source_B = torch.randperm(B), torch.empty(B, dtype=torch.long)
    source_B[order] = order.roll(1)
    base_B = mask_BL.sum(1).cpu()
    length_B = (torch.minimum(base_B, base_B[source_B]) * share).floor().long().clamp(min=1)
    room = (base_B - length_B + 1, base_B[source_B] - length_B + 1)
    start_B, begin_B = ((room_B * torch.rand(B, dtype=torch.double)).long() for room_B in room)
    at_BL = torch.arange(L).expand(B, L)
    span_BL = (at_BL >= start_B[:, None]) & (at_BL < (start_B + length_B)[:, None])
    place_BL = torch.where(span_BL, at_BL - (start_B - begin_B)[:, None], at_BL)
    return Swap(*(x.to(mask_BL.device) for x in (source_B, span_BL, place_BL)))


def interchange(own_BLD: Tensor, states_BLD: Tensor, swap: Swap) -> Tensor:
    """`own`, with the states of the source in place of the span; a new tensor."""
    source_BLD = states_BLD[swap.source]
    taken_BLD = source_BLD.gather(1, swap.place[..., None].expand_as(source_BLD))
    return torch.where(swap.span[..., None], taken_BLD.to(own_BLD.dtype), own_BLD)


def counterfactual_loss(student: Tensor, teacher: Tensor, mask_BL: Tensor, temperature: float) -> Tensor:
    """L_cf: T^2 KL of the answers, summed over classes, mean over examples [B, C], real tokens [B, L, C] or [M, C]."""
    if student.ndim == 3:
        student, teacher = student[mask_BL.bool()], teacher[mask_BL.bool()]
    return soft_loss(student, teacher, temperature)


def multi(student: int, teacher: int) -> Alignment:
    """Each of the student's layers with its equal share of the teacher's, all of which change in the same run."""
    return [(s, list(range(s * teacher // student, (s + 1) * teacher // student))) for s in range(student)]


def middle(student: int, teacher: int) -> Alignment:
    """One layer with one: of 6 and 12 layers the fourth and the seventh."""
    return [(student // 2, [teacher // 2])]


def late(student: int, teacher: int) -> Alignment:
    """Two, or one where there is no second: of 6 and 12 layers the fourth with the tenth, the fifth with the next."""
    pairs = [(student // 2 + i, 3 * teacher // 4 + i) for i in (0, 1)]
    return [(s, [t]) for s, t in pairs if s < student and t < teacher]


ALIGNMENTS = {"multi": multi, "middle": middle, "late": late}


@dataclass
class InterchangeIntervention(Technique):
    a_cf: float = 0.2  # of the answers
    a_cfcos: float = 0.2  # of the last hidden states; needs equal widths
    temperature: float = 2.0
    share: float = 0.3  # of the shorter text's tokens that are swapped, 0.1 to 1
    # Or pairs of (student, teacher) layers counted from 1. Of several alignments each update draws one.
    alignment: Literal["multi", "middle", "late", "tokens"] | tuple[tuple[int, int], ...] = "multi"
    kinds: ClassVar = ("classification", "regression")
    needs: ClassVar = ("teacher",)

    def prepare(self, run: Run) -> None:
        layers = [[f"{encoder_path(m)}.{i}" for i, _ in enumerate(blocks(m))] for m in (run.model, run.teacher)]
        mine, theirs = layers
        self.check(run, len(mine), len(theirs))
        self.last = (mine[-1], theirs[-1])
        self.pairs = [([mine[s]], [theirs[t] for t in group]) for s, group in self.aligned(len(mine), len(theirs))]
        for at, model in enumerate((run.model, run.teacher)):
            read = {name for pair in self.pairs for name in pair[at]}
            run.tap(model, *read, *([self.last[at]] if self.a_cfcos else ()))
        self.pairs = self.pairs or [([], [])]

    def check(self, run: Run, mine: int, theirs: int) -> None:
        narrow, wide = run.model.config.hidden_size, run.teacher.config.hidden_size
        if self.a_cfcos and narrow != wide:
            raise ValueError(
                "distil/iit compares last hidden states of equal width; the student has "
                f"{narrow}, the teacher {wide}: set a_cfcos to 0"
            )
        if not 0 < self.share <= 1:
            raise ValueError(f"distil/iit: share must be above 0 and up to 1, got {self.share}")
        if self.alignment == "multi" and mine > theirs:
            raise ValueError(
                f"distil/iit: multi gives each layer of the student one of the teacher's or more; the student has "
                f"{mine}, the teacher {theirs}: take middle or late, or name pairs"
            )
        for pair in self.alignment if not isinstance(self.alignment, str) else ():
            if not all(1 <= layer <= depth for layer, depth in zip(pair, (mine, theirs), strict=True)):
                raise ValueError(f"distil/iit aligns layers 1-{mine} to 1-{theirs}, got {pair}")
        if not self.alignment:
            raise ValueError("distil/iit: alignment must name at least one pair of layers, got none")

    def aligned(self, mine: int, theirs: int) -> Alignment:
        if isinstance(self.alignment, str):
            return ALIGNMENTS[self.alignment](mine, theirs) if self.alignment in ALIGNMENTS else []
        students = sorted({s for s, _ in self.alignment})
        return [(s - 1, [t - 1 for other, t in self.alignment if other == s]) for s in students]

    def loss(self, step: Step) -> Tensor:
        mask_BL = step.batch["attention_mask"]
        swap, (mine, theirs) = draw(mask_BL, self.share), self.pairs[int(torch.randint(len(self.pairs), ()))]
        student = self.changed(step, step.run.model, mine, swap)
        with torch.no_grad():
            teacher = self.changed(step, step.run.teacher, theirs, swap)
        loss = self.a_cf * counterfactual_loss(student.logits, teacher.logits, mask_BL, self.temperature)
        if self.a_cfcos:
            states = student.taps[self.last[0]], teacher.taps[self.last[1]]
            loss = loss + self.a_cfcos * cosine_loss(*states, mask_BL)
        return loss

    def changed(self, step: Step, model: nn.Module, names: Sequence[str], swap: Swap) -> Any:
        """The output of `model` where the source's states replace the base's in the layers `names`, or its tokens."""
        if not names:
            ids_BL1 = step.batch["input_ids"][..., None]
            return step.forward(model, step.batch | {"input_ids": interchange(ids_BL1, ids_BL1, swap)[..., 0]})
        seen = (step.student if model is step.run.model else step.teacher).taps
        with ExitStack() as stack:
            for name in names:
                change = partial(interchange, states_BLD=seen[name], swap=swap)
                stack.enter_context(rewrite(model.get_submodule(name), change))
            return step.forward(model)
