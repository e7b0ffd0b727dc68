"""The one interface of this package: what a published technique may do to a training run.

A run has six moments. A technique overrides those that its paper needs and no others:

    prepare          once, before the optimiser exists   change the model, add parameters, ask for taps
    before_backward  an update's examples are there      look at them, with forwards of its own
    loss             every micro-batch                   give one weighted term of the objective
    before_update    gradients are ready                 change the gradients, or have them taken elsewhere
    after_update     weights have moved                  move schedules on, average weights
    finish           once, at the end                    put back what the artefact must not contain

Before anything trains, a rehearsal calls `prepare` and `finish` of every stage with no update between them,
on a model that is then thrown away: what cannot work must raise ValueError in one of the two.

Terms of the objective add; functions of a weight stack (`compress.weights`); techniques act in the
order of the recipe. Whatever must survive a crash lives in a module given to `Run.own`: its parameters
train with the student, its buffers ride in the checkpoint, and all of it is dropped before saving.

Shapes: B batch, L tokens, D width, H heads, C classes.
"""

import copy
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import cached_property
from types import SimpleNamespace
from typing import Any, ClassVar

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.nn.utils import parametrize

from compress import rows
from compress.hooks import taps
from compress.weights import fold
from compress.widths import Keep, shrink

Batch = dict[str, Tensor]  # the model's inputs [B, L], labels [B] and rows [B] (where in the training data)
NOT_INPUTS = ("labels", "rows")
KINDS = ("classification", "regression", "embedding")
TEACHING = ("teacher", "teachers")  # one, or all that the recipe names: `Step.teacher`, `Step.teachers`
COSTS = ("student", "teacher", "backward", "seconds")  # examples through each in training; time, evaluations and all


class Technique:
    """Base of all techniques: six moments, each of which does nothing here.

    Subclasses are dataclasses whose fields are the hyper-parameters of the paper, under the paper's
    names. An instance serves one run, since `prepare` may keep state on it.
    """

    needs: ClassVar[tuple[str, ...]] = ()  # of TEACHING, and outputs of forwards: "hidden_states", "attentions"
    kinds: ClassVar[tuple[str, ...]] = KINDS  # of tasks that it is for
    reshapes: ClassVar[bool] = False  # `prepare` removes modules, so it goes before that of all others
    moves_teacher: ClassVar[bool] = False  # so the run has a copy of it, and no cache answers for it

    def prepare(self, run: "Run") -> None: ...
    def before_backward(self, run: "Run") -> None: ...
    def loss(self, step: "Step") -> Tensor | None: ...
    def before_update(self, run: "Run") -> None: ...
    def after_update(self, run: "Run") -> None: ...
    def finish(self, run: "Run") -> None: ...


