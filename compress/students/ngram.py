"""Mean of word n-gram vectors, then a network of one hidden layer: a deep averaging network on a very large table.

Ye, Khabsa, Lewis, Wang, Ren, Jaech 2022, "Sparse Distillation: Speeding Up Text Classification by Using Bigger Student
Models", https://arxiv.org/abs/2110.08536, section 3. Ours: rows begin near zero, so that a rare n-gram adds no noise,
and words are those of `serve.ngram.words`. The layout in which it is served, integers and all, is in `serve.ngram`.

When it helps: texts that words and short phrases decide, many of them without labels, and microseconds to answer in.

When it does not help: where the order of words further apart than the n-grams decides.
"""

from dataclasses import dataclass
from functools import cache
from types import SimpleNamespace
from typing import Literal

import torch
from torch import Tensor, nn

from compress.ngram.cache import vocabulary
from compress.ngram.reading import Reading
from compress.rows import by_rows, means
from compress.source import Source
from serve.ngram.words import characters

ACTIVATIONS = {"tanh": torch.tanh, "relu": torch.relu}


alphabet = cache(characters)  # a second's work


class NGramNetwork(nn.Module):
    """Shapes: V rows, D width, H hidden, C labels, B texts, L n-grams of the longest of them."""

    def __init__(self, student: "NGram", *, rows: int, labels: int, inputs: int) -> None:
        super().__init__()
        self.num_labels = labels
        self.activation, self.feature_dropout = student.activation, student.feature_dropout
        self.table_VD = by_rows(nn.Parameter(torch.randn(rows, student.width) * student.noise))
        self.before, self.between = nn.Dropout(student.dropout), nn.Dropout(student.dropout)
        self.dense = nn.Linear(student.width * (4 if inputs == 2 else 1), student.hidden or student.width)
        self.out = nn.Linear(self.dense.out_features, labels)

    def forward(self, input_ids: Tensor, input_ids_2: Tensor | None = None) -> SimpleNamespace:
        """Logits [B, C] of rows [B, L], -1 where a text has no more."""
        features = self.mean(input_ids)
        if input_ids_2 is not None:
            left, right = features, self.mean(input_ids_2)
            features = torch.cat([left, right, left * right, (left - right).abs()], dim=-1)
        hidden = ACTIVATIONS[self.activation](self.dense(self.before(features)))
        return SimpleNamespace(logits=self.out(self.between(hidden)))

    def mean(self, ids_BL: Tensor) -> Tensor:
        there = ids_BL >= 0
        if self.training and self.feature_dropout:
            there = there & (torch.rand(ids_BL.shape, device=ids_BL.device) >= self.feature_dropout)
        return means(self.table_VD, ids_BL[there], there.sum(1))


@dataclass
class NGram:
    rows: int = 1_000_000  # n-grams, the most frequent ones
    width: int = 64  # of a row, a multiple of 16; the paper has 1,000
    orders: int = 4  # an n-gram has 1 to so many words
    hidden: int | None = None  # neurons; None: as many as a row is wide
    activation: Literal["tanh", "relu"] = "tanh"  # the paper says ReLU, its code has tanh
    feature_dropout: float = 0.1  # share of a text's n-grams that are left out of an update
    dropout: float = 0.1  # before each dense layer
    noise: float = 0.01  # standard deviation of a row at the start
    features: int = 2048  # n-grams of a text in training, at most
    max_words: int = 65_536  # of a text, at most
    least: int = 2  # times that an n-gram comes in the texts
    memory: float = 2.0  # GiB for counting

    def begin(self, source: Source) -> tuple[nn.Module, Reading]:
        """The student, untrained, and how it reads texts: n-grams of the corpus and the training texts."""
        self.check(source)
        table = alphabet()
        keys = vocabulary(self, source, table)
        inputs = len(source.data.columns)
        torch.manual_seed(source.seed)
        model = NGramNetwork(self, rows=len(keys), labels=len(source.data.labels), inputs=inputs)
        reading = Reading(
            keys, table, orders=self.orders, inputs=inputs, features=self.features, max_length=self.max_words
        )
        return model, reading

    def check(self, source: Source) -> None:
        """ValueError for what no model file can hold."""
        if source.data.kind == "embedding":
            raise ValueError("students/ngram gives scores and no vectors: choose another student, or another task.kind")
        if source.start:
            raise ValueError(
                f"students/ngram starts from no checkpoint: leave student.start and pretraining out, got {source.start}"
            )
        for name, got, lowest, highest in (
            ("rows", self.rows, 1, 15_000_000),  # slots have 24 bits in C
            ("width", self.width, 16, 1024),
            ("orders", self.orders, 1, 4),
            ("hidden", self.hidden or 1, 1, 4096),
            ("features", self.features, 1, 2**20),
            ("max_words", self.max_words, 1, 65_536),
            ("least", self.least, 1, 2**20),
        ):
            if not lowest <= got <= highest:
                raise ValueError(f"students/ngram: {name} must be {lowest:,} to {highest:,}, got {got:,}")
        if self.width % 16:
            raise ValueError(f"students/ngram: width must be a multiple of 16, got {self.width}")
        for name, share in (("feature_dropout", self.feature_dropout), ("dropout", self.dropout)):
            if not 0 <= share < 1:
                raise ValueError(f"students/ngram: {name} must be from 0 to below 1, got {share}")
