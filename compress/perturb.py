"""Weights displaced for the length of a `with` block, and their very bits again after it.

The parameters stay the objects that they are, so masks, fake quantisation and the optimiser see nothing odd. A block
must hold whole forwards with their backwards: what a graph has saved of a weight must not move under it.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from compress.rows import parts, values


def norm(tensors: Sequence[Tensor]) -> Tensor:
    """Euclidean norm of all numbers together; of a table that is trained by rows, those of its touched rows."""
    return nn.utils.get_total_norm([values(one) for one in tensors])


@contextmanager
def displaced(weights: Sequence[Tensor], by: Sequence[Tensor], scale: float | Tensor = 1.0) -> Iterator[None]:
    """Inside, each weight is itself + scale x its displacement, which may be sparse by rows."""
    before: list[tuple[Tensor, Tensor | None, Tensor]] = []
    try:
        with torch.no_grad():
            for weight, move in zip(weights, by, strict=True):
                if move.is_sparse:
                    rows_U, values_UD = parts(move)
                    before.append((weight, rows_U, weight[rows_U]))
                    weight.index_add_(0, rows_U, values_UD, alpha=float(scale))
                else:
                    before.append((weight, None, weight.detach().clone()))
                    weight.add_(move, alpha=float(scale))
        yield
    finally:
        with torch.no_grad():
            for weight, rows, was in before:
                weight.copy_(was) if rows is None else weight.index_copy_(0, rows, was)
