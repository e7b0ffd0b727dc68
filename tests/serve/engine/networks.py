"""Random networks of any shape for the engine, without torch."""

from typing import Any

import numpy as np

from serve.engine.file import pack
from serve.engine.library import Compiled
from serve.engine.network import Layer, Linear, Network, Norm

PATHS = ("amx", "avx512bf16", "avx512", "avxvnni", "avx2", "plain")


def linear(rng: np.random.Generator, outputs: int, inputs: int, *, sparse: str = "", step: float = 0.0) -> Linear:
    weight = rng.integers(-128, 128, (outputs, inputs)).astype(np.int8)
    if sparse:  # "4x1@0.8"
        block, share = sparse.split("@")
        height, across = (int(one) for one in block.split("x"))
        kept = rng.random((-(-outputs // height), -(-inputs // across))) >= float(share)
        kept = np.kron(kept, np.ones((height, across), bool))[:outputs, :inputs]
        weight = np.where(kept, weight, 0).astype(np.int8)
    scale = rng.uniform(0.5, 1.5, outputs) / (70 * np.sqrt(max(inputs, 1)))
    bias = rng.normal(0, 0.1, outputs)
    return Linear(weight, scale.astype(np.float32), bias.astype(np.float32), step, 117 if step else 0)


def norm(rng: np.random.Generator, width: int) -> Norm:
    return Norm(rng.uniform(0.5, 1.5, width).astype(np.float32), rng.normal(0, 0.1, width).astype(np.float32))


def network(
    *,
    width: int = 32,
    heads: tuple[int, ...] = (2, 2),
    size: int = 16,
    neurons: tuple[int, ...] = (48, 48),
    positions: int = 40,
    types: int = 2,
    labels: int = 3,  # 0: no head
    sparse: str = "",
    step: float = 0.0,
    seed: int = 0,
    **given: Any,
) -> Network:
    rng = np.random.default_rng(seed)
    options: dict[str, Any] = {"sparse": sparse, "step": step}
    layers = []
    for count, inner in zip(heads, neurons, strict=True):
        query, key, value = (linear(rng, count * size, width, **options) if count else None for _ in range(3))
        layers.append(
            Layer(
                query=query,
                key=key,
                value=value,
                out=linear(rng, width, count * size, **options),
                first=norm(rng, width),
                up=linear(rng, inner, width, **options) if inner else None,
                down=linear(rng, width, inner, **options),
                second=norm(rng, width),
            )
        )
    return Network(
        words=rng.integers(-127, 128, (60, width)).astype(np.int8),
        word_scale=rng.uniform(0.005, 0.01, 60).astype(np.float32),
        positions=rng.normal(0, 0.3, (positions, width)).astype(np.float32),
        types=rng.normal(0, 0.3, (types, width)).astype(np.float32),
        norm=norm(rng, width),
        head_size=size,
        layers=layers,
        head=[linear(rng, width, width, step=step), linear(rng, labels, width, step=step)] if labels else [],
        **{"activation": "gelu", "head_activation": "tanh", "epsilon": 1e-12, **given},
    )


def compiled(network: Network, path: str | None = None) -> Compiled:
    return Compiled(aligned(pack(network)), path=path)


def aligned(data: bytes) -> np.ndarray:
    room = np.zeros(len(data) + 64, np.uint8)
    start = -room.ctypes.data % 64
    room[start : start + len(data)] = np.frombuffer(data, np.uint8)
    return room[start : start + len(data)]
