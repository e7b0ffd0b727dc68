"""How good a torch model is on labelled texts; the measures themselves are `serve.measures`."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from accelerate.utils import gather_object
from torch import nn

from compress.batches import Batches
from compress.data.load import Examples
from compress.technique import NOT_INPUTS
from serve.encode import Text, WordPieces
from serve.measures import higher_is_better, measure

SIZE = 64  # texts a forward pass


@torch.inference_mode()
def logits(model: nn.Module, data: Batches) -> np.ndarray:
    """Logits [N, C] in float32 for every text of `data`, in its order; `model` must be in evaluation mode.

    Each of `data.world` processes computes its share, and all must call this to get the whole.
    """
    assert not model.training, "dropout would blur the answers"
    mine = [b for i, b in enumerate(data.sorted(SIZE)) if i % data.world == data.rank]
    parts = []
    for batch in mine:
        inputs = {k: v for k, v in batch.items() if k not in NOT_INPUTS}
        parts.append((batch["rows"].cpu().numpy(), model(**inputs).logits.float().cpu().numpy()))
    parts = gather_object(parts) if data.world > 1 else parts
    rows, values = (np.concatenate(column) for column in zip(*parts, strict=True))
    return values[np.argsort(rows)]


def scorer(data: Batches, metric: str, texts: Sequence[Text]) -> Callable[[nn.Module], float]:
    """A function from a model to its metric on `data`, which are these texts, its sign such that higher is better."""
    sign = 1.0 if higher_is_better(metric) else -1.0

    def score(model: nn.Module) -> float:
        return sign * measure(metric, logits(model, data), data.labels.numpy(), texts=texts)

    return score


def batches(pieces: WordPieces, examples: Examples, device: torch.device, **options: int) -> Batches:
    """`examples` encoded, as batches on `device`; `options` are those of `Batches`."""
    encoded = pieces.encode(examples.texts)
    return Batches(pieces, encoded, examples.labels, together=examples.together, device=device, **options)