@dataclass
class Run:
    """The state of one training run: all that techniques may read and change."""

    model: nn.Module
    techniques: dict[str, Technique]  # by the name that logs show
    steps: int  # updates in the whole run
    kind: str = "classification"  # or "regression": logits are [B, 1], labels floats; or "embedding": see Step.student
    teacher: nn.Module | None = None
    teacher_logits: Tensor | None = None  # [N, C] for every training row, where logits are all that is asked
    others: int = 0  # teachers beside `teacher`
    others_logits: Tensor | None = None  # [N, K, C] of theirs, for every training row
    schedule: Callable[[float], float] = lambda progress: 1 - progress  # progress -> learning-rate factor
    score: Callable[[nn.Module], float] = lambda _: 0.0  # on the selection split, higher is better; may be wrapped too
    sample: Callable[[int], Iterator[Batch]] = lambda _: iter(())  # this process's share of so many training rows
    accelerator: Accelerator = field(default_factory=Accelerator)
    owned: nn.ModuleList = field(default_factory=nn.ModuleList)
    facts: dict[str, Any] = field(default_factory=dict)  # what exporters must know
    cost: Counter[str] = field(default_factory=Counter)  # COSTS so far, on this process
    settled: float = 0.0  # progress from which evaluated weights may be those that are kept
    keep: list[Keep] | None = None  # what stays of each block when the run ends
    step: int = 0  # updates done
    batches: Sequence[Batch] = ()  # this process's micro-batches of the current update
    rows: int = 0  # examples in the current update, over all processes
    optimizer: torch.optim.Optimizer = field(init=False)  # from prepare to finish
    tapped: dict[nn.Module, set[str]] = field(default_factory=dict)  # modules to record, per model
    terms: dict[str, Tensor] = field(default_factory=dict)  # latest value of each term on this process
    autocast: Callable[[], AbstractContextManager[None]] = nullcontext  # the run's precision

    @property
    def progress(self) -> float:
        """Share of the run that is done, in [0, 1]: the only clock."""
        return self.step / self.steps

    def own(self, module: nn.Module) -> nn.Module:
        """Train `module` with the student, keep it in checkpoints, drop it before saving."""
        self.owned.append(module.to(self.accelerator.device))
        return module

    def tap(self, model: nn.Module, *names: str) -> None:
        """Have each forward of `model` keep what these modules compute, as `output.taps[name]`."""
        self.tapped.setdefault(model, set()).update(names)

    def cut(self, keep: Sequence[Keep]) -> None:
        """Have `finish` cut every block to `keep`, and to what other techniques keep of it."""
        before = self.keep or keep
        self.keep = [a & b for a, b in zip(before, keep, strict=True)]

    def prepare(self) -> None:
        """The first moment of every technique. Raises ValueError for one that this task or this run has no use for."""
        for name, technique in self.techniques.items():
            if self.kind not in technique.kinds:
                raise ValueError(f"{name} is for {' and '.join(technique.kinds)}, and this task is {self.kind}")
            if self.teacher is None and not {*TEACHING}.isdisjoint(technique.needs):
                raise ValueError(f"{name} learns from a teacher, and the run has none")
        if self.teacher is not None and self.moves_teacher:
            self.teacher = copy.deepcopy(self.teacher)
        for technique in sorted(self.techniques.values(), key=lambda t: not t.reshapes):
            technique.prepare(self)

    def finish(self) -> None:
        """The last moment of every technique; then the model is a plain module, cut to what is kept."""
        for technique in self.techniques.values():
            technique.finish(self)
        self.model = fold(self.model).eval()
        if self.keep is None:
            return
        record = self.facts.get("quantisation", {})
        for name, outputs in shrink(self.model, self.keep).items():
            if name in record:
                record[name]["weight_scale"] = record[name]["weight_scale"][outputs.cpu()]

    @property
    def needs(self) -> set[str]:
        """What some technique of this run needs."""
        return {need for technique in self.techniques.values() for need in technique.needs}

    @property
    def moves_teacher(self) -> bool:
        """Whether some technique changes the teacher's weights."""
        return any(technique.moves_teacher for technique in self.techniques.values())

    @property
    def outputs(self) -> set[str]:
        """What is needed of forwards beside logits."""
        return self.needs - {*TEACHING}

    @property
    def needs_only_logits(self) -> bool:
        """Whether the teacher stays as it is and is asked for logits alone, so that a cache may answer."""
        tapped = self.teacher and self.tapped.get(self.teacher)
        return bool(self.needs) and not (self.outputs or tapped or self.moves_teacher)

    def backward(self) -> None:
        """Set every gradient to that of the summed terms over the current update, over all processes.

        Each micro-batch weighs by its share of the update's examples, so neither the number of
        processes nor that of micro-batches changes the mean over examples.
        """
        self.optimizer.zero_grad()
        for batch in self.batches:
            with parametrize.cached(), self.autocast():  # a masked or quantised weight once, not per forward
                step = Step(self, batch)
                given = {name: t.loss(step) for name, t in self.techniques.items()}
            terms = {name: value for name, value in given.items() if value is not None}
            assert terms, "no technique of this run gives a loss term"
            total = torch.stack([*terms.values()]).sum()
            (total * (len(batch["rows"]) / self.rows)).backward()
            self.cost["backward"] += len(batch["rows"])
            self.terms = {name: value.detach() for name, value in terms.items()}
        self.reduce()

    def reduce(self) -> None:
        """Sum gradients over processes in one flat buffer; docs/decisions/0001 says why not DDP."""
        if self.accelerator.num_processes == 1:
            return
        moving = [w for group in self.optimizer.param_groups for w in group["params"]]
        for table in filter(rows.is_by_rows, moving):
            rows.reduce(table)
        weights = [w for w in moving if not rows.is_by_rows(w)]
        for w in weights:  # an empty share of the update, or a weight that this micro-batch did not use
            w.grad = torch.zeros_like(w) if w.grad is None else w.grad
        flat = torch.cat([w.grad.reshape(-1) for w in weights])
        torch.distributed.all_reduce(flat)
        for w, part in zip(weights, flat.split([w.numel() for w in weights]), strict=True):
            w.grad.copy_(part.view_as(w))


@dataclass
class Step:
    """One micro-batch as the loss terms see it; each forward runs once, on first use."""

    run: Run
    batch: Batch

    def forward(self, model: nn.Module, batch: Batch | None = None) -> Any:
        """`model` on `batch` (default: this one), with every output that some technique needs."""
        wanted = {f"output_{name}": True for name in self.run.outputs}
        inputs = {k: v for k, v in (batch or self.batch).items() if k not in NOT_INPUTS}
        self.run.cost["teacher" if model is self.run.teacher else "student"] += len(inputs["input_ids"])
        with taps(model, self.run.tapped.get(model, ())) as seen:
            output = model(**inputs, **wanted)
        output.taps = {name: values[0] for name, values in seen.items() if values}  # a block may be without heads
        return output

    @cached_property
    def student(self) -> Any:
        """Output of the model in training: `logits` [B, C], and what techniques need or tap.

        Of an embedding they are the finished vectors [B, D]. Texts to be compared stand side by side, each with the
        score as its label; NaN for one without.
        """
        return self.forward(self.run.model)

    @cached_property
    def teacher(self) -> Any:
        """Output of the teacher on the same inputs, without gradient; from the cache where that is enough."""
        if self.run.teacher_logits is not None:
            return SimpleNamespace(logits=self.run.teacher_logits[self.batch["rows"]])
        teacher = self.run.teacher
        assert teacher is not None and not teacher.training, "a teacher in training mode gives noisy targets"
        with torch.no_grad():
            return self.forward(teacher)

    @cached_property
    def teachers(self) -> list[Any]:
        """`teacher`, then the others that the recipe names, of which there are `logits` and nothing else.

        Each has read the texts by its own tokenizer.
        """
        if self.run.others_logits is None:
            assert not self.run.others, "the loop asks them before the first step"
            return [self.teacher]
        logits_BKC = self.run.others_logits[self.batch["rows"]]
        return [self.teacher, *(SimpleNamespace(logits=logits_BC) for logits_BC in logits_BKC.unbind(1))]
