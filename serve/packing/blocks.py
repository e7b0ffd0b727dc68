"""A constant as a bit mask of blocks and the values of the blocks that are kept.

A matrix [R, C] is cut into blocks of r x c. One bit a block, row by row, says whether anything in it is not zero;
the values of those blocks follow in the same order as [kept, r, c]. Blocks are those of `compress.patterns`, which
counts outputs x inputs, in both orientations: ONNX stores the weight of a MatMul as [inputs, outputs], so what was
pruned as 4x1 is found here as 1 x 4. From index and values an engine packs what its kernels read.

Zero means that all bits are: -0.0 is kept, so that a float matrix comes back with the same bytes.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Block = tuple[int, int]

BLOCKS: tuple[Block, ...] = ((1, 1), (1, 4), (4, 1), (4, 4), (4, 16), (16, 4))


@dataclass(frozen=True)
class Sparse:
    block: Block
    index: NDArray[np.uint8]  # bits of the blocks, eight a byte, the first in the highest bit
    values: NDArray[np.generic]  # [kept, r, c]

    @property
    def size(self) -> int:
        """Bytes."""
        return self.index.nbytes + self.values.nbytes


def smallest(matrix: NDArray[np.generic]) -> Sparse | None:
    """The smallest of these forms of matrix [R, C], or None where none is smaller than the matrix itself."""
    kept = _bits(matrix) != 0
    sizes = {block: _size(kept, block, matrix.itemsize) for block in BLOCKS if fits(matrix.shape, block)}
    best = min(sizes, key=lambda block: sizes[block])
    return sparse(matrix, best) if sizes[best] < matrix.nbytes else None


def fits(shape: tuple[int, ...], block: Block) -> bool:
    return shape[0] % block[0] == 0 and shape[1] % block[1] == 0


def sparse(matrix: NDArray[np.generic], block: Block) -> Sparse:
    """The form of matrix [R, C] in blocks that divide it."""
    cut = _cut(matrix, block)
    kept = (_bits(cut) != 0).any((2, 3))
    return Sparse(block, np.packbits(kept), cut[kept])


def dense(form: Sparse, shape: tuple[int, int]) -> NDArray[np.generic]:
    """The matrix of that shape. Raises ValueError where index, values and shape do not belong together."""
    (rows, columns), (r, c) = shape, form.block
    if form.block not in BLOCKS or not fits(shape, form.block):
        raise ValueError(f"blocks of {r}x{c} do not fill a matrix of {rows}x{columns}")
    total = (rows // r) * (columns // c)
    if form.index.shape != (-(-total // 8),) or form.index.dtype != np.uint8:
        raise ValueError(f"an index of {form.index.shape} does not belong to {total} blocks")
    kept = np.unpackbits(form.index, count=total).astype(bool).reshape(rows // r, columns // c)
    if form.values.shape != (int(kept.sum()), r, c):
        raise ValueError(f"values {form.values.shape} do not belong to an index of {int(kept.sum())} blocks")
    cut = np.zeros((*kept.shape, r, c), form.values.dtype)
    cut[kept] = form.values
    return cut.transpose(0, 2, 1, 3).reshape(shape)


def _size(kept: NDArray[np.bool_], block: Block, itemsize: int) -> int:
    blocks = _cut(kept, block).any((2, 3))
    return -(-blocks.size // 8) + int(blocks.sum()) * block[0] * block[1] * itemsize


def _cut(matrix: NDArray[np.generic], block: Block) -> NDArray[np.generic]:
    """[R / r, C / c, r, c], a view."""
    (rows, columns), (r, c) = matrix.shape, block
    return matrix.reshape(rows // r, r, columns // c, c).transpose(0, 2, 1, 3)


def _bits(values: NDArray[np.generic]) -> NDArray[np.unsignedinteger]:
    return values.view(f"u{values.itemsize}")
