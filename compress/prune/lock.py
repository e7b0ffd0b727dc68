"""Keep the zeros that the model came with, while everything else trains.

Zafrir, Larey, Boudoukh, Shen, Wasserblat 2021, "Prune Once for All: Sparse Pre-Trained Language Models",
https://arxiv.org/abs/2111.05754, section 3.3: the pattern lock of the transfer stage.

When it helps: a model that was pruned once, on a corpus, and is moved to many tasks.

When it does not help: where the task would choose other weights; prune/obs or prune/magnitude on the task then do.
"""

from dataclasses import dataclass

from compress.technique import Run, Technique
from compress.weights import Mask, linears, stack, zeros


@dataclass
class PatternLock(Technique):
    at_least: float = 0.1  # sparsity that the model must bring, over all linear layers of the encoder's blocks

    def prepare(self, run: Run) -> None:
        layers = list(linears(run.model))
        sparsity = zeros(run.model)
        if sparsity < self.at_least:
            raise ValueError(
                f"prune/lock keeps the zeros of a pruned model, but only {sparsity:.1%} of this one's weights are zero "
                f"(at_least is {self.at_least:.0%}): prune it first, or lower at_least"
            )
        for _, layer in layers:
            keep = layer.weight.detach() != 0
            stack(layer, lambda _, keep=keep: Mask(keep))
