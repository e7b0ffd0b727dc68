"""Nested choices of heads and neurons: what stands at 90 % sparsity stands at 80 %.

MiniDisc's sparsity map (Zhang et al. 2022, https://arxiv.org/abs/2205.14570, section 3, and its code): units of all
blocks are ranked together, what a block loses is rounded to multiples of eight columns.

Shapes: N blocks, U units (heads or neurons) of a block; blocks may differ in U, so there is one row [U] for each.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from compress.widths import Keep

Levels = list[list[int]]  # of each block's units: the highest sparsity, in percent, at which it still stands


def dropped(importance_NU: Sequence[Tensor], sparsity: int) -> list[int]:
    """How many units of each block are among the round(s N U) least important ones of all blocks together.

    The most important unit of all never goes.
    """
    widths = torch.tensor([len(row) for row in importance_NU])
    block = torch.arange(len(importance_NU)).repeat_interleave(widths)
    lowest = torch.cat([*importance_NU]).argsort(stable=True)[: min(round(sparsity / 100 * len(block)), len(block) - 1)]
    return torch.bincount(block[lowest], minlength=len(importance_NU)).tolist()


def in_eights(width: int, dropped: int) -> int:
    """Neurons that stay: F - 8 round(dropped / 8), and none where fewer than 8 would."""
    kept = width - 8 * round(dropped / 8)
    return kept if kept >= 8 else 0


def kept_heads(importance_NU: Sequence[Tensor], sparsity: int) -> list[int]:
    """Heads that stay in each block; they go whole, which is 8 columns or a multiple of it for usual widths."""
    gone = dropped(importance_NU, sparsity)
    return [len(row) - some for row, some in zip(importance_NU, gone, strict=True)]


def kept_neurons(importance_NU: Sequence[Tensor], sparsity: int) -> list[int]:
    """Neurons that stay in each block."""
    gone = dropped(importance_NU, sparsity)
    return [in_eights(len(row), some) for row, some in zip(importance_NU, gone, strict=True)]


def levels(importance_NU: Sequence[Tensor], kept: Mapping[int, Sequence[int]]) -> Levels:
    """The highest sparsity at which each unit still stands, 0 if at none; `kept` counts those of each block."""
    found = []
    for block, row in enumerate(importance_NU):
        rank_U = row.argsort(descending=True, stable=True).argsort()
        level_U = torch.zeros_like(rank_U)
        for sparsity in sorted(kept):
            level_U[rank_U < kept[sparsity][block]] = sparsity
        found.append(level_U.tolist())
    return found


def standing(heads: Levels, neurons: Levels, sparsity: int) -> list[Keep]:
    """What each block has at `sparsity`."""

    def at(levels: list[int]) -> tuple[int, ...]:
        return tuple(unit for unit, level in enumerate(levels) if level >= sparsity)

    return [Keep(at(h), at(n)) for h, n in zip(heads, neurons, strict=True)]


def left(levels: Levels, kept: Sequence[Sequence[int]]) -> Levels:
    """The levels of those units that `kept` keeps."""
    return [[row[unit] for unit in units] for row, units in zip(levels, kept, strict=True)]
