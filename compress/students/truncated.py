"""A student of the teacher's class and width that keeps some of its layers.

Sanh et al. 2019, https://arxiv.org/abs/1910.01108, section 2: one layer of two, copied. Everything else
(embeddings, pooler, head) is copied too.

When it helps: a student as wide as the teacher; no loss is worth as much as the teacher's own weights.

When it does not help: where the width must shrink, too; prune/structured cuts both.
"""

import copy
from dataclasses import dataclass
from typing import Any

from torch import nn

from compress.anatomy import blocks
from compress.source import Source
from compress.widths import keep_blocks

PAPER = (0, 2, 4, 7, 9, 11)  # of 12, in the released code


def spread(keep: int, depth: int) -> tuple[int, ...]:
    """`keep` of `depth` layers, counted from 0: the release's for 6 of 12, else evenly from first to last."""
    if (keep, depth) == (6, 12):
        return PAPER
    return tuple(round(i * (depth - 1) / (keep - 1)) for i in range(keep)) if keep > 1 else (depth - 1,)


def cut(teacher: nn.Module, layers: int | tuple[int, ...], who: str) -> nn.Module:
    """A copy of `teacher` with so many of its layers, or with these. ValueError, in the name of `who`, for others."""
    depth = len(blocks(teacher))
    if isinstance(layers, int):
        if not 1 <= layers <= depth:
            raise ValueError(f"{who} keeps 1 to {depth} layers of this teacher, got {layers}")
        kept = spread(layers, depth)
    else:
        kept = layers
    if not kept or any(not 0 <= i < depth for i in kept):
        raise ValueError(f"{who}: the teacher's layers are 0 to {depth - 1}, got {list(kept)}")
    student = copy.deepcopy(teacher)
    keep_blocks(student, kept)
    return student


@dataclass
class Truncated:
    layers: int | tuple[int, ...] = 6  # how many, or which of the teacher's, counted from 0

    def begin(self, source: Source) -> tuple[nn.Module, Any]:
        """The student, and how it reads texts: as the model does that it is cut from."""
        return self.build(source.model()), source.pieces

    def build(self, teacher: nn.Module) -> nn.Module:
        """A new module; the teacher is left as it is. Raises ValueError for layers that it does not have."""
        return cut(teacher, self.layers, "students/truncated")
