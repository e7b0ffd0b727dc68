"""Remove attention heads and FFN neurons until the stack of blocks runs in a share of its time, then cut them out.

Units are scored to first order (Michel, Levy, Neubig 2019, https://arxiv.org/abs/1905.10650; `prune.importance`), on
training texts and the task's loss: a loss that compares with the teacher is flat where the student still equals it.
The cost-aware rule is ours, after the idea of ZipLM (Kurtic, Frantar, Alistarh 2023, https://arxiv.org/abs/2302.04089):
what heads and neurons cost is timed on this machine in their exported form (`blocktime`), and what is least important
for the time it saves goes first. `equal-fraction` is MiniDisc's (arXiv 2205.14570): one share of all heads, one of all
neurons. Removal is gradual, scores are taken anew each time, and what is gone never returns.

The price of a set of units is the sum of its squared scores, as signs of first-order terms are independent at best:
plain sums make 1536 neurons dearer than their effect and take all heads first. Scores are compared across blocks as
they are; `normalise` divides each block's by their norm, as both papers do, which protects a block that hardly matters.

This technique brings no loss: recovery comes from the others of its stage, say distil/logits. Put it before
quantise/qat, so that what is quantised is what stays.

When it helps: speed in any runtime, since what is exported is a smaller dense model.

When it does not help: prune/layers is simpler and needs no measuring; compare with it at the same time.

Shapes: N blocks, H heads, F neurons, O outputs, I inputs.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from accelerate.utils import broadcast_object_list
from torch import Tensor, nn

from compress.anatomy import part
from compress.blocktime import Costs, Setting, Widths, costs, times
from compress.budget import Half, cheapest_first, lowest, moments, removed
from compress.progress import say
from compress.prune.importance import importance, normalised
from compress.technique import NOT_INPUTS, Batch, Run, Technique
from compress.weights import Mask, stack
from compress.widths import Keep, widths

HALVES = (("heads", "attention_out"), ("neurons", "ffn_out"))
TRIES = 4  # plans whose measured time may miss the budget before the run goes on with the fastest


def task(model: nn.Module, batch: Batch) -> Tensor:
    """The task's loss; where there is no label, that of the model's own answer."""
    logits = model(**{k: v for k, v in batch.items() if k not in NOT_INPUTS}).logits.float()
    labels = batch["labels"]
    if logits.shape[-1] == 1:
        return F.mse_loss(logits[:, 0], labels.float())
    return F.cross_entropy(logits, torch.where(labels < 0, logits.argmax(-1), labels))


@dataclass
class StructuredPruning(Technique):
    rule: Literal["cost-aware", "equal-fraction"] = "cost-aware"
    budget: float = 0.5  # cost-aware: share of the time that the stack of blocks takes as it comes, (0, 1]
    sparsity: float = 0.5  # equal-fraction: share of heads and of neurons that go, [0, 1)
    rounds: int = 6  # of removal; 1 is one-shot
    begin: float = 0.1  # progress at the first round
    end: float = 0.6  # progress at the last; from there the units are fixed
    examples: int = 1000  # training texts that score the units, 256-2000
    group: int = 32  # neurons that leave together
    normalise: bool = False  # divide each block's scores by their L2 norm; true for MiniDisc's equal-fraction
    length: int = 128  # word pieces of the texts that are timed
    batch: int = 32  # texts a call that are timed
    precision: Literal["int8", "fp32"] = "int8"  # of the file that is timed
    kinds: ClassVar = ("classification", "regression")

    def prepare(self, run: Run) -> None:
        self.check()
        run.settled = max(run.settled, self.end)
        self.whole = widths(run.model)
        self.setting = Setting(self.length, self.batch, self.precision)
        aware = self.rule == "cost-aware"
        self.costs: Costs | None = costs(run.model, self.setting, run.accelerator) if aware else None
        self.check_budget()
        self.aim = self.budget  # what is planned for: less where a stack was measured to be slower than planned
        self.latest: dict[str, Any] | None = None  # the last measurement
        self.masks = [
            [self.mask(run.model, row, name) if count else None for count, (_, name) in zip(have, HALVES, strict=True)]
            for row, have in enumerate(self.whole)
        ]

    def mask(self, model: nn.Module, block: int, name: str) -> Mask:
        """On the columns of an output projection: what enters by them is what a unit gives."""
        layer: Any = model.get_submodule(part(model, block, name))
        _, mask = stack(layer, lambda w: Mask(torch.ones_like(w, dtype=torch.bool)))
        assert isinstance(mask, Mask)
        return mask

    def check(self) -> None:
        if not 0 < self.budget <= 1:
            raise ValueError(
                f"prune/structured: budget is a share of the stack's time, above 0 and at most 1, got {self.budget}"
            )
        if not 0 <= self.sparsity < 1:
            raise ValueError(f"prune/structured: sparsity must be in [0, 1), got {self.sparsity}")
        if not 0 <= self.begin <= self.end <= 1 or self.rounds < 1:
            raise ValueError(
                "prune/structured: 0 <= begin <= end <= 1 and rounds >= 1 must hold, "
                f"got begin {self.begin}, end {self.end}, rounds {self.rounds}"
            )
        if min(self.examples, self.group, self.length, self.batch) < 1:
            raise ValueError(
                "prune/structured: examples, group, length and batch must be 1 or more, "
                f"got {self.examples}, {self.group}, {self.length}, {self.batch}"
            )

    def check_budget(self) -> None:
        """ValueError for a budget that the smallest stack which is not empty exceeds."""
        if self.costs is None:
            return
        last = min(
            [self.costs.heads(1) for heads, _ in self.whole if heads]
            + [self.costs.neurons(min(self.group, neurons)) for _, neurons in self.whole if neurons]
        )
        least = (len(self.whole) * self.costs.norm + last) / self.costs.stack(self.whole)
        if self.budget < least:
            raise ValueError(
                f"prune/structured: a budget of {self.budget:g} of the stack's time is below what one block costs: "
                f"{len(self.whole)} blocks with a single head or {self.group} neurons take {least:.3f} here; "
                "raise budget, or drop layers first (prune/layers)"
            )

    def after_update(self, run: Run) -> None:
        now, before = (
            sum(p >= moment - 1e-9 for moment in moments(self.rounds, self.begin, self.end))
            for p in (run.progress, run.progress - 1 / run.steps)
        )
        if now > before:
            self.remove(run, removed(now / self.rounds), self.scores(run))

    def scores(self, run: Run) -> tuple[Tensor, Tensor]:
        """[N, H] and [N, F] on the CPU, the same in every process; from weights alone where there are no texts."""
        batches = list(run.sample(self.examples))
        if not batches:
            return self.magnitudes(run.model)
        with run.autocast():
            found = importance(run.model, batches, task, per_example=True, normalise=False)
        heads, neurons = (run.accelerator.reduce(part, "sum").cpu() for part in found)
        return (normalised(heads), normalised(neurons)) if self.normalise else (heads, neurons)

    @torch.no_grad()
    def magnitudes(self, model: nn.Module) -> tuple[Tensor, Tensor]:
        """Norms of what each unit writes with: the output projection's columns."""
        found = []
        for half, (_, name) in enumerate(HALVES):
            scores = torch.zeros(len(self.whole), max(have[half] for have in self.whole))
            for row, have in enumerate(self.whole):
                if have[half]:
                    weight_OI = model.get_submodule(part(model, row, name)).weight
                    scores[row, : have[half]] = (
                        weight_OI.float().cpu().view(len(weight_OI), have[half], -1).norm(dim=(0, 2))
                    )
            found.append(normalised(scores))
        return found[0], found[1]

    def remove(self, run: Run, share: float, scores: tuple[Tensor, Tensor]) -> None:
        """Go `share` of the way to the target; at its end a stack that is measured too slow loses some more."""
        if self.costs is None:
            self.set(self.fraction(share * self.sparsity, scores))
            return
        for _ in range(TRIES):
            self.set(self.plan(1 - share * (1 - self.aim), scores, self.costs))
            if share < 1 or self.aim == 1 or not run.step:  # a rehearsal has no time to measure
                return
            ratio = self.measured(run)["measured"]
            if ratio <= self.budget:
                return
            self.aim *= 0.995 * self.budget / ratio

    def plan(self, share: float, scores: tuple[Tensor, Tensor], costs: Costs) -> list[Keep]:
        """Units that stay so that the stack takes `share` of its time."""
        kept, halves = self.kept(), []
        for row, keep in enumerate(kept):
            for units, score_NU, time, step in (
                (keep.heads, scores[0], costs.heads, 1),
                (keep.neurons, scores[1], costs.neurons, self.group),
            ):
                ranked = sorted((score_NU[row, unit].item(), unit) for unit in units)
                halves.append(Half([unit for _, unit in ranked], [score**2 for score, _ in ranked], time, step))
        now = costs.stack([(len(keep.heads), len(keep.neurons)) for keep in kept])
        cheapest_first(halves, now - share * costs.stack(self.whole))
        units = [tuple(sorted(half.units)) for half in halves]
        return [Keep(*pair) for pair in zip(units[::2], units[1::2], strict=True)]

    def fraction(self, sparsity: float, scores: tuple[Tensor, Tensor]) -> list[Keep]:
        """Units that stay when the lowest `sparsity` of all heads and of all neurons are gone."""
        kept, halves = self.kept(), []
        for half, score_NU in enumerate(scores):
            rows = [list((keep.heads, keep.neurons)[half]) for keep in kept]
            total, present = sum(have[half] for have in self.whole), sum(len(units) for units in rows)
            count = max(round(sparsity * total) - (total - present), 0)
            stay = lowest([score_NU[row, units].tolist() for row, units in enumerate(rows)], count)
            halves.append([tuple(units[i] for i in chosen) for units, chosen in zip(rows, stay, strict=True)])
        return [Keep(heads, neurons) for heads, neurons in zip(*halves, strict=True)]

    def set(self, keep: Sequence[Keep]) -> None:
        for masks, have, kept in zip(self.masks, self.whole, keep, strict=True):
            for mask, count, units in zip(masks, have, (kept.heads, kept.neurons), strict=True):
                if mask is not None:
                    columns = torch.zeros(count, dtype=torch.bool, device=mask.keep.device)
                    columns[list(units)] = True
                    mask.keep.copy_(columns.repeat_interleave(mask.keep.shape[1] // count).expand_as(mask.keep))

    def kept(self) -> list[Keep]:
        """What stays, as the masks have it: they ride in checkpoints."""
        found = []
        for masks, have in zip(self.masks, self.whole, strict=True):
            units = [
                () if mask is None else tuple(mask.keep[0].view(count, -1)[:, 0].nonzero().flatten().tolist())
                for mask, count in zip(masks, have, strict=True)
            ]
            found.append(Keep(*units))
        return found

    def measured(self, run: Run) -> dict[str, Any]:
        """Time of the stack as it would be cut now, in milliseconds and as shares of that of the whole one."""
        now: Widths = [(len(keep.heads), len(keep.neurons)) for keep in self.kept()]
        if self.latest is not None and self.latest["widths"] == [list(pair) for pair in now]:
            return self.latest
        found = [times(run.model, [[(0, 0)], self.whole, now], self.setting) if run.accelerator.is_main_process else []]
        ((base, dense, cut),) = broadcast_object_list(found)
        predicted = self.costs.stack(now) / self.costs.stack(self.whole) if self.costs else None
        norm = self.costs.norm if self.costs else 0.0
        whole, left = dense - base + norm, cut - base + norm
        shares = {"dense_ms": whole, "ms": left, "measured": left / whole, "predicted": predicted}
        self.latest = shares | {"widths": [list(pair) for pair in now]}
        return self.latest

    def finish(self, run: Run) -> None:
        if run.progress < self.end:  # a rehearsal, or a run shorter than its schedule
            self.remove(run, 1.0, self.scores(run))
        run.cut(self.kept())
        if not run.step:
            return
        found = self.measured(run) | {"rule": self.rule, "budget": self.budget, **asdict(self.setting)}
        run.facts["structure"] = found
        say(
            f"prune/structured: heads and neurons {found['widths']}; the stack takes {found['measured']:.3f} of its "
            f"{found['dense_ms']:.1f} ms ({self.batch} x {self.length} word pieces, {self.precision}, one thread)"
            + (f", planned {found['predicted']:.3f}" if found["predicted"] is not None else "")
        )
        if self.costs and found["measured"] > self.budget * 1.02:
            say(f"prune/structured: that is above the budget of {self.budget:g}; the machine may have been busy")
