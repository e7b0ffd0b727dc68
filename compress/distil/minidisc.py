"""MiniDisc: find the best teacher assistant in one run of a student that stands for all sizes at once.

Zhang, Yang, Wang, Liu, Wang, Xian, Wu, Song 2022, "MiniDisc: Minimal Distillation Schedule for Language Model
Compression", https://arxiv.org/abs/2205.14570; what the paper leaves open follows its code, GeneZC/MiniDisc.

Two stages of a recipe whose student starts as the whole teacher: `stage: assistant`, then `stage: student` with
`teacher: start`, so that the assistant teaches what is cut from it. Candidates are nested sets of heads and neurons
that share one set of weights, and each update trains them all. The second stage alone is the same run without an
assistant; with one candidate it is plain distillation to a pruned student.

Ours: units are picked where they lie instead of being sorted first, which is the same function and leaves masks and
fake quantisation on the weights in peace; they are ranked on training texts, not on the development set; a block cut
to nothing keeps the bias of its output, so that it equals the masked block.

When it helps: a student of a tenth of the teacher or less, which learns better from one in between, and no time to try
assistants one by one.

When it does not help: an assistant buys extra updates too, so compare with direct distillation of as many.

Shapes: B batch, L tokens, D width, C classes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from random import Random
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from compress.anatomy import blocks, part
from compress.narrow import narrowed
from compress.nested import Levels, kept_heads, kept_neurons, left, levels, standing
from compress.prune.importance import importance, normalised
from compress.supervised import task_loss
from compress.technique import NOT_INPUTS, Batch, Run, Step, Technique
from compress.widths import Keep, widths

FIELD = "bantam_minidisc"  # of the assistant's configuration: what the next stage must know


def compared(student_blocks: int, teacher_blocks: int) -> list[tuple[int, int]]:
    """Hidden states (student's, teacher's) that are compared: 0, q, 2q, ... and the last, q = max(1, blocks // 6).

    In the paper both have as many blocks; here a shallower student's are spread evenly over the teacher's.
    """
    q = max(1, student_blocks // 6)
    mine = [*range(0, student_blocks, q), student_blocks]
    return [(m, round(m * teacher_blocks / student_blocks)) for m in mine]


def states_loss(
    student_BLD: Sequence[Tensor], teacher_BLD: Sequence[Tensor], mask_BL: Tensor, pairs: Sequence[tuple[int, int]]
) -> Tensor:
    """Mean squared error over the compared hidden states, real tokens and width."""
    errors = [(student_BLD[m].float() - teacher_BLD[n].float()).pow(2).mean(-1) for m, n in pairs]
    return (torch.stack(errors).mean(0) * mask_BL).sum() / mask_BL.sum()


def answer_loss(student_BC: Tensor, teacher_BC: Tensor) -> Tensor:
    """Cross-entropy of the teacher's distribution at temperature 1; squared error of scores where C = 1."""
    if student_BC.shape[-1] == 1:
        return F.mse_loss(student_BC.float(), teacher_BC.float())
    return F.cross_entropy(student_BC.float(), teacher_BC.float().softmax(-1))


def choose(best: Mapping[int, float], trade_off: float, target: int) -> tuple[int, float]:
    """argmax_s of m(s) + lambda s / 100, but no further than the target, and the value that won."""

    def value(sparsity: int) -> float:
        return best[sparsity] + trade_off * sparsity / 100

    winner = max(best, key=lambda sparsity: (value(sparsity), sparsity))
    return min(winner, target), value(winner)


def task(model: nn.Module, batch: Batch) -> Tensor:
    """The loss whose gradient ranks the units: that of the gold labels."""
    inputs = {k: v for k, v in batch.items() if k not in NOT_INPUTS}
    return task_loss(model(**inputs).logits, batch["labels"])


class Memory(nn.Module):
    """What must survive a stop: levels of the units, best scores, and the weights that set the winning value."""

    levels: Tensor
    best: Tensor  # m(s), of the candidates in ascending order
    value: Tensor
    sparsity: Tensor  # of the winner, 0 before the first evaluation

    def __init__(self, heads: Levels, neurons: Levels, candidates: int, weights: Sequence[nn.Parameter]) -> None:
        super().__init__()
        self.blocks, self.rows = len(heads), [len(row) for row in (*heads, *neurons)]
        self.register_buffer("levels", torch.tensor([level for row in (*heads, *neurons) for level in row]))
        self.register_buffer("best", torch.full((candidates,), -torch.inf, dtype=torch.float64))
        self.register_buffer("value", torch.tensor(-torch.inf, dtype=torch.float64))
        self.register_buffer("sparsity", torch.tensor(0))
        for index, weight in enumerate(weights):
            self.register_buffer(f"weight_{index}", weight.detach().clone())

    def keep(self, sparsity: int, value: float, weights: Sequence[nn.Parameter]) -> None:
        self.sparsity.fill_(sparsity)
        self.value.fill_(value)
        for index, weight in enumerate(weights):
            self.get_buffer(f"weight_{index}").copy_(weight.detach())

    def recall(self, weights: Sequence[nn.Parameter]) -> int:
        """Give `weights` the values that were kept, and back the sparsity; 0 and no change if none were."""
        sparsity = int(self.sparsity)
        for index, weight in enumerate(weights if sparsity else ()):
            weight.copy_(self.get_buffer(f"weight_{index}"))
        return sparsity

    def units(self) -> tuple[Levels, Levels]:
        """Levels of heads and of neurons."""
        rows = [row.tolist() for row in self.levels.split(self.rows)]
        return rows[: self.blocks], rows[self.blocks :]


@dataclass
class MiniDisc(Technique):
    stage: Literal["assistant", "student"] = "student"  # what it ends with: the best trade-off, or the target
    target: int = 90  # S*: percent of heads and of neurons that go; 50 to 95
    trade_off: float = 0.2  # lambda, for a metric in [0, 1]; 0.1 to 0.5
    candidates: tuple[int, ...] = (50, 60, 70, 80, 85, 90, 95)  # A, percent
    each_update: Literal["all", "sampled"] = "all"  # sampled: narrowest, widest and two between, to save memory
    examples: int = 1000  # training texts that rank the units
    keep_bias: bool = True  # of a block cut to nothing; the released code drops it
    kinds: ClassVar = ("classification", "regression")
    needs: ClassVar = ("teacher", "hidden_states")

    def prepare(self, run: Run) -> None:
        self.check(run)
        told = getattr(run.model.config, FIELD, None)
        self.active = self.still_there(told)
        heads, neurons = (told["heads"], told["neurons"]) if told else self.rank(run)
        if [(len(h), len(n)) for h, n in zip(heads, neurons, strict=True)] != widths(run.model):
            raise ValueError("distil/minidisc: the assistant was cut once more after it was chosen; put that cut later")
        self.pairs = compared(len(blocks(run.model)), len(blocks(run.teacher)))
        self.weights = list(run.model.parameters())
        self.memory = run.own(Memory(heads, neurons, len(self.active), self.weights))
        self.run, self.measure, run.score = run, run.score, self.score

    def check(self, run: Run) -> None:
        if not self.candidates or not all(0 < s < 100 for s in self.candidates) or not self.trade_off >= 0:
            raise ValueError(
                "distil/minidisc: candidates must be percentages between 0 and 100 and trade_off 0 or more, "
                f"got candidates {list(self.candidates)} and trade_off {self.trade_off}"
            )
        if self.target not in self.candidates:
            raise ValueError(
                f"distil/minidisc: target must be among candidates {list(self.candidates)}, got {self.target}"
            )
        mine, its = run.model.config.hidden_size, run.teacher.config.hidden_size
        if mine != its:
            raise ValueError(
                f"distil/minidisc compares hidden states of equal width; the student has {mine}, the teacher {its}: "
                "choose a student of the teacher's width"
            )

    def still_there(self, told: dict[str, Any] | None) -> list[int]:
        """The candidates of this stage, ascending: those that the assistant, if there is one, still contains."""
        if told is None:
            return sorted(set(self.candidates))
        if self.target < told["sparsity"] or not set(self.candidates) <= set(told["candidates"]):
            raise ValueError(
                f"distil/minidisc: the assistant stands at {told['sparsity']} of {told['candidates']}; its student's "
                f"candidates must be among these and its target not below, got {list(self.candidates)}, {self.target}"
            )
        done = self.target == told["sparsity"]
        return [self.target] if done else sorted({s for s in self.candidates if s >= told["sparsity"]})

    def rank(self, run: Run) -> tuple[Levels, Levels]:
        """Levels of heads and neurons, by importance for the task; a rehearsal has no examples and goes by position."""
        now, batches = widths(run.model), list(run.sample(self.examples))
        if batches:
            found = importance(run.model, batches, task, per_example=False, normalise=False)
            scores = [normalised(run.accelerator.reduce(part, "sum")).cpu() for part in found]
        else:
            scores = [torch.arange(max(column), 0, -1.0).expand(len(now), -1) for column in zip(*now, strict=True)]
        heads = [row[:count] for row, (count, _) in zip(scores[0], now, strict=True)]
        neurons = [row[:count] for row, (_, count) in zip(scores[1], now, strict=True)]
        return (
            levels(heads, {s: kept_heads(heads, s) for s in self.active}),
            levels(neurons, {s: kept_neurons(neurons, s) for s in self.active}),
        )

    @cached_property
    def slices(self) -> dict[int, list[Keep]]:
        """What each candidate keeps; asked for only when a checkpoint, if there is one, has been read."""
        return {s: standing(*self.memory.units(), s) for s in self.active}

    def loss(self, step: Step) -> Tensor:
        """1/2 [states + answers], the mean over candidates."""
        model, teacher, mask_BL, terms = step.run.model, step.teacher, step.batch["attention_mask"], []
        for s in self.drawn(step.run.step):
            with narrowed(model, self.slices[s], biases=self.keep_bias):
                student = step.forward(model)
            states = states_loss(student.hidden_states, teacher.hidden_states, mask_BL, self.pairs)
            terms.append((states + answer_loss(student.logits, teacher.logits)) / 2)
        return torch.stack(terms).mean()

    def drawn(self, update: int) -> list[int]:
        """The candidates of an update, the same in all its micro-batches and processes."""
        if self.each_update == "all" or len(self.active) <= 4:
            return self.active
        return [self.active[0], *Random(update).sample(self.active[1:-1], 2), self.active[-1]]

    def score(self, model: nn.Module) -> float:
        """Score the candidates, keep the weights if the winning value rises; what the winner scores now."""
        memory, now = self.memory, {}
        for s in self.active if self.stage == "assistant" else [self.target]:
            with narrowed(model, self.slices[s], biases=self.keep_bias):
                now[s] = self.measure(model)
        if self.run.progress < self.run.settled:  # weights that another technique is still pruning may not win
            return now[self.target]
        for s, score in now.items():
            index = self.active.index(s)
            if score > memory.best[index]:  # so that a correlation of constants, which is NaN, never counts
                memory.best[index] = score
        best = {s: memory.best[self.active.index(s)].item() for s in now}
        winner, value = choose(best, self.trade_off, self.target)
        if value > memory.value:
            memory.keep(winner, value, self.weights)
        return now[winner]

    @torch.no_grad()
    def finish(self, run: Run) -> None:
        """Have the model cut to the winner, with the weights that made it win."""
        sparsity = self.memory.recall(self.weights) or self.target
        run.cut(self.slices[sparsity])
        for block, kept in enumerate(self.slices[sparsity]):
            for name, units in (("attention_out", kept.heads), ("ffn_out", kept.neurons)):
                if not units and not self.keep_bias:
                    run.model.get_submodule(part(run.model, block, name)).bias.zero_()
        self.tell(run.model.config, sparsity, run.keep)

    def tell(self, config: Any, sparsity: int, kept: Sequence[Keep]) -> None:
        """Leave a note for the next stage, or take it away after the last."""
        if self.stage == "student":
            vars(config).pop(FIELD, None)
            return
        heads, neurons = self.memory.units()
        told = {"heads": left(heads, [k.heads for k in kept]), "neurons": left(neurons, [k.neurons for k in kept])}
        setattr(config, FIELD, {"sparsity": sparsity, "candidates": self.active, **told})
