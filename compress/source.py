"""What a student may be made from, whatever its kind."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from compress.data.load import Data


@dataclass(frozen=True)
class Source:
    model: Callable[[], nn.Module]  # the model that a smaller one is cut from: pre-trained, or the teacher
    pieces: Any  # how that model reads texts: serve.encode.WordPieces
    data: Data
    corpus: Sequence[str] = ()  # texts without labels
    start: str | None = None  # the checkpoint of `model`, where it is not the teacher
    seed: int = 0
