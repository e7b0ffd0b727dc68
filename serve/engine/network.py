"""What the engine runs: an encoder of the BERT family in INT8, and why it declines one.

Shapes: D width, N outputs, K inputs.
"""

import math
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
WIDEST, LONGEST = 16384, 8192  # as in source/engine.h
ACTIVATIONS = {"gelu": 1, "gelu_new": 2, "gelu_pytorch_tanh": 2, "relu": 3, "tanh": 4}
READS = {"first": 0, "mean": 1, "all": 2}  # what a head reads of the tokens: with "all" it answers each


class Declined(Exception):
    """Why the engine does not run this artefact."""


@dataclass
class Linear:
    weight: NDArray[np.int8]  # [N, K]
    scale: Floats  # [N]
    bias: Floats  # [N]
    step: float = 0.0  # of the activations it takes in; 0: measured for each token
    zero: int = 0


@dataclass
class Norm:
    gain: Floats  # [D]
    bias: Floats  # [D]


@dataclass
class Layer:
    query: Linear | None  # None: no heads are left
    key: Linear | None
    value: Linear | None
    out: Linear  # K = 0 where no heads are left
    first: Norm
    up: Linear | None  # None: no neurons are left
    down: Linear
    second: Norm


@dataclass
class Network:
    words: NDArray[np.int8]  # [vocabulary, D]
    word_scale: Floats  # [vocabulary]
    positions: Floats  # [positions, D]
    types: Floats  # [types, D]
    norm: Norm
    head_size: int
    activation: str
    head_activation: str
    epsilon: float
    first_position: int = 0
    pad: int | None = None  # the id that takes no position of its own, as in RoBERTa
    layers: list[Layer] = field(default_factory=list)
    head: list[Linear] = field(default_factory=list)  # none: it answers what it reads
    reads: str = "first"
    unit: bool = False  # whether what it reads is made 1 long; for heads without linears that do not read all
    tensors: list[str] = field(default_factory=list)  # of the file: what the embeddings, each layer and the head give

    @property
    def longest(self) -> int:
        return len(self.positions) - self.first_position


def attention_scale(head_size: int) -> float:
    """What scores are multiplied with so that their powers of two are softmax's powers of e."""
    return math.log2(math.e) / math.sqrt(head_size)
