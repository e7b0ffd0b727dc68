"""Gradual magnitude pruning: raise sparsity along a cubic curve while training, then keep the pattern.

Zhu, Gupta 2017, "To prune, or not to prune", https://arxiv.org/abs/1710.01878, eq. 1. Two descendants are
settings of the same few fields:

    Prune Once for All   Zafrir et al. 2021, arXiv 2111.05754: initial 0, begin 0, end 0.5, last 0.8, every 0.01,
                         scope uniform, regrow true (entries are chosen anew from all weights each time)
    GMP*                 Kurtic, Alistarh 2022, arXiv 2210.06384: a large first step (initial 0.7 for 12 layers,
                         0.3 for 6 and fewer), begin 0.2, end 0.8, scope global, regrow false

When it helps: long training on much text, as in pre-training, where weights have time to grow out of what is left.

When it does not help: zeros without a shape give no speed in onnxruntime or OpenVINO, only smaller downloads.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from compress.patterns import PATTERNS, check_fits, masks
from compress.technique import Run, Technique
from compress.weights import Mask, linears, stack


def cubic(progress: float, begin: float, end: float, initial: float, final: float) -> float:
    """Eq. 1: sparsity at `progress`, 0 before `begin`, `initial` at `begin`, `final` from `end` on."""
    if progress < begin:
        return 0.0
    t = min((progress - begin) / (end - begin), 1.0)
    return final + (initial - final) * (1 - t) ** 3


def selections(progress: float, begin: float, last: float, every: float) -> int:
    """How many of the points begin, begin + every, ..., last have been reached."""
    if progress < begin - 1e-9:
        return 0
    passed = int((min(progress, last) - begin) / every + 1e-9)
    return 1 + passed + int(progress >= last - 1e-9 and begin + passed * every < last - 1e-9)


@dataclass
class MagnitudePruning(Technique):
    """Linear layers of the encoder's blocks; embeddings, normalisations, biases, pooler and head stay dense."""

    final: float = 0.9  # share of zeros in the end, [0, 1)
    initial: float = 0.0  # of the first step
    begin: float = 0.0  # progress at the first step
    end: float = 0.5  # progress at which `final` is reached
    last: float = 0.8  # progress of the last selection; the pattern is locked from there
    every: float = 0.01  # progress between two selections
    pattern: str = "unstructured"
    scope: Literal["uniform", "global"] = "uniform"  # rank within each matrix, or all together
    regrow: bool = True  # whether an entry that was dropped may come back before `last`

    def prepare(self, run: Run) -> None:
        self.check()
        run.settled = max(run.settled, self.last)
        self.pruned: list[tuple[nn.Parameter, Mask]] = []
        for name, layer in linears(run.model):
            check_fits(name, layer.weight, self.pattern)
            self.pruned.append(stack(layer, lambda w: Mask(torch.ones_like(w, dtype=torch.bool))))

    def check(self) -> None:
        if self.pattern not in PATTERNS:
            raise ValueError(f"prune/magnitude: pattern must be one of {', '.join(PATTERNS)}, got {self.pattern!r}")
        if not 0 <= self.initial <= self.final < 1:
            raise ValueError(
                f"prune/magnitude: 0 <= initial <= final < 1 must hold, got initial {self.initial}, final {self.final}"
            )
        if not 0 <= self.begin < self.end <= self.last <= 1:
            raise ValueError(
                "prune/magnitude: 0 <= begin < end <= last <= 1 must hold, "
                f"got begin {self.begin}, end {self.end}, last {self.last}"
            )
        if self.every <= 0:
            raise ValueError(f"prune/magnitude: every must be above 0, got {self.every}")

    def after_update(self, run: Run) -> None:
        now, before = (
            selections(p, self.begin, self.last, self.every) for p in (run.progress, run.progress - 1 / run.steps)
        )
        if now > before:
            self.select(cubic(run.progress, self.begin, self.end, self.initial, self.final))

    def select(self, sparsity: float) -> None:
        """Choose the pattern anew from the weights as they are."""
        magnitudes = [self.magnitude(weight, mask) for weight, mask in self.pruned]
        chosen = masks(magnitudes, sparsity, self.pattern, together=self.scope == "global")
        for (_, mask), keep in zip(self.pruned, chosen, strict=True):
            mask.keep.copy_(keep)

    def magnitude(self, weight: Tensor, mask: Mask) -> Tensor:
        magnitude = weight.detach().abs()
        return magnitude if self.regrow else magnitude.masked_fill(~mask.keep, -1)  # what is gone goes first again

    def finish(self, run: Run) -> None:
        if run.progress < self.last:  # the run was shorter than its schedule
            self.select(self.final)
