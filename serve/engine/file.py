"""A network as the engine's file, packed once and mapped by every worker.

"BANTAM\\n\\0", version, sha256 of all from byte 64 on, then the description and the tensors in the one order that
source/load.c expects, each at a multiple of 64 bytes. All widths are padded to multiples of 16 with zeros. A matrix is
stored dense, and by its blocks as well where a pattern leaves enough of them out.

Shapes: D width, N outputs, K inputs, d size of a head.
"""

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from serve.engine.network import ACTIVATIONS, READS, Layer, Linear, Network, Norm, attention_scale

MAGIC, VERSION = b"BANTAM\n\0", 3
ALIGNMENT, STRIP, GROUP = 64, 16, 4
NOT_STORED = 0xFFFFFFFF
WORTH = 0.9  # a format that keeps more of a matrix than this is not stored
FORMATS = ((16, 4), (4, 1), (4, 4))  # outputs x inputs of a block

Bytes = NDArray[np.int8]
Sparse = tuple[NDArray[np.uint32], NDArray[np.uint32], NDArray[np.uint32], Bytes]


def pack(network: Network) -> bytes:
    """The file of a network."""
    width = _up(network.words.shape[1])
    parts: list[NDArray[Any]] = [_description(network, width), _reals(network.epsilon)]
    parts += [_wide(network.words, width), network.word_scale]
    parts += [_wide(network.positions, width), _wide(network.types, width), *_norm(network.norm, width)]
    for layer in network.layers:
        parts += _layer(layer, network.head_size, width)
    for linear in network.head:
        outputs, inputs = linear.weight.shape
        parts += [_whole(_up(outputs)), *_linear(linear, _up(inputs), _up(outputs))]
    body = b"".join(_aligned(part) for part in parts[:-1]) + np.ascontiguousarray(parts[-1]).tobytes()
    head = MAGIC + _whole(VERSION, 0).tobytes() + hashlib.sha256(body).digest()
    return head.ljust(ALIGNMENT, b"\0") + body


def intact(data: NDArray[np.uint8]) -> bool:
    """Whether a file is whole, by its own checksum."""
    return len(data) > ALIGNMENT and bytes(data[16:48]) == hashlib.sha256(data[ALIGNMENT:].data).digest()


def _description(network: Network, width: int) -> NDArray[np.uint32]:
    skips = network.pad is not None
    return _whole(
        len(network.layers),
        width,
        network.words.shape[1],
        *(len(network.words), len(network.positions), len(network.types)),
        _up(network.head_size),
        ACTIVATIONS[network.activation],
        network.first_position,
        *(int(skips), network.pad if network.pad is not None else 0),
        READS[network.reads],
        len(network.head),
        ACTIVATIONS[network.head_activation],
        len(network.head[-1].scale) if network.head else network.words.shape[1],
        int(network.unit),
    )


def _layer(layer: Layer, size: int, width: int) -> list[NDArray[Any]]:
    padded, heads = _up(size), len(layer.query.scale) // size if layer.query else 0
    neurons = _up(len(layer.up.scale)) if layer.up else 0
    nothing = Linear(np.zeros((0, width), np.int8), np.zeros(0, np.float32), np.zeros(0, np.float32))
    rows = (np.arange(heads)[:, None] * padded + np.arange(size)).ravel()  # where the heads' elements lie when padded
    qkv = nothing
    if layer.query and layer.key and layer.value:
        factor = np.float32(attention_scale(size))
        query = Linear(layer.query.weight, layer.query.scale * factor, layer.query.bias * factor)
        three = [_spread(linear, rows, heads * padded) for linear in (query, layer.key, layer.value)]
        qkv = Linear(
            np.concatenate([one.weight for one in three]),
            np.concatenate([one.scale for one in three]),
            np.concatenate([one.bias for one in three]),
            layer.query.step,
            layer.query.zero,
        )
    weight = np.zeros((len(layer.out.scale), heads * padded), np.int8)
    weight[:, rows] = layer.out.weight
    out = Linear(weight, layer.out.scale, layer.out.bias, layer.out.step, layer.out.zero)
    return [
        _whole(heads, neurons),
        *_linear(qkv, width, 3 * heads * padded),
        *_linear(out, heads * padded, width),
        *_norm(layer.first, width),
        *_linear(layer.up or nothing, width, neurons),
        *_linear(layer.down, neurons, width),
        *_norm(layer.second, width),
    ]


def _spread(linear: Linear, rows: NDArray[np.int64], outputs: int) -> Linear:
    """Its outputs at `rows`, zeros elsewhere."""
    weight = np.zeros((outputs, linear.weight.shape[1]), np.int8)
    scale, bias = np.zeros(outputs, np.float32), np.zeros(outputs, np.float32)
    weight[rows], scale[rows], bias[rows] = linear.weight, linear.scale, linear.bias
    return Linear(weight, scale, bias)


