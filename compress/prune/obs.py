"""Cut weights at once and mend each layer by least squares, so that training starts from a network that still works.

Layer-wise Optimal Brain Surgeon: `compress.fit` says how one layer is pruned, and from which papers. Layers are fitted
from the first to the last. Inputs of each come from the network as pruned so far, its targets from the network as it
was, so that a layer also mends what those before it broke. Tokens and outputs count by how much the network's answer
hangs on them (`compress.sensitivity`). It needs some training texts and no labels.

Fitting each layer to the whole network's own outputs under shifted inputs is as in He, Zhang, Sun 2017, "Channel
pruning for accelerating very deep neural networks", https://arxiv.org/abs/1707.06168, section 3.2.

This technique brings no loss: recovery comes from the others of its stage, say distil/logits. With `cuts` above 1
it prunes gradually, and training recovers in between.

When it helps: little training afterwards. One cut of 80 % leaves a network that a few epochs of the task bring back.

When it does not help: where so few weights go that the smallest leave no trace, prune/magnitude is cheaper.

Shapes: T tokens, I inputs, O outputs; a mask holds True where a weight stays.
"""

import copy
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from compress.anatomy import blocks, part
from compress.budget import moments, removed
from compress.fit import Sums, prune_and_fit, sparsities
from compress.hooks import tensor_of
from compress.patterns import PATTERNS, check_fits, masks
from compress.progress import say
from compress.sensitivity import Sensitivity, sensitivity
from compress.technique import NOT_INPUTS, Batch, Run, Technique
from compress.weights import Mask, linears, stack

TOGETHER = (("query", "key", "value"), ("attention_out",), ("ffn_in",), ("ffn_out",))  # fitted from one pass of texts


@dataclass
class OptimalBrainSurgeon(Technique):
    final: float = 0.85  # share of zeros in each matrix in the end, [0, 1)
    pattern: str = "unstructured"
    cuts: int = 1
    begin: float = 0.0  # progress at the first cut, which the first update goes before
    end: float = 0.0  # progress at the last; the pattern is locked from there
    examples: int = 1000  # training texts whose tokens the layers are fitted on
    rounds: int = 3  # of choosing and fitting within a cut
    damping: float = 0.01  # ridge towards the weights as they are, as a share of the inputs' mean square
    floor: float = 0.1  # of each token's and output's weight, what is the same for all, [0, 1]; 1 weighs all alike

    def prepare(self, run: Run) -> None:
        self.check()
        run.settled = max(run.settled, self.end)
        self.pruned: dict[str, tuple[nn.Parameter, Mask]] = {}
        for name, layer in linears(run.model):
            check_fits(name, layer.weight, self.pattern)
            self.pruned[name] = stack(layer, lambda w: Mask(torch.ones_like(w, dtype=torch.bool)))

    def check(self) -> None:
        if self.pattern not in PATTERNS:
            raise ValueError(f"prune/obs: pattern must be one of {', '.join(PATTERNS)}, got {self.pattern!r}")
        if not 0 <= self.final < 1:
            raise ValueError(f"prune/obs: final must be in [0, 1), got {self.final}")
        if not 0 <= self.begin <= self.end <= 1 or min(self.cuts, self.rounds, self.examples) < 1:
            raise ValueError(
                "prune/obs: 0 <= begin <= end <= 1, and cuts, rounds and examples of 1 or more must hold, got "
                f"begin {self.begin}, end {self.end}, cuts {self.cuts}, rounds {self.rounds}, examples {self.examples}"
            )
        if self.damping <= 0 or not 0 <= self.floor <= 1:
            raise ValueError(
                f"prune/obs: damping must be above 0 and floor in [0, 1], got {self.damping} and {self.floor}"
            )

    def after_update(self, run: Run) -> None:
        at = moments(self.cuts, self.begin, self.end)
        now = sum(run.progress >= moment - 1e-9 for moment in at)
        before = sum(run.step > 1 and run.progress - 1 / run.steps >= moment - 1e-9 for moment in at)
        if now > before:
            self.cut(run, self.final * removed(now / self.cuts))

    def finish(self, run: Run) -> None:
        if run.progress < self.end or not run.step:  # a rehearsal, or a run shorter than its schedule
            self.cut(run, self.final)

    @torch.no_grad()
    def cut(self, run: Run, sparsity: float) -> None:
        """Every matrix loses weights until `sparsity` of it is zero, and what stays is fitted."""
        texts, training = list(run.sample(self.examples)), run.model.training
        if not run.accelerator.reduce(torch.tensor(len(texts), device=run.accelerator.device), "sum"):
            for raw, mask in self.pruned.values():  # a rehearsal
                mask.keep.copy_(masks([raw.abs()], sparsity, self.pattern, together=False)[0])
            return
        total = partial(run.accelerator.reduce, reduction="sum")
        run.model.eval()
        try:
            with run.autocast():
                weights = sensitivity(run.model, texts, list(self.pruned), floor=self.floor, total=total)
                stream = Stream.enter(run.model, texts)
            for number in range(len(blocks(run.model))):
                self.cut_block(run, number, stream, weights, sparsity)
        finally:
            run.model.train(training)

    def cut_block(
        self, run: Run, number: int, stream: "Stream", weights: dict[str, Sensitivity], sparsity: float
    ) -> None:
        began = time.monotonic()
        block = blocks(run.model)[number]
        whole = copy.deepcopy(block)
        for group in TOGETHER:
            names = [name for name in (part(run.model, number, field) for field in group) if name in self.pruned]
            paths = [name.split(f".{number}.", 1)[1] for name in names]
            found = [Sums.none(*mask.keep.shape, mask.keep.device) for _, mask in map(self.pruned.get, names)]
            for at, (inputs, targets) in enumerate(stream.through(run, block, whole, paths)):
                for name, layer, x, y in zip(names, found, inputs, targets, strict=True):
                    layer.add(x.float(), y.float(), weights[name].tokens[at])
            for name, layer in zip(names, found, strict=True):
                for total in (layer.gram, layer.cross):
                    total.copy_(run.accelerator.reduce(total, "sum"))
                self.prune(run, name, layer, weights[name].outputs, sparsity)
        error = stream.leave(run, block, whole)
        seconds = time.monotonic() - began
        say(f"prune/obs: block {number + 1} of {len(blocks(run.model))} fitted, error {error:.1%}, {seconds:.0f} s")

    def prune(self, run: Run, name: str, found: Sums, worth_O: Tensor, sparsity: float) -> None:
        layer: Any = run.model.get_submodule(name)
        raw, mask = self.pruned[name]
        wanted = sparsities(sparsity, self.rounds, begun=1 - float(mask.keep.float().mean()))
        try:
            weight_OI, bias_O, keep_OI = prune_and_fit(
                layer.weight,
                layer.bias,
                found,
                mask.keep,
                wanted,
                self.pattern,
                damping=self.damping,
                worth_O=worth_O,
            )
        except ValueError as error:
            raise ValueError(f"prune/obs, {name}: {error}") from None
        raw.copy_(weight_OI)
        layer.bias.copy_(bias_O)
        mask.keep.copy_(keep_OI)


