"""Shapes in which weights are pruned, and which entries a sparsity leaves.

A pattern `RxC` prunes blocks of R outputs by C inputs as one; `2:4` keeps two of every four inputs of an
output. Weights are [O, I] as in torch's Linear; a mask holds True where a weight stays.
"""

import math

import numpy as np
import torch
from torch import Tensor

BLOCKS = {"unstructured": (1, 1), "4x1": (4, 1), "1x4": (1, 4), "4x4": (4, 4), "16x4": (16, 4)}
PATTERNS = (*BLOCKS, "2:4")


def check_fits(name: str, weight: Tensor, pattern: str) -> None:
    """ValueError unless `pattern` divides the shape of `weight`."""
    rows, columns = BLOCKS.get(pattern, (1, 4))
    if weight.shape[0] % rows or weight.shape[1] % columns:
        raise ValueError(f"pattern {pattern} must divide the shape of {name}, which is {list(weight.shape)}")


def block_scores(magnitude_OI: Tensor, pattern: str) -> Tensor:
    """Mean magnitude of each block [O / R, I / C]."""
    rows, columns = BLOCKS[pattern]
    O, I = magnitude_OI.shape  # noqa: E741
    return magnitude_OI.view(O // rows, rows, I // columns, columns).mean((1, 3))


def expanded(keep: Tensor, pattern: str) -> Tensor:
    """A mask of weights from one of blocks."""
    rows, columns = BLOCKS[pattern]
    return keep.repeat_interleave(rows, 0).repeat_interleave(columns, 1)


def pruned_count(sparsity: float, total: int) -> int:
    """int(S n), but for the rounding of S n itself: 0.7 * 10 is 7."""
    return math.floor(sparsity * total + 1e-9)


def keep_largest(scores: list[Tensor], sparsity: float) -> list[Tensor]:
    """Masks that together drop the int(S n) smallest of all n scores; of equal ones some go, so the count is exact."""
    flat = torch.cat([s.flatten() for s in scores])
    dropped = pruned_count(sparsity, flat.numel())
    keep = torch.ones_like(flat, dtype=torch.bool)
    if dropped:
        threshold = kth_smallest(flat, dropped)
        torch.gt(flat, threshold, out=keep)
        if spare := keep.numel() - int(keep.count_nonzero()) - dropped:
            keep[(flat == threshold).nonzero()[:spare]] = True
    return [k.view_as(s) for k, s in zip(keep.split([s.numel() for s in scores]), scores, strict=True)]


def kth_smallest(values: Tensor, k: int) -> Tensor:
    """The k-th smallest of values [N], k from 1. On CPUs numpy's partition takes a twentieth of kthvalue's time."""
    if values.device.type != "cpu":
        return values.kthvalue(k).values
    return values.new_tensor(np.partition(values.detach().numpy(), k - 1)[k - 1])


def two_of_four(magnitude_OI: Tensor) -> Tensor:
    """The two largest of every four consecutive inputs of an output."""
    groups = magnitude_OI.view(magnitude_OI.shape[0], -1, 4)
    keep = torch.zeros_like(groups, dtype=torch.bool)
    keep.scatter_(-1, groups.topk(2).indices, True)
    return keep.view_as(magnitude_OI)


def masks(magnitudes: list[Tensor], sparsity: float, pattern: str, *, together: bool) -> list[Tensor]:
    """One mask for each weight. `together` ranks all weights in one list, so matrices end unequally sparse.

    `2:4` fixes its own sparsity of one half.
    """
    if pattern == "2:4":
        return [two_of_four(m) for m in magnitudes]
    scores = [block_scores(m, pattern) for m in magnitudes]
    kept = keep_largest(scores, sparsity) if together else [keep_largest([s], sparsity)[0] for s in scores]
    return [expanded(keep, pattern) for keep in kept]
