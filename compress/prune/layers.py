"""Remove whole layers by a fixed rule before training.

Sajjad, Dalvi, Durrani, Nakov 2020, "Poor Man's BERT: Smaller and Faster Transformer Models", https://arxiv.org/abs/2004.03844,
section 3. The paper only fine-tunes what is left, and drops from the pre-trained model; with a distillation technique
in the stage, or a student that starts fine-tuned, this is an extension of it. `spread` is none of the paper's: it keeps
layers evenly from first to last, as DistilBERT does (`students/truncated`). Where the paper leaves room: `alternate`
counts from the top, `symmetric` gives an odd kept layer to the bottom, `contribution` removes as many as asked for
instead of all above a threshold.

When it helps: nothing is to be measured first, and half the time is wanted in every runtime.

When it does not help: encoders that were distilled to few layers have less to spare; and parameters fall less than
time, since the embeddings stay.

Shapes: B batch, L tokens, D width.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from compress.anatomy import blocks
from compress.students.truncated import spread
from compress.technique import NOT_INPUTS, Batch, Run, Technique
from compress.widths import keep_blocks

Strategy = Literal["top", "bottom", "alternate-odd", "alternate-even", "symmetric", "spread", "contribution"]


def dropped(strategy: Strategy, depth: int, count: int) -> set[int]:
    """Layers that a fixed rule removes, counted from 1, the one nearest the embeddings."""
    if strategy == "top":
        return set(range(depth - count + 1, depth + 1))
    if strategy == "bottom":
        return set(range(1, count + 1))
    if strategy == "symmetric":
        bottom = -(-(depth - count) // 2)
        return set(range(bottom + 1, bottom + count + 1))
    if strategy == "spread":
        return set(range(1, depth + 1)) - {i + 1 for i in spread(depth - count, depth)}
    assert strategy in ("alternate-odd", "alternate-even"), strategy
    highest = depth - 1 if strategy == "alternate-odd" else depth
    return {highest - 2 * i for i in range(count)}


@torch.no_grad()
def contributions(model: nn.Module, batches: Iterable[Batch]) -> Tensor:
    """[layers]: mean cosine of the first token's state before and after each layer; near 1 it contributes little."""
    training, total, count = model.training, torch.zeros(()), 0
    model.eval()
    try:
        for batch in batches:
            inputs = {k: v for k, v in batch.items() if k not in NOT_INPUTS}
            states = torch.stack(model(**inputs, output_hidden_states=True).hidden_states)[:, :, 0].float().cpu()
            total = total + F.cosine_similarity(states[:-1], states[1:], dim=-1).sum(1)
            count += states.shape[1]
    finally:
        model.train(training)
    assert count, "contributions need at least one batch"
    return total / count


@dataclass
class LayerDrop(Technique):
    strategy: Strategy = "top"
    drop: int | None = None  # layers to remove; None: a third, which the paper found safe
    examples: int = 1000  # training texts that measure contributions, 256-5000
    reshapes: ClassVar = True

    def prepare(self, run: Run) -> None:
        depth = len(blocks(run.model))
        count = depth // 3 if self.drop is None else self.drop
        most = depth // 2 if self.strategy.startswith("alternate") else depth - 1
        if not 0 <= count <= most:
            raise ValueError(
                f"prune/layers: {self.strategy} removes 0 to {most} of {depth} layers, got drop {count}; "
                "lower it, or take another strategy"
            )
        gone = (
            self.contribute_least(run, count)
            if self.strategy == "contribution"
            else dropped(self.strategy, depth, count)
        )
        keep_blocks(run.model, [i for i in range(depth) if i + 1 not in gone])

    def contribute_least(self, run: Run, count: int) -> set[int]:
        """Counted from 1; in a rehearsal, which has no texts, the top ones."""
        batches = list(run.sample(self.examples))
        if not batches:
            return dropped("top", len(blocks(run.model)), count)
        with run.autocast():
            cosines = contributions(run.model, batches)
        cosines = run.accelerator.reduce(cosines.to(run.accelerator.device), "mean").cpu()
        return set((cosines.argsort(descending=True, stable=True)[:count] + 1).tolist())