class Enough(Exception):
    """The rest of a forward is not needed."""


@dataclass
class Stream:
    """Texts on their way through the blocks, in the network as it is pruned and as it was."""

    pruned: list[Tensor]  # hidden states [B, L, D] of each batch
    whole: list[Tensor]
    rest: list[tuple[Sequence[Any], dict[str, Any]]]  # what else every block is called with
    real: list[Tensor]  # [B L], False at padding

    @classmethod
    def enter(cls, model: nn.Module, texts: Iterable[Batch]) -> "Stream":
        """Up to the first block."""
        calls: list[tuple[Sequence[Any], dict[str, Any]]] = []

        def note(_: nn.Module, given: Sequence[Any], named: dict[str, Any]) -> None:
            calls.append((given, named))
            raise Enough

        real = []
        handle = blocks(model)[0].register_forward_pre_hook(note, with_kwargs=True)
        try:
            for batch in texts:
                real.append(batch["attention_mask"].flatten().bool())
                with suppress(Enough):
                    model(**{name: value for name, value in batch.items() if name not in NOT_INPUTS})
        finally:
            handle.remove()
        hidden = [given[0] for given, _ in calls]
        return cls(hidden, list(hidden), [(given[1:], named) for given, named in calls], real)

    def through(
        self, run: Run, block: nn.Module, whole: nn.Module, paths: Sequence[str]
    ) -> Iterator[tuple[list[Tensor], list[Tensor]]]:
        """For each batch: inputs [T, I] of these layers of `block`, and outputs [T, O] of the same of `whole`."""
        for at, real in enumerate(self.real):
            with run.autocast():
                ours = self.seen(at, self.pruned, block, paths)
                theirs = self.seen(at, self.whole, whole, paths)
            yield [x.flatten(0, -2)[real] for x, _ in ours], [y.flatten(0, -2)[real] for _, y in theirs]

    def seen(
        self, at: int, hidden: list[Tensor], block: nn.Module, paths: Sequence[str]
    ) -> list[tuple[Tensor, Tensor]]:
        """Input and output of each layer on batch `at`."""
        found: dict[nn.Module, tuple[Tensor, Tensor]] = {}

        def note(layer: nn.Module, given: tuple[Tensor, ...], output: Tensor) -> None:
            found[layer] = given[0], output
            if len(found) == len(paths):
                raise Enough

        layers = [block.get_submodule(path) for path in paths]
        with ExitStack() as hooks:
            for layer in layers:
                hooks.callback(layer.register_forward_hook(note).remove)
            with suppress(Enough):
                self.run(at, hidden, block)
        return [found[layer] for layer in layers]

    def run(self, at: int, hidden: list[Tensor], block: nn.Module) -> Tensor:
        given, named = self.rest[at]
        return tensor_of(block(hidden[at], *given, **named))

    def leave(self, run: Run, block: nn.Module, whole: nn.Module) -> float:
        """On to the next block; returns how far apart the two are, as a share of the length of hidden states."""
        apart = norm = 0.0
        with run.autocast():
            for at, real in enumerate(self.real):
                self.pruned[at], self.whole[at] = self.run(at, self.pruned, block), self.run(at, self.whole, whole)
                ours, theirs = (side[at].flatten(0, 1)[real].float() for side in (self.pruned, self.whole))
                apart += float((ours - theirs).square().sum())
                norm += float(theirs.square().sum())
        return (apart / norm) ** 0.5