def _linear(linear: Linear, inputs: int, outputs: int) -> list[NDArray[Any]]:
    weight = np.zeros((outputs, inputs), np.int8)
    weight[: linear.weight.shape[0], : linear.weight.shape[1]] = linear.weight
    scale, bias = _long(linear.scale, outputs), _long(linear.bias, outputs)
    parts: list[NDArray[Any]] = [_reals(linear.step, linear.zero), scale]
    parts += [(scale * weight.sum(1, dtype=np.int64)).astype(np.float32), bias, dense(weight)]
    for block in FORMATS:
        parts += _sparse(weight, block)
    return parts


def dense(weight: Bytes) -> Bytes:
    """[N / 16][K / 4][16][4] of weight [N, K]"""
    outputs, inputs = weight.shape
    return weight.reshape(outputs // STRIP, STRIP, inputs // GROUP, GROUP).transpose(0, 2, 1, 3)


def _sparse(weight: Bytes, block: tuple[int, int]) -> list[NDArray[Any]]:
    start, order, at, values = columns(weight) if block == (4, 1) else squares(weight, block[0])
    if values.size >= WORTH * weight.size:
        return [_whole(NOT_STORED)]
    parts: list[NDArray[Any]] = [_whole(len(values)), start, order, at, values]
    return [*parts, tiles(start, values)] if block == (STRIP, GROUP) else parts


def squares(weight: Bytes, height: int) -> Sparse:
    """Blocks of height x 4: where each strip starts, which it is, groups of inputs, weights [kept, height, 4]."""
    outputs, inputs = weight.shape
    cut = weight.reshape(outputs // height, height, inputs // GROUP, GROUP).transpose(0, 2, 1, 3)
    kept = np.asarray(cut.any((2, 3)))
    order = np.argsort(kept.sum(1), kind="stable") if height == STRIP else np.arange(len(kept))
    cut, kept = cut[order], kept[order]
    return _starts(kept.sum(1)), order.astype(np.uint32), np.nonzero(kept)[1].astype(np.uint32), cut[kept]


def tiles(start: NDArray[np.uint32], values: Bytes) -> Bytes:
    """Blocks of 16 x 4 strip by strip as [16 outputs, 16 blocks, 4 inputs], with zeros behind a strip's last."""
    begin = start.astype(np.int64)
    counts = begin[1:] - begin[:-1]
    whole = -(-counts // STRIP)
    before = np.cumsum(whole) - whole  # each strip's first
    total = int(whole.sum())
    at = np.repeat(before * STRIP - begin[:-1], counts) + np.arange(len(values))
    spread = np.zeros((total * STRIP, STRIP, GROUP), np.int8)
    spread[at] = values
    return spread.reshape(total, STRIP, STRIP, GROUP).transpose(0, 2, 1, 3)


def columns(weight: Bytes) -> Sparse:
    """Columns of 4 outputs, four together: where each strip starts, which it is, columns [kept, 4], weights
    [kept, 4 outputs, 4]. A strip's last four may name a column again, with weights of 0.
    """
    strips = weight.reshape(weight.shape[0] // 4, 4, weight.shape[1])
    found = [np.nonzero(strip.any(0))[0] for strip in strips]
    at = [np.pad(one, (0, -len(one) % 4)).reshape(-1, 4) for one in found]
    values = [
        np.pad(strip[:, one], ((0, 0), (0, -len(one) % 4))).reshape(4, -1, 4).transpose(1, 0, 2)
        for strip, one in zip(strips, found, strict=True)
    ]
    return (
        _starts(np.array([len(one) for one in at], np.int64)),
        np.arange(len(strips), dtype=np.uint32),
        np.concatenate([np.zeros((0, 4), np.uint32), *at]).astype(np.uint32),
        np.concatenate([np.zeros((0, 4, 4), np.int8), *values]).astype(np.int8),
    )


def _whole(*numbers: int) -> NDArray[np.uint32]:
    return np.array(numbers, np.uint32)


def _reals(*numbers: float) -> NDArray[np.float32]:
    return np.array(numbers, np.float32)


def _starts(counts: NDArray[Any]) -> NDArray[np.uint32]:
    return np.concatenate([[0], np.cumsum(counts)]).astype(np.uint32)


def _norm(norm: Norm, width: int) -> Sequence[NDArray[np.float32]]:
    return _long(norm.gain, width), _long(norm.bias, width)


def _long(values: NDArray[np.float32], length: int) -> NDArray[np.float32]:
    return np.pad(values, (0, length - len(values))).astype(np.float32)


def _wide(table: NDArray[Any], width: int) -> NDArray[Any]:
    return np.pad(table, ((0, 0), (0, width - table.shape[1])))


def _aligned(part: NDArray[Any]) -> bytes:
    data = np.ascontiguousarray(part).tobytes()
    return data.ljust(-(-len(data) // ALIGNMENT) * ALIGNMENT, b"\0")


def _up(width: int) -> int:
    return -(-width // STRIP) * STRIP
